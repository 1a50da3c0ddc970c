"""`pairloop report`: what was done and what came of it, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    if not target.parent.is_dir():
        raise typer.BadParameter(f"There is no folder {target.parent} to write into.")
    text = write_report(open_workspace(workspace), round_number=round_number)
    write_atomically(target, text)
    say(f"The report is in {target} ({len(text) // 1024 + 1} kB).")
