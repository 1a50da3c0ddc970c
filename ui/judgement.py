"""What a new checkpoint was found to be worth, drawn: held-out accuracy with its ceiling, and what stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from dpo_core.gate import change_words
from dpo_core.workspace import Workspace
from store.database import reading
from store.held_out import HeldOut, judging_run, read_held_out
from store.models import Checkpoint, Run
from store.runs import get_run
from ui import components as show
from ui import judged_words as words
from ui import story
from ui.charts import held_out_chart

KEPT = 32  # runs, in the server's memory


def judgement(workspace: Workspace, checkpoint: Checkpoint | None) -> None:
    """Held-out accuracy before and after, how much to trust it, and whether anything else changed."""
    metrics = checkpoint.metrics if checkpoint is not None else {}
    evaluation = dict(metrics.get("eval") or {})
    found = _judged_in_training(workspace, checkpoint) if checkpoint is not None else None
    if evaluation.get("pairs"):
        _headline(evaluation)
    show.paragraph(story.trust_words(evaluation, found.ceiling if found else None))
    if found is not None:
        held_out(found)
    rows = words.beside_rows(metrics)
    if rows:
        show.table(words.BESIDE_HEAD, rows)


def _judged_in_training(workspace: Workspace, checkpoint: Checkpoint) -> HeldOut | None:
    assert checkpoint.id is not None
    with reading(workspace.engine) as session:
        run = judging_run(session=session, checkpoint_id=checkpoint.id)
    return _held_out(workspace, run, checkpoint.id) if run is not None else None


def _held_out(workspace: Workspace, run: Run, checkpoint_id: int | None = None) -> HeldOut | None:
    assert run.id is not None
    return _known(str(workspace.folder), run.id, run.attempt, checkpoint_id, workspace)


def _read(folder: str, run_id: int, attempt: int, checkpoint_id: int | None, _workspace: Workspace) -> HeldOut | None:
    with reading(_workspace.engine) as session:
        run = get_run(session=session, run_id=run_id)
        return read_held_out(session=session, run=run, checkpoint_id=checkpoint_id)


# What a run that is done found never changes, and with many imports it takes a second to read.
_known: Callable[[str, int, int, int | None, Workspace], HeldOut | None] = st.cache_data(
    _read, max_entries=KEPT, show_spinner=False
)


def _headline(evaluation: dict[str, Any]) -> None:
    before, after, pairs = st.columns(3)
    before.metric(
        "Held-out accuracy before",
        story.percent(evaluation.get("accuracy_before")),
        help="How often a checkpoint's implicit reward, taken against the base model, agrees with the annotators. "
        "The base itself rewards nothing: it counts as a coin toss, 50%.",
    )
    change = (evaluation.get("accuracy_after") or 0) - (evaluation.get("accuracy_before") or 0)
    told = change_words(evaluation) or f"{100 * change:+.0f} points"
    moved = told if round(100 * change) else None  # no arrow where nothing moved
    after.metric("Held-out accuracy after", story.percent(evaluation.get("accuracy_after")), moved)
    pairs.metric("Judged on held-out pairs", evaluation["pairs"])


def held_out_of_run(workspace: Workspace, run: Run) -> None:
    """The held-out accuracy that a run which is done came to, drawn; nothing for a run that judged nothing."""
    found = _held_out(workspace, run)
    if found is not None:
        st.markdown("**Held-out accuracy, before and after**")
        held_out(found)


def held_out(found: HeldOut) -> None:
    """The accuracy and its slices before the ceiling, as a chart; the figures for whoever wants them."""
    held_out_chart(found)
    st.caption(f"{words.ceiling_words(found.ceiling)} {words.CHART_WORDS}")
    with st.expander("These figures as a table"):
        show.table(words.SLICES_HEAD, words.slice_rows(found), words.left_out_words(found))
