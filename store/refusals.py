"""What automatic rounds were refused last: kept until the loop has moved on, so that people see why they stopped."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel

from store.models import moment
from store.rounds import latest_round


class Refusal(SQLModel, table=True):
    """A step that was refused, why, and since when: one row at most.

    `round_id`: the latest round at that moment; None before the first.
    """

    id: int = Field(default=1, primary_key=True)
    act: str
    why: str
    round_id: int | None = Field(default=None, foreign_key="round.id")
    created_at: datetime = moment()
    __table_args__ = (sa.CheckConstraint("id = 1", name="one_refusal"),)


def last_refusal(*, session: Session) -> Refusal | None:
    """What was refused last, if the loop has not moved on since."""
    return session.get(Refusal, 1)


def keep_refusal(*, session: Session, act: str, why: str) -> None:
    """Note that a step was refused. Said again, the first moment stays."""
    current = latest_round(session=session)
    new = Refusal(act=act, why=why, round_id=current.id if current else None)
    known = last_refusal(session=session)
    if known is not None and (known.act, known.why, known.round_id) == (new.act, new.why, new.round_id):
        return
    session.merge(new)


def forget_refusal(*, session: Session) -> None:
    """The loop has moved on."""
    session.execute(sa.delete(Refusal))
