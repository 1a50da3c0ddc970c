"""Comparisons: what annotators said. Written once, superseded when they change their mind, never deleted."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy import func
from sqlmodel import Session, col, select

from store.errors import NotAllowedError, PairChangedError, StoreError
from store.guidelines import guidelines_id_in_force
from store.holds import is_decided, release_hold, require_blind, require_room, take_hold
from store.measuring import opened_at
from store.models import COUNTED, MEASURING, Annotator, Comparison, Pair, Purpose, Verdict, now
from store.pairs import LockedPair, left_side, lock_pair, recount_open_slots
from store.ranking_tables import Ranking
from store.roles import person_of, require_researcher
from store.round_work import count_verdict

UNDO_WINDOW = 50  # an annotator's latest verdicts, among which the last of a round is looked for


class Choice(StrEnum):
    """What an annotator can do with the pair on screen. Sides become completions in `record_comparison`."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    SKIP = "skip"


@dataclass(frozen=True)
class Remarks:
    """What an annotator says beside the verdict, by the sides on which the completions stood for them.

    `criteria`: for each criterion "left", "right" or "tie". `flags`: what is wrong with "left" and with "right".
    """

    reason: str | None = None
    tags: tuple[str, ...] = ()
    criteria: dict[str, str] = field(default_factory=dict)
    flags: dict[str, list[str]] = field(default_factory=dict)


NO_REMARKS = Remarks()


def record_comparison(
    *,
    session: Session,
    pair_id: int,
    annotator_id: int,
    choice: Choice | str,
    seconds: float | None = None,
    strength: int | None = None,
    remarks: Remarks = NO_REMARKS,
    replace: bool = False,
    adjudicates: bool = False,
) -> Comparison:
    """Write a verdict on a pair and recount what the pair still wants, in the session's one transaction.

    A verdict that stands already is returned as it is (a second press of a key, a second tab), unless `replace`
    asks for a change of mind, which supersedes it. One that `adjudicates` stands beside what its annotator said as one
    of many, and replaces a decision of theirs alone. Raises UnknownRecordError for a pair that is not there,
    PairChangedError for an annotator who may not compare any more, for a pair that is kept from them (`require_blind`)
    and for an answer that comes too late (`require_room`), NotAllowedError in somebody else's name or for a decision by
    who is no researcher, StoreError for a choice or strength that is not one.
    """
    if adjudicates:
        require_researcher(session=session, to="decide about a pair in doubt")
    if strength not in (None, 1, 2, 3):
        raise StoreError(f"A strength is 1, 2 or 3, not {strength!r}.")
    choice = _choice(session, annotator_id, choice)
    pair = lock_pair(session=session, pair_id=pair_id)
    side = left_side(side_seed=pair.side_seed, annotator_id=annotator_id)
    standing = current_comparison(session=session, pair_id=pair_id, annotator_id=annotator_id, adjudicates=adjudicates)
    if standing is not None and not replace:
        return standing
    require_blind(session=session, pair_id=pair_id, annotator_id=annotator_id)
    if not adjudicates:
        require_room(
            session=session,
            pair_id=pair_id,
            annotator_id=annotator_id,
            answer=choice,
            before=None if standing is None else standing.verdict,
        )
    if standing is not None:
        supersede(session=session, said=standing, pair=pair)
    said = Comparison(
        pair_id=pair_id,
        annotator_id=annotator_id,
        verdict=_verdict(choice, side),
        strength=strength if choice in (Choice.LEFT, Choice.RIGHT) else None,
        reason=(remarks.reason or "").strip() or None,
        tags=list(remarks.tags),
        criteria=_by_completion(remarks.criteria, side),
        flags={_completion(on, side): found for on, found in remarks.flags.items() if found},
        adjudicates=adjudicates,
        seconds=seconds,
        left_side=side,
        guidelines_id=guidelines_id_in_force(session=session),
    )
    session.add(said)
    session.flush()
    count_verdict(session=session, said=said, purpose=pair.purpose, round_id=pair.round_id, by=1)
    recount_open_slots(session=session, pair_id=pair.id)
    release_hold(session=session, pair_id=pair_id, annotator_id=annotator_id)
    return said


def supersede(*, session: Session, said: Comparison, pair: LockedPair) -> None:
    """Let a verdict or a decision that came of no ranking stand no more, and uncount it. The pair's slots are not."""
    said.superseded_at = now()
    session.add(said)
    session.flush()
    count_verdict(session=session, said=said, purpose=pair.purpose, round_id=pair.round_id, by=-1)


def _completion(on: str, left: str) -> str:
    other = "b" if left == "a" else "a"
    return {"left": left, "right": other}[on]


def _by_completion(criteria: dict[str, str], left: str) -> dict[str, str]:
    return {name: "tie" if said == "tie" else _completion(said, left) for name, said in criteria.items()}


def _verdict(choice: Choice, left: str) -> Verdict:
    other = "b" if left == "a" else "a"
    return Verdict({Choice.LEFT: left, Choice.RIGHT: other}.get(choice, choice.value))


def _choice(session: Session, annotator_id: int, choice: Choice | str) -> Choice:
    require_comparing(session=session, annotator_id=annotator_id)
    try:
        return Choice(choice)
    except ValueError:
        raise StoreError(f"A choice is one of {', '.join(Choice)}, not {choice!r}.") from None


_MAY_COMPARE = sa.select(col(Annotator.active)).where(col(Annotator.id) == sa.bindparam("annotator_id"))


def require_comparing(*, session: Session, annotator_id: int) -> None:
    """Raise NotAllowedError in somebody else's name, PairChangedError for one who may not compare any more."""
    if person_of(session) not in (None, annotator_id):
        raise NotAllowedError("Nobody compares in somebody else's name. Nothing was written.")
    if not session.scalar(_MAY_COMPARE, {"annotator_id": annotator_id}):
        raise PairChangedError("This annotator is not active any more; nothing was written.")


_STANDING = sa.select(Comparison).where(
    col(Comparison.pair_id) == sa.bindparam("pair_id"),
    col(Comparison.annotator_id) == sa.bindparam("annotator_id"),
    col(Comparison.superseded_at).is_(None),
    col(Comparison.adjudicates) == sa.bindparam("adjudicates"),
)


def current_comparison(
    *, session: Session, pair_id: int, annotator_id: int, adjudicates: bool = False
) -> Comparison | None:
    """This annotator's standing verdict on the pair, if any; where it `adjudicates`, their decision about it."""
    given = {"pair_id": pair_id, "annotator_id": annotator_id, "adjudicates": adjudicates}
    return session.scalar(_STANDING, given)


# Their latest few, so that what it costs does not grow with what they said before.
_LATEST = (
    sa.select(col(Comparison.id), col(Comparison.pair_id), col(Comparison.created_at))
    .where(
        col(Comparison.annotator_id) == sa.bindparam("annotator_id"),
        col(Comparison.superseded_at).is_(None),
        ~col(Comparison.adjudicates),
    )
    .order_by(col(Comparison.id).desc())
    .limit(UNDO_WINDOW)
    .subquery()
)
_ASKED = col(Pair.purpose).in_((*COUNTED, *MEASURING)) & col(Pair.follows).is_(None)
_IN_ROUND = (col(Pair.round_id) == sa.bindparam("round_id")) & _ASKED
_GOLD_MEANWHILE = (col(Pair.purpose) == Purpose.GOLD) & (_LATEST.c.created_at >= opened_at(sa.bindparam("round_id")))
_LAST = (
    sa.select(_LATEST.c.id, _LATEST.c.pair_id)
    .join(Pair, col(Pair.id) == _LATEST.c.pair_id)
    .where(_IN_ROUND | _GOLD_MEANWHILE)
    .order_by(_LATEST.c.id.desc())
    .limit(1)
)


def last_verdict(*, session: Session, annotator_id: int, round_id: int) -> tuple[int, int] | None:
    """Which verdict an undo would take back, and its pair: this annotator's latest standing one in the round, if any.

    Of a ranking's, the one that stands for it. One on a gold pair, which is of no round, is if it was given since the
    round opened.
    """
    row = session.execute(_LAST, {"annotator_id": annotator_id, "round_id": round_id}).first()
    return None if row is None else (row[0], row[1])


_DECIDED_SINCE = (
    "A researcher has decided about that pair since, so it is asked no more, and could not be judged again. What you "
    "said of it stands as it was; to say something else, look back to it."
)


def undo_comparison(*, session: Session, comparison_id: int, annotator_id: int) -> Comparison | None:
    """Take back a verdict of this annotator's, and hold its pair for them; the whole ranking, if it came of one.

    None if it was taken back or changed already (a key pressed twice, a second tab), and for a decision, which
    `take_back_decision` takes back. The row stays, superseded by
    nothing, so the history is whole. A pair that is being shown to somebody else by now (this annotator had skipped
    it) stays theirs. Raises PairChangedError for an annotator who may not compare any more, and where somebody decided
    about the pair, which nobody could judge again; NotAllowedError in somebody else's name.
    """
    require_comparing(session=session, annotator_id=annotator_id)
    undone = session.get(Comparison, comparison_id)
    if undone is None or undone.annotator_id != annotator_id or undone.adjudicates:
        return None
    pair = lock_pair(session=session, pair_id=undone.pair_id)
    asked = pair.id if pair.follows is None else lock_pair(session=session, pair_id=pair.follows).id
    session.refresh(undone)
    if undone.superseded_at is not None:
        return None
    if is_decided(session=session, pair_id=asked):
        raise PairChangedError(_DECIDED_SINCE)
    if undone.ranking_id is None:
        supersede(session=session, said=undone, pair=pair)
    else:
        supersede_ranking(session=session, ranking_id=undone.ranking_id)
    recount_open_slots(session=session, pair_id=asked)
    take_hold(session=session, pair_id=asked, annotator_id=annotator_id)
    return undone


def supersede_ranking(*, session: Session, ranking_id: int) -> None:
    """Let a ranking stand no more, nor any comparison that came of it."""
    ended = now()
    of_it = (
        select(Comparison, Pair)
        .join(Pair, col(Pair.id) == Comparison.pair_id)
        .where(Comparison.ranking_id == ranking_id, col(Comparison.superseded_at).is_(None))
    )
    said = session.exec(of_it).all()
    rows: list[Ranking | Comparison] = [session.get_one(Ranking, ranking_id), *(each for each, _ in said)]
    for row in rows:
        row.superseded_at = ended
        session.add(row)
    session.flush()
    for each, pair in said:
        count_verdict(session=session, said=each, purpose=pair.purpose, round_id=pair.round_id, by=-1)


def count_round(*, session: Session, round_id: int) -> dict[str, int]:
    """A round's current comparisons by verdict, with `done` (all but skips) and `total`, none of them retracted.

    Those on duels, which nothing is trained on, are counted apart: `duels`, skips not among them. Those on gold pairs,
    repeats and rewrites are not counted at all: no round asks for these.
    """
    rows = session.exec(
        select(Pair.purpose, Comparison.verdict, func.count())
        .join(Pair, col(Pair.id) == Comparison.pair_id)
        .join(Annotator, col(Annotator.id) == Comparison.annotator_id)
        .where(
            Pair.round_id == round_id,
            col(Pair.purpose).in_(COUNTED),
            ~col(Comparison.adjudicates),
            col(Comparison.superseded_at).is_(None),
            col(Annotator.retracted_at).is_(None),
        )
        .group_by(col(Pair.purpose), Comparison.verdict)
    ).all()
    counts = {verdict.value: 0 for verdict in Verdict}
    counts |= {verdict: count for purpose, verdict, count in rows if purpose == Purpose.TRAIN}
    total = sum(counts.values())
    duels = sum(count for purpose, verdict, count in rows if purpose == Purpose.DUEL and verdict != Verdict.SKIP)
    return counts | {"done": total - counts[Verdict.SKIP], "total": total, "duels": duels}


def comparisons_since(
    *, session: Session, annotator_id: int, round_id: int, since: datetime, most: int = 2_000
) -> list[Comparison]:
    """This annotator's standing verdicts of a round from this moment on, in the order of their pairs' first one.

    A ranking is one of them, by the verdict that stands for it: it was one piece of work. Of their latest `most` rows,
    so that it costs the same whatever they did in all.
    """
    latest = (
        select(Comparison.id, Comparison.pair_id, Comparison.created_at)
        .where(Comparison.annotator_id == annotator_id, ~col(Comparison.adjudicates))
        .order_by(col(Comparison.id).desc())
        .limit(most)
        .subquery()
    )
    first = (
        select(latest.c.pair_id, func.min(latest.c.id).label("first"))
        .where(latest.c.created_at >= since)
        .group_by(latest.c.pair_id)
        .subquery()
    )
    query = (
        select(Comparison)
        .join(first, first.c.pair_id == Comparison.pair_id)
        .join(Pair, col(Pair.id) == Comparison.pair_id)
        .where(
            Comparison.annotator_id == annotator_id,
            col(Comparison.superseded_at).is_(None),
            ~col(Comparison.adjudicates),
            (Pair.round_id == round_id) | (Pair.purpose == Purpose.GOLD),
            col(Pair.purpose).in_((*COUNTED, *MEASURING)),
            col(Pair.follows).is_(None),
        )
        .order_by(first.c.first)
    )
    return list(session.exec(query))


def sided(said: Comparison) -> Choice:
    """A verdict as its annotator gave it: by sides. For one with sides, that is (an import has none)."""
    if said.verdict not in (Verdict.A, Verdict.B):
        return Choice(said.verdict)
    return Choice.LEFT if said.verdict == said.left_side else Choice.RIGHT


def remarks_of(said: Comparison) -> Remarks:
    """What was said beside a verdict, by sides."""
    on = {said.left_side: "left", "b" if said.left_side == "a" else "a": "right", "tie": "tie"}
    return Remarks(
        reason=said.reason,
        tags=tuple(said.tags),
        criteria={name: on[each] for name, each in said.criteria.items()},
        flags={on[each]: found for each, found in said.flags.items()},
    )


def count_comparisons(*, session: Session) -> dict[str, int]:
    """Standing comparisons of all rounds and imports: `{"comparisons": n, "skips": k, "annotators": m}`.

    A skip is no comparison. Those on gold pairs, repeats and rewrites are not among them, nor decisions, nor what a
    retracted annotator said: the numbers are those that the rounds give.
    """
    judged = col(Comparison.verdict) != Verdict.SKIP
    comparisons, skips, annotators = session.exec(
        select(
            func.count().filter(judged),
            func.count().filter(~judged),
            func.count(func.distinct(Comparison.annotator_id)).filter(judged),
        )
        .select_from(Comparison)
        .join(Pair, col(Pair.id) == Comparison.pair_id)
        .join(Annotator, col(Annotator.id) == Comparison.annotator_id)
        .where(
            col(Comparison.superseded_at).is_(None),
            ~col(Comparison.adjudicates),
            col(Pair.purpose).in_(COUNTED),
            col(Annotator.retracted_at).is_(None),
        )
    ).one()
    return {"comparisons": comparisons, "skips": skips, "annotators": annotators}
