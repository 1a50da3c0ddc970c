"""Playground: chat with two checkpoints side by side, and make what they answer a pair to compare.

The page is its exchange, whose number is in the address: a reload finds the same. Nobody else does: it names the
checkpoints, and a pair made of it is to be blind for them.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

from dpo_core.playground import LARGEST_SEED, LAW, ask, first_choice, go_on, make_pair, new_seed, will_be_held_out
from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.errors import NotAllowedError, UnknownRecordError
from store.exchanges import SIDES, ReadExchange, latest_exchanges, read_exchange
from store.models import Worker
from store.prompts import Message
from store.workers import NO_CHATS, live_workers
from store.writing_exchanges import stop_exchange
from ui import components as show
from ui import playground_words as words
from ui.model_text import message_markdown, plain_markdown, render_model_text, render_prompt
from ui.state import act, errors_in_words, my_annotator_id, my_name, research_workspace, show_messages

EXCHANGE_PARAMETER = "exchange"
LOOK_SECONDS = 0.4  # between two looks at what is being written
EARLIER = 10
DIGITS = 9  # of an exchange's number: with more, a database may not have room for it
WIDGETS = ("chat_a", "chat_b", "chat_seed", *(f"chat_{name}" for name in LAW))


def main() -> None:
    """The two checkpoints, what was asked and answered last, and the place to ask on."""
    workspace = research_workspace()
    show.page_head("Playground")
    if not my_name():
        show.ask_name()
        return
    told = exchange_in_address(workspace)
    names, chosen = first_choice(workspace)
    begin_with(workspace, names, told, chosen)
    choose(workspace, names)
    if told is None:
        nothing_yet(workspace, len(names))
    else:
        watch(told)
        what_to_do(workspace, told)
    waits = told is not None and told.is_open
    st.chat_input(
        "Ask both", key="chat_text", disabled=waits, on_submit=act, args=(say, workspace, None if waits else told)
    )


def exchange_in_address(workspace: Workspace) -> ReadExchange | None:
    """The exchange that the page is about, if any; why it is none that can be shown is said once."""
    number = st.query_params.get(EXCHANGE_PARAMETER, "")
    if not number:
        return None
    try:
        if not number.isdecimal() or len(number) > DIGITS:
            raise UnknownRecordError(f"There is no exchange {words.short([{'content': number}])}.")
        with reading(workspace.engine) as session:
            return read_exchange(session=session, exchange_id=int(number))
    except (UnknownRecordError, NotAllowedError) as error:  # it is somebody else's
        st.query_params.pop(EXCHANGE_PARAMETER, None)
        st.session_state["problem"] = str(error)
        return None


def begin_with(workspace: Workspace, names: list[str], told: ReadExchange | None, chosen: tuple[str, str]) -> None:
    """What is chosen until somebody chooses: a new seed, and else as in the exchange on the page or pairloop.toml."""
    shown = told.exchange.id if told else None
    if st.session_state.get("chat_shown", shown) != shown:  # what is chosen by now belongs to another exchange
        for widget in WIDGETS if told else ("chat_seed",):
            st.session_state.pop(widget, None)
    st.session_state["chat_shown"] = shown
    for side, name in zip(SIDES, chosen, strict=True):
        if st.session_state.get(f"chat_{side}") not in names:
            st.session_state[f"chat_{side}"] = told.names[side] if told else name
    law = told.exchange.settings if told else workspace.settings.sampling.model_dump()
    # Never that of an exchange before: two who ask the same with the same seed would see each other's pairs.
    st.session_state.setdefault("chat_seed", new_seed())
    for name in LAW:
        st.session_state.setdefault(f"chat_{name}", law[name])


def choose(workspace: Workspace, names: list[str]) -> None:
    """Which two, and what their answers follow from."""
    left, right, seed, other = st.columns([3, 3, 2, 2], vertical_alignment="bottom")
    left.selectbox("Left", names, key="chat_a")
    right.selectbox("Right", names, key="chat_b")
    seed.number_input("Seed", 0, LARGEST_SEED, step=1, key="chat_seed")
    other.button("New seed", on_click=draw_seed, icon=":material/casino:", width="stretch")
    with st.expander("Sampling, and earlier exchanges"):
        sampling()
        earlier(workspace)


def sampling() -> None:
    """How they write."""
    said = st.session_state
    heat, mass, length = st.columns(3)
    near_zero = "Near 0 the likeliest token is always taken."
    least = min(0.01, said["chat_temperature"])  # pairloop.toml may have less
    heat.number_input("temperature", least, 5.0, step=0.1, key="chat_temperature", help=near_zero)
    mass.number_input("top_p", min(0.01, said["chat_top_p"]), 1.0, step=0.05, key="chat_top_p")
    length.number_input("max_new_tokens", 1, step=50, key="chat_max_new_tokens")


def earlier(workspace: Workspace) -> None:
    """What was asked before, to be looked at again."""
    by = my_annotator_id(workspace)
    with reading(workspace.engine) as session:
        found = latest_exchanges(session=session, asked_by_id=by, limit=EARLIER)
    if found:
        st.caption("Asked before")
    with st.container(gap="xxsmall"):
        for each in found:
            label = plain_markdown(words.short(each.messages))
            st.button(label, key=f"earlier-{each.id}", type="tertiary", on_click=open_exchange, args=(each.id,))


def nothing_yet(workspace: Workspace, checkpoints: int) -> None:
    """What can be done here."""
    show_messages()
    show.empty_state(*words.EMPTY)
    if checkpoints == 1:
        show.paragraph(words.ONE_ALONE)
    with reading(workspace.engine) as session:
        workers = live_workers(session=session)
    who_writes(workspace, workers)


def who_writes(workspace: Workspace, workers: list[Worker]) -> None:
    """Say so where nobody is there to write the answers."""
    if not workspace.settings.worker.chat_minutes:
        st.warning(words.SWITCHED_OFF, icon=":material/hourglass_empty:")
    elif not workers:
        show.no_worker("and it is a worker that writes the answers")
    elif all(NO_CHATS in worker.doing for worker in workers):
        st.warning(words.CARD_IN_USE, icon=":material/hourglass_empty:")


def watch(told: ReadExchange) -> None:
    """What was asked and answered; drawn anew several times a second while it is being written."""
    number = told.exchange.id or 0

    def live() -> None:
        with errors_in_words():
            workspace = research_workspace()
            with reading(workspace.engine) as session:
                fresh = read_exchange(session=session, exchange_id=number)
                workers = live_workers(session=session) if fresh.is_open else []
            if fresh.is_open != told.is_open:
                st.rerun()
            if fresh.is_open:  # a worker may die in the middle of it
                who_writes(workspace, workers)
            draw(fresh, written=bool(workers))

    st.fragment(live, run_every=LOOK_SECONDS if told.is_open else None)()


def draw(told: ReadExchange, *, written: bool) -> None:
    """The conversation, and both answers to its last turn. `written`: somebody is there to write what is open."""
    answers = [render_model_text(text) if text or not told.is_open else "" for text in told.texts.values()]
    panes = show.drawn_panes(answers, words.notes(told), titles=words.titles(told))
    st.html(f'<div class="pl-chat">{render_prompt(told.exchange.messages)}{panes}</div>')
    if told.is_open:
        st.caption(words.progress_words(told, written=written))
    if told.exchange.error:
        st.error(message_markdown(told.exchange.error), icon=":material/error:")


def what_to_do(workspace: Workspace, told: ReadExchange) -> None:
    """Stop what is being written; make a pair of what was written, ask again, go on or begin anew."""
    number = told.exchange.id
    show_messages()  # here, in sight of who has just pressed one of these
    if told.is_open:
        st.button("Stop", key="stop", on_click=act, args=(stop, workspace, number), icon=":material/stop:")
        return
    st.caption(words.law_words(told))
    if told.exchange.prompt_id is not None:
        st.success(words.pair_words(told), icon=":material/check:")
    elif told.why_no_pair:
        st.caption(told.why_no_pair)
    elif will_be_held_out(workspace, told):
        st.caption(words.HELD_OUT)
    with st.container(horizontal=True):
        if told.exchange.prompt_id is None and not told.why_no_pair:
            given = (make_pair, workspace, number)
            st.button("Make this a pair to compare", key="pair", type="primary", on_click=act, args=given)
        st.button("Ask again with a new seed", key="again", on_click=act, args=(ask_again, workspace, told))
        st.button("Clear", key="clear", on_click=open_exchange, args=(None,))
    options = words.going_on(told)
    st.radio(
        "Your next message goes on from",
        list(options),
        format_func=lambda side: plain_markdown(options[side]),
        horizontal=True,
        key=f"chat_from_{number}",
        help="Both checkpoints are then shown this answer as the one that was given.",
    )


def say(workspace: Workspace, told: ReadExchange | None) -> None:
    """Ask both what was typed, after the answer that was chosen to go on from."""
    text = str(st.session_state.get("chat_text") or "")
    side = st.session_state.get(f"chat_from_{told.exchange.id}", "") if told else ""
    messages = go_on(told, side, text) if told and side else [{"role": "user", "content": text}]
    put(workspace, messages)


def ask_again(workspace: Workspace, told: ReadExchange) -> None:
    """Ask the same once more."""
    draw_seed()
    put(workspace, told.exchange.messages)


def put(workspace: Workspace, messages: list[Message]) -> None:
    """Ask the two that are chosen, and show that exchange."""
    said: Any = st.session_state
    asked = ask(
        workspace,
        by=my_annotator_id(workspace),
        messages=messages,
        checkpoints=(said["chat_a"], said["chat_b"]),
        seed=int(said["chat_seed"]),
        changes={name: said[f"chat_{name}"] for name in LAW},
    )
    open_exchange(asked.id)


def stop(workspace: Workspace, number: int) -> None:
    """Have no more written."""
    with writing(workspace.engine) as session:
        stop_exchange(session=session, exchange_id=number)


def draw_seed() -> None:
    """Another seed than anybody has thought of."""
    st.session_state["chat_seed"] = new_seed()


def open_exchange(number: int | None) -> None:
    """Show this exchange; None: begin anew."""
    if number is None:
        st.query_params.pop(EXCHANGE_PARAMETER, None)
    else:
        st.query_params[EXCHANGE_PARAMETER] = str(number)


if __name__ == "__main__":
    main()
