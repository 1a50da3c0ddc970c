"""What helps to read two completions: the words in which they differ, the text's size, and lengths where allowed."""

from __future__ import annotations

import streamlit as st

from dpo_core.config import LabelSettings
from store.pairs import ShownPair
from ui import components as show
from ui.model_text import render_model_text, render_prompt
from ui.remarks import ask_about_side
from ui.word_difference import mark_difference

SIZES = {"Small": 0.9, "Normal": 1.0, "Large": 1.2, "Larger": 1.45}
PARAMETER = "text"


def texts_as_read(asked: LabelSettings, pair: ShownPair) -> str:
    """The prompt and both completions as HTML, as this person wants to read them."""
    marked = mark_difference(pair.left, pair.right) if st.session_state.get("differences") else None
    left, right = marked or (render_model_text(pair.left), render_model_text(pair.right))
    notes = [f"{len(text.split()):,} words" if asked.lengths else "" for text in (pair.left, pair.right)]
    panes = show.drawn_panes((left, right), notes, scale=text_scale())
    unmarked = bool(st.session_state.get("differences")) and marked is None
    too_long = '<p class="pl-quiet">These two are too long to be compared word by word.</p>' if unmarked else ""
    return f"{render_prompt(pair.messages)}{panes}{too_long}"


def ask_about_both(asked: LabelSettings, pair: ShownPair) -> None:
    """What can be said about each completion, below it."""
    show.beside_panes(lambda side: ask_about_side(asked, pair, side), wanted=bool(asked.flags or asked.rewrite))


def reading_controls(*, differences: bool = True) -> None:
    """Show the differences, where two texts are compared, and choose the text's size."""
    on = bool(st.session_state.get("differences"))
    if differences:
        st.button(
            "Hide differences" if on else "Differences",
            key="differences-button",
            shortcut="D",
            on_click=_flip,
            type="tertiary",
        )
    with st.popover("Text size", type="tertiary", icon=":material/format_size:"):
        st.segmented_control("Text size", list(SIZES), default=_size(), key="text-size", on_change=_remember)


def text_scale() -> float:
    """How large model text is drawn, as a factor."""
    return SIZES[_size()]


def _size() -> str:
    chosen = st.session_state.get("size") or st.query_params.get(PARAMETER, "Normal")
    return chosen if chosen in SIZES else "Normal"


def _remember() -> None:
    # In the address as well, so that a reload keeps it.
    st.session_state["size"] = st.query_params[PARAMETER] = st.session_state.get("text-size") or "Normal"


def _flip() -> None:
    st.session_state["differences"] = not st.session_state.get("differences")
