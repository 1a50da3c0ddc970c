"""Importing while others write: whom it keeps waiting, and two imports at once."""

import sqlite3

import pytest
import sqlalchemy as sa

from store import bulk_adding
from store.annotators import get_or_add_annotator, retract_annotator
from store.database import writing
from store.errors import StateError
from tests.store.imported import jsonl, preferences_from, prompts_from, row_counts, saved_preferences, user


def preferences(count: int, first: int = 0) -> list[dict[str, str]]:
    return [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(first, first + count)]


def test_others_write_while_a_file_is_read_and_made_ready(engine, tmp_path):
    other = sqlite3.connect(tmp_path / "pairloop.db", timeout=0, isolation_level=None)
    locked = {}

    def try_to_write(phase, *_):
        try:
            other.execute("BEGIN IMMEDIATE")
            other.execute("COMMIT")
        except sqlite3.OperationalError:
            locked.setdefault(phase, set()).add(True)
        else:
            locked.setdefault(phase, set()).add(False)

    preferences_from(engine, jsonl(tmp_path / "p.jsonl", preferences(1200)), on_progress=try_to_write)
    other.close()
    assert locked == {"reading": {False}, "preparing": {False}, "writing": {True}}


def locked_statements(engine: sa.Engine, import_it) -> list[str]:
    """What is sent to the database while it is locked; a statement for many rows counts for each."""
    sent: list[str] = []

    def note(_connection, _cursor, statement, parameters, _context, many):
        if statement == "BEGIN IMMEDIATE":
            sent.clear()
        sent.extend([statement] * (len(parameters) if many else 1))

    sa.event.listen(engine, "before_cursor_execute", note)
    import_it()
    sa.event.remove(engine, "before_cursor_execute", note)
    return sent


@pytest.mark.parametrize("import_from", [prompts_from, preferences_from])
def test_the_lock_is_held_for_no_more_statements_however_long_the_file(engine, tmp_path, import_from):
    short, long = (jsonl(tmp_path / f"{n}.jsonl", preferences(n, first=n)) for n in (3, 2000))
    few = locked_statements(engine, lambda: import_from(engine, short))
    many = locked_statements(engine, lambda: import_from(engine, long))
    assert few[0] == "BEGIN IMMEDIATE" and few == many


def before_it_is_written(monkeypatch, meanwhile) -> None:
    """Have something done once, after the next import has looked up what is new and before it writes."""
    stage = bulk_adding.Plan.stage

    def stage_late(plan, session):
        monkeypatch.setattr(bulk_adding.Plan, "stage", stage)
        meanwhile()
        stage(plan, session)

    monkeypatch.setattr(bulk_adding.Plan, "stage", stage_late)


@pytest.mark.parametrize("import_from", [prompts_from, preferences_from])
def test_the_same_file_imported_meanwhile(engine, tmp_path, monkeypatch, import_from):
    path, first = jsonl(tmp_path / "p.jsonl", preferences(5)), []
    before_it_is_written(monkeypatch, lambda: first.append(import_from(engine, path)))
    second = import_from(engine, path)
    assert first[0].prompts_added == 5 and second.imported_before is not None
    assert (second.prompts_added, second.comparisons_added, second.duplicates) == (0, 0, 5)
    assert (row_counts(engine)["Prompt"], row_counts(engine)["ImportRecord"]) == (5, 1)


def test_a_file_that_has_rows_in_common_imported_meanwhile(engine, tmp_path, monkeypatch):
    one, other = preferences(4), preferences(4, first=2)
    other[0] |= {"chosen": "bad 2", "rejected": "good 2"}
    other_path = jsonl(tmp_path / "other.jsonl", other)
    before_it_is_written(monkeypatch, lambda: preferences_from(engine, other_path))
    report = preferences_from(engine, jsonl(tmp_path / "one.jsonl", one))
    assert (report.comparisons_added, report.duplicates, report.contradictions, report.prompts_added) == (2, 1, 1, 2)
    assert saved_preferences(engine) == [
        (user("q2"), "bad 2", "good 2"),
        *[(user(f"q{n}"), f"good {n}", f"bad {n}") for n in (3, 4, 5, 0, 1)],
    ]
    counts = row_counts(engine)
    assert [counts[table] for table in ("Prompt", "Completion", "Pair", "Comparison")] == [6, 12, 6, 6]


def test_a_source_retracted_meanwhile_imports_nothing(engine, tmp_path, monkeypatch):
    preferences_from(engine, jsonl(tmp_path / "p.jsonl", preferences(1)))
    before = row_counts(engine)

    def retract():
        with writing(engine) as session:
            retract_annotator(session=session, name="import:p")

    before_it_is_written(monkeypatch, retract)
    with pytest.raises(StateError, match=r"was retracted\. Nothing was imported"):
        preferences_from(engine, jsonl(tmp_path / "p.jsonl", preferences(3)))
    assert row_counts(engine) == before


def test_an_import_leaves_no_temporary_table_behind(engine, tmp_path):
    preferences_from(engine, jsonl(tmp_path / "p.jsonl", preferences(3)))
    with writing(engine) as session:
        get_or_add_annotator(session=session, name="Ada")
        assert session.execute(sa.text("SELECT count(*) FROM sqlite_temp_master")).scalar() == 0
