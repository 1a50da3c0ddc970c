"""Losses of uncertain labels: hand-worked numbers, laws, and the trainer's loss against the formula."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpo_core.losses import expected_correction, unbiased_correction
from dpo_core.trainer import CONFIDENCE, training_rows
from tests.dpo_core.test_trainer import PAIRS, SETTINGS, pair_trainer

LOGITS = st.floats(-8, 8)


def plain(h: float) -> float:
    return math.log1p(math.exp(-h))  # -log sigmoid(h)


def tensor(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_numbers_worked_by_hand() -> None:
    # h = ln 3: sigmoid = 3/4. p = 0.9: 0.9 * -ln(3/4) + 0.1 * -ln(1/4) = 0.258914 + 0.138629 = 0.397543
    h = math.log(3)
    assert plain(h) + expected_correction(tensor(h), tensor(0.9)).item() == pytest.approx(0.397543, abs=1e-6)
    # unbiased: (0.9 * 0.287682 - 0.1 * 1.386294) / 0.8 = 0.150355
    assert plain(h) + unbiased_correction(tensor(h), tensor(0.9)).item() == pytest.approx(0.150355, abs=1e-6)


@given(LOGITS, st.floats(0.51, 0.99))
def test_the_unbiased_loss_is_right_on_average_and_the_expected_one_is_an_average(h: float, p: float) -> None:
    """With a label that is right with probability p, the mean of the unbiased loss is the loss of the true label."""

    def unbiased(at: float) -> float:
        return plain(at) + unbiased_correction(tensor(at), tensor(p)).item()

    assert p * unbiased(h) + (1 - p) * unbiased(-h) == pytest.approx(plain(h), abs=1e-6)
    expected = plain(h) + expected_correction(tensor(h), tensor(p)).item()
    assert expected == pytest.approx(p * plain(h) + (1 - p) * plain(-h), abs=1e-9)


@given(LOGITS)
def test_a_label_that_is_certain_changes_nothing(h: float) -> None:
    assert expected_correction(tensor(h), tensor(1.0)).item() == 0
    assert unbiased_correction(tensor(h), tensor(1.0)).item() == 0


@pytest.mark.parametrize("loss_type", ["sigmoid", "robust"])
def test_the_trainers_loss_is_the_formula(tiny_model: Path, tmp_path: Path, loss_type: str) -> None:
    """One step away from the reference, where the logits are no longer zero; the whole set in one batch."""
    settings = SETTINGS.model_copy(update={"loss_type": [loss_type], "batch_size": 8, "num_train_epochs": 4})
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
        order = inputs[CONFIDENCE].clone()
        with torch.no_grad():
            labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
            found = trainer.model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.log_softmax(-1)
            picked = found[:, :-1].gather(2, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
            chosen, rejected = (picked * (labels[:, 1:] != -100)).sum(1).chunk(2)
        h = settings.beta * (chosen - inputs["ref_chosen_logps"] - rejected + inputs["ref_rejected_logps"])
        logits.append(torch.stack((h, order)))
        loss: torch.Tensor = real(model, inputs, return_outputs)
        return loss

    trainer._compute_loss = listen
    trainer.train()
    h, share = (values.tolist() for values in logits[-1])
    assert max(abs(value) for value in h) > 0.05
    if loss_type == "sigmoid":
        by_hand = [p * plain(x) + (1 - p) * plain(-x) for x, p in zip(h, share, strict=True)]
    else:
        by_hand = [(p * plain(x) - (1 - p) * plain(-x)) / (2 * p - 1) for x, p in zip(h, share, strict=True)]
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
