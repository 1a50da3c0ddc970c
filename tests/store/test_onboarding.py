"""Guidelines, version by version, and the calibration that newcomers begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlmodel import select

from store.adding_once import add_unless_there
from store.annotators import count_by_annotator
from store.calibration import Calibration, _practice, prepare_calibration, read_calibration
from store.comparisons import count_round
from store.database import reading, writing
from store.guidelines import guidelines_in_force, has_read, has_read_any, put_in_force, remember_read
from store.measuring import _add_repeat
from store.models import Guidelines, GuidelinesRead, Pair, Purpose
from store.queue_rules import QueueRules
from store.round_work import work_done
from tests.store.queueing import add_gold, answer, go_through, serve


def test_a_comparison_is_kept_with_the_guidelines_in_force(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, _ = make_round(engine, pairs=4)
    versions = []
    for text in (None, "Be brief.", "Be kind.", "Be brief."):
        if text:
            with writing(engine) as session:
                put_in_force(session=session, text=text)
                put_in_force(session=session, text=text)  # nothing new
        said = answer(engine, serve(engine, opened.id, people[0]).pair_id, people[0])
        versions.append(said.guidelines_id)
    assert versions == [None, 1, 2, 3]
    with reading(engine) as session:
        assert [each.text for each in session.exec(select(Guidelines))] == ["Be brief.", "Be kind.", "Be brief."]


def test_who_has_read_a_text_has_read_it_when_it_comes_back(engine: sa.Engine, people: list[int]) -> None:
    ada, ben, _ = people
    with writing(engine) as session:
        assert guidelines_in_force(session=session) is None
        first = put_in_force(session=session, text="Be brief.")
        for _ in "12":
            remember_read(session=session, annotator_id=ada, version=first)
        assert has_read(session=session, annotator_id=ada, version=first)
        assert not has_read(session=session, annotator_id=ben, version=first)
        second = put_in_force(session=session, text="Be kind.")
        assert not has_read(session=session, annotator_id=ada, version=second)
        back = put_in_force(session=session, text="Be brief.")
        assert has_read(session=session, annotator_id=ada, version=back)
        assert [has_read_any(session=session, annotator_id=person) for person in (ada, ben)] == [True, False]


def test_a_row_that_somebody_else_added_meanwhile_stays_as_it_is(engine: sa.Engine, people: list[int]) -> None:
    with writing(engine) as session:
        first = put_in_force(session=session, text="Be brief.")
        for _ in "12":  # without a look whether it is there, as when two transactions look before either adds
            add_unless_there(session=session, row=GuidelinesRead(annotator_id=people[0], hash=first.hash))
        assert len(session.exec(select(GuidelinesRead)).all()) == 1


def test_pairs_made_of_others_are_there_once_though_two_transactions_find_them_missing(
    engine: sa.Engine, people: list[int], tmp_path: Path
) -> None:
    add_gold(engine, tmp_path, 1)
    with writing(engine) as session:
        gold = session.exec(select(Pair)).one()
        assert len({_add_repeat(session, gold, people[0]) for _ in "12"}) == 1
        for _ in "12":
            add_unless_there(session=session, row=_practice(gold))
        made = [pair.purpose for pair in session.exec(select(Pair).where(Pair.repeats == gold.id))]
    assert made == [Purpose.REPEAT, Purpose.CALIBRATION]


def calibration(engine: sa.Engine, person: int, wanted: int) -> Calibration:
    with writing(engine) as session:
        prepare_calibration(session=session, wanted=wanted)
        return read_calibration(session=session, annotator_id=person, wanted=wanted)


def test_newcomers_are_told_what_is_right_and_nothing_of_it_counts(
    engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path
) -> None:
    opened, _ = make_round(engine, pairs=3)
    add_gold(engine, tmp_path, 6, note="It is right.")
    begun = calibration(engine, people[0], 4)
    assert (len(begun.to_come), begun.practised) == (4, [])
    for shown in begun.to_come:
        answer(engine, shown.pair_id, people[0], "left")
    done = calibration(engine, people[0], 4)
    assert [each.shown for each in done.practised] == begun.to_come and not done.to_come
    for each in done.practised:
        right_is_left = each.shown.left.startswith("right")
        assert (each.right, each.expected) == (right_is_left, "left" if right_is_left else "right")
        assert each.note == "It is right."
    assert done.right == sum(each.shown.left.startswith("right") for each in done.practised)
    with reading(engine) as session:
        assert count_round(session=session, round_id=opened.id)["total"] == 0
        assert work_done(session=session, round_id=opened.id, annotator_id=people[0]).mine == 0
        assert count_by_annotator(session=session) == {}
    assert [shown.pair_id for shown in calibration(engine, people[1], 4).to_come] == [
        shown.pair_id for shown in begun.to_come
    ]


def test_there_is_no_more_practice_than_gold(engine: sa.Engine, people: list[int], tmp_path: Path) -> None:
    assert calibration(engine, people[0], 3) == Calibration([], [])
    add_gold(engine, tmp_path, 2)
    assert len(calibration(engine, people[0], 3).to_come) == 2
    assert len(calibration(engine, people[0], 1).to_come) == 1


def test_who_was_told_a_gold_pairs_answer_is_not_asked_it(
    engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path
) -> None:
    opened, _ = make_round(engine, pairs=60, wanted=2)
    add_gold(engine, tmp_path, 6)
    for shown in calibration(engine, people[0], 4).to_come:
        answer(engine, shown.pair_id, people[0])
    rules = QueueRules(gold=0.5)
    asked = [
        {pair.id for pair in go_through(engine, opened.id, person, rules) if pair.purpose == Purpose.GOLD}
        for person in people[:2]
    ]
    with reading(engine) as session:
        told = set(session.exec(select(Pair.repeats).where(Pair.purpose == Purpose.CALIBRATION)))
    assert len(told) == 4 and not asked[0] & told
    assert (len(asked[0]), len(asked[1])) == (2, 6)
