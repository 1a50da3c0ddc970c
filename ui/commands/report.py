"""`pairloop report`: what was done and what came of it, as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from dpo_core.errors import WorkspaceError
from dpo_core.workspace import open_workspace, write_atomically
from ui.commands.options import HERE, WorkspaceOption
from ui.commands.printing import say
from ui.report import write_report


def report(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; an existing file is replaced.")],
    round_number: Annotated[int | None, typer.Option("--round", min=1, help="Of this round alone.")] = None,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Write a report of the whole effort, or of one round: HTML in one file, figures included.

    \b
    Example:
      pairloop report report.html
      pairloop report round-2.html --round 2
    """
    with _yours_to_mend(target):
        if not target.parent.is_dir():
            raise typer.BadParameter(f"There is no folder {target.parent} to write into.")
        if target.is_dir():
            raise typer.BadParameter(f"{target} is a folder. Name a file to write: {target / 'report.html'}, say.")
    text = write_report(open_workspace(workspace), round_number=round_number)
    with _yours_to_mend(target):
        write_atomically(target, text)
    say(f"The report is in {target} ({len(text) // 1024 + 1} kB).")


@contextmanager
def _yours_to_mend(target: Path) -> Iterator[None]:
    """What the system has against this place, in words: whatever it is, another place will do."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise WorkspaceError(f"{target} cannot be written: {why}. Nothing was; name another place for it.") from error
