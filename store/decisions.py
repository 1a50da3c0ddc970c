"""Decisions about checkpoints: which one serves, and how it came to that. Nothing is ever taken out of the record."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session, col, select

from store.checkpoints import base_checkpoint
from store.decision_tables import DecisionRecord
from store.errors import StateError
from store.models import Checkpoint, Decision, Round, RoundStatus, now
from store.roles import require_researcher


def decide_round(
    *,
    session: Session,
    round_id: int,
    decision: Decision,
    by: str,
    gate: dict[str, Any] | None = None,
    forced: bool = False,
) -> Round:
    """Close a round with what becomes of its checkpoint: it serves from now on (promote), or what served goes on.

    `gate` and `forced`: see `DecisionRecord`. Raises StateError unless there is one to decide about, NotAllowedError.
    """
    require_researcher(session=session, to="decide about a checkpoint")
    found = session.get_one(Round, round_id, with_for_update=True)
    if found.status != RoundStatus.DECIDING or found.result_checkpoint_id is None:
        raise StateError(f"Round {found.number} has no new checkpoint to decide about (it is {found.status}).")
    found.status = RoundStatus.DONE
    found.decision = decision
    found.paused_at = None
    found.decided_by = by
    found.decided_at = now()
    checkpoint = session.get_one(Checkpoint, found.result_checkpoint_id)
    checkpoint.verdict = decision
    serving = checkpoint if decision == Decision.PROMOTE else serving_checkpoint(session=session)
    record = DecisionRecord(
        action=decision,
        round_id=round_id,
        about_id=found.result_checkpoint_id,
        checkpoint_id=_id(serving),
        by=by,
        gate=gate or {},
        forced=forced,
    )
    session.add_all([found, checkpoint, record])
    session.flush()
    return found


def roll_back_to(*, session: Session, checkpoint: Checkpoint, by: str) -> DecisionRecord:
    """Let a checkpoint that served before serve again. Raises StateError for one that never did, NotAllowedError.

    An open round that still compares goes on with it: what is written and trained from now on starts there.
    """
    require_researcher(session=session, to="roll back to a checkpoint")
    serving = serving_checkpoint(session=session)
    served = [entry.name for entry in served_before(session=session)]
    if checkpoint.id == serving.id:
        raise StateError(f"{checkpoint.name} serves already. Nothing was changed.")
    if checkpoint.name not in served:
        raise StateError(f"{checkpoint.name} never served. What served before: {', '.join(served) or 'nothing yet'}.")
    for current in session.exec(select(Round).where(col(Round.status).in_(_COMPARED))):
        current.checkpoint_id = _id(checkpoint)
        session.add(current)
    record = DecisionRecord(
        action=Decision.ROLL_BACK, about_id=_id(serving), checkpoint_id=_id(checkpoint), by=by, gate={}
    )
    session.add(record)
    session.flush()
    return record


_COMPARED = (RoundStatus.SAMPLING, RoundStatus.COMPARING)


def serving_checkpoint(*, session: Session) -> Checkpoint:
    """The checkpoint that writes the next round, and that others are given: by the last decision, else the base."""
    last = session.exec(select(DecisionRecord).order_by(col(DecisionRecord.id).desc()).limit(1)).first()
    if last is None:
        return base_checkpoint(session=session)
    return session.get_one(Checkpoint, last.checkpoint_id)


def served_before(*, session: Session) -> list[Checkpoint]:
    """Every checkpoint that served at some time and does not now, the latest first; the base is the first that did."""
    serving = serving_checkpoint(session=session)
    order = select(DecisionRecord.checkpoint_id).order_by(col(DecisionRecord.id).desc())
    ids = dict.fromkeys([*session.exec(order), base_checkpoint(session=session).id])
    return [session.get_one(Checkpoint, each) for each in ids if each != serving.id]


def list_decisions(*, session: Session) -> list[DecisionRecord]:
    """Every decision, oldest first."""
    return list(session.exec(select(DecisionRecord).order_by(col(DecisionRecord.id))))


def _id(checkpoint: Checkpoint) -> int:
    assert checkpoint.id is not None
    return checkpoint.id
