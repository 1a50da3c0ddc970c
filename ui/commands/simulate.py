"""`pairloop simulate`: the whole loop, with annotators whose taste is known."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpo_core.changing_settings import change_selection
from dpo_core.demo import open_demo
from dpo_core.errors import WorkspaceError
from dpo_core.tastes import load_taste
from dpo_core.workspace import Workspace, open_workspace
from store.database import reading
from store.selected import read_gains
from ui.commands.options import JsonOption
from ui.commands.printing import RunBar, percent, print_json, print_table, say
from ui.commands.runs import prepare_to_work
from ui.selection_words import as_record, gain_words

if TYPE_CHECKING:
    from dpo_core.simulate import RoundReport


class Rule(StrEnum):
    """The rules that --select knows."""

    RANDOM = "random"
    NEAR = "near"
    FAR = "far"
    DIVERSE = "diverse"
    MIXED = "mixed"


def simulate(
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often the loop is gone round.")] = 3,
    comparisons: Annotated[int, typer.Option("--comparisons", min=2, help="Comparisons in each round.")] = 40,
    taste: Annotated[
        str,
        typer.Option(
            "--taste", help="A built-in taste, or path/to/file.py:function, a plain (prompt, completion) -> float."
        ),
    ] = "brief",
    noise: Annotated[
        float, typer.Option("--noise", min=0, max=1, help="Share of verdicts that are a coin toss.")
    ] = 0.1,
    left_bias: Annotated[
        float, typer.Option("--left-bias", min=0, max=1, help="Share of verdicts that are just left.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="The same seed, the same simulation.")] = 0,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="FOLDER", help="Make the workspace here and keep it, to look at it."),
    ] = None,
    select: Annotated[
        Rule | None, typer.Option("--select", help="Select pairs so (default: as the workspace's [selection] has it).")
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option("--candidates", min=3, help="With --select: completions for each prompt, two of them asked [4]."),
    ] = None,
    workspace: Annotated[
        Path | None, typer.Option("--workspace", "-w", metavar="FOLDER", help="Use this one, with --in-place.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Yes, write simulated comparisons into the workspace named.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the loop with annotators of a known taste.

    They compare pairs as people do, and each checkpoint's true win rate over the base is then sampled afresh, by the
    taste itself. They judge its blind duels with its parent as well: what these say stands beside the truth.
    Nothing of yours is touched: it happens in a throw-away demo workspace, unless you say otherwise.
    Built-in tastes: brief, thorough, warm, structured, direct, careful, curious.

    \b
    Example:
      pairloop simulate --rounds 3 --taste warm --noise 0.1 --seed 1
      pairloop simulate --taste my_taste.py:score --left-bias 0.2 --json
      pairloop simulate --select near --candidates 4 --json
    """
    from dpo_core import simulate as simulation  # brings torch

    if candidates is not None and select is None:
        raise typer.BadParameter("--candidates goes with --select: it says from how many a pair is selected.")
    persona = simulation.Persona(load_taste(taste), noise=noise, left_bias=left_bias)
    with _place(keep, workspace, in_place) as found, RunBar() as bar:
        opened = found if select is None else _selecting(found, select, candidates or 4)
        rule = opened.settings.selection
        prepare_to_work()
        reports = simulation.simulate(
            opened, rounds=rounds, comparisons=comparisons, persona=persona, seed=seed, listener=bar
        )
        with reading(opened.engine) as session:
            gains = read_gains(session=session)
    asked = {"taste": taste, "noise": noise, "left_bias": left_bias, "comparisons": comparisons, "seed": seed}
    if as_json:
        chosen = {"select": rule.by, "candidates": rule.candidates, "random_share": rule.random_share}
        gained = {"selection": as_record(gains) if gains.pairs else None}
        print_json(asked | chosen | {"rounds": [report.as_dict() for report in reports]} | gained)
    else:
        title = f"Taste {taste}, noise {noise}, left bias {left_bias}, seed {seed}"
        title += f", selected {rule.by} of {rule.candidates}" if rule.chooses else ""
        print_table(COLUMNS, [_row(report) for report in reports], title=title)
        if gains.pairs:
            say(f"\n{gain_words(gains)}")


COLUMNS = (
    "round",
    "checkpoint",
    "comparisons",
    "trained on",
    "held-out accuracy",
    "true win rate over base",
    "95% interval",
    "labels so far",
    "in duels with its parent",
    "verdict",
    "truth",
)


def _row(report: RoundReport) -> tuple[object, ...]:
    low, high = report.interval
    return (
        report.round,
        report.checkpoint,
        report.comparisons,
        report.trained_on,
        percent(report.held_out_accuracy),
        percent(report.win_rate),
        f"{percent(low)} to {percent(high)}",
        report.labels,
        *_measured(report),
    )


def _measured(report: RoundReport) -> tuple[str, ...]:
    """What blind duels with the parent said, and whether their interval holds the truth."""
    found = report.measured
    if found is None or found.rate is None:
        return "–", "–", "–"
    low, high = found.interval
    held = {True: "held", False: "missed", None: ""}[found.covered]
    return (
        f"{percent(found.rate)} ({percent(low)} to {percent(high)}), {found.duels} judged",
        found.verdict,
        f"{percent(found.truth)}, {held}",
    )


def _selecting(workspace: Workspace, rule: Rule, candidates: int) -> Workspace:
    """The workspace, its pairs selected by this rule. Raises SettingsError."""
    changes = {"by": rule.value, "candidates": candidates}
    return workspace.with_settings(change_selection(workspace.settings, changes))


@contextmanager
def _place(keep: Path | None, workspace: Path | None, in_place: bool) -> Iterator[Workspace]:
    """The workspace to simulate in: the one named, a new one that is kept, or one that is thrown away."""
    if workspace is not None or in_place:
        if workspace is None or not in_place or keep is not None:
            raise typer.BadParameter("To write into a workspace of your own, give --workspace and --in-place together.")
        yield open_workspace(workspace)
    elif keep is not None:
        if keep.exists() and any(keep.iterdir()):
            raise WorkspaceError(f"{keep} is not empty. Name a new folder.")
        yield open_demo(keep)
    else:
        with tempfile.TemporaryDirectory(prefix="pairloop-simulate-") as folder:
            yield open_demo(Path(folder))
