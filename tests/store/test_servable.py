"""What somebody may still be served, counted by hand and beside what the queue itself serves."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import select

from store import servable
from store.annotators import get_or_add_annotator
from store.comparisons import Choice
from store.database import reading, writing
from store.models import Annotator, Pair, Purpose, Role
from store.servable import count_servable
from tests.store.queueing import answer, serve


def counted(engine: sa.Engine, round_id: int) -> tuple[int, int]:
    with reading(engine) as session:
        found = count_servable(session=session, round_id=round_id)
    return found["open"], found["open_duels"]


def test_before_anybody_compares_all_is_open(engine: sa.Engine, make_round: Any) -> None:
    opened, _ = make_round(engine)
    with writing(engine) as session:
        session.add(Annotator(name="file.jsonl", role=Role.SOURCE))
    assert counted(engine, opened.id) == (3, 0)


def test_what_all_have_skipped_is_nobodys_until_somebody_comes(engine: sa.Engine, make_round: Any) -> None:
    opened, pairs = make_round(engine)
    with writing(engine) as session:
        ada = get_or_add_annotator(session=session, name="Ada").id
    answer(engine, pairs[0].id, ada, Choice.SKIP)
    answer(engine, pairs[1].id, ada, Choice.LEFT)
    assert counted(engine, opened.id) == (1, 0)
    answer(engine, pairs[2].id, ada, Choice.SKIP)
    assert counted(engine, opened.id) == (0, 0) and serve(engine, opened.id, ada) is None
    with writing(engine) as session:
        ben = get_or_add_annotator(session=session, name="Ben").id
    assert counted(engine, opened.id) == (2, 0) and serve(engine, opened.id, ben) is not None
    with writing(engine) as session:
        session.get_one(Annotator, ben).active = False
    assert counted(engine, opened.id) == (0, 0), "who is not asked any more answers nothing"


def test_more_answers_than_there_are_annotators_are_not_waited_for(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, pairs = make_round(engine, wanted=4)
    for person in people[:2]:
        for pair in pairs:
            answer(engine, pair.id, person)
    assert counted(engine, opened.id) == (3, 0)
    answer(engine, pairs[0].id, people[2])
    with reading(engine) as session:
        assert session.get_one(Pair, pairs[0].id).open_slots == 1
    assert counted(engine, opened.id) == (2, 0)


def test_a_pair_on_somebodys_screen_is_still_open(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, _ = make_round(engine, pairs=1)
    assert serve(engine, opened.id, people[0]) is not None
    assert serve(engine, opened.id, people[1]) is None
    assert counted(engine, opened.id) == (1, 0)


def test_duels_are_counted_by_themselves(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, pairs = make_round(engine)
    with writing(engine) as session:
        for pair in session.exec(select(Pair).where(Pair.id != pairs[0].id)):
            pair.purpose = Purpose.DUEL
    for person in people:
        answer(engine, pairs[1].id, person, Choice.SKIP)
    assert counted(engine, opened.id) == (2, 1)


def test_of_many_the_rest_are_not_looked_at(
    engine: sa.Engine, make_round: Any, people: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, pairs = make_round(engine, pairs=6)
    for person in people:
        answer(engine, pairs[5].id, person, Choice.SKIP)
    assert counted(engine, opened.id) == (5, 0)
    monkeypatch.setattr(servable, "MANY", 3)
    assert counted(engine, opened.id) == (6, 0)
