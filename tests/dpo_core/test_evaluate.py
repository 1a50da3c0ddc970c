"""Accuracy, margins and intervals against hand-worked figures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_core.evaluate import accuracy, judge, summarize
from dpo_core.logps import PairLogps
from tests.dpo_core.conftest import PAIRS, tokenized


def test_a_policy_that_is_its_own_reference_is_half_right() -> None:
    logps = [PairLogps(-3.0, -4.0), PairLogps(-9.0, -1.0)]
    same = judge(PAIRS[:2], logps, logps)
    figures = summarize(same, same, beta=0.1)
    assert figures["accuracy_before"] == figures["accuracy_after"] == 0.5
    assert figures["margin"] == 0.0
    assert figures["ranking_after"] == 0.5


def test_figures_worked_by_hand() -> None:
    reference = [PairLogps(-10.0, -10.0), PairLogps(-20.0, -18.0), PairLogps(-5.0, -5.0)]
    policy = [PairLogps(-8.0, -11.0), PairLogps(-21.0, -17.0), PairLogps(-4.0, -6.0)]
    figures = summarize(judge(PAIRS, reference, reference), judge(PAIRS, policy, reference), beta=0.5)
    # margins: 0.5 * (2 + 1) = 1.5;  0.5 * (-1 - 1) = -1;  0.5 * (1 + 1) = 1
    assert figures["accuracy_after"] == pytest.approx(2 / 3)
    assert figures["margin"] == pytest.approx(0.5)
    assert figures["ranking_before"] == pytest.approx(1 / 3)  # a tie, then the rejected, then a tie
    assert figures["ranking_after"] == pytest.approx(2 / 3)


def test_intervals_are_by_prompt() -> None:
    """Ten pairs on ten prompts have the textbook interval; the same ten on two prompts a far wider one."""
    margins = [1.0] * 7 + [-1.0] * 3
    z, n, p = 1.959964, 10, 0.7
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))

    def figures(prompts: list[int]) -> dict[str, Any]:
        pairs = [tokenized(index, [prompt], [8], [9]) for index, prompt in enumerate(prompts)]
        logps = [PairLogps(margin, 0.0) for margin in margins]
        judged = judge(pairs, logps, [PairLogps(0.0, 0.0)] * 10)
        return summarize(judged, judged, beta=1.0)

    apart, together = figures(list(range(10))), figures([5] * 7 + [6] * 3)
    assert apart["interval_after"] == pytest.approx([centre - half, centre + half], abs=1e-5)
    assert together["interval_after"][0] < 0.2 and together["interval_after"][1] > 0.9
    assert (apart["prompts"], together["prompts"]) == (10, 2)
    assert apart["margin"] == pytest.approx(0.4)
    assert apart["margin_interval"][0] < 0.4 < apart["margin_interval"][1]
    assert figures([5] * 10)["margin_interval"] is None


def changed(before: list[float], after: list[float], prompts: list[int] | None = None) -> dict[str, Any]:
    """The figures of pairs with these margins, each on a prompt of its own unless told otherwise."""
    pairs = [tokenized(index, [prompt], [8], [9]) for index, prompt in enumerate(prompts or range(len(before)))]
    base = [PairLogps(0.0, 0.0)] * len(pairs)
    old, new = ([PairLogps(margin, 0.0) for margin in margins] for margins in (before, after))
    return summarize(judge(pairs, old, base), judge(pairs, new, base), beta=1.0)


def test_the_change_is_told_pair_by_pair() -> None:
    """Ten pairs: one lost, two from nothing to right, the others as before. Differences -1, 1/2, 1/2 and seven of 0."""
    figures = changed([1.0, 0.0, 0.0] + [1.0] * 5 + [-1.0] * 2, [-1.0, 1.0, 1.0] + [1.0] * 5 + [-1.0] * 2)
    half = 2.262157 * math.sqrt(1.5) / 10  # t with 9 degrees; squares 1 + 1/4 + 1/4 around a mean of 0
    assert figures["change"] == 0
    assert figures["change_interval"] == pytest.approx([-half, half], abs=1e-5)
    assert figures["accuracy_before"] == figures["accuracy_after"] == 0.7


def test_the_change_has_no_interval_from_a_few_prompts() -> None:
    assert changed([0.0] * 7, [-1.0] * 7)["change_interval"] is None
    assert changed([0.0] * 8, [-1.0] * 8)["change_interval"] == [-0.5, -0.5]
    assert changed([0.0] * 8, [-1.0] * 8, prompts=[1, 2, 3, 4] * 2)["change_interval"] is None


@pytest.mark.parametrize("prompts", [8, 10, 30])
@pytest.mark.parametrize("known", [False, True])
def test_equals_are_seldom_called_worse(prompts: int, known: bool) -> None:
    """Checkpoints that are right in half of the pairs, by chance: the first one, or a base that rewards nothing."""
    draw = np.random.default_rng(0)
    worse = 0
    for _ in range(1000):
        before, after = draw.choice([-1.0, 1.0], (2, prompts))
        worse += changed(list(before * known), list(after))["change_interval"][1] < 0
    assert worse / 1000 < 0.07


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_turning_every_label_around_turns_accuracy_around(margins: list[float]) -> None:
    assert accuracy([-margin for margin in margins]) == pytest.approx(1 - accuracy(margins))


def test_nothing_held_out_has_no_figures() -> None:
    assert summarize([], [], beta=0.1) == {"pairs": 0}
