"""Quality as tables: plain figures under plain names, for CSV files and whoever goes on computing with them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from store.errors import StoreError
from store.intervals import Estimate
from store.quality import STRENGTHS, AnnotatorQuality, CoupleQuality, Habits, Quality
from store.spreadsheets import safe_cell

Cell = str | int | float | bool | None
Row = dict[str, Cell]


def quality_tables(quality: Quality) -> dict[str, list[Row]]:
    """`overall` (a row for each figure), `annotators` and `couples` (a row for each); shares lie between 0 and 1.

    A figure's interval is in the columns `..._low` and `..._high`, and what it was told from in `..._count`.
    """
    return {
        "overall": [_overall(name, found) for name, found in overall_figures(quality).items()],
        "annotators": [_annotator(each) for each in quality.annotators],
        "couples": [_couple(each) for each in quality.couples],
    }


def _overall(name: str, found: Estimate) -> Row:
    named: Row = {"figure": name}
    return named | _estimate("", found)


def overall_figures(quality: Quality) -> dict[str, Estimate]:
    """The figures of all annotators together, by name."""
    habits = quality.habits
    return {
        "alpha": quality.alpha,
        "alpha_decided": quality.alpha_decided,
        "agreement": quality.agreement,
        "consistency": habits.consistency,
        "gold": habits.gold,
        "left": habits.left,
        "longer": habits.longer,
        "fast": habits.fast,
    }


def _annotator(each: AnnotatorQuality) -> Row:
    found: Row = {"annotator": each.name, "role": each.role, "retracted": each.retracted}
    return (
        found
        | _counts(each.habits)
        | _estimate("agreement", each.agreement)
        | _estimate("kappa", each.kappa)
        | _estimate("accuracy", each.accuracy)
        | _habits(each.habits)
        | {"per_hour": each.per_hour}
    )


def _counts(habits: Habits) -> Row:
    counts: Row = {name: getattr(habits, name) for name in ("comparisons", "skips", "ties", "both_bad")}
    strengths: Row = {f"strength_{each}": habits.strengths.get(each, 0) for each in STRENGTHS}
    return counts | strengths


def _habits(habits: Habits) -> Row:
    found: Row = {"left_departs": habits.left_departs, "median_seconds": habits.seconds}
    for name in ("consistency", "gold", "left", "longer", "fast"):
        found |= _estimate(name, getattr(habits, name))
    return found


def _couple(each: CoupleQuality) -> Row:
    named: Row = {"first": each.first, "second": each.second}
    return named | _estimate("agreement", each.agreement) | _estimate("kappa", each.kappa)


def _estimate(name: str, found: Estimate) -> Row:
    low, high = found.interval or (None, None)
    before = f"{name}_" if name else ""
    return {name or "value": found.value, f"{before}low": low, f"{before}high": high, f"{before}count": found.count}


def csv_text(rows: Sequence[Mapping[str, Cell]]) -> str:
    """Rows with the same columns as CSV, names that look like formulas made harmless; empty where there are none."""
    written = io.StringIO()
    if rows:
        writer = csv.DictWriter(written, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: safe_cell(value) for name, value in row.items()} for row in rows)
    return written.getvalue()


def write_tables(quality: Quality, folder: Path) -> list[Path]:
    """Write `overall.csv`, `annotators.csv` and `couples.csv` into the folder, over those of last time.

    Raises StoreError where the disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write(folder / f"{name}.csv", csv_text(rows)) for name, rows in quality_tables(quality).items()]
    except OSError as error:
        raise StoreError(f"{folder} could not be written ({error.strerror or error}).") from error


def _write(path: Path, text: str) -> Path:
    aside = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        with aside.open("w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        return aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
