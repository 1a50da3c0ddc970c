"""The switch for automatic rounds on the Loop page, and what they do next."""

from __future__ import annotations

import streamlit as st

from dpo_core.automatic import Act, Plan
from dpo_core.editing_settings import change_section
from dpo_core.workspace import Workspace
from ui.state import act

MEANT = (
    "The worker does by itself what you would press here next: it starts rounds, trains when the comparisons are "
    "there, has duels written and promotes or keeps as the gate says, each step on record. People still compare."
)
LEADS = {Act.WAIT: "Waiting: ", Act.STOP: "Stopped: "}


def automatic_control(workspace: Workspace, plan: Plan) -> None:
    """On or off; while it is on, what comes next and why."""
    is_on = workspace.settings.automatic.on
    with st.container(horizontal=True, vertical_alignment="center", key="automatic"):
        st.toggle(
            "Automatic rounds", value=is_on, key=f"automatic-{is_on}", help=MEANT, on_change=switch, args=(workspace,)
        )
        if is_on:
            st.caption(f"{LEADS.get(plan.act, 'Next: ')}{plan.why}", width="content")


def switch(workspace: Workspace) -> None:
    """Turn it on, or off: the worker hears of it within seconds."""
    turned_on = not workspace.settings.automatic.on
    said = f"Automatic rounds are {'on' if turned_on else 'off'}."
    act(change_section, workspace, "automatic", {"on": turned_on}, said=said)
