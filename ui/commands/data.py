"""`pairloop import`, `snapshot`, `export`: what people said, on its way in and out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dpo_core.filters import snapshot_filter
from dpo_core.workspace import Workspace, open_workspace
from store.database import reading, writing
from store.errors import ImportFileError
from store.exporting import export_snapshot
from store.importing import ImportReport, Kind, import_file
from store.models import Snapshot
from store.snapshot_filter import REASONS
from store.snapshots import cut_snapshot, get_snapshot, list_snapshots, trained_words
from ui.commands.options import HERE, JsonOption, WorkspaceOption, only_one
from ui.commands.printing import RunBar, print_facts, print_json, print_table, say


class Style(StrEnum):
    """How an exported prompt is written: as chat messages or as text."""

    CONVERSATIONAL = "conversational"
    PLAIN = "plain"


class Format(StrEnum):
    """The files of an export."""

    JSONL = "jsonl"
    PARQUET = "parquet"


def import_files(
    files: Annotated[list[Path], typer.Argument(help="JSONL, JSON, CSV, TSV, Parquet or TXT; each also with .gz.")],
    kind: Annotated[
        Kind | None, typer.Option("--kind", help="What they hold.", show_default="told by their columns")
    ] = None,
    gold: Annotated[
        bool,
        typer.Option("--gold", help="Preferences known to be right: to measure people by, not to train on."),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option("--source", help="Where they are from, kept with each row.", show_default="the file's name"),
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Bring in prompts, or preferences and rankings from elsewhere.

    Prompts: a column `prompt` (text or chat messages), `messages` or `instruction`, `text` alone, or one text a line.
    Preferences: `prompt`, `chosen`, `rejected` as TRL has them, `chosen` and `rejected` alone, or HH-RLHF's own files.
    Rankings: `prompt`, a list `completions` and as many `ranks` (1 is best) or `scores`; Nectar's and UltraFeedback's
    own files. Each is kept, and comes in with a comparison for each two of its completions.
    A file comes in whole or, if a line is bad, not at all; what is known already is recognised.
    Gold pairs are shown as often as `gold` and `calibration` in pairloop.toml say; a column `note` or `explanation` is
    what a newcomer is told about them.

    \b
    Example:
      pairloop import prompts.jsonl
      pairloop import harmless-test.jsonl.gz --kind preferences --source hh-rlhf
      pairloop import checked.jsonl --gold
    """
    only_one(kind=kind, gold=gold)
    kind = Kind.GOLD if gold else kind
    reports = import_all(open_workspace(workspace), files, kind=kind, source=source)
    if as_json:
        print_json({"imports": reports})
    else:
        print_reports(reports)


def import_all(
    workspace: Workspace, files: Sequence[Path], *, kind: Kind | None, source: str | None
) -> list[ImportReport]:
    """Import the files one after another. Those before a bad one stay imported, and the error says so."""
    reports: list[ImportReport] = []
    for path in files:
        try:
            reports.append(_import_one(workspace, path, kind, source))
        except ImportFileError as error:
            if not reports:
                raise
            before = ", ".join(report.file_name for report in reports)
            raise ImportFileError(f"{error}\nThis is about {path.name} alone. Already imported: {before}.") from error
    return reports


def _import_one(workspace: Workspace, path: Path, kind: Kind | None, source: str | None) -> ImportReport:
    with RunBar() as bar:
        return import_file(
            engine=workspace.engine,
            path=path,
            held_out_share=workspace.settings.round.held_out_share,
            kind=kind,
            source=source,
            on_progress=lambda phase, done, total: bar({"phase": phase, "step": done, "total": total}),
        )


def print_reports(reports: Sequence[ImportReport]) -> None:
    """What became of each file's rows."""
    if not reports:
        return
    columns = ("file", "kind", "rows", "prompts", "held out", "comparisons", "gold", "known", "left out")
    print_table(columns, [_import_row(report) for report in reports])
    for report in reports:
        say(report.summary())


def _import_row(report: ImportReport) -> tuple[Any, ...]:
    return (
        report.file_name,
        report.kind,
        report.rows,
        report.prompts_added,
        report.held_out,
        report.comparisons_added,
        report.gold_added,
        report.duplicates,
        report.contradictions + sum(report.skipped.values()),
    )


def snapshot(
    list_them: Annotated[bool, typer.Option("--list", help="List the snapshots cut so far; cut none.")] = False,
    rounds: Annotated[
        list[int] | None, typer.Option("--round", metavar="N", help="Only this round; may be repeated.")
    ] = None,
    imported: Annotated[bool, typer.Option("--imported/--no-imported", help="Imported preferences too.")] = True,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            "--min-agreement", min=0, max=1, help="A majority must be this large.", show_default="pairloop.toml"
        ),
    ] = None,
    max_chars: Annotated[
        int | None, typer.Option("--max-chars", min=1, help="Longest prompt and completion together.")
    ] = None,
    confidence: Annotated[
        bool | None,
        typer.Option(
            "--confidence/--no-confidence",
            help="How likely each preference is right, from how reliable its annotators are.",
            show_default="pairloop.toml",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="NAME", help="Without this annotator; may be repeated.")
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Cut a preference dataset from the comparisons, or list those cut.

    A snapshot never changes and is named by its content: the same comparisons and the same filter give the same hash.
    Its manifest says what was dropped and why. (`pairloop train` cuts its own.)

    \b
    Example:
      pairloop snapshot --round 1 --round 2 --min-agreement 0.66
      pairloop snapshot --list
    """
    opened = open_workspace(workspace)
    if list_them:
        _list_snapshots(opened, as_json)
        return
    wanted = snapshot_filter(
        opened,
        round_numbers=tuple(rounds) if rounds else None,
        include_imported=imported,
        min_agreement=min_agreement,
        max_chars=max_chars,
        exclude_annotators=tuple(exclude or ()),
        confidence=confidence,
    )
    with writing(opened.engine) as session:
        cut = cut_snapshot(session=session, folder=opened.folder, filter=wanted)
    if as_json:
        print_json({"snapshot": cut})
    else:
        _show_snapshot(opened, cut)


def _list_snapshots(workspace: Workspace, as_json: bool) -> None:
    with reading(workspace.engine) as session:
        found = list_snapshots(session=session)
    if as_json:
        print_json({"snapshots": found})
    else:
        columns = ("snapshot", "comparisons", "to train on", "held out", "dropped", "cut")
        print_table(columns, [_snapshot_row(each) for each in found])


def _snapshot_row(cut: Snapshot) -> tuple[Any, ...]:
    manifest = cut.manifest
    dropped = sum(manifest["dropped"].values())
    trained = trained_words(manifest)
    return cut.hash[:12], manifest["comparisons"], trained, manifest["pairs"]["test"], dropped, cut.created_at


def _show_snapshot(workspace: Workspace, cut: Snapshot) -> None:
    manifest = cut.manifest
    print_facts(
        {"Snapshot": cut.hash, "Folder": workspace.folder / cut.path, "Comparisons": manifest["comparisons"]}
        | {"To train on": trained_words(manifest), "Held out": manifest["pairs"]["test"]}
    )
    dropped = [(count, REASONS[reason]) for reason, count in manifest["dropped"].items() if count]
    if dropped:
        print_table(("dropped", "why"), dropped)
    say(f"Next: `pairloop export {cut.hash[:12]} FOLDER`")


def export(
    snapshot_name: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="The start of its hash, or `latest`.")],
    target: Annotated[Path, typer.Argument(help="A new folder.", show_default=False)],
    style: Annotated[Style, typer.Option("--style", help="Chat messages, or plain text.")] = Style.CONVERSATIONAL,
    file_format: Annotated[Format, typer.Option("--format", help="The kind of files.")] = Format.JSONL,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Write a snapshot as a dataset that TRL trains on.

    The folder opens with `datasets.load_dataset(folder)` and has the columns of TRL's preference format, a manifest and
    a dataset card. It is written whole or not at all.

    \b
    Example:
      pairloop export latest helpful-v1 --format parquet
    """
    opened = open_workspace(workspace)
    with reading(opened.engine) as session:
        found = get_snapshot(session=session, name=snapshot_name)
        report = export_snapshot(
            session=session, snapshot=found, folder=opened.folder, target=target, style=style, file_format=file_format
        )
    if as_json:
        print_json({"export": report})
    else:
        rows = ", ".join(f"{count} in {split}" for split, count in report.rows.items())
        say(f"Wrote {report.target}: {rows}. Open it with `datasets.load_dataset({str(report.target)!r})`.")
