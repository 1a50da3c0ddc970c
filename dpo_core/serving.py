"""`checkpoints/current`: the checkpoint that serves, at a path that never changes.

A link, switched in one step, so that whoever opens the path finds one checkpoint or the other, whole. The database has
the last word. It is asked under a lock that is held until the link is set, so that nobody who was slow puts an older
answer back; and a worker looks every few seconds whether the link says the same, in case a decision was cut off before
it came to that.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlmodel import Session

from dpo_core.workspace import Workspace, resolve_model
from store.database import reading
from store.decisions import list_decisions, serving_checkpoint
from store.errors import StoreError
from store.models import Checkpoint

log = logging.getLogger("pairloop")
CURRENT = "current"
LOOK_SECONDS = 10.0  # between two looks of a worker


def point_to_serving(workspace: Workspace) -> None:
    """Let `checkpoints/current` lead to the checkpoint that serves.

    A base that is named by a hub id has no folder here: there is no link until something was promoted. A link that
    cannot be set is said in the log, on the Loop page and by `pairloop status`, and nothing fails for it.
    """
    trouble = _point(workspace)
    if trouble:
        log.warning("%s", trouble)


def misled(session: Session, workspace: Workspace) -> str:
    """What is wrong with the link and what to do about it; empty where it leads to what serves, or none can."""
    link, serving = _link(workspace), serving_checkpoint(session=session)
    target = _folder(serving, workspace)
    if _is_in_the_way(link):
        found = (
            f"{link} is not pairloop's link, so it does not lead to {serving.name}, which serves. Move it elsewhere."
        )
    elif link.is_symlink() and not _leads_to(link, target):
        found = f"{link} leads to {link.resolve().name}, but {serving.name} serves."
    elif not link.is_symlink() and target.is_dir() and list_decisions(session=session):
        found = f"{link} is not there, and should lead to {serving.name}, which serves."
    else:
        return ""
    return (
        f"{found} A worker sets the link within seconds (`pairloop up` or `pairloop worker` starts one; its log says "
        "why where it cannot). Until then go by what `pairloop rounds` says."
    )


def _point(workspace: Workspace) -> str:
    """Set the link. Returns what is wrong with it then, and why."""
    link, why = _link(workspace), ""
    try:
        with _alone(link.parent), reading(workspace.engine) as session:
            _switch(link, _folder(serving_checkpoint(session=session), workspace))
    except OSError as error:  # a folder that may not be written to, a file system without links
        why = f" It could not be set: {error}."
    except StoreError as error:  # a worker waits such trouble out
        return str(error)
    with reading(workspace.engine) as session:
        found = misled(session, workspace)
    return f"{found}{why}" if found else ""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else sets the link meanwhile, in whatever process; whoever dies lets go of the lock."""
    folder.mkdir(exist_ok=True)
    with (folder / f".{CURRENT}.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _switch(link: Path, target: Path) -> None:
    if _is_in_the_way(link) or _leads_to(link, target):
        return
    if not target.is_dir():
        link.unlink(missing_ok=True)
        return
    aside = link.with_name(f".{CURRENT}.new")
    aside.unlink(missing_ok=True)  # of somebody who died here
    try:
        aside.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()), target_is_directory=True)
        aside.replace(link)
    finally:
        aside.unlink(missing_ok=True)


def _link(workspace: Workspace) -> Path:
    return workspace.folder / "checkpoints" / CURRENT


def _folder(checkpoint: Checkpoint, workspace: Workspace) -> Path:
    return Path(resolve_model(checkpoint.path, workspace.folder))


def _is_in_the_way(link: Path) -> bool:
    """Whether something of somebody's own has the link's name: it is left alone."""
    return os.path.lexists(link) and not link.is_symlink()


def _leads_to(link: Path, target: Path) -> bool:
    return link.is_symlink() and target.is_dir() and link.resolve() == target.resolve()


class LinkKeeper:
    """What a worker keeps of the link: when it looked last, and what it said then, so that it is said once."""

    def __init__(self, *, every: float = LOOK_SECONDS) -> None:
        self._every = every
        self._looked = -every
        self._said = ""

    def look(self, workspace: Workspace) -> None:
        """Set the link where it says something else than the database."""
        if time.monotonic() - self._looked < self._every:
            return
        self._looked = time.monotonic()
        trouble = _point(workspace)
        if trouble and trouble != self._said:
            log.warning("%s", trouble)
        self._said = trouble
