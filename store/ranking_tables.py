"""The tables of completions that are ranked together.

    Prompt <- Slate <- SlateItem -> Completion;  Slate <- Ranking -> Annotator
    Pair points at its Slate, Comparison at the Ranking that it came of (models.py).

A ranking is kept as it was given; the comparisons of its pairs are written with it, in one transaction, and it is on
these that everything else works. The database itself enforces one current ranking for each slate and annotator.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from store.models import maybe_moment, moment


class Outcome(StrEnum):
    """What an annotator did with a slate."""

    RANKED = "ranked"
    ALL_BAD = "all_bad"
    SKIP = "skip"


class Slate(SQLModel, table=True):
    """Completions of one prompt that are ranked together, `size` of them. Imported ones are of no round.

    `content_hash` names the prompt and the texts, in whatever order: the same for the same texts anywhere. Where each
    of them stands on an annotator's screen is drawn from `order_seed`.
    """

    id: int | None = Field(default=None, primary_key=True)
    prompt_id: int = Field(foreign_key="prompt.id", index=True)
    round_id: int | None = Field(default=None, foreign_key="round.id")
    content_hash: str = Field(max_length=64, index=True)
    size: int
    order_seed: int = Field(sa_type=sa.BigInteger)
    created_at: datetime = moment()
    __table_args__ = (
        sa.CheckConstraint("size >= 2", name="size_enough"),
        sa.Index(
            "slate_imported_once",
            "content_hash",
            unique=True,
            sqlite_where=sa.text("round_id IS NULL"),
            postgresql_where=sa.text("round_id IS NULL"),
        ),
    )


class SlateItem(SQLModel, table=True):
    """A completion's place in a slate, from 0 on. It says nothing about how good the completion is."""

    __tablename__ = "slate_item"
    slate_id: int = Field(primary_key=True, foreign_key="slate.id")
    place: int = Field(primary_key=True)
    completion_id: int = Field(foreign_key="completion.id", index=True)
    __table_args__ = (sa.UniqueConstraint("slate_id", "completion_id", name="item_once"),)


class Ranking(SQLModel, table=True):
    """How one annotator ranked a slate: `tiers` of places, the best first; those in one tier are equally good.

    No tiers where all were called bad, or the slate was skipped (`tags`: why). `shown`: the places in the order in
    which they stood on the screen; empty for imports. `seconds`: how long the slate was looked at.
    """

    id: int | None = Field(default=None, primary_key=True)
    slate_id: int = Field(foreign_key="slate.id")
    annotator_id: int = Field(foreign_key="annotator.id")
    outcome: str
    tiers: list[list[int]] = Field(default_factory=list, sa_type=sa.JSON, nullable=False)
    shown: list[int] = Field(default_factory=list, sa_type=sa.JSON, nullable=False)
    tags: list[str] = Field(default_factory=list, sa_type=sa.JSON, nullable=False)
    seconds: float | None = None
    guidelines_id: int | None = Field(default=None, foreign_key="guidelines.id")
    created_at: datetime = moment()
    superseded_at: datetime | None = maybe_moment()
    __table_args__ = (
        sa.CheckConstraint("outcome IN ('ranked', 'all_bad', 'skip')", name="outcome_known"),
        sa.Index(
            "ranking_current",
            "slate_id",
            "annotator_id",
            unique=True,
            sqlite_where=sa.text("superseded_at IS NULL"),
            postgresql_where=sa.text("superseded_at IS NULL"),
        ),
    )
