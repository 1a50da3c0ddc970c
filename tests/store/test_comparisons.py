"""Comparisons: written once, superseded by a change of mind, never deleted."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import col, select

from store.adjudication import adjudicate, take_back_decision
from store.annotators import deactivate_annotator, reactivate_annotator, retract_annotator
from store.comparisons import (
    Choice,
    Remarks,
    comparisons_since,
    count_round,
    current_comparison,
    last_verdict,
    record_comparison,
    remarks_of,
    sided,
    undo_comparison,
)
from store.database import reading, writing
from store.errors import PairChangedError, StoreError, UnknownRecordError
from store.models import Comparison, Pair, Verdict, now
from store.pairs import left_side, next_pair
from store.queue_tables import Hold
from store.round_work import work_done
from tests.store.undoing import undo_last


def say(engine: sa.Engine, pair_id: int, annotator_id: int, choice: str = "left", **more: Any) -> Comparison:
    with writing(engine) as session:
        return record_comparison(session=session, pair_id=pair_id, annotator_id=annotator_id, choice=choice, **more)


def history(engine: sa.Engine) -> list[tuple[str, bool]]:
    """Every comparison ever written, as (verdict, still standing), oldest first."""
    with reading(engine) as session:
        rows = session.exec(select(Comparison).order_by(col(Comparison.id))).all()
    return [(row.verdict, row.superseded_at is None) for row in rows]


def open_slots(engine: sa.Engine, pair_id: int) -> int:
    with reading(engine) as session:
        return session.get_one(Pair, pair_id).open_slots


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("choice", ["left", "right"])
def test_sides_become_completions(
    engine: sa.Engine, make_round: Any, people: list[int], side: str, choice: str
) -> None:
    _, pairs = make_round(engine, pairs=30)
    pair = next(pair for pair in pairs if left_side(side_seed=pair.side_seed, annotator_id=people[0]) == side)
    said = say(engine, pair.id, people[0], choice)
    right = {"a": "b", "b": "a"}[side]
    assert (said.verdict, said.left_side) == (side if choice == "left" else right, side)


@pytest.mark.parametrize("choice", ["tie", "both_bad", "skip"])
def test_verdicts_without_a_side_are_kept_as_they_are(
    engine: sa.Engine, make_round: Any, people: list[int], choice: str
) -> None:
    _, pairs = make_round(engine)
    assert say(engine, pairs[0].id, people[0], choice).verdict == choice


def test_every_choice_is_a_verdict(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine, pairs=len(Choice))
    said = {say(engine, pair.id, people[0], choice).verdict for pair, choice in zip(pairs, Choice, strict=True)}
    assert said <= set(Verdict)


def test_what_was_said_is_kept_whole(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine)
    say(engine, pairs[0].id, people[0], seconds=4.5, strength=3, remarks=Remarks(reason="kürzer und klarer"))
    with reading(engine) as session:
        said = current_comparison(session=session, pair_id=pairs[0].id, annotator_id=people[0])
    assert (said.seconds, said.strength, said.reason) == (4.5, 3, "kürzer und klarer")


@pytest.mark.parametrize("side", ["a", "b"])
def test_remarks_are_kept_by_completion_and_come_back_by_side(
    engine: sa.Engine, make_round: Any, people: list[int], side: str
) -> None:
    _, pairs = make_round(engine, pairs=30)
    pair = next(pair for pair in pairs if left_side(side_seed=pair.side_seed, annotator_id=people[0]) == side)
    given = Remarks(
        reason="clearer",
        tags=("tone",),
        criteria={"helpful": "left", "harmless": "tie", "honest": "right"},
        flags={"left": ["unsafe"]},
    )
    said = say(engine, pair.id, people[0], "right", strength=2, remarks=given)
    other = {"a": "b", "b": "a"}[side]
    assert said.criteria == {"helpful": side, "harmless": "tie", "honest": other}
    assert (said.flags, said.tags, said.verdict) == ({side: ["unsafe"]}, ["tone"], other)
    assert (remarks_of(said), sided(said)) == (given, Choice.RIGHT)


def test_a_tie_has_no_strength(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine)
    assert say(engine, pairs[0].id, people[0], "tie", strength=3).strength is None


def test_a_days_work_is_in_the_order_in_which_it_was_first_done(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, pairs = make_round(engine, pairs=3)
    start = now()
    for pair in pairs:
        say(engine, pair.id, people[0], "tie")
    say(engine, pairs[0].id, people[0], "skip", replace=True)
    say(engine, pairs[1].id, people[1], "skip")
    with reading(engine) as session:
        mine = comparisons_since(session=session, annotator_id=people[0], round_id=opened.id, since=start)
        later = comparisons_since(session=session, annotator_id=people[0], round_id=opened.id, since=now())
    assert [(said.pair_id, said.verdict) for said in mine] == [
        (pairs[0].id, "skip"),
        (pairs[1].id, "tie"),
        (pairs[2].id, "tie"),
    ]
    assert later == []


def test_a_second_press_writes_nothing(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine)
    first = say(engine, pairs[0].id, people[0], "tie")
    second = say(engine, pairs[0].id, people[0], "both_bad")
    assert (second.id, second.verdict) == (first.id, "tie")
    assert history(engine) == [("tie", True)]


def test_a_change_of_mind_supersedes(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine)
    say(engine, pairs[0].id, people[0], "tie")
    say(engine, pairs[0].id, people[0], "both_bad", replace=True)
    assert history(engine) == [("tie", False), ("both_bad", True)]
    assert open_slots(engine, pairs[0].id) == 0


def test_a_change_of_mind_to_a_skip_opens_the_pair_again(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine)
    say(engine, pairs[0].id, people[0])
    say(engine, pairs[0].id, people[0], "skip", replace=True)
    assert open_slots(engine, pairs[0].id) == 1


def test_undo_takes_back_the_latest_and_keeps_the_history(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, pairs = make_round(engine)
    say(engine, pairs[0].id, people[0], "tie")
    say(engine, pairs[1].id, people[0], "both_bad")
    say(engine, pairs[2].id, people[1], "tie")
    with writing(engine) as session:
        taken_back = undo_last(session=session, annotator_id=people[0], round_id=opened.id)
    assert (taken_back.pair_id, taken_back.verdict) == (pairs[1].id, "both_bad")
    assert history(engine) == [("tie", True), ("both_bad", False), ("tie", True)]
    assert [open_slots(engine, pair.id) for pair in pairs] == [0, 1, 0]


def test_undo_stays_within_the_round_and_ends(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, earlier = make_round(engine)
    later, _ = make_round(engine)
    say(engine, earlier[0].id, people[0])
    with writing(engine) as session:
        assert undo_last(session=session, annotator_id=people[0], round_id=later.id) is None
    assert [standing for _, standing in history(engine)] == [True]


def test_a_verdict_can_be_given_again_after_undo(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, pairs = make_round(engine)
    for choice in ("tie", "both_bad"):
        say(engine, pairs[0].id, people[0], choice)
        with writing(engine) as session:
            undo_last(session=session, annotator_id=people[0], round_id=opened.id)
    say(engine, pairs[0].id, people[0], "skip")
    assert history(engine) == [("tie", False), ("both_bad", False), ("skip", True)]


def test_the_same_undo_twice_takes_back_one_verdict(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, pairs = make_round(engine)
    say(engine, pairs[0].id, people[0], "tie")
    say(engine, pairs[1].id, people[0], "tie")
    with writing(engine) as session:
        last = last_verdict(session=session, annotator_id=people[0], round_id=opened.id)
        assert last is not None
        assert undo_comparison(session=session, comparison_id=last[0], annotator_id=people[1]) is None  # not theirs
        assert undo_comparison(session=session, comparison_id=last[0], annotator_id=people[0]) is not None
    with writing(engine) as session:
        assert undo_comparison(session=session, comparison_id=last[0], annotator_id=people[0]) is None
    assert history(engine) == [("tie", True), ("tie", False)]


def test_what_a_retracted_annotator_said_is_asked_of_others_again(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, pairs = make_round(engine, pairs=2)
    say(engine, pairs[0].id, people[0], "left")
    say(engine, pairs[1].id, people[1], "left")
    with writing(engine) as session:
        assert next_pair(session=session, round_id=opened.id, annotator_id=people[2]) is None
        retract_annotator(session=session, name="Ada")
        assert count_round(session=session, round_id=opened.id)["done"] == 1
    with writing(engine) as session:
        again = next_pair(session=session, round_id=opened.id, annotator_id=people[2])
    assert again is not None and again.pair_id == pairs[0].id
    assert history(engine)[0][1] is True  # nothing is deleted or superseded


def test_an_annotator_who_was_retracted_is_refused(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine)
    with writing(engine) as session:
        retract_annotator(session=session, name="Ada")
    with pytest.raises(PairChangedError, match="not active any more; nothing was written"):
        say(engine, pairs[0].id, people[0])
    with pytest.raises(PairChangedError):
        say(engine, pairs[0].id, 99)
    assert history(engine) == []


@pytest.mark.parametrize("end", [deactivate_annotator, retract_annotator])
def test_who_may_not_compare_any_more_is_served_no_pair_and_holds_none(
    engine: sa.Engine, make_round: Any, people: list[int], end: Any
) -> None:
    opened, pairs = make_round(engine, pairs=3)
    said = say(engine, pairs[0].id, people[0])
    with writing(engine) as session:
        assert next_pair(session=session, round_id=opened.id, annotator_id=people[0]) is not None
        end(session=session, name="Ada")
        assert next_pair(session=session, round_id=opened.id, annotator_id=people[0]) is None
        assert next_pair(session=session, round_id=opened.id, annotator_id=people[1]) is not None
        with pytest.raises(PairChangedError, match="not active any more"):
            undo_comparison(session=session, comparison_id=said.id, annotator_id=people[0])
        assert session.exec(select(Hold.annotator_id)).all() == [people[1]]
        if end is deactivate_annotator:
            reactivate_annotator(session=session, name="Ada")
            assert next_pair(session=session, round_id=opened.id, annotator_id=people[0]) is not None


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"choice": "middle"}, "A choice is one of left, right"), ({"strength": 4}, "A strength is 1, 2 or 3, not 4")],
)
def test_what_is_not_a_verdict_is_refused(
    engine: sa.Engine, make_round: Any, people: list[int], wrong: dict[str, Any], error: str
) -> None:
    _, pairs = make_round(engine)
    with pytest.raises(StoreError, match=error):
        say(engine, pairs[0].id, people[0], **wrong)
    with pytest.raises(UnknownRecordError, match="no pair 99"):
        say(engine, 99, people[0])
    assert history(engine) == []


def test_open_slots_count_the_answers_that_are_missing(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine, pairs=1, wanted=2)
    left = [open_slots(engine, pairs[0].id)]
    for person, choice in zip(people, ("tie", "skip", "both_bad"), strict=True):
        say(engine, pairs[0].id, person, choice)
        left.append(open_slots(engine, pairs[0].id))
    assert left == [2, 1, 1, 0]


def test_no_more_answers_are_taken_than_a_pair_wants(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine, pairs=1)
    first = say(engine, pairs[0].id, people[0])
    for choice in ("left", "both_bad"):
        with pytest.raises(PairChangedError, match="went to somebody else"):
            say(engine, pairs[0].id, people[1], choice)
    say(engine, pairs[0].id, people[1], "skip")  # which is no answer
    with pytest.raises(PairChangedError, match="went to somebody else"):
        say(engine, pairs[0].id, people[1], "tie", replace=True)
    changed = say(engine, pairs[0].id, people[0], "both_bad", replace=True)  # no further one
    assert open_slots(engine, pairs[0].id) == 0
    assert (first.verdict, changed.verdict) == (history(engine)[0][0], "both_bad") and len(history(engine)) == 3


def test_who_decides_while_a_pair_is_on_screen_is_told_apart_from_who_was_quicker(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, pairs = make_round(engine, pairs=2, wanted=2)
    with writing(engine) as session:
        shown = next_pair(session=session, round_id=opened.id, annotator_id=people[0])
        assert shown is not None and shown.pair_id == pairs[0].id
        adjudicate(session=session, pair_id=pairs[0].id, annotator_id=people[2], choice="left")
    with pytest.raises(PairChangedError, match="A researcher decided about that pair while it was on screen"):
        say(engine, pairs[0].id, people[0])
    assert say(engine, pairs[0].id, people[0], "skip").verdict == "skip"


def test_what_was_decided_since_cannot_be_taken_back_only_changed(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, (pair,) = make_round(engine, pairs=1, wanted=2)
    said = say(engine, pair.id, people[0])
    with writing(engine) as session:
        decided = adjudicate(session=session, pair_id=pair.id, annotator_id=people[2], choice="left")
    with pytest.raises(PairChangedError, match="decided about that pair since"), writing(engine) as session:
        undo_comparison(session=session, comparison_id=said.id, annotator_id=people[0])
    changed = say(engine, pair.id, people[0], "tie", replace=True)
    with writing(engine) as session:
        assert last_verdict(session=session, annotator_id=people[0], round_id=opened.id) == (changed.id, pair.id)
        take_back_decision(session=session, comparison_id=decided.id, annotator_id=people[2])
        assert undo_comparison(session=session, comparison_id=changed.id, annotator_id=people[0]) is not None
        shown = next_pair(session=session, round_id=opened.id, annotator_id=people[0])
    assert shown is not None and shown.pair_id == pair.id


def test_the_database_itself_refuses_a_second_standing_verdict(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    _, pairs = make_round(engine)
    say(engine, pairs[0].id, people[0], "tie")
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
        session.add(Comparison(pair_id=pairs[0].id, annotator_id=people[0], verdict="a"))


def test_counts_of_a_round(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    make_round(engine)
    opened, pairs = make_round(engine, pairs=4, wanted=2)
    for pair, choice in zip(pairs, ("tie", "tie", "skip", "both_bad"), strict=True):
        say(engine, pair.id, people[0], choice)
    say(engine, pairs[0].id, people[1], "both_bad")
    say(engine, pairs[0].id, people[1], "tie", replace=True)
    with reading(engine) as session:
        counts = count_round(session=session, round_id=opened.id)
        mine = [work_done(session=session, round_id=opened.id, annotator_id=person).mine for person in people]
    assert counts == {"a": 0, "b": 0, "tie": 3, "both_bad": 1, "skip": 1, "done": 4, "total": 5, "duels": 0}
    assert mine == [3, 1, 0]
