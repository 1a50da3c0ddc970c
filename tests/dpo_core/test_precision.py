"""bf16 = "auto": taken where it is there, pays and agrees, and decided once for a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl.trainer.dpo_trainer import DataCollatorForPreference

from dpo_core import logps, precision, train
from dpo_core.logps import prepare
from dpo_core.loop import start_training
from dpo_core.precision import FILE, Precision, judge_precisions, judged, probe_pairs
from dpo_core.workspace import Workspace
from store.checkpoints import get_checkpoint
from store.database import reading
from store.models import Run, RunStatus
from tests.dpo_core.conftest import PAIRS, tokenized
from tests.dpo_core.test_train import Cut, cut_at, lapse, ready_to_train, run_next

Make = Callable[..., Workspace]
YES, NO = Precision(True, "it is quick"), Precision(False, "it is slow")


@pytest.mark.parametrize(
    ("speed", "cosine", "error", "taken"),
    [
        (1.5, 0.9999, 0.001, True),
        (1.05, 0.9999, 0.001, False),  # no quicker
        (3.0, 0.95, 0.001, False),  # another direction
        (3.0, 0.9999, 0.2, False),  # other rewards
        (3.0, float("nan"), 0.001, False),
        (3.0, 0.9999, float("nan"), False),
    ],
)
def test_it_has_to_be_quicker_and_to_agree(speed: float, cosine: float, error: float, taken: bool) -> None:
    assert judged(speed=speed, cosine=cosine, error=error).bf16 is taken


def test_both_precisions_are_compared_on_gradients_and_rewards(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: dict[str, float] = {}
    monkeypatch.setattr(precision, "judged", lambda **found: heard.update(found) or YES)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    prepare(model, True)
    batch = DataCollatorForPreference(pad_token_id=0)([pair.row for pair in PAIRS])
    assert judge_precisions(model, batch, beta=0.1) == YES
    assert 0.99 < heard["cosine"] < 1, "bfloat16 rounds, and points the same way"
    assert 0 < heard["error"] < 0.05
    assert heard["speed"] > 0
    assert all(weight.grad is None for weight in model.parameters()), "the training starts with none"


def test_the_cosine_of_long_vectors_is_exact() -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [torch.randn(10**7, generator=draw) for _ in range(4)]  # one value alone, added up in float32, drifts
    pairs = [(part, part + 0.1) for part in parts]
    one, other = torch.cat(parts).double(), torch.cat([b for _, b in pairs]).double()
    expected = float(one.dot(other) / (one.norm() * other.norm()))
    assert precision.cosine(pairs) == pytest.approx(expected, abs=1e-9)
    assert precision.cosine([(part, part) for part in parts]) == pytest.approx(1, abs=1e-9)
    assert math.isnan(precision.cosine([(torch.zeros(3), torch.ones(3))]))


def test_pairs_of_middling_length_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "PROBE_TOKENS", 20)
    pairs = [tokenized(length, [5] * length, [1], [2]) for length in (30, 6, 8, 4, 18)]
    assert [pair.pair_id for pair in probe_pairs(pairs)] == [18]  # the passes: 4 and 6; 8; 18; 30


def trained(workspace: Workspace) -> Run:
    start_training(workspace, by="test")
    finished = run_next(workspace)
    assert finished.status == RunStatus.DONE, finished.error
    return finished


def decided(workspace: Workspace) -> bool:
    with reading(workspace.engine) as session:
        return bool(get_checkpoint(session=session, name="round-1").settings["training"]["bf16"])


@pytest.mark.parametrize("found", [YES, NO])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_training_computes_in_what_was_found(
    make_workspace: Make, monkeypatch: pytest.MonkeyPatch, tuning: str, found: Precision
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    monkeypatch.setattr(precision, "WORTH", 0)
    real = precision.judge_precisions
    monkeypatch.setattr(precision, "judge_precisions", lambda *given, **named: real(*given, **named) and found)
    asked: dict[str, bool] = {}
    arguments, passed = train.trainer_arguments, logps.pair_logps
    monkeypatch.setattr(
        train, "trainer_arguments", lambda *given: asked.update(training=(told := arguments(*given)).bf16) or told
    )
    monkeypatch.setattr(
        logps, "pair_logps", lambda *given, **named: asked.update(reference=named["bf16"]) or passed(*given, **named)
    )
    workspace = make_workspace(model={"tuning": tuning})
    ready_to_train(workspace)
    finished = trained(workspace)
    assert decided(workspace) is found.bf16
    assert finished.result["train"]["precision"] == found.words
    assert asked == {"reference": found.bf16, "training": found.bf16}


def test_a_run_that_goes_on_decides_nothing_anew(make_workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([YES])
    monkeypatch.setattr(precision, "_choose", lambda *_: next(answers))
    workspace = make_workspace()
    ready_to_train(workspace)
    run = start_training(workspace, by="test")
    with pytest.raises(Cut):
        run_next(workspace, cut_at(3))
    lapse(workspace)
    finished = run_next(workspace)
    assert finished.status == RunStatus.DONE, finished.error
    assert decided(workspace) is True
    assert (workspace.run_folder(run.id or 0) / FILE).exists()


@pytest.mark.parametrize("there", [True, False])
def test_little_work_or_no_hardware_is_not_compared(
    make_workspace: Make, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: there)
    monkeypatch.setattr(precision, "judge_precisions", lambda *_, **__: pytest.fail("compared all the same"))
    workspace = make_workspace()
    ready_to_train(workspace)
    trained(workspace)
    assert decided(workspace) is False
