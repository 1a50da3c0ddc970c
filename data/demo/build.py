"""Builds the demo model from nothing: corpus, tokenizer, training, prompts.

    python data/demo/build.py --out data/demo            # the shipped model, about 20 minutes on 2 cores
    python data/demo/build.py --out /tmp/tiny --quick    # a minute: the same files, a model that babbles

Writes `model/` (a plain transformers folder: config, half-precision weights, tokenizer, chat template) and
`prompts.jsonl` (held-back phrasings). The same seed and thread count give the same words and the same prompts.
Left out on purpose: validation, checkpoints, resuming. `measure.py` judges the result.
"""

import argparse
import json
import math
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read as torch loads; threads that spin slow each other down

import corpus
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers import logging as transformers_logging

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
IGNORED = -100  # label of positions that carry no loss

# ChatML, except that the newline stands BEFORE every message but the first: a completion then ends with the
# EOS token itself, and the rendered prompt is an exact prefix of the rendered prompt + completion.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '' if loop.first else '\\n' }}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """How large the model and its training are."""

    conversations: int
    vocab: int
    hidden: int
    layers: int
    tokens_per_step: int
    prompts: int = 400
    lr: float = 4e-3
    max_positions: int = 512


FULL = Size(conversations=36_000, vocab=4096, hidden=192, layers=4, tokens_per_step=768)
QUICK = Size(conversations=400, vocab=1024, hidden=64, layers=2, tokens_per_step=512)


@dataclass(frozen=True)
class Example:
    """Token ids of a conversation and the labels: the words of both sides and the EOS of each turn."""

    ids: list[int]
    labels: list[int]


def train_tokenizer(talks: Sequence[corpus.Conversation], size: Size) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the chat template."""
    bpe = Tokenizer(models.BPE())
    # A newline is always a token of its own, so that nothing can merge across the end of the prompt.
    newline = pre_tokenizers.Split(Regex("\n"), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([newline, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocab, special_tokens=[PAD, START, END], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator((message["content"] for talk in talks for message in talk.messages), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, additional_special_tokens=[START],
        model_max_length=size.max_positions, padding_side="left", clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(talk: corpus.Conversation, tokenizer: PreTrainedTokenizerFast) -> Example:
    """All words are learned: predicting questions teaches early which words belong to one topic."""
    ids: list[int] = []
    labels: list[int] = []
    for number, message in enumerate(talk.messages):
        head = tokenizer.encode(f"{chr(10) if number else ''}{START}{message['role']}\n")
        body = tokenizer.encode(message["content"] + END)
        ids += head + body
        labels += [IGNORED] * len(head) + body
    return Example(ids, labels)


def batches(examples: Sequence[Example], tokens: int, seed: int) -> list[list[Example]]:
    """Batches of about equal length and cost, in random order: hardly any padding, and no packed strangers."""
    rng = random.Random(f"batches {seed}")
    order = sorted(examples, key=lambda example: (len(example.ids), rng.random()))
    made: list[list[Example]] = [[]]
    for example in order:
        if len(example.ids) * (len(made[-1]) + 1) > tokens:
            made.append([])
        made[-1].append(example)
    rng.shuffle(made)
    return made


def collate(batch: Sequence[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels, each (B, T). Causal attention never looks at padding on the right."""
    longest = max(len(example.ids) for example in batch)
    ids = [example.ids + [pad] * (longest - len(example.ids)) for example in batch]
    labels = [example.labels + [IGNORED] * (longest - len(example.labels)) for example in batch]
    return torch.tensor(ids), torch.tensor(labels)


def new_model(tokenizer: PreTrainedTokenizerFast, size: Size) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=size.hidden, intermediate_size=size.hidden * 9 // 4,
        num_hidden_layers=size.layers, num_attention_heads=size.hidden // 32, tie_word_embeddings=True,
        max_position_embeddings=size.max_positions, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, attention_dropout=0.0,
    )  # fmt: skip
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    return model


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over a twentieth of the steps, then a cosine to a fiftieth of the peak."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def train(model: PreTrainedModel, data: Sequence[Sequence[Example]], pad: int, size: Size) -> None:
    """One pass over the data: every step sees conversations for the first time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.lr, betas=(0.9, 0.98), weight_decay=0.05)
    model.train()
    started, tokens = time.monotonic(), 0
    for step, batch in enumerate(data):
        loss = train_step(model, optimizer, batch, pad, learning_rate(step, len(data), size.lr))
        tokens += sum(len(example.ids) for example in batch)
        if step % 25 == 0 or step == len(data) - 1:
            spent = time.monotonic() - started
            print(f"step {step + 1}/{len(data)}  loss {loss:.3f}  {tokens / spent:.0f} tokens/s", flush=True)


def train_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, batch: Sequence[Example], pad: int, lr: float
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    ids, labels = collate(batch, pad)
    logits = logits_where_learned(model, ids, labels)
    loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][labels[:, 1:] != IGNORED])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def logits_where_learned(model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits (N, V) of the N positions that carry loss; the vocabulary is a fifth of the work."""
    hidden = model.base_model(input_ids=ids).last_hidden_state[:, :-1]  # (B, T - 1, H)
    picked = hidden[labels[:, 1:] != IGNORED]
    logits: torch.Tensor = model.lm_head(picked)
    return logits


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Half precision halves the download; load it with `dtype=torch.float32` to train or to run on a CPU."""
    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_p=0.95, max_new_tokens=160,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model.generation_config = settings
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_prompts(path: Path, seed: int, size: Size, topics: Sequence[corpus.Topic]) -> None:
    lines = (json.dumps({"messages": prompt}) for prompt in corpus.write_prompts(seed, size.prompts, topics))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def build(out: Path, seed: int, size: Size) -> None:
    """Write `model/` and `prompts.jsonl` under `out`."""
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    topics = corpus.load_topics()
    write_prompts(out / "prompts.jsonl", seed, size, topics)
    talks = list(corpus.write_corpus(seed, size.conversations, topics))
    tokenizer = train_tokenizer(talks[:5000], size)
    examples = [encode(talk, tokenizer) for talk in talks]
    model = new_model(tokenizer, size)
    print(f"{sum(weight.numel() for weight in model.parameters()):,} weights, {len(tokenizer)} tokens", flush=True)
    train(model, batches(examples, size.tokens_per_step, seed), int(tokenizer.pad_token_id), size)
    save(model, tokenizer, out / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the demo model.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for model/ and prompts.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny model in about a minute")
    options = parser.parse_args()
    torch.set_num_threads(2)
    transformers_logging.set_verbosity_error()
    build(options.out, options.seed, QUICK if options.quick else FULL)


if __name__ == "__main__":
    main()
