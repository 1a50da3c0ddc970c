"""Checkpoints that write are those that were trained, whatever their weights are kept in. No card is needed for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from dpo_core import writers
from dpo_core.candidate_rewards import CandidateRewards
from dpo_core.policies import load_policy, load_tokenizer
from dpo_core.sampling import sample_completions
from dpo_core.workspace import Workspace
from dpo_core.writers import FILLED, float32_bytes, load_writer, load_writers, made_ready, weights_dtype
from store.checkpoints import add_checkpoint, base_checkpoint
from store.database import reading, writing
from store.models import Checkpoint
from tests.dpo_core.test_sampling import ASKED, SETTINGS, texts

GIB = 2**30
SMALL = 1e-4  # a LoRA's B after a few steps at a learning rate of 1e-5 or so
IDS = torch.arange(40)[None] * 5 % 250


@pytest.mark.parametrize(
    ("weights", "free", "dtype"),
    [
        (64 * GIB, None, torch.float32),  # no card
        (6 * GIB, 10 * GIB, torch.float32),  # six tenths of it
        (6 * GIB + 4, 10 * GIB, torch.bfloat16),
    ],
)
def test_float32_where_it_fits(weights: int, free: int | None, dtype: torch.dtype) -> None:
    assert weights_dtype(weights, free) == dtype and FILLED == 0.6


def adapted(folder: Path, size: float) -> tuple[Any, Any]:
    """A model whose weights bfloat16 can tell, and the same with an adapter that changes little."""
    models = []
    for _ in range(2):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for weight in model.parameters():
            weight.data = weight.data.bfloat16().float()
        models.append(model)
    torch.manual_seed(0)
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    changed = get_peft_model(models[1], adapter).eval()
    for name, weight in changed.named_parameters():
        if "lora_B" in name:
            weight.data = size * torch.randn_like(weight)
    return models[0], changed


@torch.no_grad()
def change(base: Any, policy: Any) -> torch.Tensor:
    moved: torch.Tensor = policy(IDS).logits.double() - base(IDS).logits.double()
    return moved


def error(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found - true).norm() / true.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_short_training_changed_is_in_the_logits(tiny_model: Path, dtype: torch.dtype) -> None:
    true = change(*adapted(tiny_model, SMALL))
    base, policy = adapted(tiny_model, SMALL)
    held = made_ready(base, "full", dtype), made_ready(policy, "lora", dtype)
    assert isinstance(held[1], PeftModel) == (dtype == torch.bfloat16)
    assert error(change(*held), true) < 0.01
    kept = {weight.dtype for name, weight in held[1].named_parameters() if "proj" in name and "lora_" not in name}
    assert kept == {dtype}
    assert {weight.dtype for name, weight in held[1].named_parameters() if "lora_" in name} <= {torch.float32}


def test_neither_an_adapter_merged_in_bfloat16_nor_one_beside_it_would_be(tiny_model: Path) -> None:
    """Why products are in float32: what `error` finds of the two other ways."""
    true = change(*adapted(tiny_model, SMALL))
    for merged in (True, False):
        base, policy = adapted(tiny_model, SMALL)
        policy.get_base_model().bfloat16()
        assert error(change(base.bfloat16(), policy.merge_and_unload() if merged else policy), true) > 1


def test_an_adapter_beside_narrow_weights_writes_and_is_scored(tiny_model: Path) -> None:
    """The texts are those of the merged model, and rewards those that float32 gives."""
    tokenizer = load_tokenizer(str(tiny_model))
    found, rewards = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        base, policy = adapted(tiny_model, 0.1)
        held = made_ready(base, "full", dtype), made_ready(policy, "lora", dtype)
        found[dtype] = [texts(sample_completions(each, tokenizer, ASKED, SETTINGS, seed=0)) for each in held]
        scorer = CandidateRewards(held[1], held[0], tokenizer, beta=1.0)
        rewards[dtype] = scorer.of(list(ASKED[0]), ["Because.", "No reason.", "So."])
    narrow, wide = found[torch.bfloat16], found[torch.float32]
    assert narrow == wide and narrow[0] != narrow[1]
    assert rewards[torch.bfloat16] == pytest.approx(rewards[torch.float32], abs=1e-3)
    assert min(abs(each) for each in rewards[torch.float32]) > 0.01


def trained(workspace: Workspace, base: Checkpoint, *, by: float = 1e-4) -> Checkpoint:
    """A checkpoint with full weights of its own, each a little more than the base's."""
    model, tokenizer = load_policy(workspace, base)
    for weight in model.parameters():
        weight.data *= 1 + by
    model.save_pretrained(workspace.folder / "checkpoints" / "round-1")
    tokenizer.save_pretrained(workspace.folder / "checkpoints" / "round-1")
    with writing(workspace.engine) as session:
        return add_checkpoint(
            session=session, name="round-1", path="checkpoints/round-1", kind="full", parent_id=base.id
        )


@pytest.mark.parametrize(("share", "dtype"), [(2.1, torch.float32), (1.9, torch.bfloat16)])
def test_checkpoints_that_are_compared_are_held_alike(
    make_workspace: Callable[..., Workspace],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    share: float,
    dtype: torch.dtype,
) -> None:
    """Both fit in float32 or neither is kept so, though either would fit by itself; what is lost by it is said."""
    workspace = make_workspace()
    with reading(workspace.engine) as session:
        base = base_checkpoint(session=session)
    checkpoint = trained(workspace, base)
    room = math.ceil(share * float32_bytes(load_policy(workspace, base)[0]) / FILLED)
    monkeypatch.setattr(writers, "_free_on", lambda device: room)
    loaded = load_writers(workspace, [checkpoint, base])
    assert {projections(model) for model, _ in loaded} == {dtype}
    assert ("round-1 does not fit in float32" in caplog.text) == (dtype == torch.bfloat16)
    assert "base does not fit" not in caplog.text
    assert projections(load_writer(workspace, checkpoint)[0]) == torch.float32


def projections(model: Any) -> torch.dtype:
    [dtype] = {weight.dtype for name, weight in model.named_parameters() if "proj" in name}
    return dtype


def test_a_card_is_asked_for_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch keeps for itself without using it is free to it."""
    figures: Sequence[tuple[str, Any]] = (
        ("mem_get_info", (5 * GIB, 9 * GIB)),
        ("memory_reserved", 3 * GIB),
        ("memory_allocated", GIB),
    )
    for name, value in figures:
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert writers._free_on("cuda") == 7 * GIB and writers._free_on("cpu") is None
