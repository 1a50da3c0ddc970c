"""Rules of the queue: how many look at a pair at once, what comes first, who is done for today, and pausing."""

from __future__ import annotations

import sqlite3
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import select

from store.comparisons import count_round
from store.database import reading, writing
from store.errors import PairChangedError, StateError
from store.models import Comparison, Pair, now
from store.pairs import FEW, ShownPair, pair_ahead, recount_open_slots
from store.priorities import ask_again, count_queue, first_in_queue, open_pairs_about, put_first
from store.queue_rules import QueueRules
from store.queue_tables import Hold, QueueMark
from store.rounds import pause_round, resume_round
from tests.store.queueing import add_gold, answer, go_through, serve
from tests.store.test_processes import PREAMBLE, run_together
from tests.store.undoing import undo_last

WORKS_WITH_PAUSES = (
    PREAMBLE
    + """
import time
from datetime import timedelta
from store.errors import PairChangedError
from store.queue_rules import QueueRules
draw = random.Random(number)
rules = QueueRules(hold=timedelta(milliseconds=30))
for _ in range(400):
    with writing(engine) as session:
        shown = next_pair(session=session, round_id=1, annotator_id=number, rules=rules)
    if shown is None:
        time.sleep(0.005)
        continue
    if draw.random() < 0.2:
        time.sleep(0.06)  # until others may have it
    try:
        with writing(engine) as session:
            record_comparison(session=session, pair_id=shown.pair_id, annotator_id=number, choice="left")
    except PairChangedError:
        pass
"""
)


def lapse(engine: sa.Engine) -> None:
    with writing(engine) as session:
        session.execute(sa.update(Hold).values(until=now() - timedelta(seconds=1)))


def test_as_many_look_at_a_pair_as_it_wants(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, (first, second) = make_round(engine, pairs=2, wanted=2)
    assert [serve(engine, opened.id, person).pair_id for person in people] == [first.id, first.id, second.id]
    with reading(engine) as session:
        counts = count_queue(session=session, round_id=opened.id)
    assert counts == {"pairs": 2, "duels": 0, "open": 2, "slots": 4, "on_screen": 2}


@pytest.mark.parametrize("wanted", [1, 2])
def test_a_verdict_that_comes_after_somebody_took_the_pair_over_is_not_one_too_many(
    engine: sa.Engine, make_round: Any, people: list[int], wanted: int
) -> None:
    opened, (pair, _) = make_round(engine, pairs=2, wanted=wanted)
    late, *others = people
    for person in [late, *others[: wanted - 1]]:
        assert serve(engine, opened.id, person).pair_id == pair.id
    lapse(engine)
    for person in others[:wanted]:
        assert serve(engine, opened.id, person).pair_id == pair.id
    with pytest.raises(PairChangedError, match="went to somebody else"):
        answer(engine, pair.id, late)
    answer(engine, pair.id, late, "skip")  # which is no answer
    for person in others[:wanted]:
        answer(engine, pair.id, person)
    with reading(engine) as session:
        assert count_round(session=session, round_id=opened.id)["done"] == wanted


def test_of_two_who_hold_a_pair_the_first_may_answer_where_another_verdict_came_from_elsewhere(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, (pair, _) = make_round(engine, pairs=2, wanted=2)
    for person in people[:2]:
        assert serve(engine, opened.id, person).pair_id == pair.id
    with writing(engine) as session:  # as a program of one's own may write it
        session.add(Comparison(pair_id=pair.id, annotator_id=people[2], verdict="tie"))
        session.flush()
        recount_open_slots(session=session, pair_id=pair.id)
    answer(engine, pair.id, people[0])
    with pytest.raises(PairChangedError):
        answer(engine, pair.id, people[1])


def test_a_verdict_that_comes_late_is_kept_where_there_is_room(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, (pair,) = make_round(engine, pairs=1)
    serve(engine, opened.id, people[0])
    lapse(engine)
    assert answer(engine, pair.id, people[0]).pair_id == pair.id
    assert answer(engine, pair.id, people[0]).pair_id == pair.id  # the same press again


def test_processes_that_dawdle_never_give_a_pair_more_answers_than_it_wants(
    engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path
) -> None:
    make_round(engine, pairs=30, wanted=2)
    run_together(WORKS_WITH_PAUSES, tmp_path / "pairloop.db", people)
    with sqlite3.connect(tmp_path / "pairloop.db") as connection:
        answers = connection.execute("SELECT count(*), count(DISTINCT annotator_id) FROM comparison GROUP BY pair_id")
        assert set(answers) == {(2, 2)}
        assert connection.execute("SELECT count(*) FROM comparison").fetchone() == (60,)


def test_pairs_put_first_come_first(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, pairs = make_round(engine, pairs=5)
    with writing(engine) as session:
        assert open_pairs_about(session=session, round_id=opened.id, words=" QUESTION  1.3") == [pairs[3].id]
        put_first(session=session, round_id=opened.id, pair_ids=[pairs[4].id, pairs[2].id])
        put_first(session=session, round_id=opened.id, pair_ids=[pairs[3].id])
        ahead = first_in_queue(session=session, round_id=opened.id, limit=2)
    assert [pair.id for pair, _ in ahead] == [pairs[3].id, pairs[4].id]
    served = go_through(engine, opened.id, people[0], QueueRules())
    assert [pair.id for pair in served] == [pairs[place].id for place in (3, 4, 2, 0, 1)]


def test_whoever_is_far_in_the_queue_misses_nothing(
    engine: sa.Engine, make_round: Any, people: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.pairs.MARK_EVERY", 3)
    opened, pairs = make_round(engine, pairs=20, wanted=2)
    ada, ben, cleo = people
    held = [serve(engine, opened.id, person).pair_id for person in (ben, cleo)]
    assert held == [pairs[0].id] * 2
    served = go_through(engine, opened.id, ada, QueueRules(), most=10)
    assert [pair.id for pair in served] == [pair.id for pair in pairs[1:11]]
    with reading(engine) as session:
        assert session.exec(select(QueueMark.position)).one() == 9
    lapse(engine)
    with writing(engine) as session:
        put_first(session=session, round_id=opened.id, pair_ids=[pairs[15].id])
    assert serve(engine, opened.id, ada).pair_id == pairs[15].id  # put first while she was on already
    rest = go_through(engine, opened.id, ada, QueueRules())
    assert {pair.id for pair in [*served, *rest]} == {pair.id for pair in pairs}


def test_pairs_that_people_disagree_about_are_asked_again(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, (agreed, doubtful, single, unfinished) = make_round(engine, pairs=4, wanted=2)
    ada, ben, cleo = people
    with writing(engine) as session:
        session.get_one(Pair, single.id).wanted = 1
    said = [(agreed, "tie", "tie"), (doubtful, "tie", "both_bad"), (single, "tie", None), (unfinished, "tie", "skip")]
    for pair, first, second in said:
        answer(engine, pair.id, ada, first)
        if second:
            answer(engine, pair.id, ben, second)
    with writing(engine) as session:
        assert ask_again(session=session, round_id=opened.id, below=0.7) == [doubtful.id]
    with writing(engine) as session:
        assert ask_again(session=session, round_id=opened.id, below=0.7) == []  # it has not all its answers yet
    assert serve(engine, opened.id, cleo).pair_id == doubtful.id
    assert serve(engine, opened.id, ada) is None  # who has said what they think of it


def test_nobody_is_served_a_round_that_is_paused(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, pairs = make_round(engine, pairs=2)
    assert serve(engine, opened.id, people[0]).pair_id == pairs[0].id
    with writing(engine) as session:
        pause_round(session=session, round_id=opened.id)
    assert [serve(engine, opened.id, person) for person in people] == [None] * 3
    answer(engine, pairs[0].id, people[0])  # what was on screen
    with writing(engine) as session, pytest.raises(StateError, match="paused already"):
        pause_round(session=session, round_id=opened.id)
    with writing(engine) as session:
        resume_round(session=session, round_id=opened.id)
    assert serve(engine, opened.id, people[0]).pair_id == pairs[1].id
    with writing(engine) as session, pytest.raises(StateError, match="not paused"):
        resume_round(session=session, round_id=opened.id)


def test_nobody_makes_more_comparisons_in_a_day_than_the_quota(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, pairs = make_round(engine, pairs=8)
    rules = QueueRules(daily_quota=3)
    answer(engine, serve(engine, opened.id, people[0], rules).pair_id, people[0], "skip")
    assert len(go_through(engine, opened.id, people[0], rules)) == 3
    with writing(engine) as session:
        undo_last(session=session, annotator_id=people[0], round_id=opened.id)
    assert serve(engine, opened.id, people[0], rules).pair_id == pairs[3].id  # what they took back
    assert len(go_through(engine, opened.id, people[0], rules)) == 1
    assert serve(engine, opened.id, people[1], rules) is not None
    with writing(engine) as session:
        session.execute(sa.update(Comparison).values(created_at=now() - timedelta(days=1)))
    assert len(go_through(engine, opened.id, people[0], rules)) == 3


def test_nobody_judges_a_pair_twice(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, _ = make_round(engine, pairs=10, wanted=3)
    for person in people:
        go_through(engine, opened.id, person, QueueRules())
    with reading(engine) as session:
        judged = Counter((each.pair_id, each.annotator_id) for each in session.exec(select(Comparison)))
    assert len(judged) == 30 and set(judged.values()) == {1}


def look_ahead(engine: sa.Engine, round_id: int, person: int, shown: int, rules: QueueRules) -> ShownPair | None:
    with writing(engine) as session:
        return pair_ahead(session=session, round_id=round_id, annotator_id=person, shown=shown, rules=rules)


@pytest.mark.parametrize("rules", [QueueRules(), QueueRules(gold=0.2, repeats=0.2, repeat_after=3)])
def test_the_pair_ahead_is_the_one_that_comes_next(
    engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path, rules: QueueRules
) -> None:
    opened, _ = make_round(engine, pairs=60)
    add_gold(engine, tmp_path, 10)
    known, purposes = 0, set()
    shown = serve(engine, opened.id, people[0], rules)
    while shown is not None:
        ahead = look_ahead(engine, opened.id, people[0], shown.pair_id, rules)
        assert ahead is None or ahead.pair_id != shown.pair_id
        assert serve(engine, opened.id, people[0], rules) == shown, "a reload shows what was on screen"
        assert look_ahead(engine, opened.id, people[0], shown.pair_id, rules) == ahead
        answer(engine, shown.pair_id, people[0])
        following = serve(engine, opened.id, people[0], rules)
        if ahead is not None:
            assert following == ahead
            known += 1
            with reading(engine) as session:
                purposes.add(session.get_one(Pair, ahead.pair_id).purpose)
        shown = following
    assert known >= 60 - FEW - 2
    assert purposes == ({"train", "gold", "repeat"} if rules.gold else {"train"})


def test_nobody_is_kept_from_the_last_pairs_by_what_another_has_ahead(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, _ = make_round(engine, pairs=FEW)
    shown = serve(engine, opened.id, people[0])
    assert look_ahead(engine, opened.id, people[0], shown.pair_id, QueueRules()) is None


def test_two_who_look_ahead_never_share_a_pair_that_wants_one_answer(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, _ = make_round(engine, pairs=50)
    seen = [
        each.pair_id
        for person in people[:2]
        for shown in [serve(engine, opened.id, person)]
        for each in (shown, look_ahead(engine, opened.id, person, shown.pair_id, QueueRules()))
    ]
    assert len(set(seen)) == 4


def test_an_undo_comes_before_what_was_ahead(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, _ = make_round(engine, pairs=50)
    first = serve(engine, opened.id, people[0])
    second = look_ahead(engine, opened.id, people[0], first.pair_id, QueueRules())
    answer(engine, first.pair_id, people[0])
    assert serve(engine, opened.id, people[0]) == second
    look_ahead(engine, opened.id, people[0], second.pair_id, QueueRules())
    with writing(engine) as session:
        undo_last(session=session, annotator_id=people[0], round_id=opened.id)
    assert serve(engine, opened.id, people[0]) == first
    assert look_ahead(engine, opened.id, people[0], first.pair_id, QueueRules()) == second


@pytest.mark.parametrize("quota", [1, 2, 3])
def test_nothing_is_ahead_of_the_days_last_pair(
    engine: sa.Engine, make_round: Any, people: list[int], quota: int
) -> None:
    opened, _ = make_round(engine, pairs=50)
    rules, made = QueueRules(daily_quota=quota), 0
    while (shown := serve(engine, opened.id, people[0], rules)) is not None:
        ahead = look_ahead(engine, opened.id, people[0], shown.pair_id, rules)
        assert (ahead is None) == (made == quota - 1)
        answer(engine, shown.pair_id, people[0])
        made += 1
    assert made == quota
