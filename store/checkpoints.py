"""Checkpoints: weights on disk plus their lineage."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session, col, select

from store.errors import StateError, UnknownRecordError
from store.models import Checkpoint, Completion, Round

BASE = "base"  # the name of the checkpoint that everything started from


def add_checkpoint(
    *,
    session: Session,
    name: str,
    path: str,
    kind: str = "full",
    parent_id: int | None = None,
    snapshot_id: int | None = None,
    settings: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    code_version: str = "",
) -> Checkpoint:
    """Register weights that are on disk, complete. Raises StateError where another checkpoint has the name.

    The base alone is returned as it was registered: making a workspace that was cut off begins again.
    """
    found = session.exec(select(Checkpoint).where(Checkpoint.name == name)).first()
    if found is not None and name == BASE:
        return found
    # No resumed run comes here twice: it registers its checkpoint and ends in one transaction. Whoever does come would
    # be handed another run's figures for its own weights.
    if found is not None:
        raise StateError(f"There is a checkpoint called {name!r} already, made in {found.path}. It was kept as it is.")
    checkpoint = Checkpoint(
        name=name,
        path=path,
        kind=kind,
        parent_id=parent_id,
        snapshot_id=snapshot_id,
        settings=settings or {},
        metrics=metrics or {},
        code_version=code_version,
    )
    session.add(checkpoint)
    session.flush()
    return checkpoint


def get_checkpoint(*, session: Session, name: str) -> Checkpoint:
    """The checkpoint of this name (`base`, `round-1`, ...). Raises UnknownRecordError with the names there are."""
    found = session.exec(select(Checkpoint).where(Checkpoint.name == name)).first()
    if found is None:
        names = ", ".join(checkpoint.name for checkpoint in list_checkpoints(session=session)) or "none yet"
        raise UnknownRecordError(f"There is no checkpoint called {name!r}. There are: {names}.")
    return found


def list_checkpoints(*, session: Session) -> list[Checkpoint]:
    """All checkpoints, oldest first."""
    return list(session.exec(select(Checkpoint).order_by(col(Checkpoint.id))))


def base_checkpoint(*, session: Session) -> Checkpoint:
    """The checkpoint that everything started from. Raises UnknownRecordError where `pairloop init` did not finish."""
    return get_checkpoint(session=session, name=BASE)


def has_been_used(*, session: Session, checkpoint: Checkpoint) -> bool:
    """Whether anything was written by this checkpoint or trained from it."""
    for column in (col(Round.checkpoint_id), col(Completion.checkpoint_id), col(Checkpoint.parent_id)):
        if session.exec(select(column).where(column == checkpoint.id).limit(1)).first() is not None:
            return True
    return False


def full_weights_below(*, session: Session, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint whose full weights this one's adapter sits on: its nearest forebear that is no adapter itself."""
    while checkpoint.kind == "lora" and checkpoint.parent_id is not None:
        checkpoint = session.get_one(Checkpoint, checkpoint.parent_id)
    return base_checkpoint(session=session) if checkpoint.kind == "lora" else checkpoint
