"""A backup: settings, guidelines, database and snapshots of a workspace, and the checkpoints that it goes on with.

The base model is not in it: it lies outside the workspace. What comes out is a workspace itself: to restore one, unpack
it and open it. Importable without torch.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sqlmodel import Session

from dpo_core.config import FILE_NAME, StoreSettings
from dpo_core.errors import WorkspaceError
from dpo_core.guidelines import GUIDELINES_FILE
from dpo_core.loop import round_stories
from dpo_core.rendered_settings import render_settings
from dpo_core.workspace import Workspace
from store.checkpoints import BASE, full_weights_below, list_checkpoints
from store.database import backup_database, reading
from store.decisions import serving_checkpoint
from store.models import Checkpoint, RoundStatus


def wanted_checkpoints(workspace: Workspace, *, with_checkpoints: bool | None = None) -> list[str]:
    """The names of the checkpoints to take along: all, none, or (None) those without which the loop cannot go on.

    Those are the one that writes the next round, what the open round was written by and came to, and the full weights
    that an adapter among them sits on. Only checkpoints whose files are there.
    """
    with reading(workspace.engine) as session:
        every = list_checkpoints(session=session)
        wanted = {each.id for each in every} if with_checkpoints else set()
        if with_checkpoints is None:
            wanted = {each.id for each in _to_go_on(session)}
    return [
        each.name
        for each in every
        if each.id in wanted and each.name != BASE and (workspace.folder / each.path).is_dir()
    ]


def _to_go_on(session: Session) -> list[Checkpoint]:
    found = [serving_checkpoint(session=session)]
    for story in round_stories(session=session):
        if story.round.status != RoundStatus.DONE:
            found += [story.checkpoint, *story.candidates]
    return found + [full_weights_below(session=session, checkpoint=each) for each in found]


def back_up(workspace: Workspace, target: Path, checkpoints: Sequence[str] = ()) -> Path:
    """Write a backup while the workspace is in use: a new folder, or a zip file where `target` ends in .zip.

    `checkpoints`: the names of those whose weights are taken along (`wanted_checkpoints`). It is made
    aside and renamed when complete. Raises WorkspaceError where `target` exists or cannot be written, DatabaseError
    where the database is not SQLite.
    """
    target = target.expanduser().absolute()
    if target.exists():
        raise WorkspaceError(f"{target} exists already. Nothing was written; choose another name.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as aside:
            _finish(_copy(workspace, Path(aside) / target.stem, checkpoints), target)
    except OSError as error:
        raise WorkspaceError(f"No backup can be written to {target}: {error.strerror or error}.") from error
    return target


def _copy(workspace: Workspace, folder: Path, checkpoints: Sequence[str]) -> Path:
    folder.mkdir()
    _copy_settings(workspace, folder)
    if (workspace.folder / GUIDELINES_FILE).is_file():
        shutil.copy2(workspace.folder / GUIDELINES_FILE, folder)
    backup_database(workspace.engine, folder / "pairloop.db")
    for name in ("snapshots", *(f"checkpoints/{name}" for name in checkpoints)):
        shutil.copytree(workspace.folder / name, folder / name, ignore=shutil.ignore_patterns(".*"))
    return folder


def _copy_settings(workspace: Workspace, folder: Path) -> None:
    if not workspace.settings.store.url:
        shutil.copy2(workspace.folder / FILE_NAME, folder)
        return
    # The copy must open the database beside it, not the one that it is a backup of.
    settings = workspace.settings.model_copy(update={"store": StoreSettings()})
    (folder / FILE_NAME).write_text(render_settings(settings), encoding="utf-8")


def _finish(folder: Path, target: Path) -> None:
    done = folder
    if target.suffix == ".zip":
        done = Path(shutil.make_archive(str(folder.with_name("archive")), "zip", folder.parent, folder.name))
    for path in [done] if done.is_file() else [path for path in done.rglob("*") if path.is_file()]:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    done.rename(target)
