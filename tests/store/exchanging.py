"""Exchanges of Lea's, written by the test in the place of a chat's process."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, select

from store.annotators import get_or_add_annotator
from store.chat_tables import Exchange
from store.checkpoints import add_checkpoint
from store.database import reading, writing
from store.exchanges import add_exchange, read_exchange
from store.models import Checkpoint, Pair
from store.pairs import NewCompletion
from store.workers import own_name
from store.writing_exchanges import claim_exchange, finish_exchange

ASKED = [{"role": "user", "content": "Why is the sky blue?"}]
HERE = own_name()


def ask(engine: sa.Engine, written: tuple[str, str] | None = None, *, by: str = "Lea", **given: Any) -> int:
    """The number of a new exchange with `new` and `old`; `written=("x", "y")`: written to its end."""
    with writing(engine) as session:
        who = get_or_add_annotator(session=session, name=by)
        both = tuple(checkpoint(session, name) for name in ("new", "old"))
        asked = {"messages": ASKED, "seed": 7, "settings": {"max_new_tokens": 9}, "checkpoints": both} | given
        number = add_exchange(session=session, asked_by_id=who.id, **asked).id
    assert number is not None
    if written is not None:
        write(engine, written)
    return number


def checkpoint(session: Any, name: str) -> Checkpoint:
    """The checkpoint of this name, added if it is new."""
    found = session.exec(select(Checkpoint).where(Checkpoint.name == name)).first()
    return found or add_checkpoint(session=session, name=name, path=f"checkpoints/{name}")


def pick_by_hand(session: Session, pair: Pair) -> None:
    """Have been made this pair in the Playground, by Lea."""
    lea = get_or_add_annotator(session=session, name="Lea").id
    both = {
        f"checkpoint_{side}_id": checkpoint(session, name).id for side, name in zip("ab", ("new", "old"), strict=True)
    }
    about = {"messages": [], "seed": 7, "status": "done", "prompt_id": pair.prompt_id, "pair_id": pair.id}
    session.add(Exchange(asked_by_id=lea, kept_from=lea, **about, **both))
    session.flush()


def write(engine: sa.Engine, texts: tuple[str, str]) -> None:
    """Claim the exchange that waits and write these."""
    written = {
        side: NewCompletion(text, seed=3, tokens=2) if text else None for side, text in zip("ab", texts, strict=True)
    }
    with writing(engine) as session:
        found = claim_exchange(session=session, owner=HERE)
        assert found is not None and found.id is not None
        finish_exchange(session=session, exchange_id=found.id, owner=HERE, written=written)


def fetch(engine: sa.Engine, number: int) -> Exchange:
    """The exchange as it is now."""
    with reading(engine) as session:
        return read_exchange(session=session, exchange_id=number).exchange
