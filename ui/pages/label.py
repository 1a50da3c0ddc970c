"""Label: one pair at a time, two completions side by side, one key for the verdict."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from dpo_core.errors import LoginNeededError
from dpo_core.filters import late_ones_count
from dpo_core.loop import Step, read_loop, start_round
from dpo_core.queueing import done_for_today, meter_figures
from dpo_core.workspace import Workspace
from store.database import reading
from store.models import Annotator, Comparison, RoundStatus
from store.pairs import ShownPair
from ui import components as show
from ui import onboarding, ranking, rankings_said, story, verdicts
from ui.ahead import keep_ahead, show_pair
from ui.attention import my_watch, watch_page
from ui.desk import Desk, open_round, set_desk
from ui.reading_aids import ask_about_both, reading_controls, texts_as_read
from ui.remarks import ask_remarks
from ui.state import (
    act,
    current_workspace,
    errors_in_words,
    loop_seen,
    my_annotator_id,
    my_name,
    show_messages,
    veiled,
    visitor,
)


def main() -> None:
    """Show the next pair, or say what is going on."""
    workspace = current_workspace()
    if not my_name():
        show.name_control()
        show.ask_name()
        return
    annotator_id = my_annotator_id(workspace)
    current = open_round(workspace)
    if onboarding.settle_in(workspace, current, annotator_id):
        return
    above = st.container(key="tools", horizontal=True, horizontal_alignment="right", gap="small")
    st.session_state["whole_page"] = True
    st.fragment(draw_desk)()
    with above:
        tools(workspace)


def tools(workspace: Workspace) -> None:
    """What stays the same from pair to pair: how texts are read, the keys, and who is comparing."""
    kind = st.session_state.get("on_desk", "")
    if kind:
        onboarding.guidelines_control(workspace)
        reading_controls(differences=kind == "pair")
    if kind == "pair":
        show.keys_sheet(show.pair_keys(graded=workspace.settings.label.strengths))
    elif kind:
        show.keys_sheet(ranking.KEYS)
    show.name_control()


def draw_desk() -> None:
    """What changes with every verdict, drawn anew by itself: a press takes half the time of a whole page."""
    st.session_state.pop("visitor_asked", None)  # a whole page that is drawn later asks again
    with errors_in_words():
        try:
            workspace = current_workspace()
        except LoginNeededError:
            st.rerun()
        annotator_id = my_annotator_id(workspace)
        desk = set_desk(workspace, annotator_id)
        kind = "" if desk.pair is None else "pair" if desk.pair.slate_id is None else "slate"
        before, st.session_state["on_desk"] = st.session_state.get("on_desk"), kind
        news = desk.round is not None and onboarding.is_news(workspace, annotator_id)
        if not st.session_state.pop("whole_page", False) and (news or kind != before):
            st.rerun()  # the tools are others by now
        show_work(workspace, desk, annotator_id)


def show_work(workspace: Workspace, desk: Desk, annotator_id: int) -> None:
    """The pair on the desk, or what is going on instead."""
    # The texts are sent first, into their place below: reading them can begin while the rest is made ready.
    top, note = st.container(key="head"), st.container()
    if desk.pair is not None:
        show_texts(workspace, desk.pair, annotator_id)
    with top:
        head(workspace, desk, annotator_id)
    with note:
        show_messages()
    if desk.pair is None:
        my_watch().stop()
        nothing_to_compare(workspace, desk, annotator_id)
        return
    with note:
        if desk.said is not None:
            looking_back(workspace, desk, desk.said)
        else:
            target_reached(workspace, desk)
    compare(workspace, desk, desk.pair, annotator_id)
    if desk.ahead is not None and desk.ahead.slate_id is None:
        keep_ahead(desk.ahead.pair_id, texts_as_read(workspace.settings.label, desk.ahead))


def show_texts(workspace: Workspace, pair: ShownPair, annotator_id: int) -> None:
    """The prompt and its two completions; or all those that are to be ranked."""
    if pair.slate_id is None:
        show_pair(pair.pair_id, texts_as_read(workspace.settings.label, pair))
        ask_about_both(workspace.settings.label, pair)
    else:
        show.prompt_block(pair.messages)
        ranking.draw_cards(workspace, pair, annotator_id)


def head(workspace: Workspace, desk: Desk, annotator_id: int) -> None:
    """How far the round is."""
    if desk.round is None or desk.round.id is None or desk.work is None:
        return
    goal = workspace.settings.label.daily_goal
    today = verdicts.goal_words(verdicts.todays_work(workspace, annotator_id, desk.round.id), goal) if goal else ""
    done, target = meter_figures(workspace.settings, desk.round.target + desk.round.duels, desk.work)
    show.round_meter(done=done, target=target, mine=desk.work.mine, name=my_name(), today=today)


def compare(workspace: Workspace, desk: Desk, pair: ShownPair, annotator_id: int) -> None:
    """What can be said about the two texts, with the verdicts within reach of the keyboard."""
    if pair.slate_id is None:
        ask_remarks(workspace.settings.label, pair.pair_id)
    with st.container(key="bottom"):
        if verdicts.is_skipping(pair.pair_id):
            why_skip(workspace, pair, annotator_id)
        elif pair.slate_id is not None:
            ranking_buttons(workspace, desk, pair, annotator_id)
        else:
            verdict_buttons(workspace, desk, pair, annotator_id)
    my_watch().shows(pair.pair_id)
    watch_page(veiled(pair.pair_id))


def verdict_buttons(workspace: Workspace, desk: Desk, pair: ShownPair, annotator_id: int) -> None:
    """A key for each verdict; below them what else can be done."""
    standing = verdicts.verdict_words(desk.said) if desk.said else None
    with st.container(
        horizontal=True, horizontal_alignment="center", gap="small", key=f"verdicts-{veiled(pair.pair_id)}"
    ):
        for answer in verdicts.answers(workspace.settings.label):
            verdict_button(workspace, pair, annotator_id, answer, standing)
    with st.container(
        horizontal=True, horizontal_alignment="center", gap="small", key=f"others-{veiled(pair.pair_id)}"
    ):
        verdict_button(workspace, pair, annotator_id, verdicts.BOTH_BAD, standing)
        skip_button(workspace, pair, annotator_id)
        if desk.said is None:
            undo_buttons(workspace, desk, annotator_id)


def ranking_buttons(workspace: Workspace, desk: Desk, pair: ShownPair, annotator_id: int) -> None:
    """The board for a slate; below it what else can be done with it."""
    ranking.draw_board(workspace, pair, annotator_id)
    with st.container(
        horizontal=True, horizontal_alignment="center", gap="small", key=f"others-{veiled(pair.pair_id)}"
    ):
        ranking.all_bad_button(workspace, pair, annotator_id)
        skip_button(workspace, pair, annotator_id)
        if desk.said is None:
            undo_buttons(workspace, desk, annotator_id)


def skipping(pair: ShownPair) -> Callable[..., None]:
    """What skips what is on screen: a pair, or the slate that it stands for."""
    return verdicts.skip_pair if pair.slate_id is None else rankings_said.skip_slate


def verdict_button(
    workspace: Workspace, pair: ShownPair, annotator_id: int, answer: verdicts.Answer, standing: str | None
) -> None:
    """One verdict. With the pair's id in its name, a second press can never reach the next pair."""
    st.button(
        answer.label,
        key=f"{answer.name}-{veiled(pair.pair_id)}",
        shortcut=answer.shortcut,
        type="primary" if answer.label == standing else "secondary",
        on_click=act,
        args=(verdicts.give_verdict, workspace, pair.pair_id, annotator_id, answer.choice, answer.strength),
    )


def skip_button(workspace: Workspace, pair: ShownPair, annotator_id: int) -> None:
    """Skip at once, or ask why first where this workspace wants to know."""
    given: tuple[object, ...] = (skipping(pair), workspace, pair.pair_id, annotator_id, "")
    name = "skip"
    if workspace.settings.label.skip_reasons:
        given, name = (verdicts.ask_why, pair.pair_id), "ask"  # by which the browser knows that reasons will come
    st.button("Skip", key=f"{name}-{veiled(pair.pair_id)}", shortcut="S", on_click=act, args=given)


def why_skip(workspace: Workspace, pair: ShownPair, annotator_id: int) -> None:
    """The reasons to skip, by number; or none."""
    with st.container(horizontal=True, horizontal_alignment="center", gap="small", key=f"why-{veiled(pair.pair_id)}"):
        what = "this pair" if pair.slate_id is None else "all of these"
        st.markdown(f"**Why skip {what}?**", width="content")
        reasons = [(why, why, str(number)) for number, why in enumerate(workspace.settings.label.skip_reasons, start=1)]
        for label, why, key in [*reasons, ("Just skip", "", "S")]:
            given = (skipping(pair), workspace, pair.pair_id, annotator_id, why)
            st.button(label, key=f"why-{key}-{veiled(pair.pair_id)}", shortcut=key, on_click=act, args=given)
        back = (verdicts.ask_why, None)
        st.button(
            "Back", key=f"why-not-{veiled(pair.pair_id)}", shortcut="Escape", type="tertiary", on_click=act, args=back
        )


def looking_back(workspace: Workspace, desk: Desk, said: Comparison) -> None:
    """Where one is in the day's work, and what one said."""
    assert desk.round is not None and desk.round.id is not None
    today = verdicts.todays_work(workspace, said.annotator_id, desk.round.id)
    places = [each.pair_id for each in today]
    at = places.index(said.pair_id) if said.pair_id in places else len(places)
    with st.container(horizontal=True, vertical_alignment="center", key="looking-back"):
        place = f"{at + 1} of {len(places)} today" if at < len(places) else "an earlier day"
        st.markdown(
            f"**Looking back** ({place}). You said: **{rankings_said.said_words(workspace, said)}**.", width="content"
        )
        step_button("Earlier", places[at - 1] if at > 0 else None, "P")
        step_button("Later", places[at + 1] if at + 1 < len(places) else None, "N")
        st.button("Back to the queue", key="to-queue", shortcut="Q", on_click=act, args=(verdicts.look_at, None))


def step_button(label: str, pair_id: int | None, key: str) -> None:
    """Go one pair on in the day's work."""
    st.button(
        label,
        key=f"look-{key}-{pair_id and veiled(pair_id)}",
        shortcut=key,
        type="tertiary",
        disabled=pair_id is None,
        on_click=act,
        args=(verdicts.look_at, pair_id),
    )


def undo_buttons(workspace: Workspace, desk: Desk, annotator_id: int) -> None:
    """Take back the last verdict, or look at it again."""
    undo_button(workspace, desk, annotator_id)
    step_button("Look back", desk.last[1] if desk.last else None, "P")


def undo_button(workspace: Workspace, desk: Desk, annotator_id: int) -> None:
    """Take back the last verdict. With its id in the button's name, a second press can never reach the one before."""
    last = desk.last[0] if desk.last else None
    st.button(
        "Undo",
        key=f"undo-{last}",
        shortcut="U",
        type="tertiary",
        disabled=last is None,
        on_click=act,
        args=(verdicts.take_back, workspace, last, annotator_id),
    )


def target_reached(workspace: Workspace, desk: Desk) -> None:
    """Say so when the round has what it asked for, or is past that; comparing goes on as long as there are pairs."""
    assert desk.round is not None and desk.work is not None
    asking = desk.round.status in (RoundStatus.SAMPLING, RoundStatus.COMPARING)
    if (asking and desk.work.judged < desk.round.target + desk.round.duels) or not visitor().researcher:
        return
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
    if state.round is None:
        return
    if state.step == Step.TRAIN:
        to_the_loop("**The round has what it asked for.** You can train now, or go on comparing.", "Train")
    elif state.step == Step.DECIDE and state.pairs.get("duels", 0) > state.comparisons.get("duels", 0):
        st.caption(
            f"Round {state.round.number} is trained. Among what is asked now are blind duels: they tell whether its "
            "new checkpoint is better. The Loop page says how it stands."
        )
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


def nothing_to_compare(workspace: Workspace, desk: Desk, annotator_id: int) -> None:
    """What is going on instead, and the one thing to do about it."""
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
    if not may_compare(workspace, annotator_id):
        show.empty_state(story.NOT_ASKED.title, story.NOT_ASKED.text)
        return
    researcher = visitor().researcher
    words = story.waiting_words(state, done_for_today=done_for_today(workspace, annotator_id))
    if not researcher and (words.page or state.step == Step.START_ROUND):
        words = story.PATIENCE
    show.empty_state(words.title, words.text)
    if desk.round is not None and desk.round.id is not None:
        show.paragraph(verdicts.day_words(verdicts.todays_work(workspace, annotator_id, desk.round.id)))
    if not researcher:
        wait_for_pair(workspace, annotator_id)
    elif state.step == Step.START_ROUND:
        label = f"Start round {state.round.number + 1 if state.round else 1}"
        st.button(
            label, key="start", type="primary", on_click=act, args=(start_round, workspace), kwargs={"by": my_name()}
        )
    elif words.page:
        if st.button(words.button, key="go", type="primary"):
            st.switch_page(words.page)
    else:
        wait_for_pair(workspace, annotator_id)
    if desk.round is not None and state.comparisons.get("total"):
        undo_button(workspace, desk, annotator_id)


def may_compare(workspace: Workspace, annotator_id: int) -> bool:
    """Whether whoever is here is still asked: not deactivated, nor retracted."""
    with reading(workspace.engine) as session:
        return session.get_one(Annotator, annotator_id).active


def wait_for_pair(workspace: Workspace, annotator_id: int) -> None:
    """Look every two seconds whether there is a pair, and go on as soon as there is one."""

    def look() -> None:
        with errors_in_words():
            visitor(anew=True)  # a login may have ended since the page was drawn
            state, workers = loop_seen(workspace, within=1.5)
            leads_on = bool(story.waiting_words(state).page) and visitor().researcher
            there_are_some = bool(state.pairs.get("open"))
            if leads_on or (there_are_some and set_desk(workspace, annotator_id).pair is not None):
                st.rerun()
            show.worker_warning(workers, state.run)
            if state.run is not None and state.step == Step.WAIT_FOR_PAIRS:
                show.run_progress(state.run)

    st.fragment(look, run_every=2)()


if __name__ == "__main__":
    main()
