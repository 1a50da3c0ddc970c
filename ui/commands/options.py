"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

HERE = Path()

WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar="PAIRLOOP_WORKSPACE",
        metavar="FOLDER",
        help="The workspace to work on.",
        show_default="the current folder",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, for scripts; messages go to stderr.")
]
DetachOption = Annotated[
    bool, typer.Option("--detach", help="Only put the run in the queue, for a worker to carry out.")
]


def only_one(**given: object) -> None:
    """Raise a usage error that names the options given where they exclude each other."""
    named = [f"--{name}" for name, value in given.items() if value]
    if len(named) > 1:
        raise typer.BadParameter(f"{', '.join(named[:-1])} and {named[-1]} do not go together: give one of them.")


def this_person() -> str:
    """Who asks for a run, as the record keeps it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return "command line"
