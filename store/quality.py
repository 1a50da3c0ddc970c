"""How well annotators compare: with each other, with themselves, with known answers; and what sways them.

Each figure comes with its interval where there is enough to tell one. Shares count pairs of one prompt together, as
intervals.py says; how two annotators agree is in agreement.py. What is looked at: see answers.py.

    left        the share of decided verdicts for the completion that stood left. Sides are drawn at random for each
                pair and annotator, so that without bias every verdict is a toss of a fair coin: the test is an exact
                binomial one, two-sided; Bonferroni's correction keeps chance from flagging somebody of a large team
    longer      the share of decided verdicts for the text with more characters. Not wrong in itself: it is one taste
    fast        the share of verdicts given sooner than anybody reads: in less than FAST_SECONDS, or at more than
                FAST_CHARACTERS a second of both texts (25 words of 6 letters; people read 4, Brysbaert 2019). Somebody
                who sees at a glance that a text is broken is honestly that quick, so it is the share that tells
    per hour    comparisons an hour of work, a ranking counted once; a gap longer than BREAK_SECONDS is no work
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import bdtr
from sqlmodel import Session

from store.agreement import Couple, agreements, alphas, meetings
from store.annotators import list_annotators
from store.answers import BOTH_BAD, NONE, SKIP, TIE, Answers, Flags, Ints, count_imported, read_answers, swapped
from store.dawid_skene import Reliability
from store.intervals import Estimate, share_of, wilson
from store.models import Annotator
from store.reliability import read_reliability
from store.roles import require_researcher

FAST_SECONDS = 1.0
FAST_CHARACTERS = 150.0  # per second
BREAK_SECONDS = 300.0
LEVEL = 0.05  # how often somebody of an unbiased team may be flagged
STRENGTHS = (1, 2, 3)


@dataclass(frozen=True)
class Habits:
    """What sways the verdicts of one annotator, or of all. `left_departs`: further from a half than chance explains."""

    comparisons: int  # without skips
    skips: int
    ties: int
    both_bad: int
    left: Estimate
    left_departs: bool
    longer: Estimate
    consistency: Estimate  # the same verdict when a pair was asked again, the other way round
    gold: Estimate  # the known verdict, where there is one
    seconds: float | None  # median of those measured
    fast: Estimate
    strengths: dict[int, int] = field(default_factory=dict)  # how often each was given


@dataclass(frozen=True)
class AnnotatorQuality:
    """One annotator. `agreement` and `kappa`: with all others who judged the same pairs.

    `accuracy`: the share of verdicts that name the better completion, as dawid_skene.py fits it.
    """

    name: str
    role: str
    retracted: bool
    habits: Habits
    agreement: Estimate
    kappa: Estimate
    accuracy: Estimate
    per_hour: float | None


@dataclass(frozen=True)
class CoupleQuality:
    """Two annotators, on the pairs that both judged."""

    first: str
    second: str
    agreement: Estimate
    kappa: Estimate


@dataclass(frozen=True)
class Quality:
    """All together, each annotator by name, and every two who share enough pairs. `imported` verdicts are not in it."""

    alpha: Estimate
    alpha_decided: Estimate  # ties and both-bads left out
    agreement: Estimate
    habits: Habits
    annotators: list[AnnotatorQuality]
    couples: list[CoupleQuality]
    imported: int


def read_quality(*, session: Session, with_retracted: bool = False) -> Quality:
    """What stands, summed up. `with_retracted`: with what retracted annotators had said. Raises NotAllowedError."""
    require_researcher(session=session, to="see how well annotators agree")
    return measure_quality(
        read_answers(session=session, with_retracted=with_retracted),
        people=list_annotators(session=session),
        reliability=read_reliability(session=session),
        imported=count_imported(session=session),
    )


def measure_quality(
    answers: Answers, *, people: list[Annotator], reliability: Reliability, imported: int = 0
) -> Quality:
    """The figures of these answers."""
    said = answers.first_time
    known = {person.id: person for person in people}
    ids = np.unique(answers.annotator)
    agreed, (every, decided) = agreements(meetings(said), ids), alphas(said)
    consistent = _consistent(answers)
    each = [
        _annotator(known[int(who)], answers, consistent, with_others, reliability, len(ids))
        for who, *with_others in zip(ids, agreed.shares, agreed.kappas, strict=True)
    ]
    return Quality(
        alpha=every,
        alpha_decided=decided,
        agreement=agreed.all,
        habits=_habits(answers, consistent, looked_at=1),
        annotators=sorted(each, key=lambda one: one.name.casefold()),
        couples=[_named(couple, known) for couple in agreed.couples],
        imported=imported,
    )


def _named(couple: Couple, known: dict[int | None, Annotator]) -> CoupleQuality:
    first, second = sorted((known[each].name for each in couple.ids), key=str.casefold)
    return CoupleQuality(first, second, couple.agreement, couple.kappa)


def _annotator(
    person: Annotator,
    answers: Answers,
    consistent: Ints,
    with_others: list[Estimate],
    reliability: Reliability,
    looked_at: int,
) -> AnnotatorQuality:
    mine = answers.annotator == person.id
    return AnnotatorQuality(
        name=person.name,
        role=person.role,
        retracted=person.retracted_at is not None,
        habits=_habits(answers.where(mine), consistent[mine], looked_at=looked_at),
        agreement=with_others[0],
        kappa=with_others[1],
        accuracy=reliability.accuracy.get(person.name, Estimate()),
        per_hour=_per_hour(answers.where(mine)),
    )


def _habits(answers: Answers, consistent: Ints, *, looked_at: int) -> Habits:
    """`consistent`: for each answer 1 or 0 where it repeats another. `looked_at`: how many are tested for bias."""
    said, once = answers.said, answers.first_time
    decided = once.where(once.verdict < TIE)
    sided, unequal = decided.where(decided.left != NONE), decided.where(decided.longer != NONE)
    golden, timed = said.where(said.gold != NONE), said.where(~np.isnan(said.seconds))
    left = sided.verdict == sided.left
    repeated = answers.where(consistent != NONE)
    return Habits(
        comparisons=len(said),
        skips=int((answers.verdict == SKIP).sum()),
        ties=int((said.verdict == TIE).sum()),
        both_bad=int((said.verdict == BOTH_BAD).sum()),
        left=_coin(left),
        left_departs=_departs(left, looked_at),
        longer=_share(unequal.verdict == unequal.longer, unequal),
        consistency=_share(consistent[consistent != NONE] == 1, repeated),
        gold=_share(golden.verdict == golden.gold, golden),
        seconds=float(np.median(timed.seconds)) if len(timed) else None,
        fast=_share(_too_fast(timed), timed),
        strengths={each: int((said.strength == each).sum()) for each in STRENGTHS},
    )


def _share(hits: Flags, answers: Answers) -> Estimate:
    return share_of(hits.astype(float).tolist(), answers.prompt.tolist())


def _coin(left: Flags) -> Estimate:
    # No clusters: the sides of each verdict were drawn by themselves.
    if not len(left):
        return Estimate()
    share = float(left.mean())
    return Estimate(share, wilson(share, len(left)), len(left))


def _departs(left: Flags, looked_at: int) -> bool:
    rarer = min(int(left.sum()), len(left) - int(left.sum()))
    return bool(len(left)) and bool(2 * bdtr(rarer, len(left), 0.5) * looked_at < LEVEL)  # the exact binomial test


def _too_fast(timed: Answers) -> Flags:
    return timed.seconds < np.maximum(FAST_SECONDS, timed.characters / FAST_CHARACTERS)


def _consistent(answers: Answers) -> Ints:
    """For each answer to a repeat: 1 if it says what this annotator says of the pair itself, 0 if not; elsewhere -1.

    Second looks are left out: they were chosen for being probably wrong.
    """
    first = answers.first_time
    if not len(first):
        return np.full(len(answers), NONE)
    wide = int(answers.annotator.max()) + 1
    place = first.pair * wide + first.annotator
    order = np.argsort(place)
    left_out = (answers.verdict == SKIP) | (answers.second_look == 1)
    asked = np.where(left_out, NONE, answers.repeats) * wide + answers.annotator
    found = order[np.minimum(np.searchsorted(place, asked, sorter=order), len(order) - 1)]
    same = first.verdict[found] == swapped(answers.verdict)
    return np.where(place[found] == asked, same.astype(np.int64), NONE)


def _per_hour(answers: Answers) -> float | None:
    said = answers.said
    # Those of one ranking were written at one moment: they are one piece of work, and every other is one of its own.
    _, pieces = np.unique(np.where(said.ranking == NONE, -np.arange(1, len(said) + 1), said.ranking), return_index=True)
    gaps = np.diff(np.sort(said.moment[pieces]))
    worked = gaps[gaps <= BREAK_SECONDS]
    return None if not worked.sum() else float(3600 * len(worked) / worked.sum())
