"""`pairloop rounds`: what happened so far, and what becomes of the new checkpoint."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dpo_core.deciding import decide, pick_candidate, roll_back
from dpo_core.loop import RoundStory, return_to_comparing, round_stories
from dpo_core.workspace import open_workspace
from store.database import reading
from store.decisions import list_decisions, serving_checkpoint
from store.models import Decision
from store.selected import read_gains
from ui.commands.options import HERE, JsonOption, WorkspaceOption, only_one, this_person
from ui.commands.printing import percent, print_json, print_table, say
from ui.duel_words import serving_words
from ui.selection_words import as_record, gain_words
from ui.story import made_words

COLUMNS = ("round", "status", "written by", "comparisons", "made", "held-out accuracy", "decision")


def rounds(
    promote: Annotated[bool, typer.Option("--promote", help="The new checkpoint writes the next round.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="What serves now writes the next round.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Promote though the gate is closed; the record says so.")
    ] = False,
    back: Annotated[
        str | None, typer.Option("--roll-back", metavar="CHECKPOINT", help="Let one that served before serve again.")
    ] = None,
    reopen: Annotated[
        bool, typer.Option("--reopen", help="Give up a failed or cancelled training and go back to comparing.")
    ] = False,
    pick: Annotated[
        str | None, typer.Option("--pick", metavar="CHECKPOINT", help="Of a sweep's checkpoints, this is the round's.")
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """What happened in each round; with an option, what becomes of the open one.

    \b
    Example:
      pairloop rounds
      pairloop rounds --promote && pairloop sample
      pairloop rounds --pick round-3-beta-0.3 --promote
      pairloop rounds --roll-back round-2
    """
    only_one(keep=keep, reopen=reopen, pick=pick)
    only_one(promote=promote, keep=keep, reopen=reopen, **{"roll-back": back})
    if force and not promote:
        raise typer.BadParameter("--force goes with --promote: it promotes although the gate is closed.")
    opened = open_workspace(workspace)
    if pick:
        pick_candidate(opened, checkpoint=pick, by=this_person())
    if reopen:
        return_to_comparing(opened, by=this_person())
    elif back:
        roll_back(opened, by=this_person(), to=back)
    elif promote or keep:
        decision = Decision.PROMOTE if promote else Decision.KEEP
        decide(opened, decision=decision, by=this_person(), about=pick, force=force)
    with reading(opened.engine) as session:
        stories = round_stories(session=session)
        serving, decisions = serving_checkpoint(session=session), list_decisions(session=session)
        gains = read_gains(session=session)
    if as_json:
        record = {"rounds": stories, "serving": serving, "decisions": decisions}
        print_json(record | {"selection": as_record(gains) if gains.pairs else None})
    elif stories:
        print_table(COLUMNS, [_row(story) for story in stories])
        say(f"\n{serving_words(serving, decisions)}")
        if gains.pairs:
            say(gain_words(gains))
    else:
        say("No round was started yet. `pairloop sample` starts one.")


def _row(story: RoundStory) -> tuple[Any, ...]:
    return (
        story.round.number,
        story.round.status,
        story.checkpoint.name,
        made_words(story),
        story.result.name if story.result else None,
        _accuracy(story),
        story.round.decision,
    )


def _accuracy(story: RoundStory) -> str | None:
    """Before -> after, on pairs that were not trained on."""
    judged = story.result.metrics.get("eval", {}) if story.result else {}
    if judged.get("accuracy_after") is None:
        return None
    return f"{percent(judged.get('accuracy_before'))} -> {percent(judged['accuracy_after'])}"
