"""Agreement between annotators beyond chance: Krippendorff's alpha and Cohen's kappa, with intervals.

What chance is. A verdict names completion a or b, and which of the two is called a is arbitrary: calling them the
other way round, in all pairs or in some, must change nothing. So by chance a and b come up equally often, each half as
often as both together: the average over all ways to name them. (With the names taken at face value, a queue that
happened to call the better text a would show less agreement beyond chance for the same verdicts.) Ties and both-bads
are categories of their own, nominal like the others.

    alpha = 1 - observed / expected disagreement              Krippendorff 2018, section 12.3 (nominal metric)
    kappa = (agreement - chance) / (1 - chance)               Cohen 1960

Intervals are percentiles of a bootstrap over prompts (pairs of one prompt are not independent), from a fixed seed. All
figures are functions of sums over prompts, so that a resample is one product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from store.answers import BOTH_BAD, TIE, VERDICTS, Answers, Flags, Floats, Ints
from store.intervals import Estimate, wilson

RESAMPLES = 1000
SEED = 0
AT_ONCE = 50  # resamples in one product: memory, not results, depend on it
LEAST_PROMPTS = 10  # with fewer, a resample shows too little of what else could have been
LEAST_SHARED = 10  # pairs that two annotators must share to be held against each other
_DECIDED, _TIE, _BOTH_BAD = range(3)  # kinds of verdict, which ignore what is called a
Figure = Callable[[Floats], Floats]  # sums (..., features) -> figures (...)


@dataclass(frozen=True)
class Couple:
    """Two annotators (ids, the lower first) on the pairs that both judged."""

    first: int
    second: int
    agreement: Estimate
    kappa: Estimate


@dataclass(frozen=True)
class Meetings:
    """Every two verdicts on one pair by two annotators: columns of one length, the lower annotator id first."""

    first: Ints
    second: Ints
    said_first: Ints
    said_second: Ints
    prompt: Ints

    def where(self, kept: Flags) -> Meetings:
        """Those entries alone."""
        return Meetings(**{name: column[kept] for name, column in vars(self).items()})

    @property
    def both_ways(self) -> Meetings:
        """Each of them twice: as either annotator sees it."""
        swapped = (self.second, self.first, self.said_second, self.said_first, self.prompt)
        return Meetings(*(np.concatenate(both) for both in zip(vars(self).values(), swapped, strict=True)))


def meetings(answers: Answers) -> Meetings:
    """Who met whom on which pair. Skips and repeats must have been left out."""
    order = np.lexsort((answers.annotator, answers.pair))
    pair, who, said, prompt = (getattr(answers, name)[order] for name in ("pair", "annotator", "verdict", "prompt"))
    earlier = [np.empty(0, np.int64)]
    later = [np.empty(0, np.int64)]
    for apart in range(1, len(pair)):
        found = np.flatnonzero(pair[apart:] == pair[:-apart])
        if not len(found):  # no pair has so many verdicts
            break
        earlier.append(found)
        later.append(found + apart)
    one, other = np.concatenate(earlier), np.concatenate(later)
    return Meetings(who[one], who[other], said[one], said[other], prompt[one])


def alpha(answers: Answers, *, decided_only: bool = False) -> Estimate:
    """Krippendorff's alpha of all annotators together: 1 is perfect agreement, 0 is chance; `count` counts pairs.

    `decided_only`: verdicts a and b alone, as if nobody could say tie. Pairs with one verdict tell nothing.
    """
    said = answers.where(answers.verdict < TIE) if decided_only else answers
    pairs, place, counts = _verdicts_by_pair(said)
    several = counts.sum(1) > 1
    prompts = np.zeros(len(pairs), np.int64)
    prompts[place] = said.prompt
    counts, prompts = counts[several], prompts[several]
    votes = counts.sum(1)
    unlike = (votes**2 - (counts**2).sum(1)) / np.maximum(votes - 1, 1)
    sums = np.stack([unlike, *_kinds(counts)])
    return _estimate(_alphas, sums, np.zeros(len(votes), np.int64), prompts, sizes=np.array([len(votes)]))[0]


def _verdicts_by_pair(said: Answers) -> tuple[Ints, Ints, Floats]:
    """The pairs, where in them each answer belongs, and how often each verdict was given (pairs, 4)."""
    pairs, place = np.unique(said.pair, return_inverse=True)
    flat = np.bincount(place * VERDICTS + said.verdict, minlength=len(pairs) * VERDICTS)
    return pairs, place, flat.reshape(-1, VERDICTS).astype(np.float64)


def _kinds(counts: Floats) -> list[Floats]:
    return [counts[:, :TIE].sum(1), counts[:, TIE], counts[:, BOTH_BAD]]


def _alphas(sums: Floats) -> Floats:
    """Sums (..., 4): disagreement, verdicts decided, ties, both-bads -> alpha (...)."""
    votes = sums[..., 1:].sum(-1)
    alike = sums[..., 1] ** 2 / 2 + sums[..., 2] ** 2 + sums[..., 3] ** 2
    expected = (votes**2 - alike) / np.maximum(votes - 1, 1)
    return _one_minus(sums[..., 0], expected)


def agreements(met: Meetings, groups: Ints, count: int) -> tuple[list[Estimate], list[Estimate]]:
    """For each group of meetings (numbered from 0 to `count`): the share that agreed, and Cohen's kappa."""
    agreed = (met.said_first == met.said_second).astype(np.float64)
    sums = np.stack([agreed, *_marks(met.said_first), *_marks(met.said_second)])
    sizes = np.bincount(groups, minlength=count)
    shares = _estimate(_shares, sums, groups, met.prompt, sizes=sizes, chance=0.0)
    return shares, _estimate(_kappas, sums, groups, met.prompt, sizes=sizes)


def _marks(said: Ints) -> list[Floats]:
    kind = np.maximum(said - TIE + 1, _DECIDED)
    return [(kind == each).astype(np.float64) for each in (_DECIDED, _TIE, _BOTH_BAD)]


def _shares(sums: Floats) -> Floats:
    """Sums (..., 7): agreed, then both annotators' kinds of verdict -> the share that agreed (...)."""
    return _ratio(sums[..., 0], sums[..., 1:4].sum(-1))


def _kappas(sums: Floats) -> Floats:
    """The same sums -> kappa (...)."""
    met = sums[..., 1:4].sum(-1)
    both = sums[..., 1:4] * sums[..., 4:7]
    chance = _ratio(both[..., 0] / 2 + both[..., 1] + both[..., 2], met**2)
    return _one_minus(met - sums[..., 0], met * (1 - chance))


def _one_minus(observed: Floats, expected: Floats) -> Floats:
    # Where nothing else could be expected, there is no telling agreement from chance.
    return 1 - _ratio(observed, expected)


def _ratio(over: Floats, under: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(under > 0, over / under, np.nan)


def _estimate(
    figure: Figure, sums: Floats, groups: Ints, prompts: Ints, *, sizes: Ints, chance: float = 0.5
) -> list[Estimate]:
    """`figure` of the sums (features, entries) in each group, with a bootstrap over prompts.

    `sizes`: how much each group counts. `chance`: the agreement that comes by chance, and is not counted.
    """
    names, cluster = np.unique(prompts, return_inverse=True)
    features, count = len(sums), len(sizes)
    rows = (groups[None, :] * features + np.arange(features)[:, None]).ravel()
    table = csr_array((sums.ravel(), (rows, np.tile(cluster, features))), shape=(count * features, max(1, len(names))))
    values = figure(np.asarray(table.sum(axis=1)).reshape(count, features))
    seen = _prompts_in_groups(groups, cluster, count)
    spread = _resampled(figure, table, count) if (seen >= LEAST_PROMPTS).any() else np.empty((0, count))
    return [
        _one_estimate(float(value), spread[:, each], int(seen[each]), int(sizes[each]), chance)
        for each, value in enumerate(values)
    ]


def _prompts_in_groups(groups: Ints, cluster: Ints, count: int) -> Ints:
    wide = int(cluster.max(initial=0)) + 1
    return np.bincount(np.unique(groups * wide + cluster) // wide, minlength=count)


def _resampled(figure: Figure, table: csr_array, count: int) -> Floats:
    """The figures (resamples, groups) when as many prompts are drawn, with replacement."""
    draw = np.random.default_rng(SEED)
    clusters = table.shape[1]
    found = []
    for _ in range(0, RESAMPLES, AT_ONCE):
        drawn = [np.bincount(draw.integers(0, clusters, clusters), minlength=clusters) for _ in range(AT_ONCE)]
        sums = table @ np.stack(drawn, axis=1).astype(np.float64)
        found.append(figure(sums.T.reshape(AT_ONCE, count, -1)))
    return np.concatenate(found)


def _one_estimate(value: float, spread: Floats, prompts: int, count: int, chance: float) -> Estimate:
    if np.isnan(value):
        return Estimate(count=count)
    if prompts < LEAST_PROMPTS:
        return Estimate(value, None, count)
    low, high = np.nanquantile(spread, (0.025, 0.975))
    if value == 1:  # where all agree, resampling cannot show how they might not: Wilson's bound can
        low = 1 - (1 - wilson(1.0, prompts)[0]) / (1 - chance)
    return Estimate(value, (float(low), float(high)), count)


def couples(met: Meetings) -> list[Couple]:
    """Every two annotators who share enough pairs, by id."""
    wide = int(met.second.max(initial=0)) + 1
    named, group, shared = np.unique(met.first * wide + met.second, return_inverse=True, return_counts=True)
    enough = shared >= LEAST_SHARED
    number, kept = np.cumsum(enough) - 1, enough[group]
    shares, kappas = agreements(met.where(kept), number[group[kept]], int(enough.sum()))
    return [
        Couple(int(both // wide), int(both % wide), share, kappa)
        for both, share, kappa in zip(named[enough], shares, kappas, strict=True)
    ]
