"""What duels say of a new checkpoint: its win rate, its verdict, and its win rate at equal length. No database.

A duel is one annotator's verdict on two completions of a held-out prompt, blind, one by the new checkpoint (the
candidate) and one by its opponent. Ties and both-bads are counted apart and enter no win rate.

The interval may be looked at after every label. It inverts an e-process: a bet that the win rate is not p, whose value
e(p) has an expectation of at most 1 at every moment if it is p. So the chance that e(p) ever reaches 1/alpha is at most
alpha (Ville 1939), whenever one looks and whatever makes one stop. The bet is Robbins's mixture (1970) over Beta(a, a):

    log e(p) = betaln(a + won, a + lost) - betaln(a, a) - won ln p - lost ln(1 - p)

What is counted are prompts, not duels: one whose completions were judged several times is worth one observation, the
share of its decided duels that were won. Shares need not be 0 or 1: for x in [0, 1] of mean p the factor
(q/p)^x ((1-q)/(1-p))^(1-x) is convex in x, so that its expectation is at most 1. That is exact where each prompt is
judged once, or all its duels come in between two looks. Where a prompt's share changes from look to look it is no
theorem; simulated (tests/benchmarks/watched.py, 200 prompts of three labels), at most 3% ever had a false verdict.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize
from scipy.special import betaln, expit, log_expit, stdtrit, xlog1py, xlogy

from store.intervals import Estimate, Interval, wilson

ALPHA = 0.05
PRIOR = 10.0  # a: bets on win rates between 0.3 and 0.7, where those of new checkpoints lie
LEAST_PROMPTS = 10  # decided; from fewer neither a forecast nor a win rate at equal length is told
MOST_DUELS = 1000  # a forecast beyond is "too close to call"
RIDGE = 0.1  # on the slope of length: as if it were known to lie between -6 and 6
_STEEPEST = 700.0  # log-odds beyond which a share is 0 or 1 in floating point

Floats = NDArray[np.float64]


class Outcome(StrEnum):
    """What a duel came to, for the candidate."""

    WON = "won"
    LOST = "lost"
    TIE = "tie"
    BOTH_BAD = "both_bad"


class DuelVerdict(StrEnum):
    """What all duels together say: that the candidate is better, that it is worse, or neither yet."""

    PROMOTE = "promote"
    KEEP = "keep"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Duel:
    """One judged duel. `length_difference`: the candidate's length minus its opponent's, in any one unit."""

    prompt: Hashable
    outcome: Outcome
    length_difference: float = 0.0


@dataclass(frozen=True)
class WinRate:
    """`won`, `lost`, `ties`, `both_bad` count duels; `prompts` those with a decided duel. `rate` is the mean over them.

    `judged` counts the prompts with any verdict, a tie or both-bad included.

    `interval` holds the true rate with 95% at every moment at once. `duels_more`: about how many more comparisons, ties
    and both-bads included, until the verdict, if things go on as they do; None where it is decided, under
    LEAST_PROMPTS, where more than MOST_DUELS would be needed (`too_close`), or more prompts than there are
    (`too_few_prompts`).
    """

    won: int
    lost: int
    ties: int
    both_bad: int
    prompts: int
    judged: int
    rate: float | None
    interval: Interval
    verdict: DuelVerdict
    duels_more: int | None
    too_few_prompts: bool

    @property
    def too_close(self) -> bool:
        """Whether there is enough to tell how many more duels it takes, and they are too many."""
        enough = self.prompts >= LEAST_PROMPTS and not self.too_few_prompts
        return self.verdict == DuelVerdict.UNDECIDED and enough and self.duels_more is None


def win_rate(duels: Sequence[Duel], *, alpha: float = ALPHA, prompts_there: int | None = None) -> WinRate:
    """What these duels say; their order makes no difference. False verdicts, ever: at most `alpha`.

    `prompts_there`: how many prompts there are to hold duels on, each of which counts once; None: any number.

    `duels_more` goes on from what was won and lost, at the same rate, until e(1/2) reaches 1/alpha. The prompts that
    takes are multiplied by the duels that a decided prompt has taken so far: ties, both-bads and further annotators
    included. It is rough: simulated at true rates of 60% to 80%, 44% to 90% of forecasts are within a factor of three.

    Raises ValueError for an alpha not between 0 and 1.
    """
    counts = Counter(duel.outcome for duel in duels)
    shares = _shares(duels)
    won, lost = math.fsum(shares), math.fsum(1 - share for share in shares)
    interval = confidence_sequence(won, lost, alpha)
    verdict = _verdict(interval)
    left = MOST_DUELS if prompts_there is None else max(0, prompts_there - len(shares))
    more, too_few = None, False
    if verdict == DuelVerdict.UNDECIDED:
        more, too_few = _forecast(shares, left, len(duels), alpha)
    return WinRate(
        won=counts[Outcome.WON],
        lost=counts[Outcome.LOST],
        ties=counts[Outcome.TIE],
        both_bad=counts[Outcome.BOTH_BAD],
        prompts=len(shares),
        judged=len({duel.prompt for duel in duels}),
        rate=fmean(shares) if shares else None,
        interval=interval,
        verdict=verdict,
        duels_more=more,
        too_few_prompts=too_few,
    )


def confidence_sequence(won: float, lost: float, alpha: float = ALPHA) -> Interval:
    """All p with e(p) < 1/alpha: they hold the true win rate at every moment at once, with a chance of 1 - alpha.

    `won` and `lost` need not be whole. Raises ValueError where one is negative, or alpha is not between 0 and 1.
    """
    if won < 0 or lost < 0 or not 0 < alpha < 1:
        raise ValueError("won and lost must be 0 or more, and alpha must lie between 0 and 1")
    return _lower_end(won, lost, alpha), 1 - _lower_end(lost, won, alpha)


def log_evidence(won: ArrayLike, lost: ArrayLike, rate: ArrayLike = 0.5) -> Floats:
    """log e(rate), the evidence against that win rate; arrays are taken element by element."""
    won, lost, rate = (np.asarray(each, dtype=np.float64) for each in (won, lost, rate))
    return np.asarray(_mixture(won, lost) - xlogy(won, rate) - xlog1py(lost, -rate))


def length_controlled(duels: Sequence[Duel]) -> Estimate:
    """The win rate at equal length, with its 95% interval; `count` counts decided duels. For looking at once.

    A logistic regression of won or lost on tanh(length difference / its standard deviation), read at difference 0: the
    length term of length-controlled AlpacaEval (Dubois et al. 2024). Each prompt counts once, as in `win_rate`. A small
    ridge on the slope keeps it finite where length alone tells won from lost. The variance is the sandwich between
    prompts (Liang and Zeger 1986), never below what as many prompts with a duel each would have. Where all were won, or
    all lost, length explains nothing, and the interval is Wilson's.

    No value under LEAST_PROMPTS decided prompts.
    """
    decided = [duel for duel in duels if duel.outcome in (Outcome.WON, Outcome.LOST)]
    won = np.array([float(duel.outcome == Outcome.WON) for duel in decided])
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(duel.prompt for duel in decided))}
    if len(numbers) < LEAST_PROMPTS:
        return Estimate(count=len(decided))
    if won.min() == won.max():
        return Estimate(float(won[0]), wilson(float(won[0]), len(numbers)), len(decided))
    features = _length_features(np.array([float(duel.length_difference) for duel in decided]))
    odds, error = _log_odds(features, won, np.array([numbers[duel.prompt] for duel in decided]))
    half = float(stdtrit(len(numbers) - 1, 0.975)) * error
    return Estimate(float(expit(odds)), (float(expit(odds - half)), float(expit(odds + half))), len(decided))


def _shares(duels: Sequence[Duel]) -> list[float]:
    """For each prompt with decided duels the share of them that was won."""
    decided: dict[Hashable, list[bool]] = defaultdict(list)
    for duel in duels:
        if duel.outcome in (Outcome.WON, Outcome.LOST):
            decided[duel.prompt].append(duel.outcome == Outcome.WON)
    return [fmean(each) for each in decided.values()]


def _verdict(interval: Interval) -> DuelVerdict:
    low, high = interval
    if low > 0.5:
        return DuelVerdict.PROMOTE
    return DuelVerdict.KEEP if high < 0.5 else DuelVerdict.UNDECIDED


def _mixture(won: ArrayLike, lost: ArrayLike) -> Floats:
    return np.asarray(betaln(PRIOR + np.asarray(won), PRIOR + np.asarray(lost)) - betaln(PRIOR, PRIOR))


def _lower_end(won: float, lost: float, alpha: float) -> float:
    """The least p with e(p) < 1/alpha. Sought among log-odds, where no share is too near 0 or 1 to be told apart."""
    mixture, bar = float(_mixture(won, lost)), -math.log(alpha)

    def beyond(odds: float) -> float:
        return float(mixture - won * log_expit(odds) - lost * log_expit(-odds)) - bar

    if beyond(-_STEEPEST) <= 0:
        return 0.0
    # log e(p) is convex and at most 0 at the rate itself: to its left there is one root.
    rate = min(_STEEPEST, math.log(won) - math.log(lost)) if lost else _STEEPEST
    return float(expit(brentq(beyond, -_STEEPEST, rate, xtol=1e-12)))


def _forecast(shares: Sequence[float], left: int, duels: int, alpha: float) -> tuple[int | None, bool]:
    """`duels_more` and `too_few_prompts` of what is undecided, where `left` prompts are not decided yet."""
    won, lost = math.fsum(shares), math.fsum(1 - share for share in shares)
    if len(shares) < LEAST_PROMPTS:
        return None, not _can_decide(won, lost, left, alpha)
    duels_a_prompt = duels / len(shares)
    more = _prompts_more(won, lost, MOST_DUELS / duels_a_prompt, alpha)
    if more is None or more > left:
        return None, more is not None
    return math.ceil(more * duels_a_prompt), False


def _can_decide(won: float, lost: float, left: int, alpha: float) -> bool:
    """Whether the prompts that are left can decide at all: were they all won, or all lost."""
    best = log_evidence([won + left, won], [lost, lost + left])
    return bool(best.max() >= -math.log(alpha))


def _prompts_more(won: float, lost: float, most: float, alpha: float) -> float | None:
    """How many prompts more it takes at the same rate; None for more than `most`."""
    rate = won / (won + lost)

    def beyond(more: float) -> float:
        return float(log_evidence(won + rate * more, lost + (1 - rate) * more)) + math.log(alpha)

    # Convex in `more` and negative now: it crosses the bar once at most.
    return None if beyond(most) < 0 else float(brentq(beyond, 0, most))


def _length_features(differences: Floats) -> Floats:
    """Length differences (duels,) -> a column of ones and one of lengths (duels, 2)."""
    spread = differences.std()
    # Where all differ by the same, what equal length would do cannot be seen: the ridge makes the interval very wide.
    lengths = np.tanh(differences / spread) if spread else np.sign(differences)
    return np.column_stack([np.ones_like(lengths), lengths])


def _log_odds(features: Floats, won: Floats, prompts: NDArray[np.int64]) -> tuple[float, float]:
    """The intercept and its standard error. `features` (duels, 2), `won` and `prompts` (duels,)."""
    weights = 1 / np.bincount(prompts)[prompts]
    ridge = np.diag([0.0, RIDGE])
    coefficients = _fitted(features, won, weights, ridge)
    chances = expit(features @ coefficients)
    bread = np.linalg.inv((features.T * (weights * chances * (1 - chances))) @ features + ridge)
    scores = np.stack([np.bincount(prompts, each) for each in features.T * (weights * (won - chances))])
    between = bread @ (scores @ scores.T * scores.shape[1] / (scores.shape[1] - 1)) @ bread
    return float(coefficients[0]), math.sqrt(max(float(bread[0, 0]), float(between[0, 0])))


def _fitted(features: Floats, won: Floats, weights: Floats, ridge: Floats) -> Floats:
    """The coefficients (2,) that lose least. Both outcomes are there, so that they are finite."""

    def loss(coefficients: Floats) -> float:
        signed = (2 * won - 1) * (features @ coefficients)
        return float(-(weights * log_expit(signed)).sum() + coefficients @ ridge @ coefficients / 2)

    def slope(coefficients: Floats) -> Floats:
        return np.asarray(features.T @ (weights * (expit(features @ coefficients) - won)) + ridge @ coefficients)

    return np.asarray(minimize(loss, np.zeros(2), jac=slope, method="BFGS", options={"gtol": 1e-8}).x)
