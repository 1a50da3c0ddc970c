"""The win rate: worked by hand, against the e-process itself, by laws, and by simulation under the null and beyond."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import betabinom, binom, logistic, t

from store.intervals import wilson
from store.win_rate import (
    LEAST_PROMPTS,
    PRIOR,
    Duel,
    DuelVerdict,
    Outcome,
    confidence_sequence,
    length_controlled,
    log_evidence,
    win_rate,
)
from tests.store.watching import ORDERS, coins, ordered, running

BAR = math.log(20)
SEQUENCES, PROMPTS, JUDGES = 2000, 200, 3
COUNTS = st.floats(0, 300, allow_subnormal=False)
OUTCOMES = st.sampled_from(list(Outcome))
DUELS = st.lists(st.builds(Duel, st.integers(0, 30), OUTCOMES, st.integers(-500, 500).map(float)), max_size=60)


def judged(**counts: int) -> list[Duel]:
    """So many duels of each outcome, each under a prompt of its own."""
    outcomes = [Outcome(name) for name, count in counts.items() for _ in range(count)]
    return [Duel(number, outcome) for number, outcome in enumerate(outcomes)]


def test_evidence_worked_by_hand():
    """Three won, none lost: the bets are 10/20, 11/21 and 12/22 on winning, each against a half."""
    assert math.exp(log_evidence(3, 0)) == pytest.approx(
        float(Fraction(10, 20) * Fraction(11, 21) * Fraction(12, 22) * 8)
    )
    assert float(log_evidence(0, 0, 0.3)) == 0


@given(st.integers(0, 80), st.integers(0, 80), st.floats(0.01, 0.99))
def test_evidence_is_a_ratio_of_two_distributions(won: int, lost: int, rate: float):
    """That of the beta-binomial over that of the binomial; the number of orders cancels."""
    ratio = betabinom.logpmf(won, won + lost, PRIOR, PRIOR) - binom.logpmf(won, won + lost, rate)
    assert float(log_evidence(won, lost, rate)) == pytest.approx(ratio, abs=1e-7)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_evidence_is_worth_one_on_average(rate: float):
    """Exactly, after any number of labels; and no more than one for shares of any distribution of that mean."""
    won = np.arange(51)
    assert (binom.pmf(won, 50, rate) * np.exp(log_evidence(won, 50 - won, rate))).sum() == pytest.approx(1)
    thirds = binom.pmf(np.arange(151), 150, rate) * np.exp(
        log_evidence(np.arange(151) / 3, 50 - np.arange(151) / 3, rate)
    )
    assert thirds.sum() < 1


@given(COUNTS, COUNTS, st.floats(0.001, 0.5))
def test_at_the_ends_of_the_interval_the_evidence_is_the_bar(won: float, lost: float, alpha: float):
    low, high = confidence_sequence(won, lost, alpha)
    for end in (low, high):
        if 1e-6 < end < 1 - 1e-6:
            assert float(log_evidence(won, lost, end)) == pytest.approx(-math.log(alpha), abs=1e-5)
    assert (low > 0) <= (won > 0)
    assert (high < 1) <= (lost > 0)
    if won + lost:
        assert low <= won / (won + lost) <= high


@given(COUNTS, COUNTS, st.floats(0.001, 0.5))
def test_laws_of_the_interval(won: float, lost: float, alpha: float):
    low, high = confidence_sequence(won, lost, alpha)
    assert confidence_sequence(lost, won, alpha) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    wider = confidence_sequence(won, lost, alpha / 2)
    assert wider[0] <= low + 1e-9
    assert wider[1] >= high - 1e-9


@given(COUNTS, st.floats(0.1, 50))
def test_a_win_never_speaks_against(lost: float, more: float):
    """Verdicts are ordered: keep, undecided, promote; more won never goes back."""
    order = [DuelVerdict.KEEP, DuelVerdict.UNDECIDED, DuelVerdict.PROMOTE]
    places = [order.index(verdict_of(won, lost)) for won in more * np.arange(20)]
    assert places == sorted(places)


def verdict_of(won: float, lost: float) -> DuelVerdict:
    low, high = confidence_sequence(won, lost)
    return DuelVerdict.PROMOTE if low > 0.5 else DuelVerdict.KEEP if high < 0.5 else DuelVerdict.UNDECIDED


def test_what_cannot_be_counted_is_refused():
    for won, lost, alpha in ((-1, 0, 0.05), (0, -1, 0.05), (1, 1, 0.0), (1, 1, 1.0)):
        with pytest.raises(ValueError, match="alpha must lie"):
            confidence_sequence(won, lost, alpha)


def test_a_win_rate_worked_by_hand():
    found = win_rate([*judged(won=8, lost=3, tie=2, both_bad=1)])
    assert (found.won, found.lost, found.ties, found.both_bad, found.prompts) == (8, 3, 2, 1, 11)
    assert found.rate == pytest.approx(8 / 11)
    assert found.interval == confidence_sequence(8, 3)
    assert found.verdict == DuelVerdict.UNDECIDED


def test_nothing_says_nothing():
    for duels in ([], judged(tie=20, both_bad=3)):
        found = win_rate(duels)
        assert (found.rate, found.interval, found.verdict) == (None, (0, 1), DuelVerdict.UNDECIDED)
        assert (found.duels_more, found.too_close) == (None, False)


def test_the_fewest_wins_that_decide():
    """e after n wins and no loss is 2^n (10 11 ... (9+n)) / (20 21 ... (19+n)); it passes 20 at the fifteenth."""
    evidence, wins = Fraction(1), 0
    while evidence < 20:
        evidence *= Fraction(2 * (10 + wins), 20 + wins)
        wins += 1
    assert wins == 15
    assert win_rate(judged(won=wins - 1)).verdict == DuelVerdict.UNDECIDED
    assert win_rate(judged(won=wins)).verdict == DuelVerdict.PROMOTE
    assert win_rate(judged(lost=wins)).verdict == DuelVerdict.KEEP


@given(DUELS, st.randoms(use_true_random=False))
def test_laws_of_the_win_rate(duels: list[Duel], lots):
    found = win_rate(duels)
    again = list(duels)
    lots.shuffle(again)
    assert win_rate(again).interval == pytest.approx(found.interval, abs=1e-9)
    swapped = win_rate([mirrored(duel) for duel in duels])
    assert swapped.interval == pytest.approx((1 - found.interval[1], 1 - found.interval[0]), abs=1e-9)
    assert swapped.duels_more == found.duels_more
    undecided = [Duel(number, Outcome.TIE) for number in range(5)]
    assert win_rate(duels + undecided).interval == found.interval
    repeated = win_rate(duels * 3)  # the same said again is no news
    assert (repeated.interval, repeated.prompts) == (pytest.approx(found.interval, abs=1e-9), found.prompts)


def mirrored(duel: Duel) -> Duel:
    """The same duel when candidate and opponent change places."""
    swap = {Outcome.WON: Outcome.LOST, Outcome.LOST: Outcome.WON}
    return Duel(duel.prompt, swap.get(duel.outcome, duel.outcome), -duel.length_difference)


def test_a_prompt_judged_several_times_counts_once():
    """One prompt at two of three, and one at nought of one: 2/3 won of two observations."""
    said = ["won", "won", "lost", "tie", "lost"]
    found = win_rate([Duel(prompt, Outcome(each)) for prompt, each in zip("AAAAB", said, strict=True)])
    assert (found.won, found.lost, found.prompts) == (2, 2, 2)
    assert found.rate == pytest.approx(1 / 3)
    assert found.interval == pytest.approx(confidence_sequence(2 / 3, 4 / 3))


def test_watched_after_every_label_it_rarely_errs():
    """2,000 sequences of 200 labels of a fair coin, looked at after each: at most 5% ever decide (2.3% once)."""
    won = np.cumsum(np.random.default_rng(0).random((SEQUENCES, PROMPTS)) < 0.5, axis=1)
    seen = np.arange(1, PROMPTS + 1)
    ever = (log_evidence(won, seen - won) >= BAR).any(axis=1)
    assert 0.005 < ever.mean() < 0.05
    peeking = (np.abs(2 * won - seen) > 1.96 * np.sqrt(seen)).any(axis=1)
    assert peeking.mean() > 0.25


@pytest.mark.parametrize("by", ORDERS)
@pytest.mark.parametrize("agreeing", [0.0, 0.5, 0.9, 1.0])
def test_watched_it_rarely_errs_where_prompts_are_judged_three_times(by: str, agreeing: float):
    """Whoever counts labels instead errs in 40% where three judges agree in nine of ten; see the benchmark."""
    draw = np.random.default_rng(1)
    labels = coins((SEQUENCES, PROMPTS, JUDGES), agreeing, draw)
    order = ordered(draw, PROMPTS, JUDGES, by)
    ever = np.zeros(SEQUENCES, bool)
    for shares, prompts in running(labels, order):
        ever |= log_evidence(shares, prompts - shares) >= BAR
    assert ever.mean() < 0.05
    duels = [Duel(prompt, Outcome.WON if labels[0, prompt, judge] else Outcome.LOST) for prompt, judge in order]
    assert win_rate(duels).interval == pytest.approx(confidence_sequence(shares[0], prompts - shares[0]))


def test_a_true_70_percent_is_found_out_after_about_53_labels():
    won = np.cumsum(np.random.default_rng(2).random((SEQUENCES, 1000)) < 0.7, axis=1)
    seen = np.arange(1, 1001)
    decided = log_evidence(won, seen - won) >= BAR
    assert decided.any(axis=1).all()
    first = decided.argmax(axis=1)
    assert 48 <= np.median(first + 1) <= 58
    assert (won[range(SEQUENCES), first] > (first + 1) / 2).mean() > 0.995  # and for the right side


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.9])
def test_the_interval_holds_the_truth_at_every_moment_at_once(rate: float):
    won = np.cumsum(np.random.default_rng(3).random((SEQUENCES, PROMPTS)) < rate, axis=1)
    outside = (log_evidence(won, np.arange(1, PROMPTS + 1) - won, rate) >= BAR).any(axis=1)
    assert outside.mean() < 0.05
    for sequence in range(20):  # outside, by the evidence, is outside the interval
        moments = [confidence_sequence(each, seen - each) for seen, each in enumerate(won[sequence], start=1)]
        assert all(low <= rate <= high for low, high in moments) == (not outside[sequence])


def lengthy(draw, *, odds: float, by_length: float, prompts: int, judges: int = 1, longer: float = 1.0) -> list[Duel]:
    """Duels won by a logistic curve in tanh(length difference / 300).

    A judge follows the prompt's leaning in four of five.
    """
    differences = draw.normal(300 * longer, 300, prompts)
    chances = expit(odds + by_length * np.tanh(differences / 300))
    leaning, agreeing, coins = (
        draw.random(prompts),
        draw.random((prompts, judges)) < 0.8,
        draw.random((prompts, judges)),
    )
    won = np.where(agreeing, leaning[:, None], coins) < chances[:, None]
    return [
        Duel(prompt, Outcome.WON if won[prompt, judge] else Outcome.LOST, float(differences[prompt]))
        for prompt in range(prompts)
        for judge in range(judges)
    ]


def test_what_length_alone_wins_is_taken_off():
    """A candidate no better, but longer, in front of judges who like length."""
    duels = lengthy(np.random.default_rng(0), odds=0, by_length=2, prompts=4000)
    found = length_controlled(duels)
    assert win_rate(duels).rate > 0.65
    assert found.value == pytest.approx(0.5, abs=0.04)
    assert found.count == 4000


@pytest.mark.parametrize(
    ("odds", "by_length", "prompts", "judges"), [(0.4, 0, 40, 1), (0, 2, 100, 1), (0.8, 1, 100, 1), (0.4, 1, 40, 3)]
)
def test_the_interval_at_equal_length_holds_what_was_planted(odds, by_length, prompts, judges):
    draw = np.random.default_rng(1)
    found = [
        length_controlled(lengthy(draw, odds=odds, by_length=by_length, prompts=prompts, judges=judges))
        for _ in range(300)
    ]
    assert np.mean([low <= expit(odds) <= high for low, high in (each.interval for each in found)]) > 0.92
    assert np.mean([each.value for each in found]) == pytest.approx(expit(odds), abs=0.02)


@given(st.integers(1, 40), st.integers(1, 40))
def test_where_all_are_as_long_it_is_the_win_rate(won: int, lost: int):
    """And its interval is that of a share on the scale of log-odds, whose variance is 1 / ((n - 1) p q)."""
    duels = judged(won=won + 5, lost=lost + 5)
    found = length_controlled(duels)
    share, count = (won + 5) / len(duels), len(duels)
    assert found.value == pytest.approx(share, abs=1e-6)
    low, high = (logistic.ppf(end) for end in found.interval)
    half = t.ppf(0.975, count - 1) / math.sqrt((count - 1) * share * (1 - share))
    assert high - low == pytest.approx(2 * half, rel=1e-5)


def test_the_slope_is_that_of_the_penalised_likelihood():
    """Length differences of -1 and 1: two chances, and the intercept lies between their log-odds, a line of which is
    tried out here."""
    duels = [Duel(n, Outcome.WON if n % 4 else Outcome.LOST, 1.0) for n in range(40)]
    duels += [Duel(n, Outcome.WON if n % 3 == 0 else Outcome.LOST, -1.0) for n in range(40, 80)]
    longer, shorter = (np.array([duel.outcome == Outcome.WON for duel in half]) for half in (duels[:40], duels[40:]))

    def loss(intercept: float, slope: float) -> float:
        up, down = expit(intercept + slope * math.tanh(1)), expit(intercept - slope * math.tanh(1))
        said = np.concatenate([np.where(longer, up, 1 - up), np.where(shorter, down, 1 - down)])
        return -np.log(said).sum() + 0.1 * slope**2 / 2

    best = minimize_scalar(lambda b: minimize_scalar(lambda s: loss(b, s), bounds=(-5, 5), method="bounded").fun)
    assert length_controlled(duels).value == pytest.approx(expit(best.x), abs=1e-4)


@settings(max_examples=50)
@given(DUELS, st.floats(0.01, 100))
@example([Duel(n, Outcome.WON, 0.0) for n in range(9)] + [Duel(9, Outcome.LOST, 1.0)], 1.0)
def test_laws_of_the_rate_at_equal_length(duels: list[Duel], unit: float):
    """Candidate and opponent can change places, lengths have any unit, and saying all again narrows nothing."""
    found = length_controlled(duels)
    scaled = [replace(duel, length_difference=unit * duel.length_difference) for duel in duels]
    assert told(length_controlled(scaled)) == pytest.approx(told(found), abs=1e-4)
    assert told(length_controlled(duels * 2)) == pytest.approx(told(found), abs=1e-4)
    swapped = told(length_controlled([mirrored(duel) for duel in duels]))
    assert swapped == pytest.approx([1 - each for each in told(found)[:1] + told(found)[:0:-1]], abs=1e-4)


def told(found) -> list[float]:
    return [] if found.value is None else [found.value, *found.interval]


def test_lengths_that_tell_all_apart_break_nothing():
    duels = [
        Duel(number, Outcome.WON if number % 2 else Outcome.LOST, 100.0 if number % 2 else -100.0)
        for number in range(30)
    ]
    found = length_controlled(duels)
    assert found.value == pytest.approx(0.5, abs=1e-4)
    assert found.interval[0] < 0.2
    assert found.interval[1] > 0.8


def test_where_equal_length_was_never_seen_hardly_anything_is_told():
    duels = [replace(duel, length_difference=50.0) for duel in judged(won=60, lost=40)]
    low, high = length_controlled(duels).interval
    assert high - low > 0.9


def test_all_won_has_wilsons_interval():
    found = length_controlled(judged(won=20, tie=3))
    assert (found.value, found.interval, found.count) == (1.0, wilson(1.0, 20), 20)


def test_no_rate_at_equal_length_from_a_few():
    found = length_controlled(judged(won=5, lost=LEAST_PROMPTS - 6, tie=30) * 2)
    assert (found.value, found.interval, found.count) == (None, None, 2 * (LEAST_PROMPTS - 1))
