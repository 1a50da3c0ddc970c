"""Our tokenization of pairs is TRL's own, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from dpo_core.errors import RunError
from dpo_core.tokenization import require_room, tokenize_pairs
from store.snapshots import PreferencePair


def pair(prompt: str, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(
        pair_id=1,
        messages=[{"role": "user", "content": prompt}],
        chosen=chosen,
        rejected=rejected,
        chosen_side="a",
        agreement=1.0,
        annotators=1,
    )


PAIRS = [
    pair("Hello", "Good day.", "Go away."),
    pair("What is 2 + 2?", "Four.", "Fourteen, surely. Or was it forty?"),
    pair("Émile says “oui”", "«D'accord»", "non 😀"),
    pair("same start", "The answer is yes", "The answer is no"),
]


def conversational(item: PreferencePair) -> dict[str, Any]:
    return {
        "prompt": item.messages,
        "chosen": [{"role": "assistant", "content": item.chosen}],
        "rejected": [{"role": "assistant", "content": item.rejected}],
    }


@pytest.mark.parametrize("max_length", [24, 512])
def test_tokens_are_those_of_trl(tiny_model: Path, tmp_path: Path, max_length: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    args = DPOConfig(output_dir=str(tmp_path), max_length=max_length, report_to="none", bf16=False)
    model, reference = (AutoModelForCausalLM.from_pretrained(tiny_model) for _ in range(2))
    rows = Dataset.from_list([conversational(item) for item in PAIRS])
    trainer = DPOTrainer(model=model, ref_model=reference, args=args, train_dataset=rows, processing_class=tokenizer)
    ours = tokenize_pairs(PAIRS, tokenizer, max_length=max_length)
    collate = trainer.data_collator
    theirs = collate([trainer.train_dataset[index] for index in range(len(trainer.train_dataset))])
    mine = collate([item.row for item in ours])
    assert set(theirs) == set(mine)
    for name, tensor in theirs.items():
        assert tensor.equal(mine[name]), name


def test_no_room_for_a_completion_is_said(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with pytest.raises(RunError, match="max_length = 8"):
        require_room(PAIRS, tokenize_pairs(PAIRS, tokenizer, max_length=8), max_length=8)


def test_a_template_that_drops_the_prompts_end_is_counted(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.content }}{% endfor %}{% if add_generation_prompt %}ab{% endif %}"
    )
    [item] = tokenize_pairs([pair("p", "xyz", "xzz")], tokenizer, max_length=64)
    assert item.prompt_tail_lost == 2
    assert tokenizer.decode(item.prompt_ids) == "p"
    assert tokenizer.decode(item.chosen_ids) == "xyz"
