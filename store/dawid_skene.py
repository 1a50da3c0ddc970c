"""How often each annotator is right, and from that the chance that a pair's label is: nobody is simply believed.

The model is Dawid and Skene's (1979) with one coin for each annotator: of two completions one is better, and whoever
names one names the better with a chance of their own, the same whichever is called a, independently of the others. The
chances are fitted by EM (the most probable ones under their prior), and each pair's posterior follows from them.

- A tie or both-bad names no completion. How readily somebody says tie is taken to have nothing to do with which of the
  two is better, so that it moves nothing.
- Before anything is known, an annotator is taken to have been right 8 times and wrong twice (PRIOR): two of them agree
  in 68% of cases, where people agree in 63% to 77%. So few labels prove nobody perfect, or useless.
- A pair whose answer is known (gold, or decided by a researcher) is taken to be right with KNOWN, whatever others say.
- Nobody has more than one vote on an item. Who errs in earnest errs the same way again: saying the same twice is no
  second opinion.
- A pair with one vote, its answer unknown, says nothing about the annotator. It is left out of the fit, which comes to
  the same sooner.
- Two people alone, without known answers, may leave open which of them is the better. EM starts from several places;
  where what it finds is about as probable, the chances are its mean, and have no interval.
- Pairs of one prompt, and what comes of one ranking, are not independent: intervals are as
  wide as prompts differ (a sandwich variance).

What it cannot see: annotators who err alike. Where all prefer the longer text for being long, the model believes them.
Easy and hard pairs are not told apart either: where all err on the hard ones, they seem better than they are (three who
ranked six texts by noisy utilities, by 3 points). (crowd-kit's one-coin model has no prior, which small teams need.)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from store.intervals import Estimate

PRIOR = (8.0, 2.0)  # verdicts right and wrong
KNOWN = 0.99  # whoever knows the answer errs as well
SIGMAS = 1.96  # on either side hold 95% of a normal curve
LOOPS = 1000
LOOK = 25  # loops after which another start is seen to lead elsewhere, or not
CLOSE = 1e-10  # chances that move no further than this have settled
DRAWS = 2  # places drawn at random that EM starts from as well, each in both orders of the annotators
SAME = 0.01  # chances that differ by no more are one fit
UNLIKELY = 0.05  # a fit that is less probable than this, beside the best, is forgotten
DIGITS = 4  # further ones may depend on the machine

Vote = tuple[Any, str, bool]  # what it is about, by whom, and whether it names the first of the two
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Reliability:
    """`accuracy`: for each annotator the share of verdicts that name the better completion, told from those
    votes that say something about it. `first`: for each item the chance that the first of its two completions is the
    better one. `informative`: how many votes the fit rests on."""

    accuracy: dict[str, Estimate]
    first: dict[Any, float]
    informative: int

    def chance(self, item: Hashable, *, first: bool) -> float:
        """The chance that the first (or the other) completion is the better one; a half where nobody named either."""
        found = self.first.get(item, 0.5)
        return round(found if first else 1 - found, DIGITS)

    def described(self) -> dict[str, Any]:
        """How confidence came about, for a snapshot's manifest. Without names: it may be passed on."""
        accuracies = [each.value for each in self.accuracy.values() if each.value is not None]
        return {
            "model": "one-coin Dawid-Skene, fitted by EM",
            "prior": {"right": PRIOR[0], "wrong": PRIOR[1]},
            "known_answers": KNOWN,
            "annotators": len(self.accuracy),
            "informative_comparisons": self.informative,
            "median_accuracy": round(float(np.median(accuracies or [0.0])), DIGITS),
        }


@dataclass(frozen=True)
class _Votes:
    """Of each vote: the item's number, the annotator's, and 1 for the first completion or -1 for the other.

    Of each item: 1 or -1 where the answer is `given`, else 0; and its prompt's number.
    """

    item: Ints
    who: Ints
    sign: Ints
    given: Floats
    prompt: Ints
    people: int

    def telling(self) -> _Votes:
        """Those on items that several people voted on, or whose answer is known."""
        kept = ((np.bincount(self.item, minlength=len(self.given)) > 1) | (self.given != 0))[self.item]
        return _Votes(self.item[kept], self.who[kept], self.sign[kept], self.given, self.prompt, self.people)

    def by_annotator(self, weights: Floats | None = None) -> Floats:
        """How many votes each annotator has, or what these weights of theirs come to."""
        return np.bincount(self.who, weights=weights, minlength=self.people).astype(np.float64)


def fit_reliability(
    votes: Iterable[Vote], known: Mapping[Any, bool], prompts: Mapping[Any, Hashable] | None = None
) -> Reliability:
    """Fit the model. `known`: of some items, whether the first completion is the better one.

    `prompts` names the prompt of each item that shares one with others. Of several votes of one annotator on one item
    the last counts; otherwise their order makes no difference, nor does naming an item's completions the other way
    round.
    """
    latest = {(item, annotator): first for item, annotator, first in votes}
    items = sorted({item for item, _ in latest} | set(known))
    people = sorted({annotator for _, annotator in latest})
    every = _columns(latest, items, people, known, prompts or {})
    telling = every.telling()
    fits = _fits(telling)
    weights = np.array([weight for weight, _ in fits])
    chances = weights @ np.stack([_chances(every, accuracy) for _, accuracy in fits])
    return Reliability(
        dict(zip(people, _estimates(telling, fits), strict=True)),
        dict(zip(items, chances.tolist(), strict=True)),
        len(telling.item),
    )


def _columns(
    latest: Mapping[tuple[Any, str], bool],
    items: list[Any],
    people: list[str],
    known: Mapping[Any, bool],
    prompts: Mapping[Any, Hashable],
) -> _Votes:
    item_number = {item: number for number, item in enumerate(items)}
    number = {annotator: number for number, annotator in enumerate(people)}
    rows = [(item_number[item], number[annotator], 1 if latest[item, annotator] else -1) for item, annotator in latest]
    item, who, sign = np.array(sorted(rows), dtype=np.int64).reshape(-1, 3).T
    given = np.array([0.0 if each not in known else (1.0 if known[each] else -1.0) for each in items])
    prompt_number: dict[Hashable, int] = {}
    prompt = [prompt_number.setdefault(prompts.get(each, each), len(prompt_number)) for each in items]
    return _Votes(item, who, sign, given, np.array(prompt, dtype=np.int64), len(people))


def _estimates(votes: _Votes, fits: Sequence[tuple[float, Floats]]) -> list[Estimate]:
    """Each accuracy, the mean of those fitted, with a 95% interval by a normal curve on the scale of its log-odds."""
    best = fits[0][1]
    mean = np.sum([weight * accuracy for weight, accuracy in fits], axis=0)
    spread = np.max([np.abs(accuracy - best) for _, accuracy in fits], axis=0)
    variance = _variance(votes, best)
    counts = votes.by_annotator()
    if variance is None:
        return [Estimate(float(value), None, int(count)) for value, count in zip(mean, counts, strict=True)]
    error = np.sqrt(variance) / (best * (1 - best))
    odds = np.log(best) - np.log1p(-best)
    ends = [1 / (1 + np.exp(-(odds + side * SIGMAS * error))) for side in (-1, 1)]
    return [
        Estimate(float(value), (float(low), float(high)) if moved <= SAME else None, int(count))
        for value, low, high, moved, count in zip(mean, *ends, spread, counts, strict=True)
    ]


def _variance(votes: _Votes, accuracy: Floats) -> Floats | None:
    """The variance of each accuracy; None where the fit is no maximum, so that there is none.

    The observed information (Louis 1982) is what the votes would tell if every truth were known, less what not knowing
    them takes away, for all annotators at once, as each is judged by the others. Its inverse is the variance if all
    items are independent. The sandwich of it (White 1982) around how the scores of whole prompts vary is the variance
    if prompts are; it is never taken for less.
    """
    right, wrong = PRIOR
    item, who = votes.item, votes.who
    first = _chances(votes, accuracy)[item]
    named, own = np.where(votes.sign > 0, first, 1 - first), accuracy[who]  # the chance that this vote is right
    told = votes.by_annotator(named / own**2 + (1 - named) / (1 - own) ** 2)
    unknown = np.where(votes.given[item] == 0, np.sqrt(first * (1 - first)), 0)
    lost = csr_array((votes.sign * unknown / (own * (1 - own)), (item, who)), shape=(len(votes.given), votes.people))
    before = np.diag(right / accuracy**2 + wrong / (1 - accuracy) ** 2)
    information = np.diag(told) + before - (lost.T @ lost).toarray()
    try:
        np.linalg.cholesky(information)
    except np.linalg.LinAlgError:
        return None
    scores = csr_array(
        (named / own - (1 - named) / (1 - own), (votes.prompt[item], who)), shape=(len(votes.given), votes.people)
    )
    inverse = np.linalg.inv(information)
    by_prompt = inverse @ ((scores.T @ scores).toarray() + before) @ inverse
    return np.asarray(np.maximum(np.diag(inverse), np.diag(by_prompt)))


def _fits(votes: _Votes) -> list[tuple[float, Floats]]:
    """The accuracies that EM finds from several starts, the most probable first, each with its share of probability.

    As a rule there is one: those much less probable than the best are left out.
    """
    first, *others = _starts(votes.people)
    found = [_climbed(votes, first)]
    for start in others:
        midway = _climbed(votes, start, loops=LOOK)
        if np.abs(midway - found[0]).max(initial=0) > SAME:  # else it is on its way to the same
            found.append(_climbed(votes, midway))
    probable = np.array([_log_posterior(votes, accuracy) for accuracy in found])
    shares = np.exp(np.round(probable - probable.max(), 6))  # rounding errors do not decide which comes first
    kept: list[tuple[float, Floats]] = []
    for number in np.argsort(-shares, kind="stable"):
        alone = all(np.abs(found[number] - other).max(initial=0) > SAME for _, other in kept)
        if alone and shares[number] >= UNLIKELY:
            kept.append((float(shares[number]), found[number]))
    whole = sum(share for share, _ in kept)
    return [(share / whole, accuracy) for share, accuracy in kept]


def _starts(people: int) -> list[Floats]:
    """All annotators alike, as the prior has them; and unlike each other, in both orders, to leave a saddle."""
    draw = np.random.default_rng(0)
    drawn = [draw.uniform(0.4, 0.95, people) for _ in range(DRAWS)]
    return [np.full(people, PRIOR[0] / sum(PRIOR)), *(order for each in drawn for order in (each, each[::-1]))]


def _climbed(votes: _Votes, accuracy: Floats, *, loops: int = LOOPS) -> Floats:
    """EM: chances of the items under the accuracies, then accuracies under the chances, until nothing moves."""
    right, wrong = PRIOR
    made = votes.by_annotator()
    for _ in range(loops):
        first = _chances(votes, accuracy)[votes.item]
        agreed = votes.by_annotator(np.where(votes.sign > 0, first, 1 - first))
        before, accuracy = accuracy, (right + agreed) / (right + wrong + made)
        if np.abs(accuracy - before).max(initial=0) < CLOSE:
            break
    return accuracy


def _log_posterior(votes: _Votes, accuracy: Floats) -> float:
    """How probable these accuracies are, as a logarithm, but for a constant: what EM climbs."""
    right, wrong = PRIOR
    named, denied = np.log(accuracy), np.log1p(-accuracy)
    if_first, if_other = (
        np.bincount(
            votes.item,
            weights=np.where(votes.sign == better, named[votes.who], denied[votes.who]),
            minlength=len(votes.given),
        )
        for better in (1, -1)
    )
    sure = 0.5 + votes.given * (KNOWN - 0.5)
    open_ones, known = np.logaddexp(if_first, if_other), sure * if_first + (1 - sure) * if_other
    return float(np.where(votes.given == 0, open_ones, known).sum() + (right * named + wrong * denied).sum())


def _chances(votes: _Votes, accuracy: Floats) -> Floats:
    """The chance of each item that its first completion is the better one."""
    weight = np.log(accuracy) - np.log1p(-accuracy)
    odds = np.bincount(votes.item, weights=votes.sign * weight[votes.who], minlength=len(votes.given))
    odds = np.where(votes.given != 0, votes.given * np.log(KNOWN / (1 - KNOWN)), odds)
    return np.asarray(1 / (1 + np.exp(-odds)))
