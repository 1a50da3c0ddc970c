"""`pairloop duels`: what people said of checkpoints, blind, and what promotion still asks."""

from __future__ import annotations

from typing import Annotated

import typer

from dpo_core.duels import Match, all_matches, more_duels
from dpo_core.gate import gate_to_pass, match_words
from dpo_core.standings import read_standings
from dpo_core.workspace import open_workspace
from store.database import reading
from ui.commands.options import HERE, DetachOption, JsonOption, WorkspaceOption, this_person
from ui.commands.printing import print_json, print_table, say
from ui.commands.runs import see_through
from ui.duel_words import STRENGTHS, gate_table, strength_rows, verdict_words

COLUMNS = ("checkpoint", "against", "in blind duels", "verdict")


def duels(
    more: Annotated[
        int | None, typer.Option("--more", min=1, metavar="N", help="Write N more duels of the new checkpoint.")
    ] = None,
    detach: DetachOption = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """What people said of checkpoints in blind duels on held-out prompts, and what promotion still asks.

    \b
    Example:
      pairloop duels
      pairloop duels --more 20
    """
    opened = open_workspace(workspace)
    if more:
        see_through(opened, more_duels(opened, pairs=more, by=this_person()), detach=detach, as_json=as_json)
        return
    with reading(opened.engine) as session:
        matches, points = all_matches(session, alpha=opened.settings.duels.alpha), read_standings(session)
        gate = gate_to_pass(session, opened)
    if as_json:
        print_json({"matches": matches, "gate": gate, "strengths": points})
        return
    if not matches:
        say("No duel was judged yet. They are written after a training, and asked on the Label page.")
    else:
        print_table(COLUMNS, [_row(match) for match in matches])
        print_table(tuple(map(str.lower, STRENGTHS)), strength_rows(points))
    if gate is not None:
        print_table(("", f"{gate.checkpoint}: what promotion asks", "what there is"), gate_table(gate))


def _row(match: Match) -> tuple[str, str, str, str]:
    return match.checkpoint, match.against, match_words(match), verdict_words(match)
