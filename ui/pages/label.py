"""Label: one pair at a time, two completions side by side, one key for the verdict."""

from __future__ import annotations

import streamlit as st

from dpo_core.filters import late_ones_count
from dpo_core.loop import LoopState, Step, read_loop, start_round
from dpo_core.queueing import done_for_today, meter_figures, queue_rules
from dpo_core.workspace import Workspace
from store.comparisons import Choice, count_annotator, last_comparison_id
from store.database import reading, writing
from store.models import Round, RoundStatus
from store.pairs import ShownPair, next_pair
from store.workers import live_workers
from ui import components as show
from ui import onboarding, story
from ui.state import (
    act,
    current_workspace,
    errors_in_words,
    give_verdict,
    my_annotator_id,
    my_name,
    pair_appeared,
    show_messages,
    take_back,
)
from ui.theme import start_at_the_top

# Letters that are easy to find; Streamlit keeps C and R for itself, and the arrows up and down still scroll.
VERDICTS = (
    (Choice.LEFT, "Left is better", "Left", "primary"),
    (Choice.TIE, "Tie", "T", "secondary"),
    (Choice.BOTH_BAD, "Both bad", "B", "secondary"),
    (Choice.RIGHT, "Right is better", "Right", "primary"),
    (Choice.SKIP, "Skip", "S", "tertiary"),
)


def main() -> None:
    """Show the next pair, or say what is going on."""
    workspace = current_workspace()
    if not my_name():
        show.name_control()
        show.ask_name()
        return
    annotator_id = my_annotator_id(workspace)
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
    current = open_round(state)
    if onboarding.settle_in(workspace, current, annotator_id):
        return
    pair = find_pair(workspace, current, annotator_id)
    head(workspace, state, current, annotator_id)
    show_messages()
    if pair is None:
        nothing_to_compare(workspace, state, current, annotator_id)
    else:
        compare(workspace, state, pair, annotator_id)


def open_round(state: LoopState) -> Round | None:
    """The round whose pairs are asked, if one is open."""
    return None if state.round is None or state.round.status == RoundStatus.DONE else state.round


def find_pair(workspace: Workspace, current: Round | None, annotator_id: int) -> ShownPair | None:
    """The next pair for whoever is here, kept for them."""
    if current is None or current.id is None:
        return None
    with writing(workspace.engine) as session:
        rules = queue_rules(workspace.settings)
        return next_pair(session=session, round_id=current.id, annotator_id=annotator_id, rules=rules)


def head(workspace: Workspace, state: LoopState, current: Round | None, annotator_id: int) -> None:
    """How far the round is, and who is comparing."""
    with st.container(key="head"):
        left, right = st.columns([4, 1], vertical_alignment="center", wrap=False)
    with right, st.container(horizontal=True, horizontal_alignment="right", wrap=False):
        onboarding.guidelines_control(workspace)
        show.name_control()
    if current is None or current.id is None or state.imported:  # a round on imports asks nobody anything
        return
    with reading(workspace.engine) as session:
        mine = count_annotator(session=session, round_id=current.id, annotator_id=annotator_id)
    with left:
        done, target = meter_figures(workspace, current, state.comparisons["done"])
        show.round_meter(done=done, target=target, mine=mine, name=my_name())


def compare(workspace: Workspace, state: LoopState, pair: ShownPair, annotator_id: int) -> None:
    """One pair, and the verdicts within reach of the keyboard."""
    target_reached(workspace, state)
    show.prompt_block(pair.messages)
    show.completion_panes(pair.left, pair.right)
    with st.bottom, st.container(horizontal=True, horizontal_alignment="center", key=f"verdicts-{pair.pair_id}"):
        for choice, label, key, kind in VERDICTS:
            st.button(
                label,
                key=f"{choice}-{pair.pair_id}",  # with the pair's id, a second press can never reach the next pair
                shortcut=key,
                type=kind,
                on_click=act,
                args=(give_verdict, workspace, pair.pair_id, annotator_id, choice),
            )
        undo_button(workspace, pair.round_id, annotator_id)
    start_at_the_top(pair.pair_id)
    pair_appeared(pair.pair_id)


def undo_button(workspace: Workspace, round_id: int | None, annotator_id: int) -> None:
    """Take back the last verdict: the one this page knows of, so that a second press can never reach the one before."""
    assert round_id is not None
    with reading(workspace.engine) as session:
        last = last_comparison_id(session=session, annotator_id=annotator_id, round_id=round_id)
    st.button(
        "Undo",
        key=f"undo-{last}",
        shortcut="U",
        type="tertiary",
        disabled=last is None,
        on_click=act,
        args=(take_back, workspace, last, annotator_id),
    )


def target_reached(workspace: Workspace, state: LoopState) -> None:
    """Say so when the round has what it asked for, or is past that; comparing goes on as long as there are pairs."""
    assert state.round is not None
    if state.step == Step.TRAIN:
        to_the_loop("**The round has what it asked for.** You can train now, or go on comparing.", "Train")
    elif state.step == Step.DECIDE:
        to_the_loop(f"**Round {state.round.number} is trained.** Next: decide.", "Decide")
        st.caption(story.fate_words(late_ones_count(workspace)))
    elif state.step == Step.MEND_RUN:
        to_the_loop(f"**Round {state.round.number} has stopped**, and waits for a decision.", "See why")
    elif state.round.status == RoundStatus.TRAINING:
        fate = story.fate_words(late_ones_count(workspace))
        st.caption(f"Round {state.round.number} is training already. {fate}")


def to_the_loop(text: str, verb: str) -> None:
    """What can be done on the Loop page by now, and the way there."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(text, width="content")
        st.page_link(story.LOOP_PAGE, label=f"{verb} on the Loop page", icon=":material/arrow_forward:")


def nothing_to_compare(workspace: Workspace, state: LoopState, current: Round | None, annotator_id: int) -> None:
    """What is going on instead, and the one thing to do about it."""
    words = story.waiting_words(state, done_for_today=done_for_today(workspace, annotator_id))
    show.empty_state(words.title, words.text)
    if state.step == Step.START_ROUND:
        label = f"Start round {state.round.number + 1 if state.round else 1}"
        st.button(
            label, key="start", type="primary", on_click=act, args=(start_round, workspace), kwargs={"by": my_name()}
        )
    elif words.page:
        if st.button(words.button, key="go", type="primary"):
            st.switch_page(words.page)
    else:
        wait_for_pair(workspace, current, annotator_id)
    if current is not None and state.comparisons.get("total"):
        undo_button(workspace, current.id, annotator_id)


def wait_for_pair(workspace: Workspace, current: Round | None, annotator_id: int) -> None:
    """Look every two seconds whether there is a pair, and go on as soon as there is one."""

    def look() -> None:
        with errors_in_words():
            with reading(workspace.engine) as session:
                state, workers = read_loop(session=session), live_workers(session=session)
            if find_pair(workspace, current, annotator_id) is not None or story.waiting_words(state).page:
                st.rerun()
            show.worker_warning(workers, state.run)
            if state.run is not None and state.step == Step.WAIT_FOR_PAIRS:
                show.run_progress(state.run)

    st.fragment(look, run_every=2)()


if __name__ == "__main__":
    main()
