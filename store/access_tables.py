"""The tables of who may come in: accounts, invites, logins, and how often a passcode was wrong."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field, SQLModel

from store.models import maybe_moment, moment


class Account(SQLModel, table=True):
    """How somebody logs in. Apart from the annotator, so that whoever reads one never comes by a passcode's hash."""

    annotator_id: int = Field(primary_key=True, foreign_key="annotator.id", sa_column_kwargs={"autoincrement": False})
    passcode_hash: str | None = None  # argon2id, with its salt and its costs
    email: str | None = Field(default=None, unique=True, max_length=254)  # as an identity provider verified it
    ended_at: datetime | None = maybe_moment()  # an identity provider's word from before this moment counts no more
    created_at: datetime = moment()


class Invite(SQLModel, table=True):
    """A link that lets one person in, once. `annotator_id`: whose passcode it sets anew; none: a newcomer's."""

    id: int | None = Field(default=None, primary_key=True)
    token_hash: str = Field(unique=True, max_length=64)
    role: str | None = None
    name: str = ""
    annotator_id: int | None = Field(default=None, foreign_key="annotator.id")
    created_by: str = ""
    created_at: datetime = moment()
    expires_at: datetime = moment()
    used_at: datetime | None = maybe_moment()
    revoked_at: datetime | None = maybe_moment()


class Login(SQLModel, table=True):
    """One browser in which somebody is logged in. Only the hash of its cookie is kept."""

    id: int | None = Field(default=None, primary_key=True)
    annotator_id: int = Field(foreign_key="annotator.id", index=True)
    token_hash: str = Field(unique=True, max_length=64)
    created_at: datetime = moment()
    seen_at: datetime = moment()
    expires_at: datetime = moment()
    ended_at: datetime | None = maybe_moment()


class Throttle(SQLModel, table=True):
    """Wrong passcodes in a row, counted by name, known or not. Names share 65,536 counters: the table stays small."""

    bucket: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    failures: int = 0
    last_at: datetime = moment()
    locked_until: datetime | None = maybe_moment()
