"""Pairs of the Playground: made of exchanges, asked by a round, and kept from whoever saw who wrote what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import col, select

from store.adjudication import list_doubtful
from store.annotators import deactivate_annotator, get_or_add_annotator, retract_annotator
from store.chat_tables import Exchange
from store.comparisons import Remarks, record_comparison
from store.database import reading, writing
from store.errors import PairChangedError, StateError
from store.exchanges import read_exchange
from store.hashing import content_hash
from store.invites import admit_email
from store.models import Annotator, Checkpoint, Completion, Pair, Prompt, Purpose, Role
from store.pairs import add_pair, next_pair
from store.playground_pairs import completions_of, is_pair_of, keep_prompt, kept_exchanges
from store.prompts import is_held_out, is_held_out_conversation
from store.queue_tables import Hold
from store.roles import on_behalf_of
from tests.browser import seeding
from tests.conftest import MakeRound
from tests.store import exchanging
from tests.store.asking import add_prompt
from tests.store.exchanging import ASKED, fetch

Ask = Callable[..., int]


@pytest.fixture
def ask(engine: sa.Engine) -> Ask:
    """`exchanging.ask` in this test's database."""
    return partial(exchanging.ask, engine)


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
    about = [each for each in told if "INTO prompt" in each or "FROM prompt" in each][1:]  # is it held out?
    assert "ON CONFLICT DO NOTHING" in about[0], "another may be adding it just now"
    assert "FOR NO KEY UPDATE" in about[1], "the second of two finds what the first made of it"
    assert told[-1].endswith("FOR UPDATE SKIP LOCKED")


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_prompt_is_held_out_as_at_an_import(share: float, engine: sa.Engine, ask: Ask) -> None:
    number = ask(written=("x", "y"))
    keep(engine, number, share)
    with reading(engine) as session:
        assert read_exchange(session=session, exchange_id=number).held_out == bool(share)


TURNS = (("user", "Why?"), ("assistant", "Dust."), ("user", "Sure?"))
WHY, DUST, SURE = ({"role": role, "content": text} for role, text in TURNS)


@pytest.mark.parametrize(
    ("known", "share", "held_out"),
    [
        ([], 0.0, False),
        ([], 1.0, True),
        ([([WHY], True)], 0.0, True),  # its question is never trained on
        ([([WHY], False)], 0.0, False),
        ([([WHY, DUST, SURE], False), ([WHY], True)], 0.0, False),  # it came in to be trained on
        ([([WHY, DUST, SURE], True)], 0.0, True),
    ],
)
def test_a_conversation_is_held_out_with_what_it_begins_with(
    known: list[tuple[list[dict[str, str]], bool]], share: float, held_out: bool, engine: sa.Engine, ask: Ask
) -> None:
    with writing(engine) as session:
        for messages, out in known:
            add_prompt(session, messages, held_out_share=float(out))
    number = ask(written=("x", "y"), messages=[WHY, DUST, SURE])
    keep(engine, number, share)
    with reading(engine) as session:
        assert read_exchange(session=session, exchange_id=number).held_out == held_out


def test_a_follow_up_is_held_out_where_its_question_would_be_by_its_hash(engine: sa.Engine, ask: Ask) -> None:
    """Of three hundred questions with a follow-up, 1 - 0.8 squared are, not a fifth; and all whose question is."""
    for number in range(300):
        asked = [WHY | {"content": f"Why {number}?"}, DUST, SURE]
        with writing(engine) as session:
            out = is_held_out_conversation(session=session, messages=asked, share=0.2)
        first, whole = (is_held_out(content_hash(turns), share=0.2) for turns in (asked[:1], asked))
        assert out == (first or whole)


def asked_of(engine: sa.Engine, round_id: int, name: str) -> int | None:
    with writing(engine) as session:
        annotator = get_or_add_annotator(session=session, name=name)
        found = next_pair(session=session, round_id=round_id, annotator_id=annotator.id or 0)
    return None if found is None else found.pair_id


def let_in(engine: sa.Engine, *names: str) -> list[int]:
    """People who came by an invite and chose a passcode."""
    with writing(engine) as session:
        return [seeding.let_in(session, name) for name in names]


def answer(engine: sa.Engine, pair: Pair, name: str) -> None:
    with writing(engine) as session:
        who = get_or_add_annotator(session=session, name=name).id or 0
        record_comparison(session=session, pair_id=pair.id or 0, annotator_id=who, choice="left")


def slots(engine: sa.Engine, pair: Pair) -> int:
    with reading(engine) as session:
        return session.get_one(Pair, pair.id).open_slots


def test_who_made_a_pair_is_not_asked_about_it_unless_alone(engine: sa.Engine, ask: Ask, make_round: MakeRound) -> None:
    number, round_id = ask(written=("x", "y")), make_round(engine, pairs=0)[0].id or 0
    keep(engine, number)
    pair = make_pair_of(engine, number, round_id)
    with writing(engine) as session:  # Ada goes by another name: perhaps she is Lea
        get_or_add_annotator(session=session, name="Ada")
    assert asked_of(engine, round_id, "Lea") == pair.id
    with writing(engine) as session:
        admit_email(session=session, name="Ben", email="ben@example.org")
    assert asked_of(engine, round_id, "Lea") == pair.id, "Ben has never come"
    let_in(engine, "Cleo")
    assert asked_of(engine, round_id, "Lea") is None, "though it is on her screen"
    with pytest.raises(PairChangedError, match="saw in the Playground"):
        answer(engine, pair, "Lea")
    with writing(engine) as session:
        deactivate_annotator(session=session, name="Cleo")
    assert asked_of(engine, round_id, "Lea") == pair.id
    with writing(engine) as session:
        session.execute(sa.delete(Hold))
    assert asked_of(engine, round_id, "Ben") == pair.id
    assert asked_of(engine, round_id, "Lea") is None, "Ben has come by now"
    answer(engine, pair, "Ben")
    with writing(engine) as session:  # a second look at it, asked of nobody in particular
        look = session.get_one(Pair, pair.id)
        again = Pair(
            prompt_id=look.prompt_id,
            completion_a_id=look.completion_b_id,
            completion_b_id=look.completion_a_id,
            round_id=look.round_id,
            purpose=Purpose.REPEAT,
            side_seed=look.side_seed,
            repeats=look.id,
        )
        session.add(again)
    assert asked_of(engine, round_id, "Lea") is None
    assert asked_of(engine, round_id, "Ada") == again.id


def test_who_made_a_pair_neither_judges_nor_decides_it(engine: sa.Engine, ask: Ask, make_round: MakeRound) -> None:
    number, round_id = ask(written=("x", "y")), make_round(engine, pairs=0)[0].id or 0
    lea = fetch(engine, number).asked_by_id
    ben, *_ = let_in(engine, "Ben", "Cleo", "Dora")
    keep(engine, number)
    pair = make_pair_of(engine, number, round_id, wanted=3)
    with writing(engine) as session:
        session.get_one(Annotator, lea).role = Role.RESEARCHER
        flags = Remarks(flags={"left": ["unsafe"]})
        record_comparison(session=session, pair_id=pair.id or 0, annotator_id=ben, choice="left", remarks=flags)

    def in_doubt(whose: sa.Engine) -> list[int]:
        with reading(whose) as session:
            return [each.pair_id for each in list_doubtful(session=session)]

    assert (in_doubt(on_behalf_of(engine, lea)), in_doubt(engine)) == ([], [pair.id])
    for adjudicates in (False, True):
        said = partial(record_comparison, annotator_id=lea, choice="left", adjudicates=adjudicates)
        with pytest.raises(PairChangedError, match="saw in the Playground"), writing(engine) as session:
            said(session=session, pair_id=pair.id or 0)
    for name in ("Ben", "Cleo", "Dora"):  # nobody but Lea is left
        with writing(engine) as session:
            deactivate_annotator(session=session, name=name)
    assert in_doubt(on_behalf_of(engine, lea)) == [pair.id]
    with writing(engine) as session:
        record_comparison(session=session, pair_id=pair.id or 0, annotator_id=lea, choice="left", adjudicates=True)


@pytest.mark.parametrize(("others", "wanted"), [("", 1), ("Ben", 1), ("Ben Cleo", 2), ("Ben Cleo Dora", 2)])
def test_a_pair_wants_no_more_answers_than_others_can_give(
    others: str, wanted: int, engine: sa.Engine, ask: Ask, make_round: MakeRound
) -> None:
    number, round_id = ask(written=("x", "y")), make_round(engine, pairs=0)[0].id or 0
    let_in(engine, "Lea", *others.split())
    keep(engine, number)
    assert slots(engine, make_pair_of(engine, number, round_id, wanted=2)) == wanted


def test_where_nobody_logs_in_a_pair_wants_what_every_pair_wants(
    engine: sa.Engine, ask: Ask, make_round: MakeRound
) -> None:
    number, round_id = ask(written=("x", "y")), make_round(engine, pairs=0)[0].id or 0
    keep(engine, number)
    assert slots(engine, make_pair_of(engine, number, round_id, wanted=2)) == 2


@pytest.mark.parametrize("leave", [deactivate_annotator, retract_annotator])
def test_a_pair_waits_for_nobody_who_left(leave: Any, engine: sa.Engine, ask: Ask, make_round: MakeRound) -> None:
    number, round_id = ask(written=("x", "y")), make_round(engine, pairs=0)[0].id or 0
    let_in(engine, "Lea", "Ben", "Cleo")
    keep(engine, number)
    pair = make_pair_of(engine, number, round_id, wanted=2)
    answer(engine, pair, "Ben")
    assert slots(engine, pair) == 1
    with writing(engine) as session:
        leave(session=session, name="Cleo")
    assert slots(engine, pair) == 0
    with writing(engine) as session:
        leave(session=session, name="Ben")
    asked_again = leave is retract_annotator  # what Ben said counts no more, and nobody but Lea is left
    assert (slots(engine, pair), asked_of(engine, round_id, "Lea")) == (asked_again, pair.id if asked_again else None)


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_asked_the_same_and_saw_the_same_is_not_asked_about_the_pair(
    when: str, engine: sa.Engine, ask: Ask, make_round: MakeRound
) -> None:
    round_id = make_round(engine, pairs=0)[0].id or 0
    let_in(engine, "Lea", "Rae", "Ben")
    rae = ask(written=("y", "x"), by="Rae") if when == "before" else 0
    number = ask(written=("x", "y"))
    keep(engine, number)
    pair = make_pair_of(engine, number, round_id, wanted=2)
    if when == "after":
        assert (slots(engine, pair), asked_of(engine, round_id, "Rae")) == (2, pair.id)
        others = [{"role": "user", "content": "Why is the sea blue?"}]
        ask(written=("x", "y"), by="Rae", messages=others)
        ask(written=("x", "z"), by="Rae")
        assert asked_of(engine, round_id, "Rae") == pair.id, "another question, or another answer"
        rae = ask(written=("x", "y"), by="Rae")
    assert [asked_of(engine, round_id, name) for name in ("Lea", "Rae", "Ben")] == [None, None, pair.id]
    assert slots(engine, pair) == 1, "Ben's"
    assert fetch(engine, rae).pair_id == pair.id
    with pytest.raises(PairChangedError, match="saw in the Playground"):
        answer(engine, pair, "Rae")
    with pytest.raises(StateError, match="already"):
        keep(engine, rae)
