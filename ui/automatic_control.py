"""The switch for automatic rounds on the Loop page, what they do next, and what they did."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dpo_core.automatic import Plan, StepTaken
from dpo_core.editing_settings import change_section
from dpo_core.workspace import Workspace
from ui import components as show
from ui.model_text import message_markdown
from ui.state import act
from ui.story import plan_words

MEANT = (
    "The worker does by itself what you would press here next: it starts rounds, trains when the comparisons are "
    "there, has duels written and promotes or keeps as the gate says, each step on record. People still compare."
)


def automatic_control(workspace: Workspace, plan: Plan, steps: Sequence[StepTaken]) -> None:
    """On or off; while it is on, what comes next and why. The last steps that were taken, the newest first."""
    is_on = workspace.settings.automatic.on
    with st.container(horizontal=True, vertical_alignment="center", key="automatic"):
        st.toggle(
            "Automatic rounds", value=is_on, key=f"automatic-{is_on}", help=MEANT, on_change=switch, args=(workspace,)
        )
        if is_on:
            st.caption(message_markdown(plan_words(plan)), width="content")
    if steps:
        with st.expander("What automatic rounds did"):
            show.table(("When (UTC)", "Step"), [(f"{step.at:%Y-%m-%d %H:%M}", step.what) for step in steps])


def switch(workspace: Workspace) -> None:
    """Turn it on, or off: the worker hears of it within seconds."""
    turned_on = not workspace.settings.automatic.on
    said = f"Automatic rounds are {'on' if turned_on else 'off'}."
    act(change_section, workspace, "automatic", {"on": turned_on}, said=said)
