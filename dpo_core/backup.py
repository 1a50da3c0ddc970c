"""A backup: the settings, the database and the snapshots of a workspace, and its checkpoints if asked for.

What comes out is a workspace itself: to restore one, unpack it and open it. Importable without torch.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from dpo_core.config import FILE_NAME, StoreSettings, render_settings
from dpo_core.errors import WorkspaceError
from dpo_core.workspace import Workspace
from store.database import backup_database


def back_up(workspace: Workspace, target: Path, *, with_checkpoints: bool = False) -> Path:
    """Write a backup while the workspace is in use: a new folder, or a zip file where `target` ends in .zip.

    It is made aside and renamed when complete. Raises WorkspaceError where `target` exists or cannot be written,
    DatabaseError where the database is not SQLite.
    """
    target = target.expanduser().absolute()
    if target.exists():
        raise WorkspaceError(f"{target} exists already. Nothing was written; choose another name.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as aside:
            _finish(_copy(workspace, Path(aside) / target.stem, with_checkpoints), target)
    except OSError as error:
        raise WorkspaceError(f"No backup can be written to {target}: {error.strerror or error}.") from error
    return target


def _copy(workspace: Workspace, folder: Path, with_checkpoints: bool) -> Path:
    folder.mkdir()
    _copy_settings(workspace, folder)
    backup_database(workspace.engine, folder / "pairloop.db")
    for name in ("snapshots", "checkpoints") if with_checkpoints else ("snapshots",):
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
