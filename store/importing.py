"""Outside files -> prompts, pairs and comparisons. All of a file or nothing, and never the same thing twice.

The file is read and checked, and what is new in it made ready, without a lock on the database: those who label
meanwhile wait only while it moves rows, in one transaction. If another import ended in between, what is new is looked
up again. Left out on purpose: streaming. A file is held in memory whole (a gigabyte of text takes a few).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc
from sqlmodel import Session, func, select

from store.bulk_adding import Origin, Plan, Progress, plan_gold, plan_preferences, plan_prompts
from store.bulk_rankings import plan_rankings
from store.database import reading, writing_staged
from store.errors import ColumnsError, ImportFileError, StateError, StoreError
from store.hashing import file_hash
from store.models import ImportRecord
from store.ranking_shapes import ReadRanking, looks_like_rankings, read_ranking
from store.reading_files import BadLine, SourceRow, file_format, file_stem, read_rows
from store.roles import require_researcher
from store.row_shapes import Unusable, looks_like_preferences, read_gold, read_preference, read_prompt
from store.wording import counted

SHOWN_PROBLEMS = 5
HEADED = ("csv", "tsv", "parquet")  # formats that name their columns once
Read = TypeVar("Read")


class Kind(StrEnum):
    """What a file holds."""

    PROMPTS = "prompts"
    PREFERENCES = "preferences"
    RANKINGS = "rankings"
    GOLD = "gold"


@dataclass(frozen=True)
class ImportReport:
    """What became of a file's rows: each is added, a duplicate, a contradiction or skipped (with why).

    Of rankings each two texts are one comparison that is added, a duplicate or a contradiction, and it is texts as well
    as rows that are skipped.
    """

    kind: Kind
    file_name: str
    format: str
    rows: int = 0
    prompts_added: int = 0
    held_out: int = 0  # of the prompts added
    comparisons_added: int = 0
    rankings_added: int = 0
    gold_added: int = 0
    duplicates: int = 0
    contradictions: int = 0  # the same two completions, the other way round: the first one stands
    joined_turns: int = 0  # transcripts in which consecutive turns of one speaker were joined
    skipped: dict[str, int] = field(default_factory=dict)
    imported_before: datetime | None = None

    def summary(self) -> str:
        """The report as a sentence or two, for a person."""
        if self.imported_before is not None:
            return (
                f"{self.file_name} was already imported on {self.imported_before:%Y-%m-%d %H:%M} UTC; nothing changed."
            )
        added = f"{counted(self.prompts_added, 'new prompt')} ({self.held_out} held out)"
        if self.kind == Kind.PREFERENCES:
            added = f"{counted(self.comparisons_added, 'comparison')} and {added}"
        elif self.kind == Kind.RANKINGS:
            rankings, comparisons = (
                counted(self.rankings_added, "ranking"),
                counted(self.comparisons_added, "comparison"),
            )
            added = f"{rankings}, which come to {comparisons}, and {added}"
        elif self.kind == Kind.GOLD:
            added = counted(self.gold_added, "gold pair")
        of = "comparisons " * (self.kind == Kind.RANKINGS)
        before = {f"{of}known already": self.duplicates, f"{of}contradicting an earlier row": self.contradictions}
        apart = before | self.skipped
        left_out = ", ".join(f"{reason} ({count})" for reason, count in apart.items() if count)
        joined = f" In {counted(self.joined_turns, 'row')}, consecutive turns of one speaker were joined." * bool(
            self.joined_turns
        )
        return f"{counted(self.rows, 'row')}: {added}." + f" Left out: {left_out}." * bool(left_out) + joined


def import_file(
    *,
    engine: sa.Engine,
    path: Path,
    held_out_share: float,
    kind: Kind | None = None,
    source: str | None = None,
    on_progress: Progress | None = None,
) -> ImportReport:
    """Add what is new of a file: prompts, preferences or rankings, as `kind` says or else the columns of its first row.

    Otherwise as `import_prompts`, `import_preferences`, `import_rankings` and `import_gold`, and with their errors.
    """
    ways = {
        Kind.PROMPTS: import_prompts,
        Kind.PREFERENCES: import_preferences,
        Kind.RANKINGS: import_rankings,
        Kind.GOLD: import_gold,
    }
    bring_in = ways[kind or _kind_of(path)]
    return bring_in(engine=engine, path=path, held_out_share=held_out_share, source=source, on_progress=on_progress)


def _kind_of(path: Path) -> Kind:
    first = next((row for row in read_rows(path) if isinstance(row, SourceRow)), None)
    # Where no row can be read, reading them as either kind will say why.
    if first is not None and looks_like_preferences(first.values):
        return Kind.PREFERENCES
    return Kind.RANKINGS if first is not None and looks_like_rankings(first.values) else Kind.PROMPTS


def import_prompts(
    *,
    engine: sa.Engine,
    path: Path,
    held_out_share: float,
    source: str | None = None,
    on_progress: Progress | None = None,
) -> ImportReport:
    """Add a file's prompts, those that are new. `source` is kept with each; the file's name without its ending if None.

    Raises ImportFileError, with nothing imported, if any line is not a prompt.
    """
    work = _start(Kind.PROMPTS, engine, path, held_out_share, source, on_progress)
    return work.bring_in(read_prompt, lambda session, found: plan_prompts(session, work.origin, found))


def import_preferences(
    *,
    engine: sa.Engine,
    path: Path,
    held_out_share: float,
    source: str | None = None,
    on_progress: Progress | None = None,
) -> ImportReport:
    """Add a file's preferences, those that are new: prompts, completions, pairs, and comparisons by `import:<source>`.

    `source` is the file's name without its ending if None, and two texts that anybody has compared already are then
    known. A `source` given by name is an annotator of its own: only what that source said before is known.
    Raises ImportFileError, with nothing imported, if any line is not a preference; StateError for a retracted source.
    """
    work = _start(Kind.PREFERENCES, engine, path, held_out_share, source, on_progress)
    own = source is not None
    return work.bring_in(
        read_preference,
        lambda session, found: plan_preferences(session, work.origin, found, own_opinion=own),
        note=lambda preference: work.shapes.add(preference.shape),
    )


def import_rankings(
    *,
    engine: sa.Engine,
    path: Path,
    held_out_share: float,
    source: str | None = None,
    on_progress: Progress | None = None,
) -> ImportReport:
    """Add a file's rankings, those that are new, each with the comparisons that it comes to, by `import:<source>`.

    What was said of two of the texts before stands, as with `import_preferences`: that comparison is left out.
    Raises ImportFileError, with nothing imported, if any line is not a ranking; StateError for a retracted source.
    """
    work = _start(Kind.RANKINGS, engine, path, held_out_share, source, on_progress)
    own = source is not None

    def note(ranking: ReadRanking) -> None:
        work.shapes.add(ranking.shape)
        work.skipped.update(ranking.left_out)

    return work.bring_in(
        read_ranking,
        lambda session, found: plan_rankings(session, work.origin, found, own_opinion=own),
        note=note,
    )


def import_gold(
    *,
    engine: sa.Engine,
    path: Path,
    held_out_share: float,
    source: str | None = None,
    on_progress: Progress | None = None,
) -> ImportReport:
    """Add a file's preferences as gold pairs, those that are new: nobody's opinion, but what is known to be right.

    They measure annotators, or show newcomers what is wanted, with the row's `note`; nothing is trained on them, and
    their prompts are asked of no model. Raises ImportFileError, with nothing imported, if any line is not a preference.
    """
    work = _start(Kind.GOLD, engine, path, held_out_share, source, on_progress)
    return work.bring_in(
        read_gold,
        lambda session, found: plan_gold(session, work.origin, found),
        note=lambda gold: work.shapes.add(gold.preference.shape),
    )


def _start(
    kind: Kind, engine: sa.Engine, path: Path, share: float, source: str | None, on_progress: Progress | None
) -> _Import:
    with reading(engine) as session:
        require_researcher(session=session, to="import a file")
    origin = Origin(source or file_stem(path), share, on_progress or (lambda phase, done, total: None))
    return _Import(kind, engine, path, origin)


class _Import:
    """One file on its way in."""

    def __init__(self, kind: Kind, engine: sa.Engine, path: Path, origin: Origin) -> None:
        self.kind, self.engine, self.path, self.origin = kind, engine, path, origin
        self.format = file_format(path)
        self.shapes: set[str] = set()
        self.skipped: Counter[str] = Counter()
        self.rows = 0
        self.hash = self._file_hash()

    def _file_hash(self) -> str:
        try:
            return file_hash(self.path)
        except OSError as error:
            raise ImportFileError(f"{self.path} cannot be read ({error.strerror}). Nothing was imported.") from error

    def bring_in(
        self,
        interpret: Callable[[dict[str, Any]], Read | Unusable],
        plan: Callable[[Session, list[Read]], Plan],
        note: Callable[[Read], None] = lambda read: None,
    ) -> ImportReport:
        """Read the file and write what is new of it. `note`: called once with each row that was read."""
        before = self.seen_before()
        if before is not None:
            return before
        found = self.read(interpret)
        for each in found:
            note(each)
        return self.write(lambda session: plan(session, found))

    def seen_before(self) -> ImportReport | None:
        """A report that nothing changed, where these very bytes were imported before."""
        with reading(self.engine) as session:
            record = session.exec(
                select(ImportRecord).where(ImportRecord.file_hash == self.hash, ImportRecord.kind == self.kind)
            ).first()
        if record is None:
            return None
        rows = record.counts["rows"]
        return ImportReport(
            self.kind, self.path.name, record.format, rows, duplicates=rows, imported_before=record.created_at
        )

    def read(self, interpret: Callable[[dict[str, Any]], Read | Unusable]) -> list[Read]:
        """Every row of the file, interpreted. Raises ImportFileError if any line is bad: then none is imported."""
        found: list[Read] = []
        problems: list[BadLine] = []
        rows = 0
        for rows, row in enumerate(read_rows(self.path), start=1):
            if rows % 1000 == 0:
                self.origin.report_progress("reading", rows, 0)
            read = _interpret(row, interpret)
            if isinstance(read, BadLine):
                problems.append(read)
            elif isinstance(read, Unusable):
                self.skipped[read.reason] += 1
            elif not problems:
                found.append(read)
        self._refuse(rows, problems)
        self.rows = rows
        return found

    def _refuse(self, rows: int, problems: Sequence[BadLine]) -> None:
        if not rows:
            raise ImportFileError(f"{self.path.name} holds no rows. Nothing was imported.")
        if not problems:
            return
        if self.format in HEADED and rows == sum(bad.of_columns for bad in problems):
            problems = [replace(problems[0], line=1)]  # it is the header that is wrong, not every row
        unit = "row" if self.format == "parquet" else "line"
        shown = [f"{self.path.name}, {unit} {bad.line}: {_sentence(bad.problem)}" for bad in problems[:SHOWN_PROBLEMS]]
        more = len(problems) - len(shown)
        shown += [f"... and {more} more bad {unit}s."] if more else []
        raise ImportFileError("\n".join([*shown, "Nothing was imported. Mend the file and import it again."]))

    def write(self, plan: Callable[[Session], Plan]) -> ImportReport:
        """Write what is new, planned again as often as another import was quicker. The last word is a report."""
        while True:
            with reading(self.engine) as session:
                seen, planned = _last_import(session), plan(session)
            before = self.seen_before()  # after `seen`: an import of these very bytes ended earlier, or shows in _write
            if before is not None:
                return before
            try:
                report = self._write(planned, seen)
            except exc.IntegrityError as error:
                raise StateError(
                    "Somebody imported the same at this moment. Nothing was imported; try again."
                ) from error
            if report is not None:
                return report

    def _write(self, planned: Plan, seen: int) -> ImportReport | None:
        """Write the plan and a record of the file in one transaction; nothing, if an import ended since `seen`."""
        report = self._report(planned.counts)
        with writing_staged(self.engine, planned.stage) as session:
            if _last_import(session) != seen:
                return None
            record = ImportRecord(kind=self.kind, file_name=self.path.name, file_hash=self.hash, format=report.format)
            record.counts = dict(planned.counts) | {"rows": self.rows, "skipped": report.skipped}
            session.add(record)
            session.flush()
            assert record.id is not None
            planned.write(session, record.id)
        return report

    def _report(self, counts: Counter[str]) -> ImportReport:
        shape = ": ".join([self.format, *sorted(self.shapes)])
        found: dict[str, Any] = dict(counts)
        return ImportReport(self.kind, self.path.name, shape, self.rows, skipped=dict(self.skipped), **found)


def _sentence(problem: str) -> str:
    return problem if problem.endswith("?") else f"{problem}."


def _last_import(session: Session) -> int:
    return session.exec(select(func.max(ImportRecord.id))).one() or 0


def _interpret(
    row: SourceRow | BadLine, interpret: Callable[[dict[str, Any]], Read | Unusable]
) -> Read | Unusable | BadLine:
    if isinstance(row, BadLine):
        return row
    try:
        return interpret(row.values)
    except StoreError as error:
        return BadLine(row.line, str(error), of_columns=isinstance(error, ColumnsError))
