"""How strong every checkpoint is that was ever compared, on one scale: Bradley and Terry's (1952). No database.

A checkpoint x wins against y with a chance of 1 / (1 + 10^(-(points of x - points of y) / 400)): points as in chess,
where the anchor (the base model) has 0, 100 points are 64% and 400 are 91%. A tie or a both-bad counts half for either
side. Where two checkpoints met several times under one prompt, that counts once.

One tie more is added for every two that met. So somebody who won every comparison has a finite strength, and few
comparisons say little: of two checkpoints, the one that won w of n has 400 log10((w + 1/2) / (n - w + 1/2)) points.

The intervals are percentiles of the Bayesian bootstrap over prompts (Rubin 1981), from a fixed seed: each prompt's
weight is drawn from Exp(1), each half of an added tie's from Gamma(1/2). Of two checkpoints that is Jeffreys's
interval, which holds the truth also where one won everything; drawing prompts with replacement would show no spread.

The fit is evalica's. It is not for looking after every label: verdicts are win_rate.py's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import evalica
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from store.intervals import Estimate
from store.win_rate import Outcome

RESAMPLES = 200
SEED = 0
POINTS = 400.0  # for a tenfold chance
CLOSE, LOOPS = 1e-8, 10_000
_WORTH = {Outcome.WON: 1.0, Outcome.LOST: 0.0, Outcome.TIE: 0.5, Outcome.BOTH_BAD: 0.5}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Meeting:
    """One verdict on a completion by checkpoint `x` and one by checkpoint `y`. `outcome`: what it is for x."""

    x: str
    y: str
    outcome: Outcome
    prompt: Hashable


@dataclass(frozen=True)
class _Met:
    """Each two checkpoints under each prompt: columns of one length, and what they number."""

    pair: Ints
    prompt: Ints
    share: Floats  # of the first
    pairs: list[tuple[str, str]]
    prompts: int


def strengths(meetings: Iterable[Meeting], *, anchor: str, seed: int = SEED) -> dict[str, Estimate]:
    """Each checkpoint's points over the anchor, with their 95% interval; `count` counts its verdicts.

    The order of the meetings makes no difference, nor which checkpoint is called x. Whoever is not connected to the
    anchor, by however many others, has no value; a checkpoint that meets itself says nothing.
    """
    kept = [each for each in meetings if each.x != each.y]
    counts = Counter(name for each in kept for name in (each.x, each.y))
    found = dict.fromkeys(sorted(counts.keys() | {anchor}), Estimate())
    found |= {name: Estimate(count=count) for name, count in counts.items()}
    reached = _reached(kept, anchor)
    met = _met([each for each in kept if each.x in reached])
    if not met.pairs:
        return found
    value, spread = _points(met, anchor, seed)
    for name in reached:
        low, high = np.quantile(spread[name], (0.025, 0.975))
        found[name] = Estimate(value[name], (float(low), float(high)), counts[name])
    return found


def _reached(meetings: Sequence[Meeting], anchor: str) -> list[str]:
    """All that met the anchor, or met somebody who did, and so on; the anchor too."""
    names = sorted({name for each in meetings for name in (each.x, each.y)} | {anchor})
    number = {name: place for place, name in enumerate(names)}
    ends = [number[each.x] for each in meetings], [number[each.y] for each in meetings]
    shape = len(names), len(names)
    _, part = connected_components(coo_array((np.ones(len(meetings)), ends), shape=shape), directed=False)
    return [name for name in names if part[number[name]] == part[number[anchor]]]


def _met(meetings: Sequence[Meeting]) -> _Met:
    shares: dict[tuple[tuple[str, str], Hashable], list[float]] = defaultdict(list)
    for each in meetings:
        worth, ordered = _WORTH[each.outcome], each.x < each.y
        names = (each.x, each.y) if ordered else (each.y, each.x)
        shares[names, each.prompt].append(worth if ordered else 1 - worth)
    pairs = sorted({names for names, _ in shares})
    prompts = sorted({prompt for _, prompt in shares}, key=repr)  # they need not be of one kind
    pair_number, prompt_number = ({each: place for place, each in enumerate(them)} for them in (pairs, prompts))
    return _Met(
        np.array([pair_number[names] for names, _ in shares], dtype=np.int64),
        np.array([prompt_number[prompt] for _, prompt in shares], dtype=np.int64),
        np.array([np.mean(worths) for worths in shares.values()]),
        pairs,
        len(prompts),
    )


def _points(met: _Met, anchor: str, seed: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Each checkpoint's points, and what they are in each resample."""
    halves = np.full((2, len(met.pairs)), 0.5)
    value = _fit(met, np.ones(met.prompts), halves, anchor)
    draw = np.random.default_rng(seed)
    spread: dict[str, list[float]] = defaultdict(list)
    for _ in range(RESAMPLES):
        drawn = _fit(met, draw.exponential(size=met.prompts), draw.gamma(halves), anchor)
        for name, points in drawn.items():
            spread[name].append(points)
    return value, spread


def _fit(met: _Met, weights: Floats, halves: Floats, anchor: str) -> dict[str, float]:
    """The points under these weights of the prompts (prompts,) and of the halves of the added ties (2, pairs)."""
    weight = weights[met.prompt]
    won = np.bincount(met.pair, weight * met.share) + halves[0]
    lost = np.bincount(met.pair, weight * (1 - met.share)) + halves[1]
    first, second = ([names[side] for names in met.pairs] * 2 for side in (0, 1))
    winners = [evalica.Winner.X] * len(won) + [evalica.Winner.Y] * len(lost)
    fitted = evalica.bradley_terry(
        first, second, winners, weights=[*won.tolist(), *lost.tolist()], tolerance=CLOSE, limit=LOOPS
    )
    scores = {str(name): float(score) for name, score in fitted.scores.items()}
    return {name: POINTS * float(np.log10(score / scores[anchor])) for name, score in scores.items()}


def win_chance(points: float) -> float:
    """How often somebody so many points above another wins against that one."""
    return float(1 / (1 + 10 ** (-points / POINTS)))
