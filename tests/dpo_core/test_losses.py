"""Losses of uncertain labels and of ties: hand-worked numbers, laws, and the trainer's loss against the formula."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dpo_core.config import TrainingSettings
from dpo_core.losses import TIE_LOSSES, expected_correction, tie_correction
from dpo_core.trainer import CONFIDENCE, TIE, training_rows
from tests.dpo_core.test_trainer import PAIRS, SETTINGS, pair_trainer

PASS_TOKENS = 70  # the eight pairs go in five passes, as many as are decided: none is to be taken for the other
LOGITS = st.floats(-8, 8)


def plain(h: float) -> float:
    return math.log1p(math.exp(-h))  # -log sigmoid(h)


def tensor(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_numbers_worked_by_hand() -> None:
    # h = ln 3: sigmoid = 3/4. p = 0.9: 0.9 * -ln(3/4) + 0.1 * -ln(1/4) = 0.258914 + 0.138629 = 0.397543
    h = math.log(3)
    assert plain(h) + expected_correction(tensor(h), tensor(0.9)).item() == pytest.approx(0.397543, abs=1e-6)


@given(LOGITS, st.floats(0.5, 1))
def test_the_expected_loss_is_an_average(h: float, p: float) -> None:
    expected = plain(h) + expected_correction(tensor(h), tensor(p)).item()
    assert expected == pytest.approx(p * plain(h) + (1 - p) * plain(-h), abs=1e-9)


@pytest.mark.parametrize(("p", "slope"), [(1.0, -0.5), (0.9, -0.4), (0.55, -0.05), (0.5, 0.0)])
def test_doubtful_labels_count_less(p: float, slope: float) -> None:
    """Where a training starts, h = 0, the loss of a pair falls by p - 1/2; where sigmoid(h) = p it falls no more."""

    def falls(at: float) -> float:
        h = tensor(at).requires_grad_()
        loss = -torch.nn.functional.logsigmoid(h) + expected_correction(h, tensor(p))
        return torch.autograd.grad(loss.sum(), h)[0].item()

    assert falls(0.0) == pytest.approx(slope)
    if p < 1:
        assert falls(math.log(p / (1 - p))) == pytest.approx(0, abs=1e-12)
        assert falls(20.0) > 0, "pulled back: no label in doubt is believed without end"


@pytest.mark.parametrize("loss_type", [["robust"], ["sigmoid", "robust"], ["ipo"]])
def test_losses_that_would_believe_doubtful_labels_most_are_refused(loss_type: list[str]) -> None:
    """(p * -log s(h) - (1 - p) * -log s(-h)) / (2 p - 1) falls by 1 / (4 p - 2) at h = 0: by 5 for p = 0.55."""
    told = {"loss_type": loss_type, "confidence": "agreement"}
    with pytest.raises(ValidationError, match="count most" if "robust" in loss_type else "does nothing without"):
        TrainingSettings.model_validate(told)
    TrainingSettings.model_validate(told | {"loss_type": ["sigmoid", "sft"]})


@given(LOGITS)
def test_a_label_that_is_certain_changes_nothing(h: float) -> None:
    assert expected_correction(tensor(h), tensor(1.0)).item() == 0


def logits_of(trainer: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """h of a batch, from the model's own logits; (B,)."""
    with torch.no_grad():
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        found = trainer.model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.log_softmax(-1)
        picked = found[:, :-1].gather(2, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
        chosen, rejected = (picked * (labels[:, 1:] != -100)).sum(1).chunk(2)
    h: torch.Tensor = trainer.beta * (chosen - inputs["ref_chosen_logps"] - rejected + inputs["ref_rejected_logps"])
    return h


def test_the_trainers_loss_is_the_formula(tiny_model: Path, tmp_path: Path) -> None:
    """One step away from the reference, where the logits are no longer zero; the whole set in one batch."""
    settings = SETTINGS.model_copy(update={"batch_size": 8, "num_train_epochs": 4})
    confidence = [1.0, 0.6, 0.75, 0.9, 1.0, 0.55, 0.8, 0.7]
    seen: list[dict[str, float]] = []
    logits: list[torch.Tensor] = []
    trainer = pair_trainer(tiny_model, tmp_path, settings, seen, "full")
    columns = trainer.train_dataset.to_list()
    for row, share in zip(columns, confidence, strict=True):
        row[CONFIDENCE] = share
    trainer.train_dataset = type(trainer.train_dataset).from_list(columns)
    real = trainer._compute_loss

    def listen(model: object, inputs: dict[str, torch.Tensor], return_outputs: bool) -> torch.Tensor:
        logits.append(torch.stack((logits_of(trainer, inputs), inputs[CONFIDENCE])))
        loss: torch.Tensor = real(model, inputs, return_outputs)
        return loss

    trainer._compute_loss = listen
    trainer.train()
    h, share = (values.tolist() for values in logits[-1])
    assert max(abs(value) for value in h) > 0.05
    by_hand = [p * plain(x) + (1 - p) * plain(-x) for x, p in zip(h, share, strict=True)]
    assert seen[-1]["loss"] == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-4)


def test_rows_carry_a_confidence_only_where_one_is_in_doubt(tiny_model: Path, tmp_path: Path) -> None:
    trainer = pair_trainer(tiny_model, tmp_path, SETTINGS, [], "full")
    assert CONFIDENCE not in trainer.train_dataset.column_names
    from dpo_core.logps import PairLogps
    from dpo_core.tokenization import tokenize_pairs

    tokens = tokenize_pairs(PAIRS, trainer.processing_class, max_length=64)
    reference = [PairLogps(-1.0, -1.0)] * len(tokens)
    assert CONFIDENCE not in training_rows(tokens, reference, [1.0] * 8).column_names
    assert training_rows(tokens, reference, [0.5 + index / 16 for index in range(8)])[1][CONFIDENCE] == 0.5625


def probability(name: str, h: float, *, tie: bool) -> float:
    return math.exp(-TIE_LOSSES[name](tensor(h), torch.tensor([tie])).item())


@pytest.mark.parametrize(
    ("name", "h", "win", "tie", "loss"),
    [
        # e^-h = 1/9 and e^(-h/2) = 1/3: 1 + 1/9 + 2/3 = 16/9, so p(win) = 9/16 and p(tie) = 2/3 of it.
        ("davidson", 2 * math.log(3), 9 / 16, 6 / 16, 1 / 16),
        ("davidson", 0.0, 1 / 4, 1 / 2, 1 / 4),
        # s(h - log 3) = s(0) = 1/2, s(-h - log 3) = s(-log 9) = 1/10, and 8 times their product is 4/10.
        ("rao_kupper", math.log(3), 5 / 10, 4 / 10, 1 / 10),
        ("rao_kupper", 0.0, 1 / 4, 1 / 2, 1 / 4),
    ],
)
def test_chances_worked_by_hand(name: str, h: float, win: float, tie: float, loss: float) -> None:
    assert probability(name, h, tie=False) == pytest.approx(win)
    assert probability(name, h, tie=True) == pytest.approx(tie)
    assert probability(name, -h, tie=False) == pytest.approx(loss)


@given(st.sampled_from(sorted(TIE_LOSSES)), st.floats(-30, 30), st.booleans())
def test_laws_of_a_choice_with_ties(name: str, h: float, tie: bool) -> None:
    win, loss = probability(name, h, tie=False), probability(name, -h, tie=False)
    assert win + loss + probability(name, h, tie=True) == pytest.approx(1)
    assert probability(name, h, tie=True) == pytest.approx(probability(name, -h, tie=True))
    whole = plain(h) + tie_correction(name, tensor(h), torch.tensor([tie])).item()
    assert math.exp(-whole) == pytest.approx(probability(name, h, tie=tie))


@pytest.mark.parametrize(("name", "tie_slope"), [("davidson", 0.5), ("rao_kupper", 1.0)])
def test_ties_are_stable_far_from_the_reference(name: str, tie_slope: float) -> None:
    """At |h| = 1e4 the losses are straight lines: a tie is pulled back from either side, a win pushed from below."""
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4], dtype=torch.float64, requires_grad=True)
    losses = TIE_LOSSES[name](logits, torch.tensor([True, True, False, False]))
    (slopes,) = torch.autograd.grad(losses.sum(), logits)
    assert slopes.tolist() == pytest.approx([tie_slope, -tie_slope, 0, -1])
    assert losses.tolist() == pytest.approx([tie_slope * 1e4, tie_slope * 1e4, 0, 1e4], abs=2)


@pytest.mark.parametrize(("batches", "pass_tokens"), [(1, None), (8, None), (1, PASS_TOKENS)])
@pytest.mark.parametrize("name", ["davidson", "rao_kupper"])
def test_the_trainer_takes_ties_as_such_and_logs_the_others(
    tiny_model: Path, tmp_path: Path, name: str, batches: int, pass_tokens: int | None
) -> None:
    """Steps of eight pairs, three of them ties: in one batch, in eight (some of a tie alone), in passes."""
    shared = {"batch_size": 8 // batches, "gradient_accumulation_steps": batches, "num_train_epochs": 4}
    settings = SETTINGS.model_copy(update=shared | {"ties": name})
    flags = [False, True, False, False, True, True, False, False]
    seen: list[dict[str, float]] = []
    heard: list[tuple[float, bool]] = []
    trainer = pair_trainer(tiny_model, tmp_path, settings, seen, "full", pass_tokens, flags)
    real = trainer._compute_loss

    def listen(model: object, inputs: dict[str, torch.Tensor], return_outputs: bool) -> torch.Tensor:
        heard.extend(zip(logits_of(trainer, inputs).tolist(), inputs[TIE].tolist(), strict=True))
        loss: torch.Tensor = real(model, inputs, return_outputs)
        return loss

    trainer._compute_loss = listen
    trainer.train()
    assert seen[0]["loss"] == pytest.approx((3 * math.log(2) + 5 * math.log(4)) / 8, abs=1e-4)  # 1/2 and 1/4 at h = 0
    last = heard[-8:]
    assert sum(tie for _, tie in last) == 3 and max(abs(h) for h, _ in last) > 0.05
    by_hand = [-math.log(probability(name, h, tie=tie)) for h, tie in last]
    assert seen[-1]["loss"] == pytest.approx(sum(by_hand) / 8, abs=1e-4)
    decided = [h for h, tie in last if not tie]
    assert seen[-1]["rewards/margins"] == pytest.approx(sum(decided) / 5, abs=1e-4)
    assert seen[-1]["rewards/accuracies"] == pytest.approx(sum(h > 0 for h in decided) / 5)
    both = seen[-1]["rewards/chosen"] - seen[-1]["rewards/rejected"]
    assert both == pytest.approx(seen[-1]["rewards/margins"], abs=1e-4)


def test_a_step_of_ties_alone_logs_no_rewards(tiny_model: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"batch_size": 1, "num_train_epochs": 1, "ties": "davidson"})
    seen: list[dict[str, float]] = []
    pair_trainer(tiny_model, tmp_path, settings, seen, "full", ties=[True, False] * 4).train()
    assert len(seen) == 8 and all(entry["loss"] > 0 for entry in seen)
    assert sum("rewards/margins" in entry for entry in seen) == 4
    assert {"rewards/accuracies", "logps/chosen"} <= set(next(entry for entry in seen if "rewards/margins" in entry))
    assert not any(math.isnan(value) for entry in seen for value in entry.values())
