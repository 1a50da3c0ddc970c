"""The Loop page's buttons that several of its steps share: comparing, pausing, and finding out by duels."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dpo_core.automatic import NO_HELD_OUT, duels_to_judge, duels_to_write, undecidable_words
from dpo_core.duels import more_duels
from dpo_core.gate import Gate
from dpo_core.loop import LoopState, Step, retry
from dpo_core.queueing import pause, resume
from dpo_core.workspace import Workspace
from store.models import Run, RunStatus
from store.wording import counted
from ui import story
from ui.state import act, my_name


def button(
    label: str, function: Any, *args: Any, primary: bool = False, said: str = "", key: str | None = None, **kwargs: Any
) -> None:
    """A button that calls one loop function."""
    kind = "primary" if primary else "secondary"
    st.button(label, key=key, type=kind, on_click=act, args=(function, *args), kwargs={"said": said, **kwargs})


def go(label: str, page: str, *, primary: bool = False) -> None:
    """A button that leads to another page."""
    if st.button(label, type="primary" if primary else "secondary"):
        st.switch_page(page)


def can_compare(state: LoopState) -> bool:
    """Whether there is something to compare, or there may be once the round is resumed."""
    return story.paused(state) or bool(state.pairs.get("open"))


def compare_button(workspace: Workspace, state: LoopState, label: str = "Compare", *, primary: bool = False) -> None:
    """Go and compare; while the round is paused nobody is shown a pair there, so it is resumed first."""
    if story.paused(state):
        button("Resume", resume, workspace, primary=primary)
    else:
        go(label, story.LABEL_PAGE, primary=primary)


def pause_button(workspace: Workspace, state: LoopState) -> None:
    """Have nobody compare, and automatic rounds wait, at any point of a round."""
    if state.step not in (Step.IMPORT_PROMPTS, Step.START_ROUND) and not story.paused(state):
        said = "Nobody is shown a pair, and automatic rounds wait, until you resume the round."
        button("Pause", pause, workspace, said=said)


def find_out(workspace: Workspace, state: LoopState, gate: Gate) -> None:
    """The gate waits for more to be known: what there is to do about it."""
    first = story.paused(state) or duels_to_judge(state, gate) > 0
    if can_compare(state):
        compare_button(workspace, state, primary=first)
    if state.open_run is not None:
        go("Watch the run", story.RUNS_PAGE, primary=not first)
    elif state.run is not None and state.run.status != RunStatus.DONE and not wrote_in_vain(state.run):
        button("Write the duels again", retry, workspace, run_id=state.run.id, primary=not first)
    elif not state.prompts["held_out"]:
        go("Import prompts", story.DATA_PAGE, primary=not first)
        st.caption(NO_HELD_OUT, width="content")
    elif undecidable_words(gate):  # which the gate says
        go("Import prompts", story.DATA_PAGE, primary=not first)
    else:
        more = duels_to_write(gate)
        button(
            f"Write {counted(more, 'more duel')}", more_duels, workspace, pairs=more, by=my_name(), primary=not first
        )


def wrote_in_vain(run: Run) -> bool:
    """Whether a run ended with everything written that it was to write: tried again, it finds the same texts."""
    return run.status == RunStatus.FAILED and run.progress.get("step", 0) >= run.progress.get("total", 1)
