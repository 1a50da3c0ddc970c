"""Guidelines: what annotators go by. Every version is kept, with who has read it; comparisons name the one in force."""

from __future__ import annotations

from sqlalchemy import func
from sqlmodel import Session, col, select

from store.adding_once import add_unless_there
from store.hashing import text_hash
from store.models import Guidelines, GuidelinesRead
from store.roles import require_researcher


def guidelines_in_force(*, session: Session) -> Guidelines | None:
    """The version that annotators go by now, if there ever was one."""
    return session.exec(select(Guidelines).order_by(col(Guidelines.id).desc()).limit(1)).first()


def guidelines_id_in_force(*, session: Session) -> int | None:
    """The id of that version, which a comparison is kept with."""
    found: int | None = session.scalar(_NEWEST)
    return found


_NEWEST = select(func.max(Guidelines.id))


def put_in_force(*, session: Session, text: str) -> Guidelines:
    """Let annotators go by this text from now on. The text that is in force already stays as it is.

    Raises NotAllowedError.
    """
    require_researcher(session=session, to="change the guidelines")
    before = guidelines_in_force(session=session)
    if before is not None and before.hash == text_hash(text):
        return before
    version = Guidelines(hash=text_hash(text), text=text)
    session.add(version)
    session.flush()
    return version


def has_read(*, session: Session, annotator_id: int, version: Guidelines) -> bool:
    """Whether this annotator said that they read this text, now or when it was in force before."""
    return session.get(GuidelinesRead, (annotator_id, version.hash)) is not None


def has_read_any(*, session: Session, annotator_id: int) -> bool:
    """Whether this annotator has read any guidelines so far."""
    return session.exec(select(GuidelinesRead).where(GuidelinesRead.annotator_id == annotator_id)).first() is not None


def remember_read(*, session: Session, annotator_id: int, version: Guidelines) -> None:
    """Note that this annotator has read this text; once is enough."""
    if not has_read(session=session, annotator_id=annotator_id, version=version):
        add_unless_there(session=session, row=GuidelinesRead(annotator_id=annotator_id, hash=version.hash))
