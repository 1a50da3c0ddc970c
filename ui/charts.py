"""A run's metrics as line charts. Names are TRL's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

CHARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss",)),
    ("rewards/accuracies", ("rewards/accuracies",)),
    ("rewards/margins", ("rewards/margins",)),
    ("logps", ("logps/chosen", "logps/rejected")),
)


def metric_frame(metrics: Sequence[dict[str, Any]], names: Sequence[str], phase: str = "train") -> pd.DataFrame:
    """Columns `step`, `metric`, `value`: one row for each figure that was reported in this phase."""
    rows = [
        {"step": entry["step"], "metric": name, "value": float(entry[name])}
        for entry in metrics
        for name in names
        if entry.get("phase") == phase and isinstance(entry.get(name), int | float)
    ]
    return pd.DataFrame(rows, columns=["step", "metric", "value"])


def line_chart(frame: pd.DataFrame, *, legend: bool) -> alt.LayerChart:
    """Lines over the optimizer's steps, told apart by colour and by dash."""
    base = alt.Chart(frame).encode(
        x=alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1, grid=False)),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
        color=alt.Color("metric:N", title=None, legend=alt.Legend(orient="top") if legend else None),
        tooltip=["step:Q", "metric:N", alt.Tooltip("value:Q", format=".4f")],
    )
    dash = alt.StrokeDash("metric:N", title=None, legend=alt.Legend(orient="top") if legend else None)
    line = base.mark_line(strokeWidth=2).encode(strokeDash=dash)
    return alt.layer(line, base.mark_point(size=18, filled=True)).properties(height=190)


def training_charts(metrics: Sequence[dict[str, Any]]) -> bool:
    """Draw what a train run has reported so far. Returns whether there was anything to draw."""
    drawn = [(title, metric_frame(metrics, names), names) for title, names in CHARTS]
    drawn = [entry for entry in drawn if not entry[1].empty]
    for start in range(0, len(drawn), 2):
        for column, (title, frame, names) in zip(st.columns(2), drawn[start : start + 2], strict=False):
            column.markdown(f"**{title}**")
            column.altair_chart(line_chart(frame, legend=len(names) > 1), width="stretch")
    return bool(drawn)
