"""The table of the Playground: what somebody asked two checkpoints, and what these wrote.

Checkpoint, Annotator, Prompt, Pair <- Exchange
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from store.models import maybe_moment, moment


class ExchangeStatus(StrEnum):
    """Where an exchange stands. The first two are open; the others are final."""

    WAITING = "waiting"
    WRITING = "writing"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class Exchange(SQLModel, table=True):
    """One turn of a chat with two checkpoints: both are asked the same messages, with the same seed.

    `text_a` and `text_b` grow while they are written. `made`: what a completion keeps of each, "a" and "b", once they
    are done. Whoever writes it is its `owner`, until the lease runs out; `attempt` counts the writers it had.

    `prompt_id`: it was made a prompt; `pair_id`: and a pair. With a prompt and no pair it waits for the next round. One
    of the same messages and texts as another that was made a pair has that one's. Who asked, `kept_from`, saw who wrote
    what, and is not asked about the pair while somebody else can be.
    """

    id: int | None = Field(default=None, primary_key=True)
    asked_by_id: int = Field(foreign_key="annotator.id", index=True)
    messages: list[dict[str, str]] = Field(sa_type=sa.JSON, nullable=False)
    checkpoint_a_id: int = Field(foreign_key="checkpoint.id")
    checkpoint_b_id: int = Field(foreign_key="checkpoint.id")
    seed: int = Field(sa_type=sa.BigInteger)
    settings: dict[str, Any] = Field(default_factory=dict, sa_type=sa.JSON, nullable=False)
    status: str = Field(default=ExchangeStatus.WAITING, index=True)
    text_a: str = ""
    text_b: str = ""
    made: dict[str, Any] = Field(default_factory=dict, sa_type=sa.JSON, nullable=False)
    error: str | None = None
    stop_requested: bool = False
    owner: str | None = None
    attempt: int = 0
    lease_expires_at: datetime | None = maybe_moment()
    prompt_id: int | None = Field(default=None, foreign_key="prompt.id")
    pair_id: int | None = Field(default=None, foreign_key="pair.id", index=True)
    kept_from: int | None = Field(default=None, foreign_key="annotator.id")
    created_at: datetime = moment()
    finished_at: datetime | None = maybe_moment()
    __table_args__ = (
        sa.CheckConstraint("status IN ('waiting', 'writing', 'done', 'failed', 'stopped')", name="status_known"),
    )

    @property
    def texts(self) -> dict[str, str]:
        """What was written so far, by side."""
        return {"a": self.text_a, "b": self.text_b}

    @property
    def checkpoint_ids(self) -> dict[str, int]:
        """Who writes, by side."""
        return {"a": self.checkpoint_a_id, "b": self.checkpoint_b_id}
