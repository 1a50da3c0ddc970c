"""What simulations with several seeds came to together: how fast the loop learned, and whether it knew by itself.

Plain figures of what simulate.py reports. Importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING

from scipy.special import stdtrit

from store.intervals import Estimate
from store.win_rate import DuelVerdict

if TYPE_CHECKING:
    from dpo_core.simulate import Measured, RoundReport

GOAL = 0.8  # a true win rate over the base


@dataclass(frozen=True)
class Stage:
    """All simulations after one round: the true win rate of what serves then, and the verdicts given so far (means)."""

    round: int
    win_rate: Estimate
    labels: float


@dataclass(frozen=True)
class Verdicts:
    """What blind duels said of new checkpoints, beside the truth, as annotators would find it in the end.

    `covered`: matches whose interval held the truth. False is a promotion of what truly wins half of its duels or
    fewer, and keeping the parent of what wins half or more.
    """

    matches: int
    covered: int
    promoted: int
    falsely_promoted: int
    kept: int
    falsely_kept: int
    undecided: int
    duels: int


@dataclass(frozen=True)
class Whole:
    """`labels_to_goal`: the median over all simulations, None unless more than half came there; `reached`: how many."""

    simulations: int
    stages: list[Stage]
    labels_to_goal: float | None
    reached: int
    verdicts: Verdicts


def over_seeds(simulations: Sequence[Sequence[RoundReport]]) -> Whole:
    """What these came to together; each is one seed's rounds, in their order."""
    rounds = list(zip(*simulations, strict=True))
    needed = [labels_to_goal([(each.labels, each.win_rate) for each in reports]) for reports in simulations]
    measured = [report.measured for reports in simulations for report in reports if report.measured is not None]
    return Whole(
        simulations=len(simulations),
        stages=[
            Stage(
                round=number,
                win_rate=mean_over_seeds([report.win_rate for report in reports]),
                labels=fmean(report.labels for report in reports),
            )
            for number, reports in enumerate(rounds, start=1)
        ],
        labels_to_goal=median_to_goal(needed),
        reached=sum(labels is not None for labels in needed),
        verdicts=count_verdicts(measured),
    )


def count_verdicts(measured: Sequence[Measured]) -> Verdicts:
    """How often duels told the truth. Matches of which no truth is known (every duel a tie) are left out."""
    told = [(each, each.truth) for each in measured if each.truth is not None]
    promoted = [truth for each, truth in told if each.verdict == DuelVerdict.PROMOTE]
    kept = [truth for each, truth in told if each.verdict == DuelVerdict.KEEP]
    return Verdicts(
        matches=len(told),
        covered=sum(bool(each.covered) for each, _ in told),
        promoted=len(promoted),
        falsely_promoted=sum(truth <= 0.5 for truth in promoted),
        kept=len(kept),
        falsely_kept=sum(truth >= 0.5 for truth in kept),
        undecided=len(told) - len(promoted) - len(kept),
        duels=sum(each.duels for each, _ in told),
    )


def labels_to_goal(points: Sequence[tuple[float, float]]) -> float | None:
    """Where the line through (0, 50%) and these (labels, true win rate) first comes to GOAL; None if it does not."""
    for (before, low), (after, high) in pairwise([(0, 0.5), *sorted(points)]):
        if high >= GOAL:
            return before + (after - before) * (GOAL - low) / (high - low)
    return None


def median_to_goal(needed: Sequence[float | None]) -> float | None:
    """The median of the labels it took, those that did not come there at the far end; None where that is the middle."""
    middle = median(math.inf if labels is None else labels for labels in needed) if needed else math.inf
    return middle if math.isfinite(middle) else None


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Their mean with Student's t interval, each seed one observation; a single one has no interval."""
    count = len(values)
    if count < 2:
        return Estimate(values[0] if values else None, None, count)
    mean, half = fmean(values), float(stdtrit(count - 1, 0.975)) * stdev(values) / math.sqrt(count)
    return Estimate(mean, (mean - half, mean + half), count)
