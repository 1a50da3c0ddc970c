"""`pairloop queue`: what is asked next, and what a researcher does about it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dpo_core.queueing import QueueState, ask_doubtful_again, pause, prioritise, read_queue, resume
from dpo_core.workspace import open_workspace
from store.models import Pair, Prompt
from store.wording import counted
from ui.commands.options import HERE, JsonOption, WorkspaceOption, only_one
from ui.commands.printing import print_facts, print_json, print_table, say

WIDTH = 70  # letters of a prompt


def queue(
    pause_it: Annotated[bool, typer.Option("--pause", help="Show nobody a pair until the round is resumed.")] = False,
    resume_it: Annotated[bool, typer.Option("--resume", help="Show pairs again.")] = False,
    first: Annotated[
        str | None, typer.Option("--first", metavar="WORDS", help="Ask pairs with these words in the prompt first.")
    ] = None,
    again: Annotated[
        float | None,
        typer.Option(
            "--ask-again", metavar="SHARE", help="Ask one more about pairs on which less than this share agree."
        ),
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """What is asked next in the open round; with an option, pause it, or change what comes first.

    How pairs are handed out is [queue] in pairloop.toml: how many annotators judge a pair, gold pairs and repeats,
    practice for newcomers, how much anybody does in a day.

    \b
    Example:
      pairloop queue --first "medical advice"
      pairloop queue --ask-again 0.7
      pairloop queue --pause
    """
    only_one(pause=pause_it, resume=resume_it)
    opened = open_workspace(workspace)
    changed: dict[str, Any] = {}
    if first:
        changed["first"] = prioritise(opened, words=first)
    if again is not None:
        changed["asked_again"] = ask_doubtful_again(opened, below=again)
    if pause_it:
        pause(opened)
    elif resume_it:
        resume(opened)
    state = read_queue(opened)
    if as_json:
        print_json(
            {"queue": state.counts, "paused_at": state.round.paused_at, "changed": changed, "first": state.first}
        )
    else:
        _print(state, changed)


def _print(state: QueueState, changed: dict[str, int]) -> None:
    said = {"first": "asked first", "asked_again": "asked again"}
    for name, count in changed.items():
        say(f"{counted(count, 'pair')} {'is' if count == 1 else 'are'} {said[name]}.")
    counts, since = state.counts, state.round.paused_at
    each = " (one for each ranking)" if any(pair.slate_id for pair, _ in state.first) else ""
    open_pairs = f"{counts['open']} of them open{each}, {counts['on_screen']} on somebody's screen"
    print_facts(
        {
            "Round": f"{state.round.number} ({'paused since ' + format(since, '%Y-%m-%d %H:%M') if since else 'open'})",
            "Pairs": f"{counts['pairs']}, {open_pairs}",
            "Comparisons wanted": counts["slots"],
        }
    )
    if state.first:
        print_table(("pair", "wants", "prompt"), [_row(*entry) for entry in state.first])


def _row(pair: Pair, prompt: Prompt) -> tuple[Any, ...]:
    text = " ".join(prompt.messages[-1]["content"].split())
    return pair.id, pair.open_slots, text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
