"""What somebody's comparisons went into, for the pages that say so: read once for as many checkpoints as there are."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from dpo_core.workspace import Workspace
from store.checkpoints import list_checkpoints
from store.database import reading
from store.decisions import serving_checkpoint
from store.teaching import Touch, touched_by
from ui.lineage_words import touched_serving_words, touched_words

KEPT = 32  # answers in the server's memory


def who_touched(workspace: Workspace, name: str) -> list[Touch]:
    """The checkpoints that learned from somebody, or descend from such."""
    with reading(workspace.engine) as session:
        count = len(list_checkpoints(session=session))
    return _touches(str(workspace.folder), name, count, workspace)


def touched_sentence(workspace: Workspace, name: str) -> str:
    """Which these are."""
    return touched_words(name, who_touched(workspace, name))


def touched_serving_sentence(workspace: Workspace, name: str) -> str:
    """What the checkpoint that serves now has of somebody; empty where it has nothing."""
    with reading(workspace.engine) as session:
        serving = serving_checkpoint(session=session).name
    return touched_serving_words(name, who_touched(workspace, name), serving)


def _read_touched(folder: str, name: str, checkpoints: int, _workspace: Workspace) -> list[Touch]:
    with reading(_workspace.engine) as session:
        return touched_by(session=session, folder=_workspace.folder, name=name)


# What was trained never changes: only another checkpoint does. With large snapshots it takes a second to read.
_touches: Callable[[str, str, int, Workspace], list[Touch]] = st.cache_data(
    _read_touched, max_entries=KEPT, show_spinner=False
)
