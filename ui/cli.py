"""The command line: `pairloop COMMAND`. What the app can do to data or runs, the command line can do too.

This file has the table of commands, the exit codes and nothing else; the commands are in ui/commands/, each a short
function that calls one function of the loop or the store. They are loaded when they are asked for, so that
`pairloop --help` answers at once.

Exit codes: 0 done, 2 yours to mend (the message says how), 1 ours (a bug: please report it), 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from dpo_core.errors import CoreError
from store.errors import StoreError

DONE, OURS, YOURS, STOPPED = 0, 1, 2, 130
# What the system refuses for reasons that lie with the machine, not with us.
YOUR_SYSTEM = {
    errno.ENOSPC: "The disk is full. Free some space and try again",
    errno.EDQUOT: "Your disk quota is used up. Free some space and try again",
    errno.EACCES: "This user may not read or write there. Check the permissions",
    errno.EPERM: "This user may not do that there. Check the permissions",
    errno.EROFS: "This is a read-only file system",
}
ISSUES = "the issue tracker of the project you installed pairloop from"

# name: (panel, module in ui.commands, function, what `pairloop --help` says)
COMMANDS: dict[str, tuple[str, str, str, str]] = {
    "demo": ("Start", "serve", "demo", "Try pairloop: a small model, its prompts and the app, ready to compare."),
    "init": ("Start", "workspace", "init", "Make a workspace for a model of your own."),
    "import": ("Start", "data", "import_files", "Bring in prompts, or preferences and rankings from elsewhere."),
    "up": ("Start", "serve", "up", "Start the app and a worker; Ctrl-C stops both."),
    "status": ("The loop", "workspace", "status", "Where the loop stands and which command is next."),
    "sample": ("The loop", "runs", "sample", "Start a round, or add pairs to the open one."),
    "train": ("The loop", "runs", "train", "Train the next checkpoint on the comparisons."),
    "queue": ("The loop", "queueing", "queue", "What is asked next; pause, put prompts first, ask again."),
    "evaluate": ("The loop", "runs", "evaluate", "Judge a checkpoint on held-out comparisons."),
    "duels": ("The loop", "duels", "duels", "What people said of checkpoints in blind duels; write more."),
    "rounds": ("The loop", "rounds", "rounds", "What happened in each round; promote, keep or roll back."),
    "report": ("The loop", "report", "report", "Write what was done and what came of it as one HTML file."),
    "lineage": (
        "The loop",
        "lineage",
        "lineage",
        "Where each checkpoint comes from; model cards; weights to take away.",
    ),
    "reproduce": (
        "The loop",
        "lineage",
        "reproduce",
        "Train a checkpoint once more from its record; compare the weights.",
    ),
    "runs": ("The loop", "runs", "runs", "Background runs: list, show, follow, log, cancel, retry."),
    "invite": ("People", "people", "invite", "Print a link that lets somebody in, once."),
    "annotators": ("People", "people", "annotators", "Who compared and who may; leaving somebody out."),
    "quality": ("Data", "quality", "quality", "How well annotators agree, with each other and with themselves."),
    "snapshot": ("Data", "data", "snapshot", "Cut a preference dataset from the comparisons, or list those cut."),
    "export": ("Data", "data", "export", "Write a snapshot as a dataset that TRL trains on."),
    "backup": ("Data", "workspace", "backup", "Copy a workspace safely while it is in use."),
    "worker": ("More", "serve", "worker", "Carry out runs, here or on another machine that shares the workspace."),
    "simulate": ("More", "simulate", "simulate", "Measure the loop with annotators of a known taste."),
}


class LazyGroup(TyperGroup):
    """A group whose help is the table above, and whose commands are imported when they are called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (panel, _, _, text) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=text, rich_help_panel=panel, callback=lambda: None))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command itself, in place of the line that stands for it in the help."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """The command of this name, as click has it."""
    _, module, function_name, _ = COMMANDS[name]
    function = getattr(importlib.import_module(f"ui.commands.{module}"), function_name)
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    single.command(name, help=_flowing(function.__doc__))(function)
    return typer.main.get_command(single)


def _flowing(text: str) -> str:
    """A docstring with each paragraph on one line, to be wrapped to the terminal; those that begin with \\b stay."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(part if part.startswith("\b") else " ".join(part.split()) for part in paragraphs)


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"pairloop {installed_version()}")
        raise typer.Exit


def installed_version() -> str:
    """The version of the installed package."""
    try:
        return version("pairloop")
    except PackageNotFoundError:
        return "(not installed)"


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="PAIRLOOP_DEBUG", help="Show the traceback when pairloop itself fails.")
    ] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compare completions in a browser, train on the choices with DPO, compare what the new checkpoint writes.

    Every command works on the workspace in the current folder,
    or on the one that --workspace names.

    \b
    Start here:   pairloop demo
    Your model:   pairloop init my-workspace --model path/or/hub-id
    Any command:  pairloop COMMAND --help

    Exit codes: 0 done, 2 yours to mend (the message says how),
    1 a fault of pairloop, 130 stopped with Ctrl-C.
    """
    if debug:
        os.environ["PAIRLOOP_DEBUG"] = "1"


def run(arguments: list[str]) -> int:
    """Carry out one command line and return its exit code."""
    # torch's threads read this when it is loaded: those that wait must sleep, not take the cores from the app.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(arguments, prog_name="pairloop")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else OURS
    except (CoreError, StoreError) as error:
        print(f"pairloop: {error}", file=sys.stderr)
        return YOURS
    except KeyboardInterrupt:
        return STOPPED
    except Exception as error:
        return _report_fault(error)
    return DONE


def _report_fault(error: Exception) -> int:
    """Say what went wrong, and return whose fault it is: the machine's (yours to mend), or ours."""
    if isinstance(error, OSError) and error.errno in YOUR_SYSTEM:
        where = f" ({error.filename})" if error.filename else ""
        print(f"pairloop: {YOUR_SYSTEM[error.errno]}{where}. Everything saved before is safe.", file=sys.stderr)
        return YOURS
    if os.environ.get("PAIRLOOP_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    print(
        f"pairloop: something went wrong that is not your fault: {type(error).__name__}: {error}\n"
        "What was saved before is safe. Run the command again with PAIRLOOP_DEBUG=1 to see where it happened,\n"
        f"and report that text, with the output of `pairloop --version`, in {ISSUES}.",
        file=sys.stderr,
    )
    return OURS


def main() -> None:
    """The `pairloop` command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
