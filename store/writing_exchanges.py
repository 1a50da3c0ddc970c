"""Exchanges being written: claimed by a chat's process, shown as they grow, and how they end.

A chat's process claims an exchange with a lease and says how far it is a few times a second, which renews it. One that
dies lets it run out, and the exchange is written again from its start: to the same text, as its seed is the same.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlmodel import Session, col, select

from store.chat_tables import Exchange, ExchangeStatus
from store.errors import StoreError
from store.exchanges import OPEN, SIDES, locked_exchange, require_own
from store.models import now
from store.pairs import NewCompletion
from store.playground_pairs import note_pair
from store.roles import require_researcher
from store.workers import is_gone

LEASE = timedelta(seconds=30)  # after the last sign of life of who writes; ended processes of this machine are seen
MOST_ATTEMPTS = 3  # processes that may die of an exchange before it is given up


class LostExchangeError(StoreError):
    """The exchange is over, or somebody else's: whoever held it writes no more."""


def stop_exchange(*, session: Session, exchange_id: int) -> Exchange:
    """Have no more written of it: at once if nobody writes it (any more), else within moments. Raises NotAllowedError.

    One that is over already stays as it is.
    """
    require_researcher(session=session, to="chat with checkpoints")
    found = locked_exchange(session, exchange_id)
    require_own(session, found)
    if found.status in OPEN and _is_free(found):
        _close(session, found, ExchangeStatus.STOPPED)
    elif found.status == ExchangeStatus.WRITING:
        found.stop_requested = True
        session.add(found)
    return found


def exchange_waits(*, session: Session) -> bool:
    """Whether there is an exchange to write. Only reads: it is asked several times a second."""
    return any(_is_free(found) for found in session.exec(_open()))


def exchange_is_open(*, session: Session) -> bool:
    """Whether any exchange waits or is being written."""
    return session.exec(_open().limit(1)).first() is not None


def claim_exchange(*, session: Session, owner: str) -> Exchange | None:
    """Take the oldest exchange that waits or was abandoned; None if there is none.

    One whose process died MOST_ATTEMPTS times is marked failed instead.
    """
    for found in session.exec(_open().with_for_update(skip_locked=True)):
        if not _is_free(found):
            continue
        if found.stop_requested:
            _close(session, found, ExchangeStatus.STOPPED)
        elif found.attempt >= MOST_ATTEMPTS:
            _close(session, found, ExchangeStatus.FAILED, error=_GAVE_UP.format(times=found.attempt))
        else:
            return _start(session, found, owner)
    return None


_GAVE_UP = (
    "The process that wrote it died {times} times. The usual cause is too little memory for both checkpoints: close "
    "other programs, or wait until no run needs it, and ask again. logs/chat.log in the workspace may say more."
)


def _open() -> Any:
    return select(Exchange).where(col(Exchange.status).in_(OPEN)).order_by(col(Exchange.id))


def _is_free(found: Exchange) -> bool:
    """Whether nobody writes this open exchange (any more)."""
    if found.status == ExchangeStatus.WAITING or found.owner is None or found.lease_expires_at is None:
        return True
    return found.lease_expires_at < now() or is_gone(found.owner)


def _start(session: Session, found: Exchange, owner: str) -> Exchange:
    found.status = ExchangeStatus.WRITING
    found.owner = owner
    found.attempt += 1
    found.text_a = found.text_b = ""
    found.lease_expires_at = now() + LEASE
    session.add(found)
    session.flush()
    return found


def report_texts(*, session: Session, exchange_id: int, owner: str, texts: dict[str, str]) -> bool:
    """Show what is written so far, and go on holding it. Returns whether to stop. Raises LostExchangeError."""
    found = _held(session, exchange_id, owner)
    found.text_a, found.text_b = texts["a"], texts["b"]
    found.lease_expires_at = now() + LEASE
    session.add(found)
    return found.stop_requested


def finish_exchange(
    *, session: Session, exchange_id: int, owner: str, written: dict[str, NewCompletion | None]
) -> Exchange:
    """Keep both texts, whole; None where a checkpoint wrote nothing. Raises LostExchangeError."""
    found = _held(session, exchange_id, owner)
    found.text_a, found.text_b = (new.text if (new := written[side]) else "" for side in SIDES)
    found.made = {side: _as_record(new) for side in SIDES if (new := written[side])}
    _close(session, found, ExchangeStatus.DONE)
    return found


def _as_record(new: NewCompletion) -> dict[str, Any]:
    return {name: value for name, value in vars(new).items() if name != "text"}


def end_exchange(*, session: Session, exchange_id: int, owner: str, error: str | None) -> Exchange:
    """End it before its texts are whole: with what went wrong, or (None) because somebody stopped it.

    What is written so far stays. Raises LostExchangeError.
    """
    found = _held(session, exchange_id, owner)
    _close(session, found, ExchangeStatus.STOPPED if error is None else ExchangeStatus.FAILED, error=error)
    return found


def release_exchange(*, session: Session, exchange_id: int, owner: str) -> Exchange:
    """Leave it to another process, this one is to end. Raises LostExchangeError."""
    found = _held(session, exchange_id, owner)
    found.status, found.owner, found.lease_expires_at = ExchangeStatus.WAITING, None, None
    found.attempt -= 1
    session.add(found)
    return found


def _held(session: Session, exchange_id: int, owner: str) -> Exchange:
    found = locked_exchange(session, exchange_id)
    if found.owner != owner or found.status != ExchangeStatus.WRITING:
        raise LostExchangeError(f"Exchange {exchange_id} is {found.status}; {owner} writes no more of it.")
    return found


def _close(session: Session, found: Exchange, status: ExchangeStatus, *, error: str | None = None) -> None:
    found.status = status
    found.error = error
    found.owner = found.lease_expires_at = None
    found.finished_at = now()
    session.add(found)
    session.flush()
    note_pair(session=session, ended=found)
