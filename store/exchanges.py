"""Exchanges of the Playground: asked by a researcher, written by a chat's process, made into a prompt and a pair.

A chat's process claims an exchange with a lease and says how far it is a few times a second, which renews it. One that
dies lets it run out, and the exchange is written again from its start: to the same text, as its seed is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlmodel import Session, col, select

from store.access_tables import Account
from store.adding_once import add_unless_there
from store.chat_tables import Exchange, ExchangeStatus
from store.errors import NotAllowedError, StateError, StoreError, UnknownRecordError
from store.hashing import content_hash
from store.models import Annotator, Checkpoint, Completion, Pair, Prompt, Purpose, now
from store.pairs import NewCompletion, add_completion
from store.prompts import Message, check_messages, is_held_out
from store.roles import person_of, require_researcher
from store.workers import is_gone

SOURCE = "playground"
LEASE = timedelta(seconds=30)  # after the last sign of life of who writes; ended processes of this machine are seen
MOST_ATTEMPTS = 3  # processes that may die of an exchange before it is given up
OPEN = (ExchangeStatus.WAITING, ExchangeStatus.WRITING)
SIDES = ("a", "b")


class LostExchangeError(StoreError):
    """The exchange is over, or somebody else's: whoever held it writes no more."""


@dataclass(frozen=True)
class ReadExchange:
    """An exchange with the names of its checkpoints, and what became of its pair."""

    exchange: Exchange
    names: dict[str, str]
    held_out: bool

    @property
    def texts(self) -> dict[str, str]:
        """What was written so far, by side."""
        return self.exchange.texts

    @property
    def is_open(self) -> bool:
        """Whether it is still to be written to its end."""
        return self.exchange.status in OPEN

    @property
    def why_no_pair(self) -> str:
        """Why no pair can come of it; empty where one can."""
        return _why_no_pair(self.exchange)


def add_exchange(
    *,
    session: Session,
    asked_by_id: int,
    messages: Sequence[Message],
    checkpoints: tuple[Checkpoint, Checkpoint],
    seed: int,
    settings: dict[str, Any],
) -> Exchange:
    """Ask two checkpoints the same. Raises StoreError for messages that are none, NotAllowedError."""
    require_researcher(session=session, to="chat with checkpoints")
    if person_of(session) not in (None, asked_by_id):
        raise NotAllowedError("Nobody asks in somebody else's name. Nothing was written.")
    first, second = checkpoints
    assert first.id is not None and second.id is not None
    asked = Exchange(
        asked_by_id=asked_by_id,
        messages=check_messages(messages),
        checkpoint_a_id=first.id,
        checkpoint_b_id=second.id,
        seed=seed,
        settings=settings,
    )
    session.add(asked)
    session.flush()
    return asked


def read_exchange(*, session: Session, exchange_id: int) -> ReadExchange:
    """An exchange for who asked it. Raises UnknownRecordError, NotAllowedError for anybody else."""
    require_researcher(session=session, to="chat with checkpoints")
    found = session.get(Exchange, exchange_id)
    if found is None:
        raise UnknownRecordError(f"There is no exchange {exchange_id}.")
    _require_own(session, found)
    names = {side: session.get_one(Checkpoint, number).name for side, number in found.checkpoint_ids.items()}
    prompt = session.get(Prompt, found.prompt_id) if found.prompt_id else None
    return ReadExchange(found, names, held_out=prompt is not None and prompt.held_out)


def _require_own(session: Session, found: Exchange) -> None:
    """Refuse whoever did not ask it: a pair is kept from its maker alone, so nobody else may see who wrote what."""
    if person_of(session) not in (None, found.asked_by_id):
        who = session.get_one(Annotator, found.asked_by_id).name
        raise NotAllowedError(
            f"This exchange is {who}'s. It says which checkpoint wrote what, so a pair made of it would not be blind "
            f"for you any more. Ask {who} to make it a pair, and compare that. Nothing was changed."
        )


def latest_exchanges(*, session: Session, asked_by_id: int, limit: int) -> list[Exchange]:
    """What somebody asked last, the latest first."""
    asked = select(Exchange).where(Exchange.asked_by_id == asked_by_id).order_by(col(Exchange.id).desc())
    return list(session.exec(asked.limit(limit)))


def stop_exchange(*, session: Session, exchange_id: int) -> Exchange:
    """Have no more written of it: at once if nobody writes it (any more), else within moments. Raises NotAllowedError.

    One that is over already stays as it is.
    """
    require_researcher(session=session, to="chat with checkpoints")
    found = _locked(session, exchange_id)
    _require_own(session, found)
    if found.status in OPEN and _is_free(found):
        _close(session, found, ExchangeStatus.STOPPED)
    elif found.status == ExchangeStatus.WRITING:
        found.stop_requested = True
        session.add(found)
    return found


# Writing them


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
    found = _locked(session, exchange_id)
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


def _locked(session: Session, exchange_id: int) -> Exchange:
    """The exchange, its row locked where the database has row locks."""
    found = session.get(Exchange, exchange_id, with_for_update=True)
    if found is None:
        raise UnknownRecordError(f"There is no exchange {exchange_id}.")
    return found


# What becomes of them


def keep_prompt(*, session: Session, exchange_id: int, held_out_share: float) -> Exchange:
    """Make its messages a prompt, where they are none yet, for a pair of its two texts.

    Raises StateError where no pair can come of it, NotAllowedError.
    """
    require_researcher(session=session, to="make a pair")
    found = _locked(session, exchange_id)
    _require_own(session, found)
    if found.prompt_id is not None:
        raise StateError("This exchange was made a pair already.")
    why_not = _why_no_pair(found)
    if why_not:
        raise StateError(why_not)
    found.prompt_id = _get_or_add_prompt(session, found.messages, held_out_share)
    _refuse_twin(session, found)
    session.add(found)
    session.flush()
    return found


def _why_no_pair(found: Exchange) -> str:
    if found.status != ExchangeStatus.DONE:
        return f"Only whole answers become a pair, and this exchange is {found.status}. Ask again."
    if not found.text_a or not found.text_b:
        return "One of the two wrote nothing, so there is no pair to compare. Ask again with a new seed."
    if found.text_a == found.text_b:
        return "Both wrote the same, so there is nothing to compare. Ask again with a new seed."
    return ""


def _get_or_add_prompt(session: Session, messages: list[Message], held_out_share: float) -> int:
    """The prompt's number; its row is locked, so that of two pairs made of it at once the second finds the first."""
    hashed = content_hash(messages)
    held_out = is_held_out(hashed, share=held_out_share)
    new = Prompt(content_hash=hashed, messages=messages, source=SOURCE, held_out=held_out)
    add_unless_there(session=session, row=new)
    prompt = session.exec(select(Prompt).where(Prompt.content_hash == hashed).with_for_update(key_share=True)).one()
    assert prompt.id is not None
    return prompt.id


def _refuse_twin(session: Session, found: Exchange) -> None:
    """Raise StateError where the same two texts wait as another exchange's pair, or are one that is trained on."""
    texts = set(found.texts.values())
    others = select(Exchange).where(Exchange.prompt_id == found.prompt_id, Exchange.id != found.id)
    waiting = [set(other.texts.values()) for other in session.exec(others)]
    written = select(Completion.id, Completion.text).where(Completion.prompt_id == found.prompt_id)
    texts_by_id = dict(session.exec(written).all())
    pairs = session.exec(select(Pair).where(Pair.prompt_id == found.prompt_id, Pair.purpose == Purpose.TRAIN))
    asked = [{texts_by_id[pair.completion_a_id], texts_by_id[pair.completion_b_id]} for pair in pairs]
    if texts in [*waiting, *asked]:
        raise StateError("These two answers are a pair already.")


def kept_exchanges(*, session: Session) -> list[Exchange]:
    """Those that were made a prompt and wait for a round to ask their pair, oldest first.

    None that somebody else is making a pair just now: their rows are locked until then.
    """
    waiting = select(Exchange).where(col(Exchange.prompt_id).is_not(None), col(Exchange.pair_id).is_(None))
    return list(session.exec(waiting.order_by(col(Exchange.id)).with_for_update(skip_locked=True)))


def completions_of(*, session: Session, kept: Exchange) -> tuple[Completion, Completion]:
    """Both texts of an exchange that was made a prompt, written down as completions."""
    assert kept.prompt_id is not None
    first, second = (
        add_completion(
            session=session,
            prompt_id=kept.prompt_id,
            new=NewCompletion(text=kept.texts[side], **kept.made[side]),
            checkpoint_id=kept.checkpoint_ids[side],
        )
        for side in SIDES
    )
    return first, second


def is_pair_of(*, session: Session, kept: Exchange, pair: Pair) -> None:
    """Note which pair an exchange became.

    Who saw which checkpoint wrote what is not asked about it, unless nobody else is there to be asked.
    """
    kept.pair_id = pair.id
    kept.kept_from = kept.asked_by_id if _has_company(session, kept.asked_by_id) else None
    session.add(kept)
    session.flush()


def _has_company(session: Session, annotator_id: int) -> bool:
    """Whether somebody else can log in. Where nobody needs to, one person may well go by several names."""
    others = (
        select(Account)
        .join(Annotator, col(Annotator.id) == Account.annotator_id)
        .where(Account.annotator_id != annotator_id, col(Annotator.active))
    )
    return session.exec(others.limit(1)).first() is not None
