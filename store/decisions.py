"""Decisions about checkpoints: which one serves, and how it came to that. Nothing is ever taken out of the record."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session, col, select

from store.checkpoints import base_checkpoint
from store.decision_tables import DecisionRecord
from store.errors import StateError
from store.models import Checkpoint, Decision, Round, RoundStatus, now
from store.roles import require_researcher
from store.rounds import latest_round


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

    `gate` and `forced`: see `DecisionRecord`. Raises StateError where there is none to decide about or nobody is named,
    NotAllowedError.
    """
    found, checkpoint = to_decide_about(session=session, round_id=round_id)
    require_name(by)
    found.status = RoundStatus.DONE
    found.decision = decision
    found.paused_at = None
    found.decided_by = by
    found.decided_at = now()
    checkpoint.verdict = decision
    serving = checkpoint if decision == Decision.PROMOTE else serving_checkpoint(session=session)
    record = DecisionRecord(
        action=decision,
        round_id=round_id,
        about_id=_id(checkpoint),
        checkpoint_id=_id(serving),
        by=by,
        gate=gate or {},
        forced=forced,
    )
    session.add_all([found, checkpoint, record])
    session.flush()
    return found


def require_name(by: str) -> None:
    """Raise StateError for a decision of nobody in particular: the record would not say whom to ask."""
    if not by.strip():
        raise StateError("Say your name first: a decision is recorded with who made it. Nothing was decided.")


def to_decide_about(*, session: Session, round_id: int, about: str | None = None) -> tuple[Round, Checkpoint]:
    """The round and its new checkpoint, as they stay until this transaction ends: nobody decides or picks meanwhile.

    `about`: the checkpoint that whoever decides was shown. Raises StateError where there is none to decide about, or
    where it is another by now, NotAllowedError.
    """
    require_researcher(session=session, to="decide about a checkpoint")
    found = lock_round(session=session, round_id=round_id)
    if found.status != RoundStatus.DECIDING or found.result_checkpoint_id is None:
        raise StateError(f"Round {found.number} has no new checkpoint to decide about (it is {found.status}).")
    checkpoint = session.get_one(Checkpoint, found.result_checkpoint_id)
    if about is not None and about != checkpoint.name:
        raise StateError(
            f"You were shown {about}, but round {found.number} is about {checkpoint.name} by now: somebody picked "
            "another checkpoint or went on. Nothing was decided; look again and decide anew."
        )
    return found, checkpoint


def lock_round(*, session: Session, round_id: int) -> Round:
    """The round as it is by now, kept from everybody else until this transaction ends."""
    # Read anew: whoever had to wait for the lock may have read the round before that.
    wanted = select(Round).where(Round.id == round_id).with_for_update()
    return session.exec(wanted, execution_options={"populate_existing": True}).one()


def roll_back_to(*, session: Session, checkpoint: Checkpoint, by: str) -> DecisionRecord:
    """Let a checkpoint that served before serve again.

    Raises StateError for one that never did and where nobody is named, NotAllowedError.

    An open round that still compares goes on with it: what is written and trained from now on starts there.
    """
    require_researcher(session=session, to="roll back to a checkpoint")
    require_name(by)
    latest = latest_round(session=session)
    if latest is not None and latest.id is not None:  # its decision says who serves as well
        lock_round(session=session, round_id=latest.id)
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
