"""The workspace's guidelines.md: what annotators are told to go by. Importable without torch.

The file is the researcher's to edit at any time. Whenever its text is another one, that text becomes a version in the
database, which is what comparisons are kept with and what annotators say that they have read.
"""

from __future__ import annotations

from pathlib import Path

from dpo_core.errors import WorkspaceError
from dpo_core.packaged import packaged
from dpo_core.workspace import Workspace, write_atomically
from store.database import reading, writing
from store.guidelines import guidelines_in_force, put_in_force
from store.models import Guidelines
from store.roles import of_the_machine

GUIDELINES_FILE = "guidelines.md"
_seen: dict[Path, tuple[tuple[int, int] | None, Guidelines | None]] = {}  # file: when it was written, and the version


def write_guidelines(folder: Path) -> None:
    """Put the guidelines that ship with pairloop into a workspace that has none."""
    path = folder / GUIDELINES_FILE
    if not path.exists():
        write_atomically(path, packaged(GUIDELINES_FILE).read_text(encoding="utf-8"))


def current_guidelines(workspace: Workspace) -> Guidelines | None:
    """The version that annotators go by, as the file says now; None where the file is missing or empty.

    The file is read only when it was written to since. Raises WorkspaceError where it cannot be read.
    """
    path = workspace.folder / GUIDELINES_FILE
    try:
        stamp = _written(path)
        if path not in _seen or _seen[path][0] != stamp:
            text = path.read_text(encoding="utf-8") if stamp is not None else ""
            _seen[path] = stamp, _in_force(workspace, text)
    except (OSError, UnicodeDecodeError) as error:
        raise WorkspaceError(f"{path} cannot be read: {error}. Mend it, or remove it.") from error
    return _seen[path][1]


def _written(path: Path) -> tuple[int, int] | None:
    """When the file was written, in ns, and its size in bytes; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def _in_force(workspace: Workspace, text: str) -> Guidelines | None:
    """This text as the version in force. An empty one ends what was in force before."""
    with reading(workspace.engine) as session:
        before = guidelines_in_force(session=session)
    if before is None and not text.strip():
        return None
    if before is None or before.text != text:
        with writing(of_the_machine(workspace.engine)) as session:  # the owner wrote it, whoever is shown it first
            before = put_in_force(session=session, text=text)
    return before if text.strip() else None
