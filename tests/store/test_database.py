"""Opening, migrating, locking and backing up the database, and what the user reads when that fails."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import Session, SQLModel, col, select

from store import access_tables, database  # noqa: F401  the first for its tables
from store.annotators import get_or_add_annotator, list_annotators
from store.database import backup_database, checked_first, open_database, reading, writing
from store.decisions import list_decisions
from store.errors import DatabaseError, NewerWorkspaceError
from store.models import Annotator, Comparison, Pair
from store.rounds import list_rounds


def count_annotators(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        return connection.execute("SELECT count(*) FROM annotator").fetchone()[0]


def test_a_blank_file_gets_its_tables_and_pragmas(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'new.db'}")
    with engine.connect() as connection:
        asked = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "foreign_keys")
        }
    assert asked == {"journal_mode": "wal", "foreign_keys": 1}
    assert set(SQLModel.metadata.tables) | {"alembic_version"} == set(sa.inspect(engine).get_table_names())


def test_opening_again_changes_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    with writing(engine) as session:
        get_or_add_annotator(session=session, name="Ada")
    again = open_database(f"sqlite:///{tmp_path / 'pairloop.db'}")
    with reading(again) as session:
        assert [annotator.name for annotator in list_annotators(session=session)] == ["Ada"]


def test_the_migrations_make_the_tables_that_the_models_describe(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []


def shape(engine: sa.Engine) -> dict[str, Any]:
    """What Alembic does not compare: the checks, the partial indexes' conditions, defaults and foreign keys."""
    inspector = sa.inspect(engine)
    tables = [name for name in inspector.get_table_names() if name != "alembic_version"]
    return {
        table: {
            "checks": sorted((check["name"], check["sqltext"]) for check in inspector.get_check_constraints(table)),
            "indexes": sorted(
                (
                    index["name"],
                    index["column_names"],
                    index["unique"],
                    {name: str(value) for name, value in index["dialect_options"].items()},
                )
                for index in inspector.get_indexes(table)
            ),
            "keys": sorted(str(key) for key in inspector.get_foreign_keys(table)),
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"]) for column in inspector.get_columns(table)
            },
        }
        for table in tables
    }


def test_checks_and_partial_indexes_are_the_same_in_both(engine: sa.Engine) -> None:
    other = sa.create_engine("sqlite://")
    SQLModel.metadata.create_all(other)
    assert shape(engine) == shape(other)
    assert any(table["checks"] for table in shape(engine).values())


def older_database(folder: Path, revision: str, statements: Iterable[str]) -> Path:
    """A database as that revision had it, with these rows."""
    path = folder / "pairloop.db"
    old = database._engine(f"sqlite:///{path}")
    with old.begin() as connection:
        config = database._alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in statements:
            connection.exec_driver_sql(statement)
    old.dispose()
    return path


def test_an_older_database_keeps_all_its_rows(tmp_path: Path) -> None:
    path = older_database(tmp_path, "0001", FIRST_ROWS)
    engine = open_database(f"sqlite:///{path}")
    with reading(engine) as session:
        comparison, pair = session.exec(select(Comparison)).one(), session.exec(select(Pair)).one()
    assert (comparison.verdict, comparison.tags, comparison.criteria, comparison.adjudicates) == ("a", [], {}, False)
    assert (pair.open_slots, pair.purpose, pair.asked_of, comparison.pair_id) == (0, "train", None, pair.id)
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
        session.add(Comparison(pair_id=99, annotator_id=1, verdict="a"))
        session.flush()


WHEN = "2026-01-01 00:00:00"
FIRST_ROWS = (  # what the first release wrote
    f"INSERT INTO annotator VALUES (1, 'Ada', 'annotator', 1, NULL, '{WHEN}')",
    f"INSERT INTO prompt VALUES (1, 'p', '[]', 'file', NULL, 0, '{WHEN}')",
    *(
        "INSERT INTO completion (id, prompt_id, text, text_hash, settings, finish_reason, names_maker, source, "
        f"created_at) VALUES ({number}, 1, '{number}', '{number}', '{{}}', 'imported', 0, '', '{WHEN}')"
        for number in (1, 2)
    ),
    "INSERT INTO pair (id, prompt_id, completion_a_id, completion_b_id, purpose, side_seed, position, wanted, "
    f"open_slots, created_at) VALUES (1, 1, 1, 2, 'train', 5, 0, 1, 0, '{WHEN}')",
    f"INSERT INTO comparison (id, pair_id, annotator_id, verdict, created_at) VALUES (1, 1, 1, 'a', '{WHEN}')",
)
OLDER_TABLES = ("annotator", "prompt", "completion", "pair", "comparison", "hold")
ROWS_OF_TEAMS = (
    "INSERT INTO comparison (id, pair_id, annotator_id, verdict, strength, tags, criteria, flags, adjudicates, "
    f"seconds, left_side, created_at) VALUES (1, 1, 1, 'a', 3, '[\"clear\"]', '{{}}', '{{}}', 0, 6.5, 'b', '{WHEN}')",
    f"INSERT INTO hold VALUES (1, 1, '{WHEN}')",
)


def test_a_database_from_before_there_were_rankings_keeps_all_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "pairloop.db"
    old = database._engine(f"sqlite:///{path}")
    with old.begin() as connection:
        config = database._alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        for statement in (*FIRST_ROWS[:-1], *ROWS_OF_TEAMS):
            connection.exec_driver_sql(statement)
        before = [connection.exec_driver_sql(f"SELECT * FROM {name}").all() for name in OLDER_TABLES]
    old.dispose()
    engine = open_database(f"sqlite:///{path}")
    with engine.connect() as connection:
        after = [connection.exec_driver_sql(f"SELECT * FROM {name}").all() for name in OLDER_TABLES]
    for was, now_is in zip(before, after, strict=True):  # what was added stands at a row's end, and is empty
        assert [tuple(row[: len(old_row)]) for row, old_row in zip(now_is, was, strict=True)] == [*map(tuple, was)]
        assert all(value is None for row, old_row in zip(now_is, was, strict=True) for value in row[len(old_row) :])
    with reading(engine) as session:
        pair, comparison = session.exec(select(Pair)).one(), session.exec(select(Comparison)).one()
    assert (pair.slate_id, pair.follows, comparison.ranking_id, comparison.strength) == (None, None, None, 3)
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
        session.add(Comparison(pair_id=1, annotator_id=1, verdict="b", ranking_id=99))
        session.flush()


def comparison_row(number: int, adjudicates: int, made: str, ended: str | None, pair: int = 1, who: int = 1) -> str:
    until = f"'{ended}'" if ended else "NULL"
    return (
        "INSERT INTO comparison (id, pair_id, annotator_id, verdict, tags, criteria, flags, adjudicates, created_at, "
        f"superseded_at) VALUES ({number}, {pair}, {who}, 'a', '[]', '{{}}', '{{}}', {adjudicates}, '{made}', {until})"
    )


def test_verdicts_that_a_decision_replaced_stand_beside_it_again(tmp_path: Path) -> None:
    path = tmp_path / "pairloop.db"
    old = database._engine(f"sqlite:///{path}")
    at = "2026-01-02 00:00:{}".format
    rows = (
        "INSERT INTO checkpoint (id, name, path, kind, settings, metrics, code_version, created_at) "
        f"VALUES (1, 'base', 'x', 'full', '{{}}', '{{}}', '', '{WHEN}')",
        "INSERT INTO round (id, number, checkpoint_id, status, target, duels, created_at) "
        f"VALUES (1, 1, 1, 'comparing', 9, 0, '{WHEN}')",
        *(
            f"INSERT INTO annotator VALUES ({number}, '{name}', 'researcher', 1, NULL, '{WHEN}')"
            for number, name in ((2, "Ben"), (3, "Cleo"))
        ),
        "UPDATE pair SET round_id = 1",
        # Ada decided about a pair that she had judged, and then decided otherwise.
        comparison_row(1, 0, at("01"), at("05.000009")),
        comparison_row(2, 1, at("05.000120"), at("40")),
        comparison_row(3, 1, at("40.001000"), None),
        # Ben had taken his verdict back when he decided.
        comparison_row(4, 0, at("01"), at("03"), who=2),
        comparison_row(5, 1, at("20"), None, who=2),
        # Cleo's decision was taken back, and what she had said written anew.
        comparison_row(6, 0, at("01"), at("05"), who=3),
        comparison_row(7, 1, at("05"), at("09"), who=3),
        comparison_row(8, 0, at("09"), None, who=3),
        "INSERT INTO round_work VALUES (1, 3, 1, 0)",
        # A slate that two are to rank; Ada decided about the pair that stands for it, which closed it.
        f"INSERT INTO slate VALUES (1, 1, 1, 's', 2, 0, '{WHEN}')",
        "INSERT INTO pair (id, prompt_id, completion_a_id, completion_b_id, round_id, purpose, side_seed, position, "
        f"wanted, open_slots, slate_id, created_at) VALUES (2, 1, 2, 1, 1, 'train', 5, 0, 2, 0, 1, '{WHEN}')",
        comparison_row(9, 0, at("01"), None, pair=2, who=2),
        comparison_row(10, 1, at("09"), None, pair=2),
    )
    with old.begin() as connection:
        config = database._alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in FIRST_ROWS[:-1]:
            connection.exec_driver_sql(statement)
        command.upgrade(config, "0007")
        for statement in rows:
            connection.exec_driver_sql(statement)
    old.dispose()
    engine = open_database(f"sqlite:///{path}")
    with engine.connect() as connection:
        standing = connection.exec_driver_sql("SELECT id FROM comparison WHERE superseded_at IS NULL ORDER BY id")
        assert [row.id for row in standing] == [1, 3, 5, 8, 9, 10]
        assert connection.exec_driver_sql("SELECT * FROM round_work ORDER BY 2").all() == [
            (1, 1, 1, 0),
            (1, 2, 1, 0),
            (1, 3, 1, 0),
        ]
        assert connection.exec_driver_sql("SELECT open_slots FROM pair ORDER BY id").scalars().all() == [0, 1]


def test_a_newer_database_is_refused_and_left_as_it_was(engine: sa.Engine, tmp_path: Path) -> None:
    with writing(engine) as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    path = tmp_path / "pairloop.db"
    before = path.read_bytes()
    with pytest.raises(NewerWorkspaceError, match=r"written by a newer pairloop\. Nothing was changed"):
        open_database(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_locked_database_says_so(engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pairloop.db"
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    impatient = open_database(f"sqlite:///{path}")
    with writing(engine) as session:
        get_or_add_annotator(session=session, name="Ada")
        with pytest.raises(DatabaseError, match=r"held it locked for 0\.05 s\. Close it"), writing(impatient) as other:
            get_or_add_annotator(session=other, name="Ben")
        with reading(impatient) as other:
            assert list_annotators(session=other) == []  # a writer never keeps readers out
    with writing(impatient) as session:
        get_or_add_annotator(session=session, name="Ben")
    assert count_annotators(path) == 2


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.db"
    path.write_text("Dear Ada, " * 500)
    with pytest.raises(DatabaseError, match=r"It is not a SQLite database\. Restore it from a backup"):
        open_database(f"sqlite:///{path}")
    assert path.read_text() == "Dear Ada, " * 500


def test_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="Check that the folder exists"):
        open_database(f"sqlite:///{tmp_path / 'nowhere' / 'pairloop.db'}")


def test_a_read_only_database_can_be_read_and_says_why_it_cannot_be_written(engine: sa.Engine, tmp_path: Path) -> None:
    with writing(engine) as session:
        get_or_add_annotator(session=session, name="Ada")
    frozen = open_database(f"sqlite:///file:{tmp_path / 'pairloop.db'}?mode=ro&uri=true")
    with reading(frozen) as session:
        assert len(list_annotators(session=session)) == 1
    with pytest.raises(DatabaseError, match="It is read-only for this user"), writing(frozen) as session:
        get_or_add_annotator(session=session, name="Ben")


@pytest.mark.parametrize("url", ["nothing at all", "oracle9://ada:secret@host/db", "sqlite+nodriver:///x.db"])
def test_an_address_that_cannot_be_used_says_so_without_its_password(url: str) -> None:
    with pytest.raises(DatabaseError, match="The database address cannot be used") as raised:
        open_database(url)
    assert "secret" not in str(raised.value)


def test_work_that_fails_half_way_leaves_nothing(engine: sa.Engine) -> None:
    def fail_half_way() -> None:
        with writing(engine) as session:
            get_or_add_annotator(session=session, name="Ada")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    with reading(engine) as session:
        assert list_annotators(session=session) == []


def test_what_a_reader_sees_does_not_change_under_it(engine: sa.Engine) -> None:
    with reading(engine) as session:
        assert list_annotators(session=session) == []
        with writing(engine) as writer:
            get_or_add_annotator(session=writer, name="Ada")
        assert list_annotators(session=session) == []


def test_a_rule_of_the_data_is_not_called_a_broken_database(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
        session.add(Annotator(name="Ada", role="nobody"))


def test_moments_come_back_in_utc(engine: sa.Engine) -> None:
    with writing(engine) as session:
        written = get_or_add_annotator(session=session, name="Ada").created_at
    with reading(engine) as session:
        read = session.exec(select(Annotator).where(col(Annotator.name) == "Ada")).one().created_at
    assert read == written
    assert read.utcoffset() is not None


def write_in_twos(engine: sa.Engine, stop: threading.Event, started: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        with writing(engine) as session:
            get_or_add_annotator(session=session, name=f"first {number}")
            get_or_add_annotator(session=session, name=f"second {number}")
        number += 1
        started.set()


def test_a_backup_taken_while_others_write_is_whole(engine: sa.Engine, tmp_path: Path) -> None:
    stop, started = threading.Event(), threading.Event()
    writer = threading.Thread(target=write_in_twos, args=(engine, stop, started))
    writer.start()
    started.wait()
    copies = [tmp_path / f"copy-{number}.db" for number in range(5)]
    try:
        for copy in copies:
            backup_database(engine, copy)
    finally:
        stop.set()
        writer.join()
    counts = [count_annotators(copy) for copy in copies]
    assert counts == sorted(counts)
    assert all(count > 0 and count % 2 == 0 for count in counts)  # never one half of a transaction
    assert not list(tmp_path.glob("*.part"))
    with sqlite3.connect(copies[-1]) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    open_database(f"sqlite:///{copies[-1]}").dispose()


def test_a_backup_replaces_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    target = tmp_path / "kept.db"
    target.write_text("mine")
    with pytest.raises(DatabaseError, match=r"exists already\. Nothing was written"):
        backup_database(engine, target)
    assert target.read_text() == "mine"


def test_what_an_interrupted_backup_left_behind_is_in_nobodys_way(engine: sa.Engine, tmp_path: Path) -> None:
    (tmp_path / "copy.db.part").write_text("half a backup " * 1000)
    (tmp_path / "copy.db.part-journal").write_text("half a journal " * 1000)
    backup_database(engine, tmp_path / "copy.db")
    assert count_annotators(tmp_path / "copy.db") == 0


def test_what_a_sample_run_wrote_is_found_by_an_index(engine: sa.Engine) -> None:
    with reading(engine) as session:
        found = session.execute(sa.text("EXPLAIN QUERY PLAN SELECT prompt_id FROM completion WHERE run_id = 1")).all()
    assert ["ix_completion_run_id" in row.detail for row in found] == [True]


def test_of_two_decisions_about_one_round_the_later_is_the_rounds(tmp_path: Path) -> None:
    """As PostgreSQL took them while nothing spoke against it: both stay, and the one that counted is the round's."""
    path = older_database(tmp_path, "0010", TWO_DECISIONS)
    with reading(open_database(f"sqlite:///{path}")) as session:
        told = [(entry.action, entry.round_id, entry.by) for entry in list_decisions(session=session)]
    assert told == [("promote", None, "Ada"), ("keep", 1, "Bo"), ("roll_back", None, "Bo")]


BASE_CHECKPOINT = (
    "INSERT INTO checkpoint (id, name, path, kind, settings, metrics, code_version, created_at) "
    f"VALUES (1, 'base', 'x', 'full', '{{}}', '{{}}', '', '{WHEN}')"
)
TWO_DECISIONS = (
    BASE_CHECKPOINT,
    "INSERT INTO round (id, number, status, checkpoint_id, target, duels, created_at) "
    f"VALUES (1, 1, 'done', 1, 4, 0, '{WHEN}')",
    *(
        "INSERT INTO decision (action, round_id, about_id, checkpoint_id, by, gate, forced, created_at) "
        f"VALUES ('{action}', {number}, 1, 1, '{by}', '{{}}', 0, '{WHEN}')"
        for action, number, by in (("promote", "1", "Ada"), ("keep", "1", "Bo"), ("roll_back", "NULL", "Bo"))
    ),
)


def test_work_that_is_checked_first_is_done_whole_or_not_at_all(engine: sa.Engine) -> None:
    seen = []

    def check(session: Session) -> None:
        seen.append([annotator.name for annotator in list_annotators(session=session)])
        if seen[-1]:
            raise DatabaseError("Somebody is there by now.")

    checked = checked_first(engine, check)
    with writing(checked) as session:
        get_or_add_annotator(session=session, name="Ada")
    with pytest.raises(DatabaseError, match="by now"), writing(checked) as session:
        get_or_add_annotator(session=session, name="Ben")
    with reading(checked) as session:
        assert [annotator.name for annotator in list_annotators(session=session)] == ["Ada"]
    assert seen == [[], ["Ada"]], "before each writing, and only then"


def test_rounds_that_were_done_while_they_were_paused_are_so_no_more(tmp_path: Path) -> None:
    path = older_database(tmp_path, "0010", PAUSED_ROUNDS)
    with reading(open_database(f"sqlite:///{path}")) as session:
        assert [entry.paused_at is None for entry in list_rounds(session=session)] == [True, False]


PAUSED_ROUNDS = (
    BASE_CHECKPOINT,
    *(
        "INSERT INTO round (id, number, checkpoint_id, status, target, duels, paused_at, created_at) "
        f"VALUES ({number}, {number}, 1, '{status}', 4, 0, '{WHEN}', '{WHEN}')"
        for number, status in ((1, "done"), (2, "deciding"))
    ),
)
