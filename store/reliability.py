"""How often each annotator is right, and from that the chance that a pair's label is: nobody is simply believed.

The model is Dawid and Skene's (1979) with one coin for each annotator: of two completions one is better, and whoever
names one names the better with a chance of their own, the same whichever is called a, independently of the others. The
chances are fitted by EM (the most probable ones under their prior), and each pair's posterior follows from them.

- A tie or both-bad names no completion. How readily somebody says tie is taken to have nothing to do with which of the
  two is better, so that it moves nothing.
- Before anything is known, an annotator is taken to have been right 8 times and wrong twice (PRIOR): two of them agree
  in 68% of cases, where people agree in 63% to 77%. So few labels prove nobody perfect, or useless.
- A pair whose answer is known (gold, or decided by a researcher) is taken to be right with KNOWN, whatever others say.
- Calibration pairs are left out: their answer is told at once.
- Somebody asked again about a pair has two verdicts on it, both counted: contradicting oneself costs credit.
- A pair with one verdict, its answer unknown, says nothing about the annotator. It is left out of the fit, which
  comes to the same sooner.

What it cannot see: annotators who err alike. Where all prefer the longer text for being long, the model believes them.
Easy and hard pairs are not told apart either. (crowd-kit's one-coin model has no prior, which small teams need.)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sqlmodel import Session, col

from store.intervals import Estimate
from store.models import Annotator, Comparison, Pair, Purpose, Verdict

PRIOR = (8.0, 2.0)  # verdicts right and wrong
KNOWN = 0.99  # whoever knows the answer errs as well
SIGMAS = 1.96  # on either side hold 95% of a normal curve
LOOPS = 1000
CLOSE = 1e-10  # chances that move no further than this have settled
DIGITS = 4  # further ones may depend on the machine

Vote = tuple[Any, str, bool]  # what it is about, by whom, and whether it names the first of the two
Floats = NDArray[np.float64]


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


def fit_reliability(votes: Iterable[Vote], known: Mapping[Any, bool]) -> Reliability:
    """Fit the model. `known`: of some items, whether the first completion is the better one.

    The order of the votes makes no difference, nor does naming the completions of an item the other way round.
    """
    ordered = sorted(votes)
    items = sorted({item for item, _, _ in ordered} | set(known))
    people = sorted({annotator for _, annotator, _ in ordered})
    item, who, sign = _columns(ordered, items, people)
    given = np.array([0.0 if each not in known else (1.0 if known[each] else -1.0) for each in items])
    telling = (np.bincount(item, minlength=len(items)) > 1) | (given != 0)
    kept = telling[item]
    accuracy = _fit(item[kept], who[kept], sign[kept], given, len(people))
    chances = _chances(item, who, sign, given, accuracy)
    return Reliability(
        dict(zip(people, _estimates(item[kept], who[kept], sign[kept], given, accuracy), strict=True)),
        dict(zip(items, chances.tolist(), strict=True)),
        int(kept.sum()),
    )


def _estimates(
    item: NDArray[Any], who: NDArray[Any], sign: NDArray[Any], given: Floats, accuracy: Floats
) -> list[Estimate]:
    """Each accuracy with a 95% interval, by a normal curve on the scale of its log-odds.

    How wide follows from the observed information (Louis 1982): what the votes would tell if every truth were known,
    less what not knowing them takes away, for all annotators at once, as each is judged by the others.
    """
    right, wrong = PRIOR
    first = _chances(item, who, sign, given, accuracy)[item]
    named = np.where(sign > 0, first, 1 - first)  # the chance that this vote is right
    told = named / accuracy[who] ** 2 + (1 - named) / (1 - accuracy[who]) ** 2
    unknown = np.where(given[item] == 0, np.sqrt(first * (1 - first)), 0)
    moves = sign * unknown / (accuracy[who] * (1 - accuracy[who]))
    lost = csr_array((moves, (item, who)), shape=(len(given), len(accuracy)))
    information = -(lost.T @ lost).toarray()
    information[np.diag_indices_from(information)] += (
        np.bincount(who, weights=told, minlength=len(accuracy)) + right / accuracy**2 + wrong / (1 - accuracy) ** 2
    )
    error = np.sqrt(np.diag(np.linalg.inv(information))) / (accuracy * (1 - accuracy))
    odds = np.log(accuracy) - np.log1p(-accuracy)
    ends = [1 / (1 + np.exp(-(odds + side * SIGMAS * error))) for side in (-1, 1)]
    counts = np.bincount(who, minlength=len(accuracy))
    return [
        Estimate(float(value), (float(low), float(high)), int(count))
        for value, low, high, count in zip(accuracy, *ends, counts, strict=True)
    ]


def _columns(votes: list[Vote], items: list[Any], people: list[str]) -> tuple[NDArray[np.int64], ...]:
    """For each vote the item's number, the annotator's, and 1 for the first completion or -1 for the other."""
    item_number = {item: number for number, item in enumerate(items)}
    number = {annotator: number for number, annotator in enumerate(people)}
    rows = [(item_number[item], number[annotator], 1 if first else -1) for item, annotator, first in votes]
    item, who, sign = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return item, who, sign


def _fit(item: NDArray[Any], who: NDArray[Any], sign: NDArray[Any], given: Floats, people: int) -> Floats:
    """EM: chances of the items under the accuracies, then accuracies under the chances, until nothing moves."""
    right, wrong = PRIOR
    accuracy = np.full(people, right / (right + wrong))
    made = np.bincount(who, minlength=people)
    for _ in range(LOOPS):
        first = _chances(item, who, sign, given, accuracy)[item]
        agreed = np.bincount(who, weights=np.where(sign > 0, first, 1 - first), minlength=people)
        before, accuracy = accuracy, (right + agreed) / (right + wrong + made)
        if np.abs(accuracy - before).max(initial=0) < CLOSE:
            break
    return accuracy


def _chances(item: NDArray[Any], who: NDArray[Any], sign: NDArray[Any], given: Floats, accuracy: Floats) -> Floats:
    """The chance of each item that its first completion is the better one. `given`: 1, -1, or 0 where unknown."""
    weight = np.log(accuracy) - np.log1p(-accuracy)
    odds = np.bincount(item, weights=sign * weight[who], minlength=len(given))
    odds = np.where(given != 0, given * np.log(KNOWN / (1 - KNOWN)), odds)
    return np.asarray(1 / (1 + np.exp(-odds)))


@dataclass(frozen=True)
class PairVote:
    """What an annotator said about a pair, or about a repeat of it, in the pair's own terms."""

    pair_id: int
    annotator: str
    verdict: str
    adjudicates: bool
    purpose: str


def read_reliability(*, session: Session) -> Reliability:
    """The model of all that stands, retracted annotators left out. Items are pair ids, first is completion a."""
    said, gold = read_pair_votes(session=session)
    return reliability_of(said, gold)


def reliability_of(said: Sequence[PairVote], gold: Mapping[int, str]) -> Reliability:
    """The model of these votes, oldest first, and of the known answers."""
    sides = (Verdict.A, Verdict.B)
    votes = [
        (one.pair_id, one.annotator, one.verdict == Verdict.A)
        for one in said
        if one.verdict in sides and not one.adjudicates
    ]
    known = {**gold, **{one.pair_id: one.verdict for one in said if one.adjudicates}}  # the latest decision holds
    return fit_reliability(votes, {pair: answer == Verdict.A for pair, answer in known.items() if answer in sides})


def read_pair_votes(*, session: Session) -> tuple[list[PairVote], dict[int, str]]:
    """What stands of trusted annotators, oldest first, repeats as said of the pair itself; and the known answers."""
    query = (
        sa.select(
            col(Pair.id),
            col(Pair.repeats),
            col(Annotator.name),
            col(Comparison.verdict),
            col(Comparison.adjudicates),
            col(Pair.purpose),
            col(Pair.gold_verdict),
        )
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .where(
            col(Comparison.superseded_at).is_(None),
            col(Annotator.retracted_at).is_(None),
            col(Pair.purpose).not_in((Purpose.CALIBRATION, Purpose.REWRITE)),
        )
        .order_by(col(Comparison.created_at), col(Comparison.id))
    )
    rows = session.execute(query).all()
    said = [
        PairVote(repeats or pair_id, name, mirrored(verdict) if repeats else verdict, adjudicates, purpose)
        for pair_id, repeats, name, verdict, adjudicates, purpose, _ in rows
    ]
    return said, {row[0]: row[-1] for row in rows if row[-1] is not None}


def mirrored(verdict: str) -> str:
    """The same verdict when the completions change places: a repeat shows them the other way round."""
    return {Verdict.A.value: Verdict.B.value, Verdict.B.value: Verdict.A.value}.get(verdict, verdict)
