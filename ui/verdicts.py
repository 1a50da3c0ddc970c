"""What a press on the Label page does: verdicts, skips with a reason, undo, and looking back through the day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

import streamlit as st
from sqlmodel import Session

from dpo_core.config import LabelSettings
from dpo_core.workspace import Workspace
from store.comparisons import (
    Choice,
    Remarks,
    comparisons_since,
    current_comparison,
    record_comparison,
    remarks_of,
    sided,
    undo_comparison,
)
from store.database import reading, writing
from store.models import Comparison
from store.rewrites import replace_rewrites, standing_rewrites
from store.wording import counted
from ui import attention
from ui.ahead import count_turn
from ui.remarks import given_remarks, given_rewrites, recall_remarks

DWELL_SECONDS = 0.35  # a verdict sooner than this after a pair appeared was meant for the pair before it


@dataclass(frozen=True)
class Answer:
    """A button for a verdict: its words and its key. Streamlit keeps C and R for itself."""

    choice: Choice
    label: str
    shortcut: str
    strength: int | None = None

    @property
    def name(self) -> str:
        """The button's own, within a pair."""
        return f"{self.choice}-{self.strength}" if self.strength else str(self.choice)


STRENGTHS = {3: "much", 2: "clearly", 1: "slightly"}
BOTH_BAD = Answer(Choice.BOTH_BAD, "Both bad", "B")
PLAIN = (  # letters that are easy to find; the arrows up and down still scroll
    Answer(Choice.LEFT, "Left is better", "Left"),
    Answer(Choice.TIE, "Tie", "T"),
    Answer(Choice.RIGHT, "Right is better", "Right"),
)
GRADED = (
    *(Answer(Choice.LEFT, f"Left {STRENGTHS[grade]}", f"{4 - grade}", grade) for grade in (3, 2, 1)),
    Answer(Choice.TIE, "Tie", "4"),
    *(Answer(Choice.RIGHT, f"Right {STRENGTHS[grade]}", f"{4 + grade}", grade) for grade in (1, 2, 3)),
)


def answers(asked: LabelSettings) -> tuple[Answer, ...]:
    """The verdicts for sides and the tie, with strengths or without."""
    return GRADED if asked.strengths else PLAIN


def verdict_words(said: Comparison) -> str:
    """A verdict as its button says it."""
    choice = sided(said)
    if choice in (Choice.LEFT, Choice.RIGHT):
        return f"{choice.capitalize()} {STRENGTHS[said.strength] if said.strength else 'is better'}"
    return {Choice.TIE: "Tie", Choice.BOTH_BAD: "Both bad", Choice.SKIP: "Skipped"}[choice]


def give_verdict(workspace: Workspace, pair_id: int, annotator_id: int, choice: Choice, strength: int | None) -> None:
    """Write a verdict for exactly this pair. A press that came too soon, or for a pair that is gone, is dropped."""
    count_turn()
    asked = workspace.settings.label
    remarks, rewrites = given_remarks(asked, pair_id), given_rewrites(asked, pair_id)
    _write(workspace, pair_id, annotator_id, choice, strength, remarks, rewrites)


def skip_pair(workspace: Workspace, pair_id: int, annotator_id: int, why: str) -> None:
    """Skip exactly this pair; `why` may be empty."""
    _write(workspace, pair_id, annotator_id, Choice.SKIP, None, Remarks(tags=(why,) if why else ()), None)


def _write(
    workspace: Workspace,
    pair_id: int,
    annotator_id: int,
    choice: Choice,
    strength: int | None,
    remarks: Remarks,
    rewrites: dict[str, str] | None,
) -> None:
    watch = attention.watch_of_press()
    if watch.pair_id != pair_id or watch.seconds_shown() < DWELL_SECONDS:
        return
    with writing(workspace.engine) as session:
        before = None
        if looked_at() == pair_id or rewrites is not None:
            before = current_comparison(session=session, pair_id=pair_id, annotator_id=annotator_id)
        again = before is not None and looked_at() == pair_id
        said = record_comparison(
            session=session,
            pair_id=pair_id,
            annotator_id=annotator_id,
            choice=choice,
            strength=strength,
            remarks=remarks,
            seconds=round(watch.seconds(), 2),
            replace=again,
        )
        if again and choice == Choice.SKIP:
            rewrites = {}  # nothing is learned of a pair that was skipped after all
        is_new = before is None or said.id != before.id  # not a second tab's, whose verdict fell away
        if rewrites is not None and is_new:
            replace_rewrites(session=session, pair_id=pair_id, annotator_id=annotator_id, texts=rewrites)
    if again:
        st.session_state["notice"] = "Saved. What you said before stays in the history."
    to_the_queue()


def take_back(workspace: Workspace, comparison_id: int, annotator_id: int) -> None:
    """Undo a verdict; its pair is shown again. The same press a second time does nothing."""
    attention.watch_of_press().stop()
    with writing(workspace.engine) as session:
        undone = undo_comparison(session=session, comparison_id=comparison_id, annotator_id=annotator_id)
        if undone is None:
            return
        recall(session, undone)
        replace_rewrites(session=session, pair_id=undone.pair_id, annotator_id=annotator_id, texts={})


def recall(session: Session, said: Comparison) -> None:
    """Show what was said beside a verdict when its pair comes back."""
    remarks = remarks_of(said) if said.verdict != Choice.SKIP else Remarks()  # why it was skipped is no reason for more
    rewrites = standing_rewrites(session=session, pair_id=said.pair_id, annotator_id=said.annotator_id)
    recall_remarks(said.pair_id, remarks, rewrites)


def ask_why(pair_id: int | None) -> None:
    """Ask why this pair is skipped; None: go back to its verdicts."""
    st.session_state["skipping"] = pair_id


def is_skipping(pair_id: int) -> bool:
    """Whether somebody is about to say why they skip this pair."""
    return bool(st.session_state.get("skipping") == pair_id)


def looked_at() -> int | None:
    """The judged pair that is being looked at again, if any."""
    found: int | None = st.session_state.get("looked_at")
    return found


def look_at(pair_id: int | None) -> None:
    """Look at this judged pair again; None: go back to the queue."""
    st.session_state["looked_at"] = pair_id
    st.session_state.pop("recalled", None)
    attention.watch_of_press().stop()


def to_the_queue() -> None:
    """Leave what was looked at again, and any skip that was begun."""
    for name in ("looked_at", "skipping", "recalled"):
        st.session_state.pop(name, None)


def start_of_today() -> datetime:
    """Midnight where the browser is, as a moment in UTC."""
    offset = timedelta(minutes=st.context.timezone_offset or 0)  # what is to be added to local time to get UTC
    local = datetime.now(UTC) - offset
    return local.replace(hour=0, minute=0, second=0, microsecond=0) + offset


def todays_work(workspace: Workspace, annotator_id: int, round_id: int) -> list[Comparison]:
    """What this annotator has said today in the round, in order."""
    with reading(workspace.engine) as session:
        return comparisons_since(session=session, annotator_id=annotator_id, round_id=round_id, since=start_of_today())


def goal_words(today: list[Comparison], goal: int) -> str:
    """How far one is with the day's goal."""
    done = sum(said.verdict != Choice.SKIP for said in today)
    return f"{done} of {goal} today" if done < goal else f"{done} today: the day's goal is reached"


def day_words(today: list[Comparison]) -> str:
    """One's own day in a sentence; empty where nothing was compared."""
    judged = [said for said in today if said.verdict != Choice.SKIP]
    seconds = [said.seconds for said in judged if said.seconds is not None]
    if not judged:
        return ""
    pace = f", as a rule in {median(seconds):.0f} seconds" if seconds else ""
    return f"You made {work_words(judged)} today{pace}. Thank you."


def work_words(judged: list[Comparison]) -> str:
    """How much was judged: "3 comparisons", "2 rankings", or both. Of a ranking one comparison stands for it."""
    rankings = sum(said.ranking_id is not None for said in judged)
    kinds = ((rankings, "ranking"), (len(judged) - rankings, "comparison"))
    return " and ".join(counted(number, what) for number, what in kinds if number)
