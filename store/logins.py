"""Logins: a browser in which somebody is known. It holds a random token in a cookie; the database only its hash."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from store.access_tables import Login
from store.hashing import text_hash
from store.models import Annotator, Comparison, now

SEEN_EVERY = timedelta(minutes=5)  # how often a visit is written down: a page asks far more often


def new_token() -> str:
    """256 random bits for a link or a cookie. Whoever has it is let in; only `text_hash` of it may be kept."""
    return secrets.token_urlsafe(32)


def begin_login(*, session: Session, annotator_id: int, lasts: timedelta, at: datetime | None = None) -> str:
    """Log somebody in. Returns the token for their cookie, which is not to be had again."""
    token, moment = new_token(), at or now()
    session.add(
        Login(
            annotator_id=annotator_id,
            token_hash=text_hash(token),
            created_at=moment,
            seen_at=moment,
            expires_at=moment + lasts,
        )
    )
    session.flush()
    return token


def find_login(*, session: Session, token: str, at: datetime | None = None) -> tuple[Login, Annotator] | None:
    """Whose token this is, while it is good: not expired, not ended, and they may still come."""
    found = session.exec(
        select(Login, Annotator)
        .join(Annotator, col(Annotator.id) == Login.annotator_id)
        .where(
            Login.token_hash == text_hash(token),
            col(Login.ended_at).is_(None),
            col(Login.expires_at) > (at or now()),
            col(Annotator.active),
        )
    ).first()
    return None if found is None else (found[0], found[1])


def is_stale(login: Login, at: datetime | None = None) -> bool:
    """Whether it is time to write down that this login was seen."""
    return (at or now()) - login.seen_at > SEEN_EVERY


def see_login(*, session: Session, login_id: int, at: datetime | None = None) -> None:
    """Write down that this login was seen."""
    session.execute(update(Login).where(col(Login.id) == login_id).values(seen_at=at or now()))


def end_login(*, session: Session, token: str) -> None:
    """Log out of one browser."""
    session.execute(
        update(Login)
        .where(col(Login.token_hash) == text_hash(token), col(Login.ended_at).is_(None))
        .values(ended_at=now())
    )


def end_logins(*, session: Session, annotator_id: int) -> int:
    """Log somebody out everywhere, where they logged in with a passcode. Returns in how many browsers."""
    ended = session.execute(
        update(Login)
        .where(col(Login.annotator_id) == annotator_id, col(Login.ended_at).is_(None))
        .values(ended_at=now())
    )
    return int(ended.rowcount)  # type: ignore[attr-defined]


def last_seen(*, session: Session) -> dict[int, datetime]:
    """When each annotator last came or compared, whichever was later; for those who ever did."""
    came = session.exec(select(Login.annotator_id, func.max(Login.seen_at)).group_by(col(Login.annotator_id)))
    latest = select(func.max(Comparison.id)).group_by(col(Comparison.annotator_id))  # an index alone answers this
    said = session.exec(select(Comparison.annotator_id, Comparison.created_at).where(col(Comparison.id).in_(latest)))
    seen = dict(came.all())
    for annotator_id, moment in said:
        seen[annotator_id] = max(moment, seen.get(annotator_id, moment))
    return seen
