"""Adjudication: the pairs in doubt, and the verdict that then decides for its pair.

Whoever decides sees what the others said, but not which checkpoint wrote what. What was said before stays as it is; the
decision alone makes the preference (preferences.py), and tells how reliable all are (reliability.py), whoever decides
among them: what they said themselves, before or after, is a verdict like any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from store.chat_tables import Exchange
from store.comparisons import (
    Choice,
    Remarks,
    current_comparison,
    record_comparison,
    require_comparing,
    supersede,
)
from store.dawid_skene import Reliability
from store.holds import is_kept_from
from store.models import Annotator, Comparison, Pair, Purpose, Verdict
from store.pairs import left_side, lock_pair, recount_open_slots
from store.reliability import PairVote, mirrored, read_pair_votes, reliability_of
from store.roles import person_of, require_researcher
from store.second_looks import overturned_pairs

LOW_CONFIDENCE = 0.65  # below: the label says little more than a toss of a coin

# Why a pair is in the inbox.
WHY = {
    "disagreement": "annotators disagree",
    "flagged": "somebody flagged it",
    "low_confidence": "its label is in doubt",
    "overturned": "a second look overturned it",
}


@dataclass(frozen=True)
class DoubtfulPair:
    """A pair in doubt, and why (keys of WHY).

    `chance`: how likely the majority is right; None where there is no majority.
    """

    pair_id: int
    why: tuple[str, ...]
    chance: float | None


@dataclass(frozen=True)
class SaidOnce:
    """One standing verdict on a pair, in the pair's own terms (also where it was given on a repeat of it).

    `flags`: what is wrong with "a" and with "b".
    """

    annotator: str
    verdict: str
    strength: int | None
    reason: str | None
    tags: list[str]
    flags: dict[str, list[str]]
    repeated: bool


def list_doubtful(*, session: Session) -> list[DoubtfulPair]:
    """The inbox: pairs that annotators disagree on, that are flagged, in doubt, or overturned by a second look.

    The most doubtful first, among equals the newest. Pairs asked for training alone; what was decided is not in it,
    nor what is kept from whoever looks.
    """
    require_researcher(session=session, to="see which pairs are in doubt")
    said, gold = read_pair_votes(session=session)
    reliability, flagged = reliability_of(said, gold), _flagged(session)
    overturned = overturned_pairs(session=session)
    found = [_doubtful(pair_id, each, reliability, flagged, overturned) for pair_id, each in _undecided(said).items()]
    not_blind = _kept_from(session, person_of(session))
    return sorted((pair for pair in found if pair.why and pair.pair_id not in not_blind), key=_most_doubtful_first)


def _kept_from(session: Session, person: int | None) -> set[int | None]:
    """The pairs of the Playground that are kept from this person; the machine's owner is kept from none."""
    if person is None:
        return set()
    seen = select(Pair.id).join(Exchange, col(Exchange.pair_id) == Pair.id).where(Exchange.kept_from == person)
    return set(session.exec(seen.where(is_kept_from(person))))


def _most_doubtful_first(pair: DoubtfulPair) -> tuple[float, int]:
    return 0.5 if pair.chance is None else pair.chance, -pair.pair_id


def _undecided(said: Sequence[PairVote]) -> dict[int, list[PairVote]]:
    """What was said of each pair asked for training that nobody decided."""
    found: dict[int, list[PairVote]] = {one.pair_id: [] for one in said if one.purpose == Purpose.TRAIN}
    for one in said:
        if one.adjudicates:
            found.pop(one.pair_id, None)
    for one in said:
        if one.pair_id in found:
            found[one.pair_id].append(one)
    return found


def _flagged(session: Session) -> set[int]:
    """The pairs of which a trusted annotator flagged a completion."""
    query = (
        sa.select(sa.func.coalesce(col(Pair.repeats), col(Pair.id)))
        .select_from(Comparison)
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .where(_stands(), sa.cast(col(Comparison.flags), sa.Text).like('%["%'))
    )
    return set(session.execute(query).scalars())


def _stands() -> Any:
    return sa.and_(col(Comparison.superseded_at).is_(None), col(Annotator.retracted_at).is_(None))


def _doubtful(
    pair_id: int, said: Sequence[PairVote], reliability: Reliability, flagged: set[int], overturned: set[int]
) -> DoubtfulPair:
    chance = _chance(pair_id, said, reliability)
    reasons = {
        "disagreement": len({one.verdict for one in said} - {Verdict.SKIP.value}) > 1,
        "flagged": pair_id in flagged,
        "low_confidence": chance is not None and chance < LOW_CONFIDENCE,
        "overturned": pair_id in overturned,
    }
    return DoubtfulPair(pair_id, tuple(reason for reason in WHY if reasons[reason]), chance)


def _chance(pair_id: int, said: Sequence[PairVote], reliability: Reliability) -> float | None:
    """How likely it is that the side with more votes is the better one. Repeats tell of consistency alone."""
    votes = Counter(one.verdict for one in said if one.purpose != Purpose.REPEAT)
    if votes[Verdict.A] == votes[Verdict.B]:
        return None
    return reliability.chance(pair_id, first=votes[Verdict.A] > votes[Verdict.B])


def said_about(*, session: Session, pair_id: int) -> list[SaidOnce]:
    """What stands of trusted annotators on a pair and its repeats, oldest first."""
    require_researcher(session=session, to="see what others said")
    repeat_of_it = (col(Pair.repeats) == pair_id) & (col(Pair.purpose) == Purpose.REPEAT)  # and no rewrite on it
    query = (
        sa.select(
            col(Annotator.name),
            col(Comparison.verdict),
            col(Comparison.strength),
            col(Comparison.reason),
            col(Comparison.tags),
            col(Comparison.flags),
            col(Pair.repeats).is_not(None),
        )
        .select_from(Comparison)
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .where(_stands(), sa.or_(col(Pair.id) == pair_id, repeat_of_it))
        .order_by(col(Comparison.id))
    )
    return [_own_terms(SaidOnce(*row)) for row in session.execute(query)]


def _own_terms(said: SaidOnce) -> SaidOnce:
    """What was said on a repeat, as said of the pair: a repeat shows the completions the other way round."""
    if not said.repeated:
        return said
    flags = {mirrored(side): wrong for side, wrong in said.flags.items()}
    return replace(said, verdict=mirrored(said.verdict), flags=flags)


def adjudicate(
    *, session: Session, pair_id: int, annotator_id: int, choice: Choice | str, reason: str | None = None
) -> Comparison:
    """Decide for a pair, whatever was said; the latest decision holds. Nothing else that was said is changed.

    An earlier decision of the same annotator's on this pair is superseded, as by any change of mind, but no verdict of
    theirs; the same decision again (a second press) is returned as it is. Raises what `record_comparison` raises.
    """
    require_researcher(session=session, to="decide about a pair in doubt")
    side_seed = lock_pair(session=session, pair_id=pair_id).side_seed
    standing = current_comparison(session=session, pair_id=pair_id, annotator_id=annotator_id, adjudicates=True)
    if standing is not None and _is_choice(standing, choice, side_seed):
        return standing
    return record_comparison(
        session=session,
        pair_id=pair_id,
        annotator_id=annotator_id,
        choice=choice,
        remarks=Remarks(reason=reason),
        replace=True,
        adjudicates=True,
    )


def take_back_decision(*, session: Session, comparison_id: int, annotator_id: int) -> None:
    """Take a decision back; twice is once. What anybody had said of the pair stood all along.

    Raises NotAllowedError, PairChangedError for an annotator who may not compare any more.
    """
    require_researcher(session=session, to="decide about a pair in doubt")
    require_comparing(session=session, annotator_id=annotator_id)
    ruling = session.get(Comparison, comparison_id)
    if ruling is None or ruling.annotator_id != annotator_id or not ruling.adjudicates:
        return
    pair = lock_pair(session=session, pair_id=ruling.pair_id)
    session.refresh(ruling)
    if ruling.superseded_at is None:
        supersede(session=session, said=ruling, pair=pair)
        recount_open_slots(session=session, pair_id=pair.id)


def _is_choice(said: Comparison, choice: Any, side_seed: int) -> bool:
    side = left_side(side_seed=side_seed, annotator_id=said.annotator_id)
    sides = {side: Choice.LEFT, "a" if side == "b" else "b": Choice.RIGHT}
    return str(sides.get(said.verdict, said.verdict)) == str(choice)
