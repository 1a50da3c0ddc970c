"""Loop: where the round stands, the one next step, and what happened before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dpo_core.alarms import recorded_alarms
from dpo_core.automatic import Plan, StepTaken, as_told, plan_next, steps_taken
from dpo_core.config import Settings
from dpo_core.deciding import decide, go_on, pick_candidate
from dpo_core.errors import MemoryRefusedError
from dpo_core.filters import late_ones_count, learned_from_as_well, missing_to_train
from dpo_core.gate import Gate, gate_to_pass
from dpo_core.loop import (
    LoopState,
    RoundStory,
    Step,
    plan_training,
    read_loop,
    retry,
    return_to_comparing,
    round_stories,
    sample_more,
    start_round,
    start_training,
)
from dpo_core.memory_plan import MemoryPlan
from dpo_core.run_plan import change_words
from dpo_core.serving import misled
from dpo_core.workspace import Workspace
from store.database import reading
from store.decisions import serving_checkpoint
from store.models import Checkpoint, Decision, Round, Run, RunStatus, Worker
from store.refusals import last_refusal
from store.wording import counted
from store.workers import live_workers
from ui import components as show
from ui import story
from ui.automatic_control import automatic_control
from ui.gate_panel import draw_gate
from ui.judgement import judgement
from ui.loop_buttons import button, can_compare, compare_button, find_out, go, pause_button
from ui.model_text import message_markdown
from ui.plan import plan_facts, plan_line
from ui.rounds_table import history
from ui.state import act, errors_in_words, my_name, research_workspace, show_messages, show_settings_trouble

MORE_PAIRS = 10
PLAN_SECONDS = 20  # how long a plan is shown before it is drawn anew: with many imports that takes a moment


@dataclass(frozen=True)
class Seen:
    """All that this page shows, as it was at one moment.

    `gate`: of the checkpoint to decide about, if there is one. `serving`: who serves, and goes on where the new
    checkpoint is kept back; `link_trouble`: what is wrong with the link that leads to it. `plan` and `steps`: what
    automatic rounds do next, were they on, and what they did.
    """

    state: LoopState
    workers: list[Worker]
    stories: list[RoundStory]
    gate: Gate | None
    serving: Checkpoint
    link_trouble: str
    settings: Settings
    plan: Plan
    steps: list[StepTaken]


def main() -> None:
    """Draw the page; while something goes on, look every few seconds whether it is still as drawn."""
    workspace = research_workspace()
    show.page_head("Loop")
    show_messages()
    drawn = read(workspace)
    with st.container(border=True, key="now"):
        follow(workspace, drawn)
        if can_train(drawn.state):
            used_as_well(workspace, drawn.state)
            plan_of_training(workspace, drawn.state)
        # Never in the part that is drawn anew by itself: Streamlit loses a press there if the page is left at once.
        with st.container(horizontal=True, key="actions"):
            actions(workspace, drawn)
        if drawn.state.step == Step.DECIDE:  # below the buttons: it fills a screen
            judgement(workspace, drawn.stories[-1].result)
    automatic_control(workspace, drawn.plan, drawn.steps)
    if drawn.link_trouble:
        st.warning(message_markdown(drawn.link_trouble), icon=":material/link_off:")
    history(workspace, drawn.stories)


def read(workspace: Workspace) -> Seen:
    """What there is to show by now."""
    with reading(workspace.engine) as session:
        state, gate = read_loop(session=session), gate_to_pass(session, workspace)
        plan = plan_next(state, gate, workspace.settings.automatic, missing=missing_now(workspace, state))
        return Seen(
            state=state,
            workers=live_workers(session=session),
            stories=round_stories(session=session),
            gate=gate,
            serving=serving_checkpoint(session=session),
            link_trouble=misled(session, workspace),
            settings=workspace.settings,
            plan=as_told(plan, state, last_refusal(session=session)),
            steps=steps_taken(session=session),
        )


def follow(workspace: Workspace, drawn: Seen) -> None:
    """The open round as it is by now. Draws the whole page anew where what can be done has changed."""
    fresh = [drawn]  # for the first time; after that it is read again

    def live() -> None:
        with errors_in_words():
            workspace = research_workspace()
            seen = fresh.pop() if fresh else read(workspace)
            if what_can_be_done(seen) != what_can_be_done(drawn):
                st.rerun()
            now(workspace, seen)

    st.fragment(live, run_every=refresh_seconds(drawn.state, automatic=workspace.settings.automatic.on))()


def what_can_be_done(seen: Seen) -> tuple[object, ...]:
    """All that the buttons, the table of rounds and what is said of automatic rounds depend on."""
    state, gate = seen.state, seen.gate
    number = state.round.number if state.round else 0
    stands = number, state.step, story.paused(state), state.open_run is None
    about = (gate.checkpoint, gate.suggestion) if gate is not None else None
    counts = state.comparisons, state.pairs, state.imported
    automatic = seen.plan, seen.steps
    return *stands, *counts, about, seen.serving.name, seen.link_trouble, seen.settings, *automatic


def refresh_seconds(state: LoopState, *, automatic: bool) -> float | None:
    """How often to look again: never, where only the person on this page can change anything."""
    if state.open_run is not None:
        return 2
    return 5 if automatic or state.step in (Step.COMPARE, Step.DECIDE) else None


def now(workspace: Workspace, seen: Seen) -> None:
    """The open round, and how far it is."""
    show_settings_trouble()
    state = seen.state
    words = story.headline(state)
    if story.stage_of(state) >= 0:
        show.steps(story.STAGES, story.stage_of(state))
    st.subheader(words.title, anchor=False)
    show.paragraph(words.text)
    details(workspace, seen)
    after_the_cut(workspace, state)
    show.worker_warning(seen.workers, state.run)
    if workspace.settings.automatic.on and state.open_run is None and not seen.workers:
        show.no_worker("so automatic rounds do nothing")


def can_train(state: LoopState) -> bool:
    """Whether there is a button to train, early or on imports included."""
    early = state.step == Step.COMPARE and state.comparisons["done"] > 0
    return state.step == Step.TRAIN or early or (state.step == Step.START_ROUND and state.imported > 0)


def details(workspace: Workspace, seen: Seen) -> None:
    """Progress, verdict or error, as the step asks for."""
    state = seen.state
    if state.step in (Step.COMPARE, Step.TRAIN) and state.round is not None and not state.imported:
        show.meter(state.comparisons["done"], state.round.target)
    if state.open_run is not None:
        show.run_progress(state.open_run)
    if state.stuck_run is not None:
        why = state.stuck_run.error or f"Run {state.stuck_run.id} was {state.stuck_run.status}."
        st.error(message_markdown(why), icon=":material/error:")
    if state.step == Step.DECIDE:
        duels_and_gate(state, seen.gate)
        alarms_line(seen.stories[-1])


def duels_and_gate(state: LoopState, gate: Gate | None) -> None:
    """What people say of the new checkpoint, and what promotion asks; or why its duels were not written."""
    if gate is not None:
        draw_gate(gate)
    run = state.run
    if run is not None and run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
        st.warning(message_markdown(f"No duels were written. {run.error or 'The run was cancelled.'}"))


def after_the_cut(workspace: Workspace, state: LoopState) -> None:
    """What becomes of comparisons made since training began."""
    words = story.late_words(state, they_count=late_ones_count(workspace))
    if words:
        st.caption(words)


def alarms_line(entry: RoundStory) -> None:
    """How many alarms and notes the training gave rise to, and where they are told."""
    found = recorded_alarms(entry.result.metrics if entry.result else {})
    if found:
        icon = "warning" if story.warnings(found) else "info"
        st.page_link(story.RUNS_PAGE, label=story.alarm_words(found), icon=f":material/{icon}:")


def _drawn_plan(folder: str, stands: str, _workspace: Workspace) -> MemoryPlan | None:
    return plan_training(_workspace)


_plan: Callable[[str, str, Workspace], MemoryPlan | None] = st.cache_data(
    _drawn_plan, ttl=PLAN_SECONDS, show_spinner=False
)


def _found_missing(folder: str, number: int, parent_id: int, done: int, _workspace: Workspace, _current: Round) -> str:
    return missing_to_train(_workspace, _current)


_missing: Callable[[str, int, int, int, Workspace, Round], str] = st.cache_data(
    _found_missing, ttl=PLAN_SECONDS, show_spinner=False
)


def missing_now(workspace: Workspace, state: LoopState) -> str:
    """Why a round that is ready to be trained cannot be; empty where it can, and while none is ready."""
    if state.step != Step.TRAIN or state.imported or state.round is None:
        return ""
    return missing_in(workspace, state.round, state.comparisons["done"])


def missing_in(workspace: Workspace, current: Round, done: int) -> str:
    """The same of a round with so many comparisons, early or not; known for a while."""
    return _missing(str(workspace.folder), current.number, current.checkpoint_id, done, workspace, current)


def used_as_well(workspace: Workspace, state: LoopState) -> None:
    """Which comparisons a training uses beside those that the page counts."""
    current = None if state.step == Step.START_ROUND else state.round
    words = story.as_well_words(learned_from_as_well(workspace, current), state.checkpoint.name)
    if words:
        st.caption(words)


def plan_of_training(workspace: Workspace, state: LoopState) -> None:
    """What training would need, in a line; its parts for whoever wants them."""
    number = state.round.number if state.round else 0
    plan = _plan(str(workspace.folder), f"{state.step} {number} {state.imported}", workspace)
    if plan is None:
        return
    with st.expander(plan_line(plan), icon=None if plan.fits else ":material/warning:"):
        if not plan.fits:
            st.code(change_words(plan), language=None)
        show.table(("", ""), list(plan_facts(plan).items()))


def train_button(
    label: str, workspace: Workspace, state: LoopState, *, primary: bool = False, early: bool = False, missing: str = ""
) -> None:
    """Train; where memory was just found to be too small for that, offer it all the same. `missing`: why not yet."""
    number = state.round.number if state.round else 0
    given = {"workspace": workspace, "number": number, "early": early}
    kind = "primary" if primary else "secondary"
    told = message_markdown(missing) or None
    st.button(label, type=kind, on_click=try_training, kwargs=given, disabled=bool(missing), help=told)
    if not missing and st.session_state.get("refused") == number:
        st.button("Train anyway", on_click=try_training, kwargs=given | {"force": True})


def try_training(workspace: Workspace, *, number: int, early: bool, force: bool = False) -> None:
    """Start training, and remember the round in which memory spoke against it."""

    def start(workspace: Workspace) -> None:
        try:
            start_training(workspace, by=my_name(), early=early, force=force)
        except MemoryRefusedError:
            st.session_state["refused"] = number
            raise

    st.session_state.pop("refused", None)
    act(start, workspace)


def actions(workspace: Workspace, seen: Seen) -> None:
    """The next step as the one obvious button; the alternatives beside it."""
    state = seen.state
    if seen.gate is not None:
        decide_actions(workspace, seen, seen.gate)
        pause_button(workspace, state)
        return
    drawn = {
        Step.IMPORT_PROMPTS: import_actions,
        Step.START_ROUND: start_actions,
        Step.WAIT_FOR_PAIRS: waiting_actions,
        Step.COMPARE: compare_actions,
        Step.TRAIN: train_actions,
        Step.WAIT_FOR_TRAINING: waiting_actions,
        Step.MEND_RUN: mend_actions,
    }
    if state.step in drawn:  # or somebody decided while this page was read: it is drawn anew within seconds
        drawn[state.step](workspace, state)
    pause_button(workspace, state)


def import_actions(_workspace: Workspace, _state: LoopState) -> None:
    """Nothing to ask yet."""
    go("Import prompts", story.DATA_PAGE, primary=True)


def start_actions(workspace: Workspace, state: LoopState) -> None:
    """Start the next round."""
    number = state.round.number + 1 if state.round else 1
    button(f"Start round {number}", start_round, workspace, by=my_name(), primary=True)
    if state.imported:
        train_button(f"Train on {counted(state.imported, 'imported comparison')}", workspace, state)


def waiting_actions(workspace: Workspace, state: LoopState) -> None:
    """A run is going: it can be watched; comparing can go on meanwhile, and is not pressed on people in vain."""
    writing = state.step == Step.WAIT_FOR_PAIRS  # the Label page waits for the first pair by itself
    counts = writing or late_ones_count(workspace)
    if writing or can_compare(state):
        compare_button(workspace, state, primary=counts)
    go("Watch the run", story.RUNS_PAGE, primary=not counts)


def compare_actions(workspace: Workspace, state: LoopState) -> None:
    """Compare; train early or ask for more pairs."""
    if can_compare(state):
        compare_button(workspace, state, primary=True)
    if state.stuck_run is not None:
        retry_button(workspace, state.stuck_run, primary=not can_compare(state))
    elif state.open_run is None:
        more_pairs(workspace, primary=not can_compare(state))
    if state.comparisons["done"] and state.round is not None:
        done = state.comparisons["done"]
        missing = missing_in(workspace, state.round, done)
        label = f"Train early, on {counted(done, 'comparison')}"
        train_button(label, workspace, state, early=True, missing=missing)


def more_pairs(workspace: Workspace, *, primary: bool = False) -> None:
    """Have some more written in the open round."""
    label = f"Write {MORE_PAIRS} more pairs"
    button(label, sample_more, workspace, pairs=MORE_PAIRS, by=my_name(), primary=primary)


def train_actions(workspace: Workspace, state: LoopState) -> None:
    """Train; or compare on while pairs are left. A round on imports has only its training."""
    missing = missing_now(workspace, state)
    train_button("Train", workspace, state, primary=not missing, missing=missing)
    if can_compare(state):
        compare_button(workspace, state, "Compare on", primary=bool(missing))
    elif not state.imported:
        more_pairs(workspace, primary=bool(missing))


def decide_actions(workspace: Workspace, seen: Seen, gate: Gate) -> None:
    """What the gate speaks for as the one obvious button: compare on, promote, or keep what serves."""
    assert seen.state.round is not None
    if gate.suggestion is None:
        find_out(workspace, seen.state, gate)
    if not my_name():
        show.ask_decider()
        return
    picker(workspace, seen.stories[-1])
    following = f"and start round {seen.state.round.number + 1}"
    labels = {
        Decision.PROMOTE: f"Promote {gate.checkpoint} {following}",
        Decision.KEEP: f"Keep {seen.serving.name} {following}",
    }
    if gate.suggestion is not None and story.paused(seen.state):
        compare_button(workspace, seen.state)
    offered = [Decision.PROMOTE, Decision.KEEP] if gate.is_open else [Decision.KEEP]
    for decision in sorted(offered, key=lambda entry: entry != gate.suggestion):
        decision_button(labels[decision], go_on, workspace, gate, decision, primary=decision == gate.suggestion)
    with st.popover("More decisions", type="tertiary"):
        more_decisions(workspace, gate, labels[Decision.PROMOTE])


def decision_button(
    label: str, function: Any, workspace: Workspace, gate: Gate, decision: Decision, **given: Any
) -> None:
    """A button that decides about the checkpoint shown, and no other: its name is in the call and in the widget's."""
    key = f"{label}: {gate.checkpoint}"
    button(label, function, workspace, decision=decision, about=gate.checkpoint, by=my_name(), key=key, **given)


def more_decisions(workspace: Workspace, gate: Gate, label: str) -> None:
    """To decide and stop there; and to promote what the gate does not let through, which goes on record."""
    if gate.is_open:
        decision_button("Promote only", decide, workspace, gate, Decision.PROMOTE)
    decision_button("Keep only", decide, workspace, gate, Decision.KEEP)
    st.caption("The next round is not started.")
    if not gate.is_open:
        st.caption("The gate is closed. What you promote all the same is recorded with your name and what was missing.")
        decision_button(f"{label} all the same", go_on, workspace, gate, Decision.PROMOTE, force=True)


def picker(workspace: Workspace, entry: RoundStory) -> None:
    """After a sweep: which of its checkpoints it is about."""
    assert entry.result is not None
    if len(entry.candidates) < 2:
        return
    spans = {item.name: story.accuracy_span(item.metrics.get("eval", {})) for item in entry.candidates}
    st.session_state["picked"] = entry.result.name  # somebody else may have picked, or this pick been refused
    st.selectbox(
        "Checkpoint of the sweep",
        list(spans),
        format_func=lambda name: f"{name}: held-out accuracy {spans[name]}",
        key="picked",
        on_change=pick,
        args=(workspace,),
    )


def pick(workspace: Workspace) -> None:
    """Go on with the checkpoint that was picked."""
    act(pick_candidate, workspace, checkpoint=st.session_state["picked"], by=my_name())


def retry_button(workspace: Workspace, run: Run, *, primary: bool) -> None:
    """Try a stopped run again."""
    button("Try again", retry, workspace, run_id=run.id, primary=primary)


def mend_actions(workspace: Workspace, state: LoopState) -> None:
    """Try a stopped run again, or give it up."""
    assert state.run is not None
    retry_button(workspace, state.run, primary=True)
    if story.stage_of(state) == 2:
        label = "Give this training up" if state.imported else "Back to comparing"
        button(label, return_to_comparing, workspace, by=my_name())
    if story.paused(state):
        compare_button(workspace, state)
    go("See the run", story.RUNS_PAGE)


if __name__ == "__main__":
    main()
