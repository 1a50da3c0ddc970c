"""A run's metrics as line charts, under TRL's own names; and comparing over time: its pace, choices and agreement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from dpo_core.sweep import point_words
from store.held_out import HeldOut
from store.intervals import Estimate
from store.over_time import Agreed, Choices
from store.searching import Pace
from ui.judged_words import labelled_slices

CHARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss",)),
    ("rewards/accuracies", ("rewards/accuracies",)),
    ("rewards/margins", ("rewards/margins",)),
    ("logps", ("logps/chosen", "logps/rejected")),
)
# Colours that can be told apart by all, and hold on paper and at night (Okabe and Ito, the yellow darker).
COLOURS = ("#0f9d74", "#d5681f", "#3f8fd2", "#c06fa0", "#b8962e", "#6f7fd8", "#4fb0ae", "#a8674a")
REST = "#8d8d86"
MOST_NAMES = len(COLOURS)
OTHERS = "others"
MOST_SIDE_BY_SIDE = 14  # moments
UNITS = {"hour": "utcyearmonthdatehours", "day": "utcyearmonthdate", "week": "utcyearmonthdate"}
CHOICES = {"left": COLOURS[0], "right": COLOURS[1], "tie": COLOURS[2], "both bad": COLOURS[3], "skipped": REST}


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


def held_out_frame(found: HeldOut) -> pd.DataFrame:
    """Columns `slice`, `when`, `share`, `low`, `high`, `of`: a row for each slice before, and one after."""
    told = [
        {"slice": label, "when": when, "share": share.value, "low": share.interval[0], "high": share.interval[1]}
        | {"of": share.count}
        for label, each in labelled_slices(found)
        for when, share in (("before", each.before), ("after", each.after))
        if share.value is not None and share.interval is not None
    ]
    return pd.DataFrame(told, columns=["slice", "when", "share", "low", "high", "of"])


def held_out_chart(found: HeldOut) -> None:
    """Draw held-out accuracy before and after, with intervals, in slices; the annotators' agreement as a band."""
    frame = held_out_frame(found)
    names = list(dict.fromkeys(frame["slice"]))
    percents = [alt.Tooltip(f"{name}:Q", format=".0%") for name in ("share", "low", "high")]
    base = alt.Chart(frame).encode(
        y=alt.Y("slice:N", title=None, sort=names, axis=alt.Axis(labelLimit=220)),
        yOffset=alt.YOffset("when:N", sort=["before", "after"]),
        color=_coloured("when:N", {"before": REST, "after": COLOURS[0]}),
        tooltip=["slice:N", "when:N", *percents, "of:Q"],
    )
    spread = base.mark_rule(strokeWidth=2, opacity=0.5).encode(x=_share_axis("low"), x2="high:Q")
    points = base.mark_point(size=60, filled=True, opacity=1).encode(x=_share_axis("share"))
    layers = [_ceiling_band(found), _even_line(), spread, points]
    st.altair_chart(alt.layer(*layers).properties(height=70 + 38 * len(names)), width="stretch")


def _share_axis(name: str) -> alt.X:
    return alt.X(f"{name}:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))


def _ceiling_band(found: HeldOut) -> alt.Chart:
    """From one end of the ceiling's interval to the other, over the whole height."""
    ceiling = found.ceiling
    frame = pd.DataFrame({"low": [ceiling.low], "high": [ceiling.high], "ceiling": ["annotators agree"]})
    told = ["ceiling:N", alt.Tooltip("low:Q", format=".0%"), alt.Tooltip("high:Q", format=".0%")]
    band = alt.Chart(frame).mark_rect(opacity=0.22, color=COLOURS[4])
    return band.encode(x=_share_axis("low"), x2="high:Q", tooltip=told)


def _even_line() -> alt.Chart:
    """A coin toss."""
    line = alt.Chart(pd.DataFrame({"even": [0.5]})).mark_rule(strokeDash=[4, 4], color=REST)
    return line.encode(x=_share_axis("even"))


def pace_chart(unit: str, rows: Sequence[Pace]) -> None:
    """Draw how many comparisons were made in each hour or day, by annotator; beyond MOST_NAMES all others are one."""
    frame = pd.DataFrame([vars(row) for row in rows], columns=["moment", "annotator", "comparisons"])
    busiest = frame.groupby("annotator")["comparisons"].sum().nlargest(MOST_NAMES).index
    frame["annotator"] = frame["annotator"].where(frame["annotator"].isin(busiest), OTHERS)
    names = [*busiest, *([OTHERS] if len(frame) and (frame["annotator"] == OTHERS).any() else [])]
    colours = dict(zip(names, COLOURS, strict=False)) | ({OTHERS: REST} if OTHERS in names else {})
    frame = frame.groupby(["moment", "annotator"])[["comparisons"]].sum().reset_index()
    bars = alt.Chart(frame).mark_bar().encode(
        x=_moments(unit, frame),
        y=alt.Y("comparisons:Q", title="comparisons"),
        color=_coloured("annotator:N", colours),
        tooltip=[_when_told(unit), "annotator:N", "comparisons:Q"],
    )  # fmt: skip
    st.altair_chart(bars.properties(height=240), width="stretch")


def choices_charts(unit: str, rows: Sequence[Choices]) -> None:
    """Draw the shares of what was chosen in each day or week, and how often left was chosen rather than right."""
    counts = [
        {"moment": row.moment, "place": place, "choice": choice, "count": getattr(row, name)}
        for row in rows
        for place, (choice, name) in enumerate(zip(CHOICES, ("left", "right", "tie", "both_bad", "skip"), strict=True))
    ]
    frame = pd.DataFrame(counts)
    bars = alt.Chart(frame).mark_bar().encode(
        x=_moments(unit, frame),
        y=alt.Y("count:Q", stack="normalize", title=None, axis=alt.Axis(format="%")),
        color=_coloured("choice:N", CHOICES),
        order="place:Q",
        tooltip=[_when_told(unit), "choice:N", alt.Tooltip("count:Q", title="verdicts")],
    )  # fmt: skip
    st.markdown("**What was chosen**")
    st.altair_chart(bars.properties(height=220), width="stretch")
    st.markdown("**Left, where a side was chosen**")
    st.altair_chart(_shares(unit, [(row.moment, row.left_share) for row in rows], even=0.5), width="stretch")


def agreement_chart(unit: str, rows: Sequence[Agreed]) -> None:
    """Draw how far every two annotators said the same of a pair, in each day or week."""
    st.markdown("**Two annotators on one pair: how often they say the same**")
    st.altair_chart(_shares(unit, [(row.moment, row.share) for row in rows]), width="stretch")


def _shares(unit: str, rows: Sequence[tuple[datetime, Estimate]], even: float | None = None) -> alt.LayerChart:
    """Shares with their intervals over time; a dashed line at `even`."""
    told = [
        {"moment": moment, "share": share.value, "low": share.interval[0], "high": share.interval[1], "of": share.count}
        for moment, share in rows
        if share.value is not None and share.interval is not None
    ]
    frame = pd.DataFrame(told, columns=["moment", "share", "low", "high", "of"])
    shares = [alt.Tooltip(f"{name}:Q", format=".0%") for name in ("share", "low", "high")]
    base = alt.Chart(frame).encode(x=_moments(unit, frame), tooltip=[_when_told(unit), *shares, "of:Q"])
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(format="%")
    spread = base.mark_rule(strokeWidth=2, opacity=0.5, color=COLOURS[0]).encode(
        y=alt.Y("low:Q", title=None, scale=scale, axis=axis), y2="high:Q"
    )
    points = base.mark_point(size=45, filled=True, opacity=1, color=COLOURS[0]).encode(y=alt.Y("share:Q", title=None))
    layers: list[alt.Chart] = [spread, points]
    if even is not None:
        line = alt.Chart(pd.DataFrame({"even": [even]})).mark_rule(strokeDash=[4, 4], color=REST)
        layers.insert(0, line.encode(y="even:Q"))
    return alt.layer(*layers).properties(height=200)


def _moments(unit: str, frame: pd.DataFrame) -> alt.X:
    """The time axis. Weeks, and few moments, stand beside each other; many lie on a line of time."""
    if unit != "week" and frame["moment"].nunique() > MOST_SIDE_BY_SIDE:
        return alt.X(f"{UNITS[unit]}(moment):T", title=f"{unit} (UTC)")
    labels = alt.Axis(format="%b %-d, %H:00" if unit == "hour" else "%b %-d", labelAngle=0, labelOverlap=True)
    return alt.X(f"{UNITS[unit]}(moment):O", title=f"{_unit_words(unit)} (UTC)", axis=labels)


def _unit_words(unit: str) -> str:
    return "week from" if unit == "week" else unit


def _when_told(unit: str) -> alt.Tooltip:
    return alt.Tooltip(f"{UNITS[unit]}(moment):T", title=_unit_words(unit))


def _coloured(field: str, colours: Mapping[str, str]) -> alt.Color:
    """A colour for each name, in this order."""
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    columns = 5 if max(map(len, colours), default=0) < 10 else 3  # so that a phone's width is enough
    return alt.Color(field, title=None, scale=scale, legend=alt.Legend(orient="top", columns=columns, labelLimit=95))


def training_charts(metrics: Sequence[dict[str, Any]], phase: str = "train") -> bool:
    """Draw what a train run has reported so far. Returns whether there was anything to draw."""
    drawn = [(title, metric_frame(metrics, names, phase), names) for title, names in CHARTS]
    drawn = [entry for entry in drawn if not entry[1].empty]
    for start in range(0, len(drawn), 2):
        for column, (title, frame, names) in zip(st.columns(2), drawn[start : start + 2], strict=False):
            column.markdown(f"**{title}**")
            column.altair_chart(line_chart(frame, legend=len(names) > 1), width="stretch")
    return bool(drawn)
