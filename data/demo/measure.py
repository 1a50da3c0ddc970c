"""Measures a demo model: does it write sentences, stay on topic, stop, and vary enough to be compared?

    python data/demo/measure.py data/demo/model --samples 300

Samples pairs of completions (two per prompt, temperature 1.0, top_p 0.95) and prints a table:

- ended: the completion stops with EOS before the limit.
- fluent: EVERY sentence of the completion is one that the corpus grammar can write, word for word (markers and
  bold marks removed; a last sentence cut off by the limit counts against it). "sentences" is the same per sentence.
- on topic: the completion gives at least one tip of the prompt's topic, right or wrong, and no other topic's.
- the share of completions that show each style attribute, as a reader of the text would see it.
- pairs differ: per taste, the share of pairs whose two scores differ.
"""

import argparse
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import corpus
import phrases
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from dpo_core.tastes import TASTES

MAX_NEW_TOKENS = 160
Prompt = list[corpus.Message]


@dataclass(frozen=True)
class Sample:
    """A completion; `ended` says whether the model stopped by itself."""

    prompt: Prompt
    text: str
    ended: bool


def load_prompts(path: Path) -> list[Prompt]:
    return [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]


def draw_samples(folder: Path, prompts: Sequence[Prompt], per_prompt: int, batch: int = 50) -> list[Sample]:
    """`per_prompt` completions of each prompt, those of one prompt next to each other."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    asked = [prompt for prompt in prompts for _ in range(per_prompt)]
    found: list[Sample] = []
    for start in range(0, len(asked), batch):
        found += sample_batch(model, tokenizer, asked[start : start + batch])
    return found


def sample_batch(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[Sample]:
    inputs = tokenizer.apply_chat_template(
        list(prompts), add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        made = model.generate(**inputs, do_sample=True, temperature=1.0, top_p=0.95, max_new_tokens=MAX_NEW_TOKENS)
    answers = made[:, inputs["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    ended = (answers == tokenizer.eos_token_id).any(dim=1).tolist()
    return [Sample(*fields) for fields in zip(prompts, texts, ended, strict=True)]


def topic_of(prompt: Prompt, topics: Sequence[corpus.Topic]) -> corpus.Topic:
    """The topic whose goal or problem the first question names."""
    asked = prompt[0]["content"]
    return next(topic for topic in topics if any(words in asked for words in topic.goals + topic.problems))


def is_on_topic(sample: Sample, topics: Sequence[corpus.Topic]) -> bool:
    text = sample.text.lower()
    given = {topic.noun for topic in topics for tip in topic.tips if tip.do.lower() in text}
    return given == {topic_of(sample.prompt, topics).noun}


def count_known(sample: Sample, known: set[str]) -> tuple[int, int]:
    """(sentences the grammar can write, all sentences)."""
    parts = corpus.split_sentences(sample.text)
    return sum(part in known for part in parts), len(parts)


def tone_of(text: str) -> str:
    """The tone whose openers, introductions, leads or closers appear most; "none" when nothing shows."""
    tables = (phrases.OPENERS, phrases.SECOND_OPENERS, phrases.LIST_INTROS, phrases.PREAMBLES, phrases.LEADS,
              phrases.NEXT_LEADS, phrases.CLOSERS)  # fmt: skip
    hits = {tone: sum(starts(line, text) for table in tables for line in table[tone]) for tone in corpus.TONES}
    best = max(hits, key=lambda tone: hits[tone])
    return best if hits[best] else "none"


def starts(line: str, text: str) -> bool:
    """Whether the fixed words of a template appear in the text."""
    fixed = max(re.split(r"\{\w+\}", line), key=len).strip()
    return len(fixed) > 3 and fixed in text


def attributes_of(sample: Sample, wrong: Sequence[str]) -> dict[str, bool]:
    text = sample.text
    listed = re.search(r"^(- |\d+\. )", text, re.MULTILINE)
    return {
        **{f"tone {tone}": tone_of(text) == tone for tone in (*corpus.TONES, "none")},
        "bullet list": bool(listed and listed.group(1) == "- "),
        "numbered steps": bool(listed and listed.group(1) != "- "),
        "advice comes first": not any(starts(line, text) for line in opening_lines()),
        "hedged": any(starts(line, text) for line in (*phrases.HEDGES, *phrases.HEDGED_LEADS)),
        "a wrong tip": any(tip in text.lower() for tip in wrong),
        "asks back": "?" in text,
    }


def opening_lines() -> list[str]:
    tables = (phrases.OPENERS, phrases.PREAMBLES, phrases.SECOND_OPENERS)
    return [line for table in tables for lines in table.values() for line in lines]


def share(flags: Sequence[bool]) -> float:
    """Percent of true flags."""
    return 100 * mean(flags) if flags else 0.0


def pairs_differ(samples: Sequence[Sample], taste: str) -> float:
    scores = [TASTES[taste](sample.prompt[-1]["content"], sample.text) for sample in samples]
    return share([abs(left - right) > 1e-9 for left, right in zip(scores[::2], scores[1::2], strict=True)])


def judge(samples: Sequence[Sample], topics: Sequence[corpus.Topic]) -> dict[str, float]:
    """The figures of the table, in percent unless the name says otherwise."""
    known = corpus.all_sentences(topics)
    counts = [count_known(sample, known) for sample in samples]
    lengths = [float(len(sample.text.split())) for sample in samples]
    wrong = [tip.do.lower() for topic in topics for tip in topic.tips_that_are(False)]
    looks = [attributes_of(sample, wrong) for sample in samples]
    return {
        "ended by EOS": share([sample.ended for sample in samples]),
        "fluent completions": share([good == total > 0 for good, total in counts]),
        "fluent sentences": 100 * sum(good for good, _ in counts) / max(1, sum(total for _, total in counts)),
        "on topic": share([is_on_topic(sample, topics) for sample in samples]),
        "words, mean": mean(lengths),
        "words, standard deviation": stdev(lengths),
        **{f"style: {name}": share([look[name] for look in looks]) for name in looks[0]},
        **{f"pairs differ: {taste}": pairs_differ(samples, taste) for taste in TASTES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a demo model.")
    parser.add_argument("model", type=Path, nargs="?", default=Path(__file__).with_name("model"))
    parser.add_argument("--prompts", type=Path, default=Path(__file__).with_name("prompts.jsonl"))
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(options.seed)
    prompts = random.Random(options.seed).sample(load_prompts(options.prompts), options.samples // 2)
    for name, figure in judge(draw_samples(options.model, prompts, per_prompt=2), corpus.load_topics()).items():
        print(f"{name:32}{figure:8.1f}")


if __name__ == "__main__":
    main()
