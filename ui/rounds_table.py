"""Every round so far as a table, which checkpoint serves, and the way back to one that served before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st
from sqlmodel import Session

from dpo_core.deciding import roll_back
from dpo_core.loop import RoundStory
from dpo_core.workspace import Workspace
from store.database import reading
from store.decision_tables import DecisionRecord
from store.decisions import list_decisions, served_before, serving_checkpoint
from store.duels import judged_duels
from store.intervals import Estimate
from store.models import Checkpoint
from store.selected import Gains, read_gains
from store.snapshots import trained_words
from store.win_rate import win_rate
from ui import components as show
from ui import selection_words as selection
from ui import story
from ui.duel_words import POINTS_NOTE, STRENGTHS, served_words, serving_words, strength_rows
from ui.state import act, my_name

HEAD = (
    "Round",
    "Trained on",
    "Held-out accuracy",
    "Decision",
    "Won of blind duels",
    "Written by",
    "Comparisons",
    "Preferences",
    "Ties",
    "Both bad",
    "Skips",
)
SERVED_SHOWN = 3
ROLLED_BACK = (
    "What you let serve does so at once, at checkpoints/current; an open round that still compares goes on with it. "
    "Nothing is deleted."
)


def history(workspace: Workspace, stories: list[RoundStory]) -> None:
    """Every round so far, newest first, and which checkpoint serves."""
    if not stories:
        return
    st.subheader("Rounds", anchor=False)
    with reading(workspace.engine) as session:
        won = {entry.round.number: _won(session, workspace, entry) for entry in stories}
        serving, decisions = serving_checkpoint(session=session), list_decisions(session=session)
        before = served_before(session=session)
        served = {each.round_id: session.get_one(Checkpoint, each.checkpoint_id).name for each in decisions}
        gains = read_gains(session=session)
    rows = [history_row(entry, won[entry.round.number], served.get(entry.round.id, "")) for entry in reversed(stories)]
    show.table(HEAD, rows)
    strengths(workspace, sum(entry.comparisons["duels"] for entry in stories))
    what_selecting_yielded(gains)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(serving_words(serving, decisions), width="content")
        report_button("Report", workspace)
        if len(stories) > 1:
            report_of_one_round(workspace, [entry.round.number for entry in reversed(stories)])
    roll_back_rows(workspace, before, decisions)


def report_button(label: str, workspace: Workspace, number: int | None = None) -> None:
    """A report to take away: of all, or of the round of this number."""
    of_round = "" if number is None else f"-round-{number}"
    st.download_button(
        label,
        data=lambda: _report(workspace, number),
        file_name=f"{workspace.folder.name}{of_round}-report.html",
        mime="text/html",
        type="tertiary",
        icon=":material/summarize:",
        help="What was done and what came of it, as one HTML file.",
    )


def _report(workspace: Workspace, number: int | None) -> bytes:
    from ui.report import write_report  # with evalica, which takes a second to load

    return write_report(workspace, round_number=number).encode()


def report_of_one_round(workspace: Workspace, numbers: list[int]) -> None:
    """The same of one round alone."""
    with st.popover("Of one round", type="tertiary"):
        number = int(st.selectbox("Round", numbers, key="report_of"))
        report_button(f"Report of round {number}", workspace, number)


def strengths(workspace: Workspace, judged: int) -> None:
    """All checkpoints that ever met in duels on one scale, once there is more than one match to tell of."""
    if not judged:
        return
    found = _standings(str(workspace.folder), judged, workspace)
    if len(found) > 2:
        with st.expander("How strong each checkpoint is, told from all duels"):
            show.table(STRENGTHS, strength_rows(found), POINTS_NOTE)


def what_selecting_yielded(found: Gains) -> None:
    """What became of selected pairs beside those left to chance: in words, and the figures for whoever wants them."""
    if not found.pairs:
        return
    st.caption(selection.gain_words(found))
    if found.rounds:
        with st.expander("What selecting pairs yields, round by round"):
            show.table(selection.HEAD, selection.gain_rows(found), selection.NOTE)


def _read_standings(folder: str, judged: int, _workspace: Workspace) -> dict[str, Estimate]:
    from dpo_core.standings import read_standings  # evalica takes a second to load

    with reading(_workspace.engine) as session:
        return read_standings(session)


_standings: Callable[[str, int, Workspace], dict[str, Estimate]] = st.cache_data(
    _read_standings, ttl=60, show_spinner=False
)


def roll_back_rows(workspace: Workspace, before: list[Checkpoint], decisions: list[DecisionRecord]) -> None:
    """What served before, the latest first; one press lets it serve again."""
    for checkpoint in before[:SERVED_SHOWN]:
        roll_back_row(workspace, checkpoint, decisions)
    if before[SERVED_SHOWN:]:
        with st.expander("What served earlier"):
            for checkpoint in before[SERVED_SHOWN:]:
                roll_back_row(workspace, checkpoint, decisions)
    if before:
        st.caption(ROLLED_BACK)


def roll_back_row(workspace: Workspace, checkpoint: Checkpoint, decisions: list[DecisionRecord]) -> None:
    """A checkpoint that served before, and the button that rolls back to it."""
    name = checkpoint.name
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{name} served before: {served_words(checkpoint, decisions)}.", width="content")
        st.button(
            f"Let {name} serve",
            type="tertiary",
            icon=":material/undo:",
            disabled=not my_name(),
            help=ROLLED_BACK if my_name() else "Say your name first, at the top: it is recorded with the decision.",
            on_click=act,
            args=(roll_back, workspace),
            kwargs={"by": my_name(), "to": name, "said": f"{name} serves now."},
        )


def _won(session: Session, workspace: Workspace, entry: RoundStory) -> str:
    """How often the round's new checkpoint won against its parent, blind."""
    if entry.result is None or entry.result.parent_id is None:
        return "–"
    assert entry.result.id is not None
    said = judged_duels(session=session, checkpoint_id=entry.result.id, against_id=entry.result.parent_id)
    found = win_rate(said, alpha=workspace.settings.duels.alpha)
    if found.rate is None:
        return "–"
    return f"{story.percent(found.rate)} ({story.percent(found.interval[0])} to {story.percent(found.interval[1])})"


def history_row(entry: RoundStory, won: str, served: str) -> tuple[object, ...]:
    """One round as a line of the table; `served`: who did from its decision on."""
    said = entry.comparisons
    decided = {
        "promote": f"promoted {entry.result.name if entry.result else ''}",
        "keep": f"kept {served}",
    }
    return (
        entry.round.number,
        trained_words(entry.snapshot.manifest) if entry.snapshot else "–",
        story.accuracy_line(evaluation_of(entry)),
        decided.get(entry.round.decision or "", entry.round.status),
        won,
        entry.checkpoint.name,
        story.made_words(entry),
        said["a"] + said["b"],
        said["tie"],
        said["both_bad"],
        said["skip"],
    )


def evaluation_of(entry: RoundStory) -> dict[str, Any]:
    """What the round's new checkpoint was found to be worth."""
    return dict((entry.result.metrics if entry.result else {}).get("eval") or {})
