"""What a new checkpoint was found to be worth, drawn: held-out accuracy with its ceiling, and what stands beside it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dpo_core.workspace import Workspace
from store.database import reading
from store.held_out import HeldOut, judging_run, read_held_out
from store.models import Checkpoint, Run
from ui import components as show
from ui import judged_words as words
from ui import story
from ui.charts import held_out_chart


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
        return read_held_out(session=session, run=run, checkpoint_id=checkpoint.id) if run is not None else None


def _headline(evaluation: dict[str, Any]) -> None:
    before, after, pairs = st.columns(3)
    before.metric(
        "Held-out accuracy before",
        story.percent(evaluation.get("accuracy_before")),
        help="How often a checkpoint's implicit reward, taken against the base model, agrees with the annotators. "
        "The base itself rewards nothing: it counts as a coin toss, 50%.",
    )
    change = (evaluation.get("accuracy_after") or 0) - (evaluation.get("accuracy_before") or 0)
    moved = f"{100 * change:+.0f} points" if round(100 * change) else None  # no arrow where nothing moved
    after.metric("Held-out accuracy after", story.percent(evaluation.get("accuracy_after")), moved)
    pairs.metric("Judged on held-out pairs", evaluation["pairs"])


def held_out_of_run(workspace: Workspace, run: Run) -> None:
    """The held-out accuracy that a run which is done came to, drawn; nothing for a run that judged nothing."""
    with reading(workspace.engine) as session:
        found = read_held_out(session=session, run=run)
    if found is not None:
        st.markdown("**Held-out accuracy, before and after**")
        held_out(found)


def held_out(found: HeldOut) -> None:
    """The accuracy and its slices before the ceiling, as a chart; the figures for whoever wants them."""
    held_out_chart(found)
    st.caption(f"{words.ceiling_words(found.ceiling)} {words.CHART_WORDS}")
    with st.expander("These figures as a table"):
        show.table(words.SLICES_HEAD, words.slice_rows(found), words.left_out_words(found))
