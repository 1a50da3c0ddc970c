"""Engine, pragmas, transactions, migrations.

Every read goes through `reading(engine)`, every write through `writing(engine)`: the latter takes SQLite's write lock
at its start (BEGIN IMMEDIATE), so that what a function reads before it writes cannot change in between, and commits
once at its end. Errors of the database come out as `DatabaseError` with what to do.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import exc
from sqlmodel import Session

from store.errors import DatabaseError, NewerWorkspaceError

BUSY_SECONDS = 30
CHUNK = 500  # SQLite binds a limited number of values in one statement
_MIGRATIONS = Path(__file__).parent / "migrations"
_CHECK = "pairloop_check"
Item = TypeVar("Item")

_CAUSES = {
    "locked": "Another program has held it locked for {busy} s. Close it (a backup, a database browser) and try again.",
    "disk is full": "The disk is full. Free some space and try again; everything saved before is safe.",
    "disk i/o error": "The disk cannot be read or written. Check its free space; everything saved before is safe.",
    "readonly": "It is read-only for this user. Check the permissions of the file and of its folder.",
    "unable to open": "It cannot be opened. Check that the folder exists and that this user may write to it.",
    "not a database": "It is not a SQLite database. Restore it from a backup (`pairloop backup` makes them).",
    "malformed": "It is damaged. Restore it from a backup (`pairloop backup` makes them).",
}


def open_database(url: str) -> sa.Engine:
    """An engine for `url`, its tables at the newest migration.

    Raises NewerWorkspaceError if a newer pairloop wrote the database, DatabaseError if it cannot be opened.
    """
    engine = _engine(url)
    with _explained(engine.url.render_as_string()):  # never the URL as given: it may carry a password
        migrate(engine)
    return engine


def _engine(url: str) -> sa.Engine:
    try:
        engine = sa.create_engine(url, connect_args=_connect_args(url))
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError, ValueError) as error:
        raise DatabaseError(f"The database address cannot be used: {error}") from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _set_pragmas)
        sa.event.listen(engine, "begin", _begin)
    return engine


def _connect_args(url: str) -> dict[str, Any]:
    return {"timeout": BUSY_SECONDS, "check_same_thread": False} if url.startswith("sqlite") else {}


def _set_pragmas(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by _begin alone
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    _use_wal(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")


def _use_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait for the lock that turns a new file to WAL, whatever busy_timeout says: processes that open
    # one at the same moment would fail.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def reading(engine: sa.Engine) -> Iterator[Session]:
    """A session that sees one consistent state and writes nothing."""
    with _explained(engine.url.render_as_string()), Session(engine, expire_on_commit=False) as session:
        yield session


@contextmanager
def writing(engine: sa.Engine) -> Iterator[Session]:
    """A session whose work is committed whole when the block ends, or not at all."""
    immediate = engine.execution_options(immediate=True)
    with _explained(engine.url.render_as_string()), Session(immediate, expire_on_commit=False) as session:
        check = engine.get_execution_options().get(_CHECK)
        if check is not None:
            check(session)
        yield session
        session.commit()


def checked_first(engine: sa.Engine, check: Callable[[Session], None]) -> sa.Engine:
    """The same database, for work that rests on what was read before: `writing` begins with this check.

    It is in the transaction of that work, so that nothing changes in between; what it raises undoes all.
    """
    return engine.execution_options(**{_CHECK: check})


@contextmanager
def writing_staged(engine: sa.Engine, stage: Callable[[Session], None]) -> Iterator[Session]:
    """As `writing`, after `stage` has filled temporary tables on the same connection, which keeps nobody waiting.

    What is to be written in bulk is made ready there, so that the lock is held only while the database moves rows.
    """
    with _explained(engine.url.render_as_string()), engine.connect() as connection:
        connection.detach()  # closed at the end, not kept for others: its temporary tables go with it
        with Session(connection) as session:
            if engine.dialect.name == "sqlite":  # 64 MiB rather than 2: index pages are otherwise written many times
                session.connection().exec_driver_sql("PRAGMA cache_size = -65536")
            stage(session)
            session.commit()
        immediate = connection.execution_options(immediate=True)
        with Session(immediate, expire_on_commit=False) as session:
            yield session
            session.commit()


def chunks(items: Sequence[Item], size: int = CHUNK) -> Iterator[Sequence[Item]]:
    """The items in order, at most `size` at a time, for statements that name each of them."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except exc.IntegrityError:
        raise  # a rule of the data: the caller knows which one and what it means
    except (exc.DatabaseError, exc.TimeoutError, sqlite3.DatabaseError) as error:
        raise DatabaseError(_explanation(url, error)) from error


def _explanation(url: str, error: Exception) -> str:
    said = str(getattr(error, "orig", None) or error)
    what = f"The database {url.removeprefix('sqlite:///')} could not be used ({said})."
    for sign, advice in _CAUSES.items():
        if sign in said.lower():
            return f"{what} {advice.format(busy=BUSY_SECONDS)}"
    return what


def migrate(engine: sa.Engine) -> None:
    """Bring the tables to the newest migration, in one transaction that other processes wait for."""
    if _revision(engine) == _head():
        return
    with _changing_tables(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7247566)"))  # any number, the same for all of us
        config = _alembic_config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            if "locate revision" not in str(error).lower():
                raise
            raise NewerWorkspaceError(
                f"The database {engine.url.database} was written by a newer pairloop. Nothing was changed. "
                "Install that version (`pip install -U pairloop`) or restore an older backup."
            ) from error


@contextmanager
def _changing_tables(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection in one transaction, in which SQLite lets a table that others refer to be written anew."""
    with engine.execution_options(immediate=True).connect() as connection:
        connection.detach()  # closed at the end: it alone does not check foreign keys as it goes
        if engine.dialect.name != "sqlite":
            with connection.begin():
                yield connection
            return
        connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
        with connection.begin():
            yield connection
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise DatabaseError(
                    f"Bringing {engine.url.database} up to date failed at {broken[:3]}; it is as before."
                )


def _revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _head() -> str | None:
    return ScriptDirectory.from_config(_alembic_config()).get_current_head()


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def backup_database(engine: sa.Engine, target: Path) -> None:
    """A consistent copy of a SQLite database, taken while it is in use.

    Raises DatabaseError where the database is not SQLite or `target` exists.
    """
    if engine.dialect.name != "sqlite":
        raise DatabaseError("Only SQLite databases are backed up by pairloop. Use your server's own backup (pg_dump).")
    if target.exists():
        raise DatabaseError(f"{target} exists already. Nothing was written; choose another name.")
    aside = target.with_name(target.name + ".part")
    for suffix in ("", "-journal", "-wal", "-shm"):  # what a backup that was interrupted left behind
        aside.with_name(aside.name + suffix).unlink(missing_ok=True)
    with _explained(str(target)), engine.connect() as connection:
        copy = sqlite3.connect(aside)
        try:
            connection.connection.driver_connection.backup(copy)  # type: ignore[union-attr]
        finally:
            copy.close()
    aside.replace(target)
