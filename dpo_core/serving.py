"""`checkpoints/current`: the checkpoint that serves, at a path that never changes.

A link, switched in one step, so that whoever opens the path finds one checkpoint or the other, whole. The database has
the last word: the link is set again whenever a worker starts, in case a decision was cut off before it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from dpo_core.workspace import Workspace, resolve_model
from store.database import reading
from store.decisions import serving_checkpoint
from store.errors import StoreError

log = logging.getLogger("pairloop")
CURRENT = "current"


def point_to_serving(workspace: Workspace) -> Path | None:
    """Let `checkpoints/current` lead to the checkpoint that serves; None where that is not on this disk.

    A base that is named by a hub id has no folder here: there is no link until something was promoted. A link that
    cannot be made is said in the log, and nothing fails for it.
    """
    try:
        with reading(workspace.engine) as session:
            target = Path(resolve_model(serving_checkpoint(session=session).path, workspace.folder))
    except StoreError as error:  # a worker waits such trouble out
        log.warning("%s", error)
        return None
    link = workspace.folder / "checkpoints" / CURRENT
    if link.is_symlink() and link.resolve() == target.resolve() and target.is_dir():
        return link
    aside = link.with_name(f".{CURRENT}.{os.getpid()}")
    try:
        if not target.is_dir():
            link.unlink(missing_ok=True)
            return None
        link.parent.mkdir(exist_ok=True)
        aside.unlink(missing_ok=True)
        aside.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()), target_is_directory=True)
        aside.replace(link)
    except OSError as error:  # a file system without links: `pairloop rounds` says which one serves
        log.warning("%s could not be set: %s", link, error)
        return None
    return link
