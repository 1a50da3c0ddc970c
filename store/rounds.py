"""Rounds: sample pairs, compare, snapshot, train, evaluate; what is decided then is in decisions.py."""

from __future__ import annotations

from sqlalchemy import func
from sqlmodel import Session, col, select

from store.errors import StateError, UnknownRecordError
from store.models import Round, RoundStatus, RunKind, now
from store.roles import require_researcher
from store.runs import last_run


def add_round(*, session: Session, checkpoint_id: int, target: int) -> Round:
    """Open the next round. Raises StateError while another is open, NotAllowedError."""
    require_researcher(session=session, to="start a round")
    latest = latest_round(session=session)
    if latest is not None and latest.status != RoundStatus.DONE:
        raise StateError(f"Round {latest.number} is still open ({latest.status}). Finish or decide it first.")
    number = (session.exec(select(func.max(Round.number))).one() or 0) + 1
    opened = Round(number=number, checkpoint_id=checkpoint_id, target=target)
    session.add(opened)
    session.flush()
    return opened


def latest_round(*, session: Session) -> Round | None:
    """The round that was opened last, if any."""
    return session.scalar(_LATEST)


def hold_latest_round(*, session: Session) -> None:
    """Let nobody pause the latest round, decide about it or move it on until this transaction ends."""
    session.execute(_LATEST.with_for_update())


_LATEST = select(Round).order_by(col(Round.number).desc()).limit(1)


def list_rounds(*, session: Session) -> list[Round]:
    """All rounds, oldest first."""
    return list(session.exec(select(Round).order_by(col(Round.number))))


def rounds_begun_from(*, session: Session, checkpoint_id: int) -> list[Round]:
    """The rounds that this checkpoint is the parent of, oldest first: it has learned from none of them.

    What all but the last were trained to was kept back, or rolled back from. As a rule the checkpoint wrote their
    texts as well; not where it took the place of another while the round was compared.
    """
    return list(session.exec(select(Round).where(Round.checkpoint_id == checkpoint_id).order_by(col(Round.number))))


def is_on_imports(*, session: Session, entry: Round) -> bool:
    """Whether the round was opened for imported comparisons: no pair was ever asked to be written for it."""
    assert entry.id is not None
    return last_run(session=session, round_id=entry.id, kind=RunKind.SAMPLE) is None


def get_round(*, session: Session, number: int) -> Round:
    """The round of this number. Raises UnknownRecordError."""
    found = session.exec(select(Round).where(Round.number == number)).first()
    if found is None:
        raise UnknownRecordError(f"There is no round {number}.")
    return found


def set_round_status(*, session: Session, round_id: int, status: RoundStatus) -> Round:
    """Move a round on. A round that is done stays done: raises StateError, NotAllowedError."""
    require_researcher(session=session, to="move a round on")
    found = session.get_one(Round, round_id)
    if found.status == RoundStatus.DONE:
        raise StateError(f"Round {found.number} is done; it cannot go back to {status}.")
    found.status = status
    session.add(found)
    return found


def is_paused(found: Round | None) -> bool:
    """Whether a round waits until somebody resumes it; one that is done does not."""
    return found is not None and found.paused_at is not None and found.status != RoundStatus.DONE


def pause_round(*, session: Session, round_id: int) -> Round:
    """Serve nobody a pair of this round until it is resumed. Raises StateError for one that is paused or done."""
    require_researcher(session=session, to="pause or resume a round")
    found = session.get_one(Round, round_id)
    if found.status == RoundStatus.DONE:
        raise StateError(f"Round {found.number} is done; there is nothing to pause.")
    if found.paused_at is not None:
        raise StateError(f"Round {found.number} is paused already, since {found.paused_at:%Y-%m-%d %H:%M} UTC.")
    found.paused_at = now()
    session.add(found)
    return found


def resume_round(*, session: Session, round_id: int) -> Round:
    """Serve this round's pairs again. Raises StateError for one that is not paused."""
    require_researcher(session=session, to="pause or resume a round")
    found = session.get_one(Round, round_id)
    if not is_paused(found):
        raise StateError(f"Round {found.number} is not paused.")
    found.paused_at = None
    session.add(found)
    return found
