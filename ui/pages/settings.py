"""Settings: what annotators are asked beside the verdict, and what they see. Written into pairloop.toml."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dpo_core.config import FILE_NAME, LabelSettings
from dpo_core.editing_settings import change_section
from ui import components as show
from ui.state import act, research_workspace, show_messages, show_settings_trouble

SUGGESTED = {
    "criteria": ["helpful", "harmless", "honest", "correct", "tone"],
    "tags": ["more correct", "more helpful", "clearer", "better tone", "safer", "shorter"],
    "flags": ["names itself", "unsafe", "personal data", "broken"],
    "skip_reasons": list(LabelSettings().skip_reasons),
}


def main() -> None:
    """One form; what is saved holds from everybody's next pair on."""
    workspace = research_workspace()
    show.page_head("Settings")
    show_messages()
    show_settings_trouble()
    asked = workspace.settings.label
    with st.form("label"):
        st.subheader("What annotators are asked", anchor=False)
        verdict, beside = st.columns(2, gap="large")
        with verdict:
            values = verdict_settings(asked)
        with beside:
            values |= beside_settings(asked)
        st.subheader("What they see", anchor=False)
        values |= seen_settings(asked)
        pressed = st.form_submit_button("Save", type="primary")
    st.caption(f"These are the [label] section of {workspace.folder / FILE_NAME}; all other settings are there too.")
    if pressed:
        act(change_section, workspace, "label", values, said="Saved. It holds from everybody's next pair on.")
        st.rerun()


def verdict_settings(asked: LabelSettings) -> dict[str, Any]:
    """The verdict itself."""
    return {
        "strengths": st.toggle("Three strengths for each side (keys 1 to 7)", value=asked.strengths),
        "skip_reasons": names("Reasons to skip a pair", "skip_reasons", asked.skip_reasons),
        "daily_goal": int(
            st.number_input("Comparisons a day that each aims for (0: no goal)", 0, 10_000, asked.daily_goal)
        ),
    }


def beside_settings(asked: LabelSettings) -> dict[str, Any]:
    """What can be said beside it. Everything is optional for annotators, and costs them time."""
    return {
        "criteria": names("Criteria: which is better in each?", "criteria", asked.criteria),
        "tags": names("Quick reasons for a verdict", "tags", asked.tags),
        "reason": st.toggle("A reason in their own words", value=asked.reason),
        "flags": names("What may be wrong with a completion", "flags", asked.flags),
        "rewrite": st.toggle("Bettering a completion: it becomes a preference over the original", value=asked.rewrite),
    }


def seen_settings(asked: LabelSettings) -> dict[str, Any]:
    """What of a pair is shown."""
    told = "How long each completion is (people who see it tend to prefer the longer one)"
    return {"lengths": st.toggle(told, value=asked.lengths)}


def names(label: str, key: str, current: list[str]) -> list[str]:
    """A list of short names, from those suggested or typed in."""
    options = list(dict.fromkeys([*current, *SUGGESTED[key]]))
    return list(st.multiselect(label, options, default=current, accept_new_options=True, max_selections=9))


if __name__ == "__main__":
    main()
