"""`pairloop simulate`: the whole loop, with annotators whose taste is known."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dpo_core.changing_settings import change_section
from dpo_core.demo import open_demo
from dpo_core.errors import WorkspaceError
from dpo_core.over_seeds import Whole, over_seeds
from dpo_core.tastes import load_taste
from dpo_core.workspace import Workspace, open_workspace
from store.database import reading
from store.selected import Gains, read_gains
from ui.commands.options import JsonOption
from ui.commands.printing import RunBar, print_json, print_table, say
from ui.commands.runs import prepare_to_work
from ui.selection_words import as_record, gain_words
from ui.simulation_words import ROUND_HEAD, ROUND_NOTE, STAGE_HEAD, goal_words, round_row, stage_rows, verdicts_words

if TYPE_CHECKING:
    from dpo_core.simulate import Persona, RoundReport


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
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="So many simulations, from that seed on, and what they came to.")
    ] = 1,
    duels: Annotated[
        int | None,
        typer.Option("--duels", min=0, help="Blind duels with the parent (default: as its \\[duels] has it)."),
    ] = None,
    follow_gate: Annotated[
        bool, typer.Option("--follow-gate", help="Decide as automatic rounds do (default: promote every checkpoint).")
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="FOLDER", help="Make the workspace here and keep it, to look at it."),
    ] = None,
    select: Annotated[
        Rule | None,
        typer.Option("--select", help="Select pairs so (default: as the workspace's \\[selection] has it)."),
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
    With several seeds it says what all came to: how many labels it took, how often the duels' interval held the truth,
    and which promotions were false. --noise 1 shows how often chance alone is promoted.
    Nothing of yours is touched: it happens in a throw-away demo workspace, unless you say otherwise.
    Built-in tastes: brief, thorough, warm, structured, direct, careful, curious.

    \b
    Example:
      pairloop simulate --rounds 3 --taste warm --noise 0.1 --seed 1
      pairloop simulate --taste warm --seeds 5 --follow-gate
      pairloop simulate --taste my_taste.py:score --left-bias 0.2 --json
      pairloop simulate --select near --candidates 4 --json
    """
    from dpo_core import simulate as simulation  # brings torch

    if candidates is not None and select is None:
        raise typer.BadParameter("--candidates goes with --select: it says from how many a pair is selected.")
    if seeds > 1 and (workspace is not None or in_place):
        raise typer.BadParameter("--seeds begins anew for each seed: it cannot go on in one workspace.")
    changes = Changes(select, candidates or 4, duels)
    asked = Asked(rounds, comparisons, simulation.Persona(load_taste(taste), noise, left_bias), follow_gate)
    found = []
    for number in range(seed, seed + seeds):
        kept_in = keep / f"seed-{number}" if keep is not None and seeds > 1 else keep
        with _place(kept_in, workspace, in_place) as place:
            found.append(_simulated(changes.made_to(place), asked, number))
    told = {"taste": taste, "noise": noise, "left_bias": left_bias, "comparisons": comparisons}
    if as_json:
        whole = asdict(over_seeds([each.reports for each in found]))
        print_json(told | found[0].rule | {"seeds": [each.as_dict() for each in found], "whole": whole})
        return
    title = f"Taste {taste}, noise {noise}, left bias {left_bias}{found[0].rule_words}"
    print_table(ROUND_HEAD, [round_row(each.seed, report) for each in found for report in each.reports], title=title)
    say(f"\n{ROUND_NOTE}")
    for each in found:
        _say_gain(each, several=seeds > 1)
    if seeds > 1:
        _say_whole(over_seeds([each.reports for each in found]))


@dataclass(frozen=True)
class Changes:
    """What the options change in the settings of the workspace that is simulated in."""

    select: Rule | None
    candidates: int
    duels: int | None

    def made_to(self, workspace: Workspace) -> Workspace:
        """The workspace with these settings. Raises SettingsError."""
        settings = workspace.settings
        if self.select is not None:
            settings = change_section(settings, "selection", {"by": self.select.value, "candidates": self.candidates})
        if self.duels is not None:
            settings = change_section(settings, "duels", {"against_parent": self.duels})
        return workspace.with_settings(settings)


@dataclass(frozen=True)
class Asked:
    """What every simulation does."""

    rounds: int
    comparisons: int
    persona: Persona
    follow_gate: bool


@dataclass(frozen=True)
class Found:
    """What one simulation came to; `rule`: how its pairs were selected."""

    seed: int
    rule: dict[str, str | int | float]
    reports: list[RoundReport]
    gains: Gains

    @property
    def rule_words(self) -> str:
        """Nothing where nothing was selected."""
        chosen = self.rule["candidates"] != 2
        return f", selected {self.rule['select']} of {self.rule['candidates']}" if chosen else ""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        gained = as_record(self.gains) if self.gains.pairs else None
        return {"seed": self.seed, "rounds": [report.as_dict() for report in self.reports], "selection": gained}


def _simulated(workspace: Workspace, asked: Asked, seed: int) -> Found:
    from dpo_core import simulate as simulation

    rule = workspace.settings.selection
    prepare_to_work()
    with RunBar() as bar:
        reports = simulation.simulate(workspace, seed=seed, listener=bar, **vars(asked))
    with reading(workspace.engine) as session:
        gains = read_gains(session=session)
    told: dict[str, str | int | float] = {
        "select": rule.by,
        "candidates": rule.candidates,
        "random_share": rule.random_share,
    }
    return Found(seed, told, reports, gains)


def _say_gain(found: Found, *, several: bool) -> None:
    if found.gains.pairs:
        say(f"\n{f'Seed {found.seed}: ' if several else ''}{gain_words(found.gains)}")


def _say_whole(whole: Whole) -> None:
    say("")
    print_table(STAGE_HEAD, stage_rows(whole), title=f"All {whole.simulations} simulations")
    say(f"\n{goal_words(whole)}\n{verdicts_words(whole.verdicts)}")


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
