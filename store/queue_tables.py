"""The tables of the queue: what is on whose screen, how far everybody is in it, and how much they have done.

Pair, Annotator <- Hold;  Round, Annotator <- QueueMark, RoundWork
"""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field, SQLModel

from store.models import UtcDateTime


class Hold(SQLModel, table=True):
    """A pair on somebody's screen. One that has run out keeps nobody else out, and is still its annotator's first."""

    pair_id: int = Field(primary_key=True, foreign_key="pair.id")
    annotator_id: int = Field(primary_key=True, foreign_key="annotator.id", index=True)
    until: datetime = Field(sa_type=UtcDateTime, nullable=False)


class QueueMark(SQLModel, table=True):
    """How far somebody is in a round's queue: what is before it they answered, or others had it on their screens.

    The queue is searched from here on, and from its start once nothing is found: whoever is far ahead of the others is
    served as quickly as they.
    """

    __tablename__ = "queue_mark"
    round_id: int = Field(primary_key=True, foreign_key="round.id")
    annotator_id: int = Field(primary_key=True, foreign_key="annotator.id")
    position: int


class RoundWork(SQLModel, table=True):
    """How much of a round's work somebody has done: what `store/round_work.py` counts as verdicts come and go."""

    __tablename__ = "round_work"
    round_id: int = Field(primary_key=True, foreign_key="round.id")
    annotator_id: int = Field(primary_key=True, foreign_key="annotator.id")
    judged: int
    measured: int
