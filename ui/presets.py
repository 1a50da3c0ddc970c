"""What an address asks the Data page for: somebody's comparisons, a round's, or a snapshot.

It is put into the page's own filters once, where whoever looks can change it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import streamlit as st

from ui.lineage_words import ROUND_PARAMETER, SNAPSHOT_PARAMETER, WHO_PARAMETER

TAKEN = "taken_from_address"  # what was asked for when the filters were last set by it


def asks_for_comparisons() -> bool:
    """Whether the address asks for some comparisons."""
    return bool({WHO_PARAMETER, ROUND_PARAMETER} & set(st.query_params))


def asks_for_snapshot() -> bool:
    """Whether the address asks for a snapshot."""
    return SNAPSHOT_PARAMETER in st.query_params


def preset_filters(people: Mapping[Any, str], rounds: Mapping[Any, str]) -> None:
    """Set the filters `find_who` and `find_round` to those of this name and number, before they are drawn."""
    name, number = st.query_params.get(WHO_PARAMETER, ""), st.query_params.get(ROUND_PARAMETER, "")
    if _is_new("find_who", (name, number)):
        who = [each for each, called in people.items() if called == name]
        of_round = [each for each, called in rounds.items() if called == f"round {number}"]
        st.session_state["find_who"] = who
        st.session_state["find_round"] = next(iter(of_round), None)


def preset_snapshot(hashes: Collection[str]) -> None:
    """Choose the snapshot whose hash begins like this, before the choice is drawn."""
    asked = st.query_params.get(SNAPSHOT_PARAMETER, "")
    found = [each for each in hashes if asked and each.startswith(asked)]
    if _is_new("snapshot", asked) and found:
        st.session_state["snapshot"] = found[0]


def _is_new(widget: str, asked: object) -> bool:
    """Whether the address asks for something that was not put into this widget yet; a page left forgets its own."""
    taken = st.session_state.setdefault(TAKEN, {})
    new = any(asked) if isinstance(asked, tuple) else bool(asked)
    new = new and (taken.get(widget) != asked or widget not in st.session_state)
    taken[widget] = asked
    return new
