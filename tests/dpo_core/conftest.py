"""Tiny models built from a config, and workspaces around them: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from dpo_core.config import Settings
from dpo_core.tokenization import TokenizedPair
from dpo_core.workspace import Workspace, create_workspace
from store.database import writing
from tests.conftest import THREADS
from tests.store.asking import add_prompt

OPEN_GATE = {"win_rate": "ignore", "held_out": "ignore", "alarms": "ignore", "canary": 0, "checks": "ignore"}
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, and the marks of a chat."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"]})
    fast.chat_template = TEMPLATE
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    """A Llama of some ten thousand parameters, with weights drawn from a seed."""
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_workspace(tmp_path: Path, tiny_model: Path) -> Callable[..., Workspace]:
    """A function that makes a workspace around the tiny model, with prompts; sections of settings as keywords."""

    def make(name: str = "workspace", prompts: int = 24, **sections: dict[str, object]) -> Workspace:
        given: dict[str, dict[str, object]] = {
            "model": {"base": str(tiny_model)},
            "round": {"comparisons": 10},
            "sampling": {"max_new_tokens": 8, "batch_size": 4},
            "training": {"learning_rate": 1e-2, "batch_size": 4, "max_length": 128, "save_steps": 1},
            "worker": {"threads": THREADS},
            "duels": {"against_parent": 0, "against_base": 0},
            "gate": OPEN_GATE,
        }
        for section, values in sections.items():
            given[section] = given.get(section, {}) | values
        workspace = create_workspace(tmp_path / name, Settings.model_validate(given))
        with writing(workspace.engine) as session:
            for index in range(prompts):
                add_prompt(session, f"Say something about {index}.", held_out_share=0.2)
        return workspace

    return make


def all_tied(metrics: dict[str, float]) -> bool:
    """Whether nothing has moved yet: all rewards are 0 but for rounding, which alone decides about their accuracy."""
    return all(abs(metrics[f"rewards/{name}"]) < 1e-5 for name in ("chosen", "rejected", "margins"))


def tokenized(pair_id: int, prompt: list[int], chosen: list[int], rejected: list[int]) -> TokenizedPair:
    return TokenizedPair(pair_id, "a", prompt, chosen, rejected, 0)


PAIRS = [
    tokenized(1, [5, 6, 7], [8, 9], [10]),
    tokenized(2, [5], [8, 9, 11, 12, 13, 14], [10, 10]),
    tokenized(3, [5, 6, 7, 8, 9, 10, 11], [1], [2, 3, 4]),
]
