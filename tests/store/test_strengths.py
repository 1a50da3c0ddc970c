"""Strengths: a closed form for two, what was planted for more, and laws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import beta

from store.intervals import Estimate
from store.strengths import Meeting, strengths, win_chance
from store.win_rate import Outcome

NAMES = "base", "one", "two", "three"
MEETINGS = st.lists(
    st.builds(Meeting, st.sampled_from(NAMES), st.sampled_from(NAMES), st.sampled_from(Outcome), st.integers(0, 15)),
    max_size=40,
)


def points(won: float, lost: float) -> float:
    return 400 * math.log10(won / lost)


def met(x: str, y: str, *, start: int = 0, **counts: int) -> list[Meeting]:
    """So many verdicts of each outcome, each under a prompt of its own."""
    outcomes = [Outcome(name) for name, count in counts.items() for _ in range(count)]
    return [Meeting(x, y, outcome, start + number) for number, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("won", "lost", "tie", "both_bad"), [(30, 10, 0, 0), (7, 3, 4, 1), (1, 0, 0, 0), (25, 0, 0, 0)]
)
def test_of_two_it_is_the_closed_form(won, lost, tie, both_bad):
    """And where nothing was tied, the interval is Jeffreys's for the win rate, which has one where all was won too."""
    found = strengths(met("new", "base", won=won, lost=lost, tie=tie, both_bad=both_bad), anchor="base")
    half = (tie + both_bad + 1) / 2
    assert found["new"].value == pytest.approx(points(won + half, lost + half), abs=0.01)
    assert found["base"] == Estimate(0.0, (0.0, 0.0), won + lost + tie + both_bad)
    if won + lost >= 25 and not tie:
        jeffreys = beta(won + 0.5, lost + 0.5).ppf([0.05, 0.95])
        low, high = (1 / (1 + 10 ** (-end / 400)) for end in found["new"].interval)
        assert beta(won + 0.5, lost + 0.5).cdf([low, high]) == pytest.approx([0.025, 0.975], abs=0.025)
        assert low < jeffreys[0] < jeffreys[1] < high


def test_what_was_planted_is_found():
    """Five checkpoints, of which neighbours and their neighbours met 3,000 times: within 25 points."""
    planted = {"base": 0.0, "r1": 60.0, "r2": 40.0, "r3": 150.0, "r4": 400.0}
    found = strengths(simulated(planted, prompts=3000, judges=1, seed=0), anchor="base")
    assert {name: each.value for name, each in found.items()} == pytest.approx(planted, abs=25)


@pytest.mark.parametrize(("prompts", "judges"), [(30, 1), (40, 3)])
def test_the_intervals_hold_what_was_planted(prompts, judges):
    """40 drawings of four checkpoints; three judges who mostly agree make no interval too narrow."""
    planted = {"base": 0.0, "r1": 60.0, "r2": 150.0, "r3": 400.0}
    held = []
    for seed in range(40):
        found = strengths(simulated(planted, prompts=prompts, judges=judges, seed=seed), anchor="base")
        held += [found[name].interval[0] <= planted[name] <= found[name].interval[1] for name in ("r1", "r2", "r3")]
    assert np.mean(held) > 0.88


def simulated(planted: dict[str, float], *, prompts: int, judges: int, seed: int) -> list[Meeting]:
    """Checkpoints two apart or less meet. A judge follows the prompt's leaning in four of five."""
    draw, names = np.random.default_rng(seed), list(planted)
    meetings = []
    for x, y in [(x, y) for place, x in enumerate(names) for y in names[place + 1 : place + 3]]:
        chance = 1 / (1 + 10 ** (-(planted[x] - planted[y]) / 400))
        leaning, coins = draw.random((prompts, 1)), draw.random((prompts, judges))
        won = np.where(draw.random((prompts, judges)) < 0.8, leaning, coins) < chance
        meetings += [
            Meeting(x, y, Outcome.WON if each else Outcome.LOST, (x, y, prompt))
            for prompt in range(prompts)
            for each in won[prompt]
        ]
    return meetings


def test_strengths_add_up_along_a_chain():
    """Where nobody met both ways round, a chain of two closed forms."""
    chain = met("one", "base", won=9, lost=3) + met("two", "one", start=100, won=4, lost=8)
    found = strengths(chain, anchor="base")
    assert found["two"].value == pytest.approx(points(9.5, 3.5) + points(4.5, 8.5), abs=0.01)
    assert found["two"].count == 12
    assert found["one"].count == 24


def test_where_all_met_all_it_is_the_most_probable():
    """Against a general optimiser on the likelihood, one tie more for every two that met."""
    won = {("one", "base"): 9, ("base", "one"): 4, ("two", "base"): 3, ("base", "two"): 6, ("two", "one"): 7}
    meetings = [
        each for start, ((x, y), count) in enumerate(won.items()) for each in met(x, y, start=100 * start, won=count)
    ]
    found = strengths(meetings, anchor="base")

    def loss(free: np.ndarray) -> float:
        at = {"base": 0.0, "one": free[0], "two": free[1]}
        both = [((x, y), won.get((x, y), 0) + 0.5) for x in at for y in at if x != y]
        return sum(times * np.logaddexp(0, at[y] - at[x]) for (x, y), times in both)

    best = minimize(loss, np.zeros(2), tol=1e-10).x * 400 / math.log(10)
    assert [found["one"].value, found["two"].value] == pytest.approx(best, abs=0.02)


def test_who_is_not_connected_has_no_value():
    found = strengths(met("one", "base", won=3, lost=2) + met("two", "three", won=4), anchor="base")
    assert (found["two"], found["three"]) == (Estimate(count=4), Estimate(count=4))
    assert found["one"].value is not None


def test_an_anchor_that_never_met_anybody_leaves_all_without_a_value():
    assert strengths(met("one", "two", won=3), anchor="base") == {
        "base": Estimate(),
        "one": Estimate(count=3),
        "two": Estimate(count=3),
    }
    assert strengths(met("base", "base", tie=4), anchor="base") == {"base": Estimate()}


@settings(max_examples=5, deadline=None)
@given(MEETINGS, st.randoms(use_true_random=False))
def test_laws(meetings: list[Meeting], lots):
    found = strengths(meetings, anchor="base")
    assert strengths(meetings, anchor="base") == found  # the same seed
    swap = {Outcome.WON: Outcome.LOST, Outcome.LOST: Outcome.WON}
    turned = [
        replace(each, x=each.y, y=each.x, outcome=swap.get(each.outcome, each.outcome)) if lots.random() < 0.5 else each
        for each in meetings
    ]
    lots.shuffle(turned)
    assert_close(strengths(turned, anchor="base"), found)
    twice = strengths(meetings * 2, anchor="base")  # the same said again is no news
    assert_close({name: replace(each, count=each.count // 2) for name, each in twice.items()}, found)
    reached = {name for name, each in found.items() if each.value is not None}
    if "one" in reached:
        other = strengths(meetings, anchor="one")
        assert {name: other[name].value - other["base"].value for name in reached} == pytest.approx(
            {name: found[name].value for name in reached}, abs=0.01
        )


def assert_close(some: dict[str, Estimate], others: dict[str, Estimate]) -> None:
    assert some.keys() == others.keys()
    for name, each in some.items():
        assert (each.count, each.value is None) == (others[name].count, others[name].value is None)
        if each.value is not None:
            assert [each.value, *each.interval] == pytest.approx([others[name].value, *others[name].interval], abs=0.01)


def test_points_are_chances_to_win() -> None:
    assert [round(win_chance(each), 2) for each in (0.0, 100.0, 400.0, -400.0)] == [0.5, 0.64, 0.91, 0.09]
    assert win_chance(points(30, 10)) == pytest.approx(0.75)
