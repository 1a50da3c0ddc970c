"""Passcodes: argon2id hashes, checked so that neither time nor words tell whether a name is known.

A name may be tried FREE_TRIES times; after that each wrong passcode locks it, for twice as long as the one before. A
try is counted before it is looked at, so that many at once are no way round. Who is logged in already stays so.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from functools import cache

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete
from sqlmodel import Session, col, select

from store.access_tables import Account, Throttle
from store.adding_once import add_unless_there
from store.database import reading, writing
from store.errors import LoginError, StoreError, ThrottledError
from store.hashing import text_hash
from store.models import Annotator, now

SHORTEST, LONGEST = 8, 200  # characters
FREE_TRIES = 5
FIRST_LOCK, LONGEST_LOCK = timedelta(seconds=2), timedelta(minutes=15)
FORGOTTEN = timedelta(days=1)  # after which wrong tries count no more
WRONG = "That name and that passcode do not go together."

_hasher = PasswordHasher()  # argon2id with RFC 9106's costs for little memory: 64 MiB and some 50 ms each
_two_at_once = threading.Semaphore(2)  # a flood of tries must take neither the memory nor all cores


def hash_passcode(passcode: str, *, name: str) -> str:
    """What to keep of a passcode. Takes some 50 ms: not to be done while the database is locked.

    Raises StoreError on one that is too short, too long or the name itself.
    """
    if not SHORTEST <= len(passcode) <= LONGEST:
        raise StoreError(f"A passcode needs {SHORTEST} to {LONGEST} characters.")
    if passcode.casefold() == name.casefold():
        raise StoreError("A passcode cannot be the name itself.")
    with _two_at_once:
        return _hasher.hash(passcode)


def get_or_add_account(*, session: Session, annotator_id: int) -> Account:
    """How this annotator logs in."""
    account = session.get(Account, annotator_id) or Account(annotator_id=annotator_id)
    session.add(account)
    return account


def check_passcode(*, engine: sa.Engine, name: str, passcode: str, at: datetime | None = None) -> int:
    """The id of the annotator whom this name and passcode let in.

    Raises LoginError where they let in nobody, in the same words and after the same work for a name that is not known;
    ThrottledError while the name is locked.
    """
    name = " ".join(name.split())
    with reading(engine) as session:  # a flood of tries at a locked name must not keep others from writing
        _refuse_locked(session, name, at or now())
    with writing(engine) as session:
        _count_try(session, name, at or now())
    with reading(engine) as session:
        found = session.exec(
            select(Account.annotator_id, Account.passcode_hash)
            .join(Annotator)
            .where(Annotator.name == name, Annotator.active)
        ).first()
    annotator_id, hashed = found or (None, None)
    matches = _matches(hashed or _nobodys_hash(), passcode)
    if annotator_id is None or hashed is None or not matches:
        raise LoginError(WRONG)
    with writing(engine) as session:
        session.execute(delete(Throttle).where(col(Throttle.bucket) == bucket_of(name)))
    return annotator_id


@cache
def _nobodys_hash() -> str:
    return _hasher.hash("the passcode of nobody")


def _matches(hashed: str, passcode: str) -> bool:
    try:
        with _two_at_once:
            return _hasher.verify(hashed, passcode[: LONGEST + 1])
    except (VerificationError, InvalidHashError):
        return False


def bucket_of(name: str) -> int:
    """The counter of a name's wrong passcodes: 16 bits of its hash."""
    return int(text_hash(name.casefold())[:4], 16)


def _refuse_locked(session: Session, name: str, at: datetime) -> Throttle:
    throttle = session.get(Throttle, bucket_of(name), with_for_update=True)
    throttle = throttle or Throttle(bucket=bucket_of(name), last_at=at)
    if throttle.locked_until is not None and throttle.locked_until > at:
        seconds = int((throttle.locked_until - at).total_seconds()) + 1
        raise ThrottledError(f"Too many wrong passcodes for this name. Try again in {seconds} s.", seconds=seconds)
    return throttle


def _count_try(session: Session, name: str, at: datetime) -> None:
    # Two first tries at one moment: whoever comes second waits for the other's row, and counts on from it.
    add_unless_there(session=session, row=Throttle(bucket=bucket_of(name), last_at=at))
    throttle = _refuse_locked(session, name, at)
    throttle.failures = 1 if at - throttle.last_at > FORGOTTEN else throttle.failures + 1
    throttle.last_at = at
    beyond = throttle.failures - FREE_TRIES
    lock = min(FIRST_LOCK * 2 ** min(beyond, 20), LONGEST_LOCK) if beyond >= 0 else timedelta(0)
    throttle.locked_until = at + lock
    session.add(throttle)
