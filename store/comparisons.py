"""Comparisons: what annotators said. Written once, superseded when they change their mind, never deleted."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import func
from sqlmodel import Session, col, select

from store.errors import PairChangedError, StoreError
from store.models import Annotator, Comparison, Pair, Verdict, now
from store.pairs import hold_pair, left_side, lock_pair, recount_open_slots, release_hold


class Choice(StrEnum):
    """What an annotator can do with the pair on screen. Sides become completions in `record_comparison`."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    SKIP = "skip"


def record_comparison(
    *,
    session: Session,
    pair_id: int,
    annotator_id: int,
    choice: Choice | str,
    seconds: float | None = None,
    strength: int | None = None,
    reason: str | None = None,
    replace: bool = False,
) -> Comparison:
    """Write a verdict on a pair and recount what the pair still wants, in the session's one transaction.

    A verdict that stands already is returned as it is (a second press of a key, a second tab), unless `replace`
    asks for a change of mind, which supersedes it. Raises UnknownRecordError for a pair that is not there,
    PairChangedError for an annotator who may not compare any more, StoreError for a choice or strength that is not one.
    """
    if strength not in (None, 1, 2, 3):
        raise StoreError(f"A strength is 1, 2 or 3, not {strength!r}.")
    verdict, side = _verdict(session=session, pair_id=pair_id, annotator_id=annotator_id, choice=choice)
    standing = current_comparison(session=session, pair_id=pair_id, annotator_id=annotator_id)
    if standing is not None:
        if not replace:
            return standing
        standing.superseded_at = now()
        session.add(standing)
        session.flush()
    comparison = Comparison(
        pair_id=pair_id,
        annotator_id=annotator_id,
        verdict=verdict,
        strength=strength,
        reason=reason,
        seconds=seconds,
        left_side=side,
    )
    session.add(comparison)
    session.flush()
    recount_open_slots(session=session, pair_id=pair_id)
    release_hold(session=session, pair_id=pair_id, annotator_id=annotator_id)
    return comparison


def _verdict(*, session: Session, pair_id: int, annotator_id: int, choice: Choice | str) -> tuple[Verdict, str]:
    annotator = session.get(Annotator, annotator_id)
    if annotator is None or not annotator.active:
        raise PairChangedError("This annotator is not active any more; nothing was written.")
    try:
        choice = Choice(choice)
    except ValueError:
        raise StoreError(f"A choice is one of {', '.join(Choice)}, not {choice!r}.") from None
    pair = lock_pair(session=session, pair_id=pair_id)
    side = left_side(side_seed=pair.side_seed, annotator_id=annotator_id)
    other = "b" if side == "a" else "a"
    sides = {Choice.LEFT: side, Choice.RIGHT: other}
    return Verdict(sides.get(choice, choice.value)), side


def current_comparison(*, session: Session, pair_id: int, annotator_id: int) -> Comparison | None:
    """This annotator's standing verdict on the pair, if any."""
    return session.exec(
        select(Comparison).where(
            Comparison.pair_id == pair_id,
            Comparison.annotator_id == annotator_id,
            col(Comparison.superseded_at).is_(None),
        )
    ).first()


def last_comparison_id(*, session: Session, annotator_id: int, round_id: int) -> int | None:
    """Which verdict an undo would take back: this annotator's latest standing one in the round, if any."""
    # Asked of the round's pairs, as in count_annotator.
    standing = (
        select(Comparison.id)
        .where(
            Comparison.pair_id == Pair.id,
            Comparison.annotator_id == annotator_id,
            col(Comparison.superseded_at).is_(None),
        )
        .scalar_subquery()
    )
    found: int | None = session.exec(select(func.max(standing)).where(Pair.round_id == round_id)).one()
    return found


def undo_comparison(*, session: Session, comparison_id: int, annotator_id: int) -> Comparison | None:
    """Take back a verdict of this annotator's, and hold its pair for them.

    None if it was taken back or changed already (a key pressed twice, a second tab). The row stays, superseded by
    nothing, so the history is whole. A pair that is being shown to somebody else by now (this annotator had skipped
    it) stays theirs.
    """
    undone = session.get(Comparison, comparison_id)
    if undone is None or undone.annotator_id != annotator_id:
        return None
    lock_pair(session=session, pair_id=undone.pair_id)
    session.refresh(undone)
    if undone.superseded_at is not None:
        return None
    undone.superseded_at = now()
    session.add(undone)
    session.flush()
    recount_open_slots(session=session, pair_id=undone.pair_id)
    hold_pair(session=session, pair_id=undone.pair_id, annotator_id=annotator_id)
    return undone


def count_round(*, session: Session, round_id: int) -> dict[str, int]:
    """Current comparisons of a round by verdict, with `done` (all but skips) and `total`, none of them retracted."""
    rows = session.exec(
        select(Comparison.verdict, func.count())
        .join(Pair, col(Pair.id) == Comparison.pair_id)
        .join(Annotator, col(Annotator.id) == Comparison.annotator_id)
        .where(
            Pair.round_id == round_id,
            col(Comparison.superseded_at).is_(None),
            col(Annotator.retracted_at).is_(None),
        )
        .group_by(Comparison.verdict)
    ).all()
    counts = {verdict.value: 0 for verdict in Verdict} | dict(rows)
    total = sum(counts.values())
    return counts | {"done": total - counts[Verdict.SKIP], "total": total}


def count_annotator(*, session: Session, round_id: int, annotator_id: int) -> int:
    """How many verdicts this annotator has standing in the round, skips left out."""
    # Asked of the round's pairs, not of the annotator's comparisons: of those there may be any number by now.
    answered = select(Comparison.id).where(
        Comparison.pair_id == Pair.id,
        Comparison.annotator_id == annotator_id,
        Comparison.verdict != Verdict.SKIP,
        col(Comparison.superseded_at).is_(None),
    )
    return session.exec(
        select(func.count()).select_from(Pair).where(Pair.round_id == round_id, answered.exists())
    ).one()


def count_comparisons(*, session: Session) -> dict[str, int]:
    """Standing comparisons of all rounds and imports: `{"comparisons": n, "annotators": m}`."""
    comparisons, annotators = session.exec(
        select(func.count(), func.count(func.distinct(Comparison.annotator_id))).where(
            col(Comparison.superseded_at).is_(None)
        )
    ).one()
    return {"comparisons": comparisons, "annotators": annotators}
