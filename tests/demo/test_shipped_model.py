"""The model that ships: small, plain, and good enough to be compared."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

COMPLETIONS = (
    "Hello.",
    "",
    " leading space",
    "\nleading newline",
    "\n\n- a list\n- straight away",
    "Ünïcödé 🌱",
    "a\n",
)


@pytest.fixture(scope="module")
def folder(demo: Path) -> Path:
    return demo / "model"


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def prompts(demo: Path) -> list[list[dict[str, str]]]:
    lines = (demo / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]


def tokens(tokenizer: Any, messages: list[dict[str, str]], **options: bool) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options))


def test_folder_is_small_and_plain(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < 15_000_000
    assert {path.suffix for path in folder.iterdir()} == {".json", ".jinja", ".safetensors"}
    assert "auto_map" not in (folder / "config.json").read_text(encoding="utf-8")


def test_special_tokens(tokenizer: Any, folder: Path) -> None:
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    assert settings["eos_token_id"] == tokenizer.eos_token_id
    assert settings["pad_token_id"] == tokenizer.pad_token_id


def test_model_loads_with_a_row_per_token(folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


@pytest.mark.parametrize("completion", COMPLETIONS)
def test_prompt_is_an_exact_prefix_and_eos_ends(
    tokenizer: Any, prompts: list[list[dict[str, str]]], completion: str
) -> None:
    for messages in prompts:
        prompt = tokens(tokenizer, messages, add_generation_prompt=True)
        whole = tokens(tokenizer, [*messages, {"role": "assistant", "content": completion}])
        assert whole[: len(prompt)] == prompt
        assert whole[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in whole[len(prompt) : -1]


def test_template_keeps_a_system_message(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_tokens_give_the_text_back(tokenizer: Any) -> None:
    for text in COMPLETIONS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_samples_end_and_stay_on_topic(folder: Path, prompts: list[list[dict[str, str]]], measure: ModuleType) -> None:
    """Loose bounds: 24 samples are few. `measure.py` gives the real figures."""
    torch.manual_seed(0)
    samples = measure.draw_samples(folder, prompts[:24], per_prompt=1)
    topics = measure.corpus.load_topics()
    assert sum(sample.ended for sample in samples) >= 21
    assert sum(measure.is_on_topic(sample, topics) for sample in samples) >= 18


def test_two_samples_of_a_prompt_differ(folder: Path, prompts: list[list[dict[str, str]]], measure: ModuleType) -> None:
    torch.manual_seed(0)
    texts = [sample.text for sample in measure.draw_samples(folder, prompts[:8], per_prompt=2)]
    assert sum(left != right for left, right in zip(texts[::2], texts[1::2], strict=True)) == 8
