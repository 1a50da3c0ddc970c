"""Exchanges of the Playground: who writes them, who reads them, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from store.annotators import get_or_add_annotator
from store.chat_tables import Exchange, ExchangeStatus
from store.database import reading, writing
from store.errors import NotAllowedError, StoreError
from store.exchanges import add_exchange, latest_exchanges, read_exchange
from store.models import Annotator, Role, now
from store.pairs import NewCompletion
from store.playground_pairs import keep_prompt
from store.roles import on_behalf_of
from store.writing_exchanges import (
    MOST_ATTEMPTS,
    LostExchangeError,
    claim_exchange,
    end_exchange,
    exchange_waits,
    finish_exchange,
    release_exchange,
    report_texts,
    stop_exchange,
)
from tests.store import exchanging
from tests.store.exchanging import ASKED, HERE, checkpoint, fetch

THERE = "elsewhere:1:0"  # another machine's process: only silence tells that it is gone
Ask = Callable[..., int]


@pytest.fixture
def ask(engine: sa.Engine) -> Ask:
    """`exchanging.ask` in this test's database."""
    return partial(exchanging.ask, engine)


def claim(engine: sa.Engine, owner: str = HERE) -> int | None:
    with writing(engine) as session:
        found = claim_exchange(session=session, owner=owner)
    return None if found is None else found.id


def test_an_exchange_is_written_by_one_and_read_meanwhile(engine: sa.Engine, ask: Ask) -> None:
    first, second = ask(), ask()
    assert [claim(engine), claim(engine), claim(engine)] == [first, second, None]
    with writing(engine) as session:
        assert not report_texts(session=session, exchange_id=first, owner=HERE, texts={"a": "Bec", "b": ""})
    with reading(engine) as session:
        told = read_exchange(session=session, exchange_id=first)
    assert (told.texts, told.names, told.is_open) == ({"a": "Bec", "b": ""}, {"a": "new", "b": "old"}, True)
    made = NewCompletion("Because.", seed=3, tokens=2, finish_reason="eos")
    with writing(engine) as session:
        finish_exchange(session=session, exchange_id=first, owner=HERE, written={"a": made, "b": None})
    done = fetch(engine, first)
    assert (done.status, done.text_a, done.text_b, set(done.made)) == ("done", "Because.", "", {"a"})
    assert done.made["a"]["seed"] == 3 and done.made["a"]["finish_reason"] == "eos"


def test_what_a_dead_process_had_is_anothers_and_it_writes_no_more(engine: sa.Engine, ask: Ask) -> None:
    number = ask()
    assert claim(engine, THERE) == number
    assert claim(engine) is None, "its lease has not run out"
    with writing(engine) as session:
        report_texts(session=session, exchange_id=number, owner=THERE, texts={"a": "Half", "b": ""})
        fetched = session.get_one(Exchange, number)
        fetched.lease_expires_at = now() - timedelta(seconds=1)
        session.add(fetched)
    assert claim(engine) == number
    assert (fetch(engine, number).attempt, fetch(engine, number).text_a) == (2, "")
    with pytest.raises(LostExchangeError), writing(engine) as session:
        report_texts(session=session, exchange_id=number, owner=THERE, texts={"a": "Late", "b": ""})
    with pytest.raises(LostExchangeError), writing(engine) as session:
        end_exchange(session=session, exchange_id=number, owner=THERE, error="Late")


def test_one_that_kills_its_process_again_and_again_is_given_up(engine: sa.Engine, ask: Ask) -> None:
    number = ask()
    gone = HERE.replace(HERE.split(":")[1], "999999")  # no such process here: seen at once
    assert [claim(engine, gone) for _ in range(MOST_ATTEMPTS)] == [number] * MOST_ATTEMPTS
    with reading(engine) as session:
        assert exchange_waits(session=session)
    assert claim(engine) is None
    found = fetch(engine, number)
    assert found.status == ExchangeStatus.FAILED and "too little memory" in (found.error or "")


def test_one_that_is_left_by_a_process_that_ends_in_order_counts_no_death(engine: sa.Engine, ask: Ask) -> None:
    number = ask()
    for _ in range(MOST_ATTEMPTS + 1):
        assert claim(engine) == number
        with writing(engine) as session:
            release_exchange(session=session, exchange_id=number, owner=HERE)
    assert fetch(engine, number).attempt == 0


def test_stop_is_at_once_where_nobody_writes_and_heard_where_somebody_does(engine: sa.Engine, ask: Ask) -> None:
    waiting, being_written = ask(), ask()
    with writing(engine) as session:
        stop_exchange(session=session, exchange_id=waiting)
    assert fetch(engine, waiting).status == ExchangeStatus.STOPPED
    assert claim(engine) == being_written
    with writing(engine) as session:
        stop_exchange(session=session, exchange_id=being_written)
        assert report_texts(session=session, exchange_id=being_written, owner=HERE, texts={"a": "x", "b": "y"})
        end_exchange(session=session, exchange_id=being_written, owner=HERE, error=None)
    found = fetch(engine, being_written)
    assert (found.status, found.text_a, found.error) == (ExchangeStatus.STOPPED, "x", None)
    with writing(engine) as session:  # a second press
        assert stop_exchange(session=session, exchange_id=being_written).status == ExchangeStatus.STOPPED


def test_what_is_no_question_is_refused(ask: Ask) -> None:
    with pytest.raises(StoreError, match="must end with a user message"):
        ask(messages=[{"role": "user", "content": "  "}])


def test_nobody_asks_in_somebody_elses_name(engine: sa.Engine, ask: Ask) -> None:
    lea = fetch(engine, ask()).asked_by_id
    with writing(engine) as session:
        rae = get_or_add_annotator(session=session, name="Rae", role=Role.RESEARCHER).id or 0
    with writing(on_behalf_of(engine, rae)) as session:
        both = tuple(checkpoint(session, name) for name in ("new", "old"))
        asked: dict[str, Any] = {"messages": ASKED, "seed": 7, "settings": {}, "checkpoints": both}
        assert add_exchange(session=session, asked_by_id=rae, **asked).id
        with pytest.raises(NotAllowedError, match="somebody else's name"):
            add_exchange(session=session, asked_by_id=lea, **asked)


def test_who_did_not_ask_neither_reads_stops_nor_keeps_it(engine: sa.Engine, ask: Ask) -> None:
    number = ask(written=("x", "y"))
    lea = fetch(engine, number).asked_by_id
    with writing(engine) as session:
        session.get_one(Annotator, lea).role = Role.RESEARCHER
        rae = get_or_add_annotator(session=session, name="Rae", role=Role.RESEARCHER).id or 0
    for act in (read_exchange, stop_exchange, partial(keep_prompt, held_out_share=0.0)):
        with (
            pytest.raises(NotAllowedError, match="This exchange is Lea's"),
            writing(on_behalf_of(engine, rae)) as session,
        ):
            act(session=session, exchange_id=number)
    with pytest.raises(NotAllowedError, match="shown to them alone"), reading(on_behalf_of(engine, rae)) as session:
        latest_exchanges(session=session, asked_by_id=lea, limit=1)
    for whose in (on_behalf_of(engine, lea), engine):
        with reading(whose) as session:
            assert read_exchange(session=session, exchange_id=number).exchange.prompt_id is None
            assert [each.id for each in latest_exchanges(session=session, asked_by_id=lea, limit=1)] == [number]
