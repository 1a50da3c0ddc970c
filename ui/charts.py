"""A run's metrics as line charts, under TRL's own names; and the pace of comparing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from dpo_core.sweep import point_words
from store.searching import Pace

CHARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss",)),
    ("rewards/accuracies", ("rewards/accuracies",)),
    ("rewards/margins", ("rewards/margins",)),
    ("logps", ("logps/chosen", "logps/rejected")),
)
MOST_NAMES = 8  # whose colours can still be told apart


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


def training_phases(metrics: Sequence[dict[str, Any]]) -> list[str]:
    """The trainings that a run has reported of, in order: one, or one for each point of a sweep."""
    return list(dict.fromkeys(entry["phase"] for entry in sorted(metrics, key=_when) if "loss" in entry))


def _when(entry: dict[str, Any]) -> float:
    return float(entry.get("time", 0))


def sweep_chart(results: Sequence[dict[str, Any]]) -> bool:
    """Draw what became of each point of a sweep: four figures, a bar for each checkpoint. Returns whether it did."""
    figures: dict[str, Callable[[dict[str, Any]], float | None]] = {
        "held-out accuracy": lambda result: result["eval"].get("accuracy_after"),
        "margin": lambda result: result["eval"].get("margin"),
        "KL to its parent": lambda result: result.get("kl", {}).get("nats"),
        "tokens an answer": lambda result: result.get("lengths", {}).get("after"),
    }
    drawn = False
    columns = st.columns(2)
    for place, (title, figure) in enumerate(figures.items()):
        rows = [{"point": point_words(result["point"]), "value": figure(result)} for result in results]
        frame = pd.DataFrame([row for row in rows if row["value"] is not None], columns=["point", "value"])
        if frame.empty:
            continue
        drawn = True
        bars = alt.Chart(frame).mark_bar(size=18).encode(
            x=alt.X("value:Q", title=None), y=alt.Y("point:N", title=None, sort=None),
            tooltip=["point:N", alt.Tooltip("value:Q", format=".4f")],
        )  # fmt: skip
        columns[place % 2].markdown(f"**{title}**")
        columns[place % 2].altair_chart(bars.properties(height=40 + 28 * len(frame)), width="stretch")
    return drawn


def pace_chart(unit: str, rows: Sequence[Pace]) -> None:
    """Draw how many comparisons were made in each hour or day, by annotator; beyond MOST_NAMES all others are one."""
    frame = pd.DataFrame([vars(row) for row in rows], columns=["moment", "annotator", "comparisons"])
    busiest = frame.groupby("annotator")["comparisons"].sum().nlargest(MOST_NAMES).index
    frame["annotator"] = frame["annotator"].where(frame["annotator"].isin(busiest), "others")
    time = "utcyearmonthdatehours" if unit == "hour" else "utcyearmonthdate"
    bars = alt.Chart(frame).mark_bar().encode(
        x=alt.X(f"{time}(moment):T", title=f"{unit} (UTC)"),
        y=alt.Y("sum(comparisons):Q", title="comparisons"),
        color=alt.Color("annotator:N", title=None, legend=alt.Legend(orient="top")),
        tooltip=[alt.Tooltip(f"{time}(moment):T", title=unit), "annotator:N", "sum(comparisons):Q"],
    )  # fmt: skip
    st.altair_chart(bars.properties(height=220), width="stretch")


def training_charts(metrics: Sequence[dict[str, Any]], phase: str = "train") -> bool:
    """Draw what a train run has reported so far. Returns whether there was anything to draw."""
    drawn = [(title, metric_frame(metrics, names, phase), names) for title, names in CHARTS]
    drawn = [entry for entry in drawn if not entry[1].empty]
    for start in range(0, len(drawn), 2):
        for column, (title, frame, names) in zip(st.columns(2), drawn[start : start + 2], strict=False):
            column.markdown(f"**{title}**")
            column.altair_chart(line_chart(frame, legend=len(names) > 1), width="stretch")
    return bool(drawn)
