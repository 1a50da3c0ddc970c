"""Rows that are to be there once: on PostgreSQL two transactions may find a row missing and both add it."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel

_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def add_unless_there(*, session: Session, row: SQLModel) -> None:
    """Write a row unless one that is the same by a unique key is there by now; then that one stays as it is.

    A number that the database gives out is left to it: look the row up by its unique key afterwards.
    """
    insert = _INSERT[session.get_bind().dialect.name]
    session.execute(insert(type(row)).values(row.model_dump(exclude_none=True)).on_conflict_do_nothing())
