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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from store.answers import BOTH_BAD, NONE, TIE, VERDICTS, Answers, Flags, Floats, Ints
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

    ids: tuple[int, int]
    agreement: Estimate
    kappa: Estimate


@dataclass(frozen=True)
class Agreements:
    """How far all agree; for each annotator how far others say the same on the same pairs; and every couple."""

    all: Estimate
    shares: list[Estimate]
    kappas: list[Estimate]
    couples: list[Couple]


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
    one, other = who_met(answers)
    who, said = answers.annotator, answers.verdict
    return Meetings(who[one], who[other], said[one], said[other], answers.prompt[one])


def who_met(answers: Answers) -> tuple[Ints, Ints]:
    """The entries of every two annotators on one pair, the lower annotator id first: places in both columns."""
    order = np.lexsort((answers.annotator, answers.pair))
    pair = answers.pair[order]
    earlier = [np.empty(0, np.int64)]
    later = [np.empty(0, np.int64)]
    for apart in range(1, len(pair)):
        found = np.flatnonzero(pair[apart:] == pair[:-apart])
        if not len(found):  # no pair has so many verdicts
            break
        earlier.append(found)
        later.append(found + apart)
    return order[np.concatenate(earlier)], order[np.concatenate(later)]


def alphas(answers: Answers) -> tuple[Estimate, Estimate]:
    """Krippendorff's alpha of all annotators together: 1 is perfect agreement, 0 is chance; `count` counts pairs.

    The second is that of verdicts a and b alone, ties and both-bads left out. Pairs with one verdict tell nothing.
    """
    parts = [_unlike(each) for each in (answers, answers.where(answers.verdict < TIE))]
    sums = np.concatenate([part[0] for part in parts], axis=1)
    prompts = np.concatenate([part[1] for part in parts])
    sizes = np.array([len(part[1]) for part in parts])
    ((every, decided),) = _estimates((_alphas,), sums, np.repeat([0, 1], sizes), prompts, sizes)
    return every, decided


def _unlike(said: Answers) -> tuple[Floats, Ints]:
    """Of each pair with several verdicts: its disagreement and its kinds of verdict (4, pairs); and its prompt."""
    pairs, place, counts = _verdicts_by_pair(said)
    prompts = np.zeros(len(pairs), np.int64)
    prompts[place] = said.prompt
    several = counts.sum(1) > 1
    counts, prompts = counts[several], prompts[several]
    votes = counts.sum(1)
    unlike = (votes**2 - (counts**2).sum(1)) / (votes - 1)
    return np.stack([unlike, *_kinds(counts)]), prompts


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


def agreements(met: Meetings, ids: Ints) -> Agreements:
    """How far all agree, each of the annotators `ids` (in order) with the others, and every two who share enough."""
    both = met.both_ways
    together, number = _couples(met)
    kept = number >= 0
    parts = [met, both, met.where(kept)]
    every = Meetings(
        *(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True))
    )
    groups = [np.zeros(len(met.first), np.int64), 1 + np.searchsorted(ids, both.first), 1 + len(ids) + number[kept]]
    shares, kappas = _shares_and_kappas(every, np.concatenate(groups), 1 + len(ids) + len(together))
    people, rest = slice(1, 1 + len(ids)), 1 + len(ids)
    couples = [Couple(*both) for both in zip(together, shares[rest:], kappas[rest:], strict=True)]
    return Agreements(shares[0], shares[people], kappas[people], couples)


def _couples(met: Meetings) -> tuple[list[tuple[int, int]], Ints]:
    """Every two annotators who share enough pairs, by id; and for each meeting which of them met, -1 for none."""
    wide = int(met.second.max(initial=0)) + 1
    named, group, shared = np.unique(met.first * wide + met.second, return_inverse=True, return_counts=True)
    enough = shared >= LEAST_SHARED
    number = np.where(enough, np.cumsum(enough) - 1, NONE)
    return [(int(both // wide), int(both % wide)) for both in named[enough]], number[group]


def _shares_and_kappas(met: Meetings, groups: Ints, count: int) -> tuple[list[Estimate], list[Estimate]]:
    """For each group of meetings (numbered from 0 to `count`): the share that agreed, and Cohen's kappa."""
    agreed = (met.said_first == met.said_second).astype(np.float64)
    sums = np.stack([agreed, *_marks(met.said_first), *_marks(met.said_second)])
    shares, kappas = _estimates((_shares, _kappas), sums, groups, met.prompt, np.bincount(groups, minlength=count))
    return shares, kappas


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


def _estimates(
    figures: Sequence[Figure], sums: Floats, groups: Ints, prompts: Ints, sizes: Ints
) -> list[list[Estimate]]:
    """Each figure of the sums (features, entries) in each group, with a bootstrap over prompts.

    `sizes`: how many entries each group has.
    """
    names, cluster = np.unique(prompts, return_inverse=True)
    features, count = len(sums), len(sizes)
    rows = (groups[None, :] * features + np.arange(features)[:, None]).ravel()
    shape = count * features, max(1, len(names))
    table = csr_array((sums.ravel(), (rows, np.tile(cluster, features))), shape=shape)
    table.eliminate_zeros()
    whole: Floats = np.asarray(table.sum(axis=1)).reshape(count, features)
    seen = _prompts_in_groups(groups, cluster, count)
    enough = bool((seen >= LEAST_PROMPTS).any())
    spreads = _resampled(figures, table, count) if enough else [np.empty((0, count))] * len(figures)
    return [
        _of_groups(figure, figure(whole), spread, seen, sizes) for figure, spread in zip(figures, spreads, strict=True)
    ]


def _prompts_in_groups(groups: Ints, cluster: Ints, count: int) -> Ints:
    wide = int(cluster.max(initial=0)) + 1
    return np.bincount(np.unique(groups * wide + cluster) // wide, minlength=count)


def _resampled(figures: Sequence[Figure], table: csr_array, count: int) -> list[Floats]:
    """Each figure (resamples, groups) when as many prompts are drawn, with replacement."""
    draw = np.random.default_rng(SEED)
    clusters = table.shape[1]
    found: list[list[Floats]] = [[] for _ in figures]
    times = np.empty((AT_ONCE, clusters))  # how often each prompt is drawn
    for _ in range(0, RESAMPLES, AT_ONCE):
        for each in times:
            each[:] = np.bincount(draw.integers(0, clusters, clusters, dtype=np.int32), minlength=clusters)
        sums = (table @ times.T).T.reshape(AT_ONCE, count, -1)
        for figure, values in zip(figures, found, strict=True):
            values.append(figure(sums))
    return [np.concatenate(values) for values in found]


def _of_groups(figure: Figure, values: Floats, spread: Floats, seen: Ints, sizes: Ints) -> list[Estimate]:
    chance = 0.0 if figure is _shares else 0.5  # the agreement that comes by chance, at least, and is not counted
    return [
        _one_estimate(float(value), spread[:, each], int(seen[each]), int(sizes[each]), chance)
        for each, value in enumerate(values)
    ]


def _one_estimate(value: float, spread: Floats, prompts: int, count: int, chance: float) -> Estimate:
    if np.isnan(value):
        return Estimate(count=count)
    if prompts < LEAST_PROMPTS:
        return Estimate(value, None, count)
    low, high = np.nanquantile(spread, (0.025, 0.975))
    # Where all agree, or none, resampling cannot show how it might be otherwise: Wilson's bound can.
    if value == 1:
        low = 1 - (1 - wilson(1.0, prompts)[0]) / (1 - chance)
    elif value == 0 and not chance:
        high = wilson(0.0, prompts)[1]
    return Estimate(value, (float(low), float(high)), count)
