"""Exchanges of the Playground: who writes them, how they end, and the pairs that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col, select

from store.adjudication import list_doubtful
from store.annotators import get_or_add_annotator
from store.chat_tables import Exchange, ExchangeStatus
from store.checkpoints import add_checkpoint
from store.comparisons import Remarks, record_comparison
from store.database import reading, writing
from store.errors import NotAllowedError, PairChangedError, StateError, StoreError
from store.exchanges import (
    MOST_ATTEMPTS,
    LostExchangeError,
    add_exchange,
    claim_exchange,
    completions_of,
    end_exchange,
    exchange_waits,
    finish_exchange,
    is_pair_of,
    keep_prompt,
    kept_exchanges,
    read_exchange,
    release_exchange,
    report_texts,
    stop_exchange,
)
from store.invites import admit_email
from store.models import Annotator, Checkpoint, Comparison, Completion, Pair, Prompt, Purpose, Role, now
from store.pairs import NewCompletion, add_pair, next_pair
from store.roles import on_behalf_of
from store.workers import own_name
from tests.conftest import MakeRound
from tests.store.asking import add_prompt

ASKED = [{"role": "user", "content": "Why is the sky blue?"}]
HERE, THERE = own_name(), "elsewhere:1:0"  # another machine's process: only silence tells that it is gone
Ask = Callable[..., int]


@pytest.fixture
def ask(engine: sa.Engine) -> Ask:
    """`ask()`: the number of a new exchange of Lea's with `new` and `old`; `written=("x", "y")`: written to its end."""

    def put(written: tuple[str, str] | None = None, **given: Any) -> int:
        with writing(engine) as session:
            lea = get_or_add_annotator(session=session, name="Lea")
            both = tuple(_checkpoint(session, name) for name in ("new", "old"))
            asked = {"messages": ASKED, "seed": 7, "settings": {"max_new_tokens": 9}, "checkpoints": both} | given
            number = add_exchange(session=session, asked_by_id=lea.id, **asked).id
        assert number is not None
        if written is not None:
            write(engine, written)
        return number

    return put


def _checkpoint(session: Any, name: str) -> Checkpoint:
    found = session.exec(select(Checkpoint).where(Checkpoint.name == name)).first()
    return found or add_checkpoint(session=session, name=name, path=f"checkpoints/{name}")


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
    with reading(engine) as session:
        return read_exchange(session=session, exchange_id=number).exchange


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
        both = tuple(_checkpoint(session, name) for name in ("new", "old"))
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
    with reading(on_behalf_of(engine, lea)) as session:
        assert read_exchange(session=session, exchange_id=number).exchange.prompt_id is None


# What becomes of them


def keep(engine: sa.Engine, number: int, share: float = 0.0) -> None:
    with writing(engine) as session:
        keep_prompt(session=session, exchange_id=number, held_out_share=share)


def make_pair_of(engine: sa.Engine, number: int, round_id: int, wanted: int = 1) -> Pair:
    with writing(engine) as session:
        kept = session.get_one(Exchange, number)
        both = completions_of(session=session, kept=kept)
        pair = add_pair(
            session=session, prompt_id=both[0].prompt_id, completions=both, round_id=round_id, wanted=wanted
        )
        is_pair_of(session=session, kept=kept, pair=pair)
    return pair


def test_a_pair_has_the_prompt_both_texts_and_who_wrote_them(
    engine: sa.Engine, ask: Ask, make_round: MakeRound
) -> None:
    number = ask(written=("Dust.", "Light."))
    with writing(engine) as session:
        known = add_prompt(session, ASKED[0]["content"])
    keep(engine, number)
    current, _ = make_round(engine, pairs=0)
    pair = make_pair_of(engine, number, current.id or 0)
    with reading(engine) as session:
        assert session.exec(select(Prompt).where(Prompt.source == "playground")).first() is None, "it was known"
        written = session.exec(select(Completion).where(Completion.prompt_id == known.id).order_by(col(Completion.id)))
        rows = [(each.text, session.get_one(Checkpoint, each.checkpoint_id).name, each.seed) for each in written]
        assert kept_exchanges(session=session) == []
    assert rows == [("Dust.", "new", 3), ("Light.", "old", 3)]
    assert fetch(engine, number).pair_id == pair.id
    with pytest.raises(StateError, match="already"):
        keep(engine, number)


@pytest.mark.parametrize(
    ("texts", "why"), [(("Same.", "Same."), "Both wrote the same"), (("", "Light."), "One of the two wrote nothing")]
)
def test_no_pair_comes_of_nothing_to_compare(texts: tuple[str, str], why: str, engine: sa.Engine, ask: Ask) -> None:
    number = ask(written=texts)
    with reading(engine) as session:
        assert why in read_exchange(session=session, exchange_id=number).why_no_pair
    with pytest.raises(StateError, match=why):
        keep(engine, number)
    with reading(engine) as session:
        assert session.exec(select(Prompt)).first() is None, "nothing was kept"


def test_the_same_two_texts_become_one_pair_alone(engine: sa.Engine, ask: Ask, make_round: MakeRound) -> None:
    first, second, third = ask(written=("x", "y")), ask(written=("y", "x")), ask(written=("x", "z"))
    keep(engine, first)
    with pytest.raises(StateError, match="a pair already"):
        keep(engine, second)
    make_pair_of(engine, first, make_round(engine, pairs=0)[0].id or 0)
    with pytest.raises(StateError, match="a pair already"):
        keep(engine, second)
    keep(engine, third)


def test_only_what_was_written_to_its_end_becomes_a_pair(engine: sa.Engine, ask: Ask) -> None:
    number = ask()
    with pytest.raises(StateError, match="waiting"):
        keep(engine, number)


def test_pairs_made_at_the_same_moment_are_fenced(engine: sa.Engine, ask: Ask) -> None:
    """SQLite has one writer at a time; what PostgreSQL is told to lock is read off the statements."""
    number, asked = ask(written=("x", "y")), []
    with writing(engine) as session:
        sa.event.listen(session, "do_orm_execute", lambda state: asked.append(state.statement))
        keep_prompt(session=session, exchange_id=number, held_out_share=0.0)
        kept_exchanges(session=session)
    dialects = {True: postgresql.dialect(), False: sqlite.dialect()}  # type: ignore[no-untyped-call]
    told = [str(each.compile(dialect=dialects[each.is_select])) for each in asked]
    about = [each for each in told if "INTO prompt" in each or "FROM prompt" in each]
    assert "ON CONFLICT DO NOTHING" in about[0], "another may be adding it just now"
    assert "FOR NO KEY UPDATE" in about[1], "the second of two finds what the first made of it"
    assert told[-1].endswith("FOR UPDATE SKIP LOCKED")


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_prompt_is_held_out_as_at_an_import(share: float, engine: sa.Engine, ask: Ask) -> None:
    number = ask(written=("x", "y"))
    keep(engine, number, share)
    with reading(engine) as session:
        assert read_exchange(session=session, exchange_id=number).held_out == bool(share)


def asked_of(engine: sa.Engine, round_id: int, name: str) -> int | None:
    with writing(engine) as session:
        annotator = get_or_add_annotator(session=session, name=name)
        found = next_pair(session=session, round_id=round_id, annotator_id=annotator.id or 0)
    return None if found is None else found.pair_id


def test_who_made_a_pair_is_not_asked_about_it_unless_alone(engine: sa.Engine, ask: Ask, make_round: MakeRound) -> None:
    current, _ = make_round(engine, pairs=0)
    alone, in_company = ask(written=("x", "y")), ask(written=("x", "z"))
    keep(engine, alone)
    mine = make_pair_of(engine, alone, current.id or 0)
    assert fetch(engine, alone).kept_from is None
    with writing(engine) as session:  # Ada goes by another name: perhaps she is Lea
        get_or_add_annotator(session=session, name="Ada")
        ben = admit_email(session=session, name="Ben", email="ben@example.org")
    keep(engine, in_company)
    theirs = make_pair_of(engine, in_company, current.id or 0)
    assert asked_of(engine, current.id or 0, "Lea") == mine.id
    with writing(engine) as session:
        lea = get_or_add_annotator(session=session, name="Lea")
        session.add(Comparison(pair_id=mine.id, annotator_id=lea.id, verdict="a"))
    assert asked_of(engine, current.id or 0, "Lea") is None
    with writing(engine) as session:
        session.add(Comparison(pair_id=mine.id, annotator_id=ben.id, verdict="a"))
    assert asked_of(engine, current.id or 0, "Ben") == theirs.id
    with writing(engine) as session:  # a second look at it, asked of nobody in particular
        look = session.get_one(Pair, theirs.id)
        look.open_slots = 0
        again = Pair(
            prompt_id=look.prompt_id,
            completion_a_id=look.completion_b_id,
            completion_b_id=look.completion_a_id,
            round_id=look.round_id,
            purpose=Purpose.REPEAT,
            side_seed=look.side_seed,
            repeats=look.id,
        )
        session.add_all([look, again])
    assert asked_of(engine, current.id or 0, "Lea") is None
    assert asked_of(engine, current.id or 0, "Cleo") == again.id


def test_who_made_a_pair_neither_judges_nor_decides_it(engine: sa.Engine, ask: Ask, make_round: MakeRound) -> None:
    current, _ = make_round(engine, pairs=0)
    alone, in_company = ask(written=("x", "y")), ask(written=("x", "z"))
    lea = fetch(engine, alone).asked_by_id
    keep(engine, alone)
    mine = make_pair_of(engine, alone, current.id or 0, wanted=3)
    with writing(engine) as session:
        ben = admit_email(session=session, name="Ben", email="ben@example.org").id or 0
        session.get_one(Annotator, lea).role = Role.RESEARCHER
    keep(engine, in_company)
    theirs = make_pair_of(engine, in_company, current.id or 0, wanted=3)
    with writing(engine) as session:
        for pair in (mine, theirs):
            flags = Remarks(flags={"left": ["unsafe"]})
            record_comparison(session=session, pair_id=pair.id or 0, annotator_id=ben, choice="left", remarks=flags)
    for whose, inbox in ((on_behalf_of(engine, lea), [mine.id]), (engine, [theirs.id, mine.id])):
        with reading(whose) as session:
            assert [each.pair_id for each in list_doubtful(session=session)] == inbox
    for adjudicates in (False, True):
        said = partial(record_comparison, annotator_id=lea, choice="left", adjudicates=adjudicates)
        with pytest.raises(PairChangedError, match="saw which checkpoint wrote what"), writing(engine) as session:
            said(session=session, pair_id=theirs.id or 0)
        with writing(engine) as session:
            said(session=session, pair_id=mine.id or 0)
