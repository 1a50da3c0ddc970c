"""What somebody new sees before the first pair: the guidelines, and a few pairs with the answer told.

settle_in            draws whatever comes before real work; the Label page shows nothing else meanwhile
guidelines_control   the guidelines, within reach at any time
"""

from __future__ import annotations

import streamlit as st

from dpo_core.guidelines import current_guidelines
from dpo_core.workspace import Workspace
from store.calibration import Calibration, Practised, prepare_calibration, read_calibration
from store.database import reading, writing
from store.guidelines import has_read, has_read_any, remember_read
from store.models import Guidelines, Round
from store.pairs import ShownPair
from store.wording import counted
from ui import components as show
from ui import verdicts
from ui.attention import my_watch
from ui.state import act, show_messages

BETTER = {"left": "Left is better", "right": "Right is better", "tie": "Neither is better", "both_bad": "Both are bad"}


def settle_in(workspace: Workspace, current: Round | None, annotator_id: int) -> bool:
    """Draw what comes before real work, if this annotator has not been through it; whether anything was drawn."""
    if current is None:
        return False
    version = current_guidelines(workspace)
    if version is not None and is_news(workspace, annotator_id):
        _guidelines_page(workspace, annotator_id, version)
        return True
    return _calibrate(workspace, annotator_id)


def is_news(workspace: Workspace, annotator_id: int) -> bool:
    """Whether the guidelines are not those that this annotator has read."""
    version = current_guidelines(workspace)
    return version is not None and not _knows(workspace, annotator_id, version)


def guidelines_control(workspace: Workspace) -> None:
    """The guidelines, to look something up; nothing where the workspace has none."""
    version = current_guidelines(workspace)
    if version is not None:
        with st.popover("Guidelines", type="tertiary", icon=":material/menu_book:", width="content"):
            st.markdown(version.text)


def _knows(workspace: Workspace, annotator_id: int, version: Guidelines) -> bool:
    """Whether this annotator has read this version. Who has is not looked up again in the same session."""
    if st.session_state.get("guidelines") == (annotator_id, version.hash):
        return True
    with reading(workspace.engine) as session:
        known = has_read(session=session, annotator_id=annotator_id, version=version)
    if known:
        st.session_state["guidelines"] = annotator_id, version.hash
    return known


def _guidelines_page(workspace: Workspace, annotator_id: int, version: Guidelines) -> None:
    with reading(workspace.engine) as session:
        changed = has_read_any(session=session, annotator_id=annotator_id)
    show.page_head("The guidelines have changed" if changed else "Before you begin")
    show_messages()
    with st.container(border=True):
        st.markdown(version.text)
    st.button(
        "I have read this",
        key=f"read-{version.hash}",
        type="primary",
        on_click=act,
        args=(_remember, workspace, annotator_id, version),
    )


def _remember(workspace: Workspace, annotator_id: int, version: Guidelines) -> None:
    with writing(workspace.engine) as session:
        remember_read(session=session, annotator_id=annotator_id, version=version)


def _calibrate(workspace: Workspace, annotator_id: int) -> bool:
    """The calibration's next screen, if there is one for this annotator."""
    wanted = workspace.settings.queue.calibration
    if not wanted or st.session_state.get("calibrated") == annotator_id:
        return False
    state = _state(workspace, annotator_id, wanted)
    just_judged = [each for each in state.practised if st.session_state.get("practised") == each.shown.pair_id]
    if just_judged:
        _feedback(just_judged[0], state)
    elif state.to_come:
        _practice_pair(workspace, state, annotator_id)
    elif st.session_state.get("practising") == annotator_id:
        _end(state, annotator_id)
    else:  # who did it another day begins with real work
        st.session_state["calibrated"] = annotator_id
        return False
    return True


def _state(workspace: Workspace, annotator_id: int, wanted: int) -> Calibration:
    with writing(workspace.engine) as session:
        prepare_calibration(session=session, wanted=wanted)
        return read_calibration(session=session, annotator_id=annotator_id, wanted=wanted)


def _practice_pair(workspace: Workspace, state: Calibration, annotator_id: int) -> None:
    shown, number = state.to_come[0], len(state.practised) + 1
    _head(f"Practice {number} of {number - 1 + len(state.to_come)}. The answer is told, and nothing is counted.")
    show_messages()
    _texts(shown)
    with st.bottom, st.container(horizontal=True, horizontal_alignment="center", key=f"practice-{shown.pair_id}"):
        for answer in (*verdicts.answers(workspace.settings.label), verdicts.BOTH_BAD):
            st.button(
                answer.label,
                key=f"{answer.name}-{shown.pair_id}",
                shortcut=answer.shortcut,
                on_click=act,
                args=(_practise, workspace, shown.pair_id, annotator_id, answer),
            )
    my_watch().shows(shown.pair_id)


def _head(text: str) -> None:
    """A line where the round's meter will be, and the name one goes by."""
    left, right = st.columns([4, 1], vertical_alignment="center", wrap=False)
    left.caption(text)
    with right, st.container(horizontal=True, horizontal_alignment="right"):
        show.name_control()


def _texts(shown: ShownPair) -> None:
    show.prompt_block(shown.messages)
    show.completion_panes(shown.left, shown.right)


def _practise(workspace: Workspace, pair_id: int, annotator_id: int, answer: verdicts.Answer) -> None:
    verdicts.give_verdict(workspace, pair_id, annotator_id, answer.choice, answer.strength)
    st.session_state["practised"], st.session_state["practising"] = pair_id, annotator_id


def _feedback(judged: Practised, state: Calibration) -> None:
    """What would have been right, and why, above the texts that it is about."""
    _head(f"Practice {len(state.practised)} of {len(state.practised) + len(state.to_come)}.")
    told = f"**{BETTER[judged.expected]}.**"
    if judged.right:
        st.success(f"{told} That is what you said.", icon=":material/check:")
    else:
        st.warning(f"{told} You saw it differently.", icon=":material/compare_arrows:")
    if judged.note:
        show.paragraph(judged.note)
    _texts(judged.shown)
    label = "Next" if state.to_come else "How it went"
    with st.bottom, st.container(horizontal=True, horizontal_alignment="center"):
        st.button(label, key=f"next-{judged.shown.pair_id}", shortcut="Enter", type="primary", on_click=_go_on)


def _go_on() -> None:
    st.session_state.pop("practised", None)


def _end(state: Calibration, annotator_id: int) -> None:
    """How it went, and the way to real work."""
    right, all_of_them = state.right, len(state.practised)
    show.empty_state(
        f"{right} of {counted(all_of_them, 'pair')} as expected",
        "That was practice. From here on answers are not told, and what you say is what the model learns from.",
    )
    st.button("Start comparing", key="start-work", type="primary", on_click=_start_work, args=(annotator_id,))


def _start_work(annotator_id: int) -> None:
    st.session_state["calibrated"] = annotator_id
