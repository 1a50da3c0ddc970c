"""Intervals for shares and means over pairs, honest about pairs that share a prompt.

Pairs of one prompt are not independent: a policy that likes one completion of it often likes the next. The variance is
therefore taken between prompts (the ratio estimator of cluster sampling, Cochran 1977, section 9.3), never below what
independent pairs would have. Where each prompt has one pair this is the textbook interval.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.special import bdtr, ndtri, stdtrit  # scipy.stats has the same, and takes a second to load

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval, told from `count` observations.

    `value` None: there is nothing to tell it from. `interval` None: too little to say how sure it is.
    """

    value: float | None = None
    interval: Interval | None = None
    count: int = 0


def share_of(hits: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """The mean of values between 0 and 1, with `share_interval`'s interval; no value where there are none."""
    if not len(hits):
        return Estimate()
    return Estimate(_mean(hits), share_interval(hits, clusters), len(hits))


def share_interval(values: Sequence[float], clusters: Sequence[Hashable], *, level: float = 0.95) -> Interval:
    """A Wilson interval for the mean of values between 0 and 1, with as many observations as the clusters are worth.

    `clusters` names the prompt of each value. Raises ValueError for no values.
    """
    alone, whole = _variances(values, clusters)
    # Where all are alike, how much the pairs of a prompt agree cannot be seen: prompts are counted.
    worth = len(values) * alone / whole if whole else len(set(clusters))
    return wilson(_mean(values), worth, level=level)


def wilson(share: float, count: float, *, level: float = 0.95) -> Interval:
    """Wilson's interval (1927) for a share of `count` observations, which need not be whole."""
    z = float(ndtri(0.5 + level / 2))
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # For none and for all one end is the share itself, which rounding would leave just outside.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def median_of(values: Sequence[float]) -> Estimate:
    """The median of values that are independent of each other; its interval is told from their order alone.

    It reaches from one of the values to another, so that it holds the truth in 95% of cases or more, whatever their
    law. None for fewer than six: not even the smallest and the largest do.
    """
    if not values:
        return Estimate()
    chances = bdtr(np.arange(len(values) + 1), len(values), 0.5)  # of so many values below the median, or fewer
    ordered, below = sorted(values), int(np.searchsorted(chances, 0.025))
    interval = (ordered[below - 1], ordered[-below]) if below else None
    return Estimate(median(ordered), interval, len(ordered))


def difference_interval(first: Estimate, second: Estimate) -> Interval | None:
    """How much larger the first figure is than the second, told apart (Newcombe 1998, method 10, from both intervals).

    None where one of them is unknown.
    """
    if first.value is None or second.value is None or first.interval is None or second.interval is None:
        return None
    difference = first.value - second.value
    below = math.hypot(first.value - first.interval[0], second.interval[1] - second.value)
    above = math.hypot(first.interval[1] - first.value, second.value - second.interval[0])
    return difference - below, difference + above


def mean_interval(values: Sequence[float], clusters: Sequence[Hashable], *, level: float = 0.95) -> Interval:
    """A t interval for the mean of any values; it is (-inf, inf) where there is only one cluster.

    Raises ValueError for no values.
    """
    mean, count = _mean(values), len(set(clusters))
    if count < 2:
        return -math.inf, math.inf
    half = float(stdtrit(count - 1, 0.5 + level / 2)) * math.sqrt(_variances(values, clusters)[1])
    return mean - half, mean + half


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("an interval needs at least one value")
    return math.fsum(values) / len(values)


def _variances(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float]:
    """The variance of the mean if all were independent, and that between clusters, which is never taken for less."""
    mean, n = _mean(values), len(values)
    rest: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        rest[cluster] = rest.get(cluster, 0.0) + value - mean
    # Without the usual n / (n - 1): the textbook interval of a share does without it as well.
    alone = math.fsum((value - mean) ** 2 for value in values) / (n * n)
    between = math.fsum(total * total for total in rest.values()) / (n * n)
    return alone, max(alone, between)
