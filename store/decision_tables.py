"""The table of decisions: which checkpoint serves, since when, by whose word, and what was known at that moment."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from store.models import moment

OF_ROUND = sa.text("action <> 'roll_back'")


class DecisionRecord(SQLModel, table=True):
    """One decision. `about_id`: the checkpoint it was about; `checkpoint_id`: the one that serves from then on.

    `gate`: the conditions of promotion as they stood, with their figures; `{}` where none were asked. `forced`: a
    person promoted although they were not met. A round is decided once, to promote or to keep.
    """

    __tablename__ = "decision"
    id: int | None = Field(default=None, primary_key=True)
    action: str
    round_id: int | None = Field(default=None, foreign_key="round.id", index=True)
    about_id: int = Field(foreign_key="checkpoint.id")
    checkpoint_id: int = Field(foreign_key="checkpoint.id")
    by: str = ""
    gate: dict[str, Any] = Field(default_factory=dict, sa_type=sa.JSON, nullable=False)
    forced: bool = False
    created_at: datetime = moment()
    __table_args__ = (
        sa.CheckConstraint("action IN ('promote', 'keep', 'roll_back')", name="action_known"),
        sa.Index("decision_of_round", "round_id", unique=True, sqlite_where=OF_ROUND, postgresql_where=OF_ROUND),
    )
