"""A workspace: the folder of one alignment effort, with its settings and its database. Importable without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, select

from dpo_core.config import FILE_NAME, Settings, load_settings
from dpo_core.errors import ModelError, SettingsError, WorkspaceError
from dpo_core.packaged import DEMO_MODEL, packaged
from dpo_core.rendered_settings import render_settings
from store.checkpoints import BASE, add_checkpoint, has_been_used
from store.database import checked_first, open_database, reading, writing
from store.hashing import content_hash, sampled_hash
from store.models import Checkpoint
from store.roles import on_behalf_of

FOLDERS = ("checkpoints", "snapshots", "runs")


@dataclass(frozen=True)
class Workspace:
    """`pairloop.toml`, `pairloop.db`, `checkpoints/`, `snapshots/`, `runs/` in one folder."""

    folder: Path
    settings: Settings

    @cached_property
    def engine(self) -> sa.Engine:
        """The database, opened and migrated on first use. Raises DatabaseError, and WorkspaceError as `follow_base`."""
        engine = open_database(self.settings.store.url or f"sqlite:///{self.folder / 'pairloop.db'}")
        follow_base(engine, self.settings.model.base, self.folder)
        return engine

    def acting_as(self, annotator_id: int) -> Workspace:
        """This workspace in one person's hands: what only researchers may do is refused to an annotator."""
        theirs = Workspace(self.folder, self.settings)
        vars(theirs)["engine"] = on_behalf_of(self.engine, annotator_id)  # where cached_property keeps it
        return theirs

    def checked_first(self, check: Callable[[Session], None]) -> Workspace:
        """This workspace, for one step that is only taken if `check` raises nothing, in the step's own transaction."""
        fresh = Workspace(self.folder, self.settings)
        vars(fresh)["engine"] = checked_first(self.engine, check)
        return fresh

    def with_settings(self, settings: Settings) -> Workspace:
        """This workspace, on the same connections, with what its file says by now."""
        fresh = Workspace(self.folder, settings)
        vars(fresh)["engine"] = self.engine
        return fresh

    def read_anew(self) -> Workspace:
        """This workspace, on the same connections, with what its file says by now.

        Raises SettingsError for a file that cannot be used, or not while pairloop runs: another database or base model.
        """
        path = self.folder / FILE_NAME
        settings = load_settings(path)
        if (settings.store, settings.model.base) != (self.settings.store, self.settings.model.base):
            raise SettingsError(
                f"{path} names another database ([store]) or base model than it did when pairloop was started. If that "
                "is meant, stop pairloop and start it again; else put it back."
            )
        return self.with_settings(settings)

    def run_folder(self, run_id: int) -> Path:
        """Where a run keeps its log, its metrics and what it resumes from."""
        return self.folder / "runs" / f"{run_id}"

    def checkpoint_path(self, checkpoint: Checkpoint) -> str:
        """What `from_pretrained` is given for a checkpoint: a folder, or a hub id for a base that is no folder.

        Raises ModelError for a checkpoint of ours whose folder is gone: taken for a hub id, `checkpoints/round-1`
        would be asked for on the hub, and whatever is there under that name be loaded.
        """
        path = resolve_model(checkpoint.path, self.folder)
        if checkpoint.name != BASE and not Path(path).is_dir():
            raise ModelError(
                f"The weights of {checkpoint.name} are not there: {self.folder / checkpoint.path} is missing. "
                "Restore the folder (`pairloop backup` keeps those that the loop goes on with)."
            )
        return path


def resolve_model(name: str, folder: Path) -> str:
    """A model's folder, looked for beside pairloop.toml and as given; or the name itself, taken for a hub id.

    `pairloop:demo` is the model that ships with pairloop, wherever it is installed.
    """
    if name == DEMO_MODEL:
        return str(packaged("demo/model"))
    for candidate in (folder / name, Path(name).expanduser()):
        if candidate.is_dir():
            return str(candidate.resolve())
    return name


def open_workspace(folder: Path) -> Workspace:
    """The workspace in this folder. Raises WorkspaceError where there is none, SettingsError for a bad file."""
    folder = folder.expanduser().resolve()
    if not (folder / FILE_NAME).exists():
        raise WorkspaceError(
            f"{folder} is not a workspace: it has no {FILE_NAME}.\n"
            "Make one with `pairloop init`, try `pairloop demo`, or name another with --workspace."
        )
    try:
        for name in FOLDERS:
            (folder / name).mkdir(exist_ok=True)
    except OSError as error:
        raise WorkspaceError(f"{error.filename} is missing and cannot be made: {error.strerror}.") from error
    return Workspace(folder, load_settings(folder / FILE_NAME))


def create_workspace(folder: Path, settings: Settings) -> Workspace:
    """Make a workspace and register its base checkpoint. Raises WorkspaceError where one is already.

    pairloop.toml is written last: a folder without it is no workspace, and making one again there goes on.
    """
    folder = folder.expanduser().resolve()
    if (folder / FILE_NAME).exists():
        raise WorkspaceError(f"{folder} is a workspace already. Nothing was changed.")
    try:
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkspaceError(f"No workspace can be made in {folder}: {error.strerror}.") from error
    workspace = Workspace(folder, settings)
    with writing(workspace.engine) as session:
        register_base(session, settings, folder)
    write_atomically(folder / FILE_NAME, render_settings(settings))
    return workspace


def register_base(session: Session, settings: Settings, folder: Path) -> Checkpoint:
    """The base model as the first checkpoint, with what its weights are told by."""
    known = {"fingerprint": _fingerprint(settings.model.base, folder)}
    return add_checkpoint(session=session, name=BASE, path=settings.model.base, settings=known)


def follow_base(engine: sa.Engine, named: str, folder: Path) -> None:
    """Go by the model that pairloop.toml names, where the database knows it under another name or in another place.

    Raises WorkspaceError where completions or checkpoints rest on another model: they would be said to be this one's.
    """
    with reading(engine) as session:
        base = session.exec(select(Checkpoint).where(Checkpoint.name == BASE)).first()
    if base is None or base.path == named:
        return
    found, known = _fingerprint(named, folder), base.settings.get("fingerprint", "")
    with writing(engine) as session:
        if has_been_used(session=session, checkpoint=base) and (not found or found != known):
            raise WorkspaceError(
                f"{FILE_NAME} names the model {named}, but this workspace began with {base.path}, and its pairs or "
                f"checkpoints rest on that. Nothing was changed: put base = {json.dumps(base.path)} back (or the place "
                "it was moved to), or make a new workspace for the other model."
            )
        session.get_one(Checkpoint, base.id).path = named
        session.get_one(Checkpoint, base.id).settings = base.settings | {"fingerprint": found}


def _fingerprint(base: str, folder: Path) -> str:
    """What a model folder's weights are told by, wherever it lies; "" for a hub id."""
    path = Path(resolve_model(base, folder))
    weights = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    return content_hash([[file.name, sampled_hash(file)] for file in weights]) if weights else ""


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees the old text or the new one and never a part.

    Raises OSError where it cannot be written; nothing is left behind then.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except OSError:
        with suppress(OSError):  # where it was never there, or may not be looked for
            aside.unlink()
        raise
