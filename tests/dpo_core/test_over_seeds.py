"""What simulations come to together, worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy.stats import t as student

from dpo_core.over_seeds import (
    count_verdicts,
    labels_to_goal,
    mean_over_seeds,
    median_to_goal,
    over_seeds,
)
from dpo_core.simulate import Measured, RoundReport
from ui.simulation_words import goal_words, round_row, stage_rows, verdicts_words


def measured(verdict: str, truth: float | None, interval: tuple[float, float] = (0.4, 0.8)) -> Measured:
    return Measured("base", duels=20, rate=0.6, interval=interval, verdict=verdict, truth=truth)


def report(number: int, labels: int, win_rate: float, found: Measured | None = None) -> RoundReport:
    name = f"round-{number}"
    told = (8, 6, 0.5, "promote", name, win_rate, (win_rate - 0.1, win_rate + 0.1), 100, labels, found)
    return RoundReport(number, name, *told)


def test_verdicts_are_held_against_the_truth() -> None:
    found = count_verdicts(
        [
            measured("promote", 0.7),
            measured("promote", 0.5),  # no better
            measured("keep", 0.3),  # and the interval misses it
            measured("keep", 0.55),  # better
            measured("undecided", 0.9, (0.3, 0.8)),  # which is no verdict, but an interval that misses
            measured("undecided", None),  # only ties: there is no truth to hold it against
        ]
    )
    assert (found.matches, found.covered, found.undecided, found.duels) == (5, 3, 1, 100)
    assert (found.promoted, found.falsely_promoted, found.kept, found.falsely_kept) == (2, 1, 2, 1)
    said = verdicts_words(found)
    assert "5 new checkpoints" in said and "held the truth in 3" in said and "Promote: 2, 1 of them falsely" in said
    assert verdicts_words(count_verdicts([])) == "No blind duels were judged."


@pytest.mark.parametrize(
    ("points", "labels"),
    [
        ([(40, 0.6), (80, 0.7), (120, 0.9)], 100),  # half way from 70% to 90%
        ([(40, 0.8)], 40),
        ([(30, 0.95)], 20),  # 30 points of 45 from 50%
        ([(40, 0.6), (80, 0.79)], None),
        ([(80, 0.9), (40, 0.85)], pytest.approx(40 * 0.3 / 0.35)),  # in whatever order
        ([], None),
    ],
)
def test_labels_to_the_goal_lie_on_the_line_between_what_was_measured(
    points: list[tuple[float, float]], labels: float | None
) -> None:
    assert labels_to_goal(points) == (pytest.approx(labels) if isinstance(labels, int) else labels)


def test_the_median_counts_those_that_never_came_there() -> None:
    assert median_to_goal([10, 30, None]) == 30
    assert median_to_goal([10, None, None]) is median_to_goal([10, None]) is median_to_goal([]) is None


@given(some.lists(some.floats(0, 1), min_size=2, max_size=8))
def test_the_mean_over_seeds_has_students_interval(values: list[float]) -> None:
    found = mean_over_seeds(values)
    assert found.value is not None and found.interval is not None
    n, mean = len(values), sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / (n - 1)) ** 0.5
    half = student.ppf(0.975, n - 1) * deviation / n**0.5
    assert found.interval == pytest.approx((mean - half, mean + half), abs=1e-9)


def test_two_seeds_together() -> None:
    first = [report(1, 60, 0.6, measured("promote", 0.7)), report(2, 120, 0.8, measured("undecided", 0.6))]
    second = [report(1, 70, 0.7), report(2, 140, 0.75)]
    whole = over_seeds([first, second])
    assert (whole.simulations, whole.reached, whole.labels_to_goal) == (2, 1, None)
    assert [(stage.round, stage.labels) for stage in whole.stages] == [(1, 65), (2, 130)]
    assert [stage.win_rate.value for stage in whole.stages] == pytest.approx([0.65, 0.775])
    assert stage_rows(whole)[0] == (1, 65, "65%", "1% to 100%"), "of two seeds: 65% and 64 points to either side"
    assert "more than were given; 1 of 2 simulations came there" in goal_words(whole)
    assert "120 (median; 1 of 1 simulation came there)" in goal_words(over_seeds([first]))
    assert stage_rows(over_seeds([first]))[0][3] == "", "one seed has no interval over seeds"
    assert round_row(3, first[0])[:2] == (3, 1) and "70%, held" in round_row(3, first[0])
