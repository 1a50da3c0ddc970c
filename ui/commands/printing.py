"""What commands print: tables and facts on stdout, or one JSON object for scripts; bars and remarks on stderr."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from sqlmodel import SQLModel

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

# What a bar shows beside the steps, under TRL's names.
FIGURES = ("loss", "rewards/margins", "rewards/accuracies")


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout; null for what is no number, which JSON does not have."""
    plain = json.loads(json.dumps(value, default=_plain), parse_constant=lambda _: None)
    print(json.dumps(plain, ensure_ascii=False, indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """What json cannot write by itself: rows, dataclasses, moments, paths."""
    if isinstance(value, SQLModel | BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def say(text: str) -> None:
    """A sentence for the person, on stdout. Text of models, files or people in it is never taken for markup."""
    out.print(text, markup=False, soft_wrap=True)


def remark(text: str) -> None:
    """A sentence beside the matter, on stderr."""
    err.print(text, markup=False, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """A table on stdout; figures stand right, and nothing is shown for None."""
    table = Table(
        title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0)
    )
    for index, column in enumerate(columns):
        figures = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(column, justify="right" if figures else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(figure(cell)) for cell in row))
    out.print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Names and values, one to a line."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(escape(name), escape(figure(value)))
    out.print(table)


def figure(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)


def percent(share: float | None) -> str:
    """A share as a percentage."""
    return "" if share is None else f"{share:.0%}"


class RunBar:
    """A progress bar on stderr, fed with what a run reports (it is a `dpo_core.progress.Listener`)."""

    def __init__(self) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        self._progress = Progress(*columns, TextColumn("{task.fields[figures]}"), console=err)
        self._phases: dict[str, TaskID] = {}

    def __enter__(self) -> RunBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, progress: dict[str, Any]) -> None:
        """Show how far a run is: `phase`, `step`, `total`, and metrics flat or under `metrics`."""
        phase = progress.get("phase")
        if not phase:
            return
        if phase not in self._phases:
            self._phases[phase] = self._progress.add_task(escape(phase), total=None, figures="")
        metrics = progress | progress.get("metrics", {})
        shown = "  ".join(f"{name.removeprefix('rewards/')} {metrics[name]:.3f}" for name in FIGURES if name in metrics)
        update: dict[str, Any] = {"figures": shown} if shown else {}
        self._progress.update(
            self._phases[phase], completed=progress["step"], total=progress["total"] or None, **update
        )
