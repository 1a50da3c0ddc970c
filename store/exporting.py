"""Snapshots -> dataset folders that `datasets.load_dataset` opens and an untouched `trl.DPOTrainer` trains on.

Ties that a snapshot keeps are left out: the format has no place for them, and the card says how many there are.

Two styles. Conversational: `prompt`, `chosen`, `rejected` are lists of messages, and the trainer applies its chat
template. Plain: they are text, for trainers and models without a template; `plain_prompt` says how turns are written.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlmodel import Session

from store.checkpoints import list_checkpoints
from store.errors import SnapshotError
from store.hashing import file_hash
from store.models import Snapshot
from store.prompts import Message
from store.roles import require_researcher
from store.snapshot_filter import REASONS
from store.snapshots import SPLITS, TIES, read_snapshot, verify_snapshot
from store.wording import counted
from store.writing_files import folder_written_aside

STYLES = ("conversational", "plain")
FILE_FORMATS = ("jsonl", "parquet")
_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")
_LINE_ENDS = "\u0085\u2028\u2029"  # which only some readers take for the end of a line

# Every column, what it holds (as `datasets` names types) and what it means.
TEXTS = ("prompt", "chosen", "rejected")
FIELDS = {
    "prompt": ("", "what the model was asked"),
    "chosen": ("", "the completion most annotators preferred"),
    "rejected": ("", "the other completion"),
    "prompt_hash": ("string", "SHA-256 of the prompt's messages"),
    "chosen_source": ("string", "the checkpoint that wrote `chosen`, or the file it was imported from"),
    "rejected_source": ("string", "the same for `rejected`"),
    "annotators": ("int64", "how many annotators compared the two"),
    "agreement": ("float64", "the share of their votes that went to `chosen`; ties count as votes"),
    "purpose": (
        "string",
        "`train`: asked in order to train on; `rewrite`: an annotator's text over what it betters",
    ),
    "round": ("int64", "the round they were compared in; empty for imported preferences"),
}
# Those that only some snapshots have.
SOMETIMES = {
    "adjudicated": ("bool", "whether a researcher decided, whatever the votes"),
    "confidence": ("float64", "the chance that `chosen` is the better one, from how reliable its annotators are"),
    "votes_for": ("int64", "how many votes named `chosen`"),
    "votes_against": ("int64", "how many named `rejected`"),
    "ranking": ("string", "where they were ranked among several: names these, the same in all rows that came of it"),
    "ranked_together": ("int64", "how many were ranked together"),
    "selected_by": (
        "string",
        "how the two were selected from several completions: `near`, `far`, `diverse`, `random`, or left to chance "
        "(`slice`, `held_out`)",
    ),
    "reward_margin": (
        "float64",
        "the implicit reward of `chosen` less that of `rejected` under the checkpoint that wrote them, when selected",
    ),
}
COLUMNS = FIELDS | SOMETIMES


@dataclass(frozen=True)
class ExportReport:
    """What was written where. `rows` counts by split; a split without rows has no file."""

    target: Path
    style: str
    file_format: str
    rows: dict[str, int]


def export_snapshot(
    *,
    session: Session,
    snapshot: Snapshot,
    folder: Path,
    target: Path,
    style: str = "conversational",
    file_format: str = "jsonl",
) -> ExportReport:
    """Write a snapshot of the workspace `folder` as a dataset folder `target`, whole or not at all.

    Raises SnapshotError for an unknown style or format, where `target` holds something already, where the snapshot's
    files were changed, or where the disk refuses; NotAllowedError.
    """
    require_researcher(session=session, to="export a snapshot")
    if style not in STYLES or file_format not in FILE_FORMATS:
        raise SnapshotError(f"A style is one of {', '.join(STYLES)}; a file format one of {', '.join(FILE_FORMATS)}.")
    target = target.resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise SnapshotError(f"{target} is there already and not empty. Nothing was written; name another folder.")
    verify_snapshot(snapshot=snapshot, folder=folder)
    splits = {split: read_snapshot(snapshot=snapshot, folder=folder, split=split) for split in SPLITS}
    columns = _columns([row for rows in splits.values() for row in rows])
    splits = {split: [styled_row(row, style, columns) for row in rows] for split, rows in splits.items() if rows}
    report = ExportReport(target, style, file_format, {split: len(rows) for split, rows in splits.items()})
    with folder_written_aside(target) as aside:
        (aside / "data").mkdir()
        for split, rows in splits.items():
            _write_rows(aside / "data" / f"{split}.{file_format}", rows, style)
        _write_text(aside / "manifest.json", _manifest(aside, snapshot, report))
        _write_text(aside / "README.md", _card(session, snapshot, report, splits))
    return report


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The columns of an export: those that all have, and those that one of these rows has."""
    return [name for name in COLUMNS if name in FIELDS or any(name in row for row in rows)]


def styled_row(row: dict[str, Any], style: str, columns: Sequence[str]) -> dict[str, Any]:
    """A snapshot's row with its texts as messages (`conversational`) or as text (`plain`), in these columns."""
    texts = {name: row[name] for name in TEXTS}
    if style == "plain":
        texts["prompt"] = plain_prompt(row["prompt"])
    else:
        for name in ("chosen", "rejected"):
            texts[name] = [{"role": "assistant", "content": row[name]}]
    return {name: texts.get(name, row.get(name, False if name == "adjudicated" else None)) for name in columns}


def plain_prompt(messages: Sequence[Message]) -> str:
    r"""A prompt as text that a completion can follow directly.

    A single user turn: its text and a line break. Otherwise each turn as "User: ...", with a blank line between turns,
    and "Assistant:" and a line break at the end. The line break is there because trainers join prompt and completion
    as they are: it keeps tokenizers from merging the prompt's last letters with the completion's first.
    """
    if len(messages) == 1:
        return messages[0]["content"] + "\n"
    turns = [f"{_SPEAKERS[message['role']]}: {message['content']}" for message in messages]
    return "\n\n".join([*turns, "Assistant:\n"])


def _write_text(path: Path, text: str) -> None:
    path.write_bytes(text.encode())


def _write_rows(path: Path, rows: list[dict[str, Any]], style: str) -> None:
    if path.suffix == ".parquet":
        _write_parquet(path, rows, style)
        return
    _refuse_dates(rows)
    _write_text(path, "".join(_json_line(row) for row in rows))


def _json_line(row: dict[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False)
    for end in _LINE_ENDS:  # escaped, so that every reader counts the same lines
        line = line.replace(end, f"\\u{ord(end):04x}")
    return line + "\n"


def _refuse_dates(rows: list[dict[str, Any]]) -> None:
    """Raise SnapshotError where a JSONL reader would alter texts: Arrow takes a column of dates alone as times."""
    for name in TEXTS:
        if all(_DATE.fullmatch(text) for row in rows for text in _texts(row[name])):
            raise SnapshotError(
                f"Every text in the column `{name}` is a date, which readers of JSONL turn into another one. "
                "Nothing was written; export as parquet."
            )


def _texts(value: str | list[Message]) -> Iterator[str]:
    yield from [value] if isinstance(value, str) else [message["content"] for message in value]


def _write_parquet(path: Path, rows: list[dict[str, Any]], style: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    text = pa.string() if style == "plain" else pa.list_(message)
    types = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(), "": text}
    schema = pa.schema([(name, types[COLUMNS[name][0]]) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def _manifest(aside: Path, snapshot: Snapshot, report: ExportReport) -> str:
    files = {f"data/{path.name}": file_hash(path) for path in sorted((aside / "data").iterdir())}
    told = ("filter", "comparisons", "used", "dropped", "pairs", "confidence")
    kept = {name: snapshot.manifest[name] for name in told if name in snapshot.manifest}
    style = {"snapshot": snapshot.hash, "style": report.style, "file_format": report.file_format}
    return json.dumps(style | kept | {"files": files}, indent=2, ensure_ascii=False) + "\n"


def _card(session: Session, snapshot: Snapshot, report: ExportReport, splits: dict[str, list[dict[str, Any]]]) -> str:
    """The dataset card: what `datasets` must know at the top, then what a person wants to know."""
    rows = [row for each in splits.values() for row in each]
    sections = [
        _front_matter(report, list(rows[0])),
        f"# Preferences {snapshot.hash[:12]}\n\n{_what_it_is(report)}",
        "## Rows\n\n" + _table(("split", "rows"), [(split, str(count)) for split, count in report.rows.items()]),
        "## How it was labeled\n\n" + _labeled(snapshot, rows),
        "## What was left out\n\n" + _left_out(snapshot),
        "## Where the completions come from\n\n" + _sources(session, rows),
        "## Fields\n\n" + _fields(report.style, list(rows[0])),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(report: ExportReport, columns: Sequence[str]) -> str:
    files = "".join(
        f"  - split: {split}\n    path: data/{split}.{report.file_format}\n" for split in SPLITS if split in report.rows
    )
    # The types are spelled out: a column that is empty in one split would otherwise get another type than in the other.
    features = "".join(_feature(name, COLUMNS[name][0], report.style) for name in columns)
    return (
        "---\nlicense: unknown\ntags:\n- preference\n- dpo\n- pairloop\n- trl\n"
        f"configs:\n- config_name: default\n  data_files:\n{files}"
        f"dataset_info:\n  config_name: default\n  features:\n{features}---"
    )


def _feature(name: str, kind: str, style: str) -> str:
    if kind or style == "plain":
        return f"  - name: {name}\n    dtype: {kind or 'string'}\n"
    inner = "".join(f"    - name: {part}\n      dtype: string\n" for part in ("role", "content"))
    return f"  - name: {name}\n    list:\n{inner}"


def _what_it_is(report: ExportReport) -> str:
    opening = 'Load it with `datasets.load_dataset("path/to/this/folder")`; `trl.DPOTrainer` trains on it as it is.'
    if report.style == "conversational":
        how = "Texts are lists of `role` / `content` messages; the trainer applies the model's chat template."
    else:
        how = (
            "Texts are plain. A prompt of one user turn is its text and a line break. A longer one is written turn by "
            "turn as `User: ...`, `Assistant: ...` (and `System: ...`), with a blank line between turns, and ends with "
            "`Assistant:` and a line break. Completions follow directly. No chat template is applied."
        )
    return f"{opening} {how}\n\nNo license was chosen: set `license` above before you share this."


def _labeled(snapshot: Snapshot, rows: list[dict[str, Any]]) -> str:
    imported = sum(row["round"] is None for row in rows)
    several = sum(row["annotators"] > 1 for row in rows)
    ranked = sum(row.get("ranking") is not None for row in rows)
    together = f" {ranked} preferences come from rankings of several completions, two by two." if ranked else ""
    decided = sum(row.get("adjudicated", False) for row in rows)
    besides = f" For {decided} of them a researcher decided, whatever the votes." if decided else ""
    share = snapshot.manifest["filter"]["min_agreement"]
    return (
        f"Annotators compared two completions of one prompt. {len(rows)} preferences{_ties(snapshot)} come from "
        f"{snapshot.manifest['used']} comparisons; {several} were compared by more than one annotator. {imported} were "
        "imported with the verdict their source gave; the others were compared in pairloop, which does not show what "
        "wrote which. Where several compared, the majority decides, if at least "
        f"{share:.0%} of the votes, ties among them, are for `chosen`.{besides}{together} Prompts of the test split "
        "were held out, by their hash: no comparison on them is trained on."
    )


def _ties(snapshot: Snapshot) -> str:
    kept = snapshot.manifest["pairs"].get(TIES)
    return f" (and {counted(kept, 'tie')} that the snapshot keeps, not in this dataset)" if kept else ""


def _left_out(snapshot: Snapshot) -> str:
    dropped = [(REASONS[reason], str(count)) for reason, count in snapshot.manifest["dropped"].items() if count]
    used = f"Of {snapshot.manifest['comparisons']} comparisons, {snapshot.manifest['used']} were used."
    return f"{used}\n\n{_table(('left out', 'comparisons'), dropped)}" if dropped else f"{used} None was left out."


def _sources(session: Session, rows: list[dict[str, Any]]) -> str:
    parents = _parents(session)
    counts = Counter(row[f"{side}_source"] for row in rows for side in ("chosen", "rejected"))
    lines = [(f"`{_cell(name)}`", parents.get(name, "imported"), str(counts[name])) for name in sorted(counts)]
    return _table(("source", "what it is", "completions"), lines)


def _parents(session: Session) -> dict[str, str]:
    checkpoints = list_checkpoints(session=session)
    names = {checkpoint.id: checkpoint.name for checkpoint in checkpoints}
    return {
        each.name: f"a checkpoint trained from `{names[each.parent_id]}`" if each.parent_id else "the first checkpoint"
        for each in checkpoints
    }


def _fields(style: str, columns: Sequence[str]) -> str:
    text = "text" if style == "plain" else "list of messages"
    rows = [(f"`{name}`", COLUMNS[name][0] or text, COLUMNS[name][1]) for name in columns]
    return _table(("field", "type", "meaning"), rows)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("`", "'").split())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
