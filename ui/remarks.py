"""What can be said beside a verdict: criteria, reasons, flags and rewrites. Drafts until the verdict is given."""

from __future__ import annotations

import streamlit as st

from dpo_core.config import LabelSettings
from store.comparisons import Remarks
from store.pairs import ShownPair
from ui.state import veiled

SIDES = ("left", "right")
WORDS = {"left": "Left", "tie": "Same", "right": "Right"}


def has_remarks(asked: LabelSettings) -> bool:
    """Whether anything is asked beside the verdict itself."""
    return bool(asked.criteria or asked.tags or asked.reason)


def ask_remarks(asked: LabelSettings, pair_id: int) -> None:
    """The criteria and reasons that this workspace asks for, in one row; all of them may be left out."""
    if not has_remarks(asked):
        return
    with st.container(horizontal=True, gap="medium", key=_key(pair_id, "remarks")):
        for criterion in asked.criteria:
            st.segmented_control(
                criterion, list(WORDS), format_func=WORDS.__getitem__, key=_key(pair_id, "criterion", criterion)
            )
        if asked.tags:
            st.pills("Why?", asked.tags, selection_mode="multi", key=_key(pair_id, "tags"))
        if asked.reason:
            st.text_input("In your words", key=_key(pair_id, "reason"), max_chars=2_000)


def ask_about_side(asked: LabelSettings, pair: ShownPair, side: str) -> None:
    """Below a completion: what is wrong with it, and a better one."""
    if asked.flags:
        key = _key(pair.pair_id, "flags", side)
        st.pills(f"What is wrong with the {side} one?", asked.flags, selection_mode="multi", key=key)
    if asked.rewrite:
        opened = _key(pair.pair_id, "rewriting", side)
        if st.toggle(f"Better the {side} one", key=opened):
            key = _key(pair.pair_id, "rewrite", side)
            st.session_state.setdefault(key, pair.left if side == "left" else pair.right)
            st.text_area(f"The {side} one, bettered", height=220, key=key)


def given_remarks(asked: LabelSettings, pair_id: int) -> Remarks:
    """What was said so far about this pair."""
    said = {name: st.session_state.get(_key(pair_id, "criterion", name)) for name in asked.criteria}
    return Remarks(
        reason=st.session_state.get(_key(pair_id, "reason")) if asked.reason else None,
        tags=tuple(tag for tag in st.session_state.get(_key(pair_id, "tags")) or () if tag in asked.tags),
        criteria={name: side for name, side in said.items() if side},
        flags={side: [flag for flag in _flags(pair_id, side) if flag in asked.flags] for side in SIDES},
    )


def _flags(pair_id: int, side: str) -> list[str]:
    return list(st.session_state.get(_key(pair_id, "flags", side)) or ())


def given_rewrites(asked: LabelSettings, pair_id: int) -> dict[str, str] | None:
    """The texts that were written to better one, by side; None where nobody is asked for any."""
    if not asked.rewrite:
        return None
    texts = {side: st.session_state.get(_key(pair_id, "rewrite", side)) for side in SIDES}
    return {side: text for side, text in texts.items() if text and text.strip()}


def recall_remarks(pair_id: int, said: Remarks, rewrites: dict[str, str]) -> None:
    """Put earlier remarks back into their places, once, where a verdict is looked at again."""
    if st.session_state.get("recalled") == pair_id:
        return
    st.session_state["recalled"] = pair_id
    for name, side in said.criteria.items():
        st.session_state[_key(pair_id, "criterion", name)] = side
    for side, found in said.flags.items():
        st.session_state[_key(pair_id, "flags", side)] = found
    for side, text in rewrites.items():
        st.session_state[_key(pair_id, "rewriting", side)] = True
        st.session_state[_key(pair_id, "rewrite", side)] = text
    st.session_state[_key(pair_id, "tags")] = list(said.tags)
    st.session_state[_key(pair_id, "reason")] = said.reason or ""


def _key(pair_id: int, *parts: str) -> str:
    return "-".join((*parts, veiled(pair_id)))
