"""Completions, pairs, and the queue: who is served what, and who is kept out meanwhile."""

from __future__ import annotations

import math
import re
import sqlite3
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import Session

from store.comparisons import record_comparison
from store.database import reading, writing
from store.errors import StoreError, UnknownRecordError
from store.holds import release_hold
from store.models import Completion, Purpose, now
from store.pairs import (
    NewCompletion,
    ShownPair,
    add_completion,
    add_pair,
    count_pairs,
    left_side,
    next_pair,
    shown_pair,
)
from store.queue_tables import Hold
from tests.store.asking import add_imported_text, add_prompt
from tests.store.undoing import undo_last


def serve(engine: sa.Engine, round_id: int, annotator_id: int) -> int | None:
    with writing(engine) as session:
        shown = next_pair(session=session, round_id=round_id, annotator_id=annotator_id)
    return None if shown is None else shown.pair_id


def say(engine: sa.Engine, pair_id: int, annotator_id: int, choice: str = "left") -> None:
    with writing(engine) as session:
        record_comparison(session=session, pair_id=pair_id, annotator_id=annotator_id, choice=choice)


def let_holds_lapse(engine: sa.Engine) -> None:
    with writing(engine) as session:
        session.execute(sa.update(Hold).values(until=now() - timedelta(seconds=1)))


def imported(session: Session, text: str, question: str = "why?") -> Completion:
    return add_imported_text(session, add_prompt(session, question).id, text)


def test_two_samples_may_be_equal_an_imported_text_is_there_once(engine: sa.Engine, make_round: Any) -> None:
    make_round(engine, pairs=0)
    with writing(engine) as session:
        first = imported(session, "because")
        sampled = [
            add_completion(
                session=session,
                prompt_id=first.prompt_id,
                new=NewCompletion(text="because", seed=2**40),
                checkpoint_id=1,
            )
            for _ in range(2)
        ]
    assert len({first.id, *[completion.id for completion in sampled]}) == 3
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
        imported(session, "because")


def test_a_pair_is_two_texts_for_one_prompt(engine: sa.Engine) -> None:
    with writing(engine) as session:
        one, other, elsewhere = imported(session, "x"), imported(session, "y"), imported(session, "y", "how?")
        with pytest.raises(StoreError, match="the same text"):
            add_pair(session=session, prompt_id=one.prompt_id, completions=[one, one])
        with pytest.raises(StoreError, match="different prompts"):
            add_pair(session=session, prompt_id=one.prompt_id, completions=[one, elsewhere])
        assert add_pair(session=session, prompt_id=one.prompt_id, completions=[one, other]).open_slots == 1


def test_the_database_refuses_the_same_pair_twice_for_one_purpose(engine: sa.Engine) -> None:
    with writing(engine) as session:
        both = [imported(session, "x"), imported(session, "y")]
        for purpose in (Purpose.TRAIN, Purpose.REPEAT):
            add_pair(session=session, prompt_id=both[0].prompt_id, completions=both, purpose=purpose)
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
        add_pair(session=session, prompt_id=both[0].prompt_id, completions=both)


def test_left_and_right_are_drawn_evenly() -> None:
    draws = 2000
    lefts = sum(left_side(side_seed=seed, annotator_id=7) == "a" for seed in range(draws))
    assert abs(lefts - draws / 2) < 4 * math.sqrt(draws / 4)  # four standard deviations of a fair coin


def test_each_annotator_has_a_draw_of_their_own() -> None:
    draws = 2000
    same = sum(
        left_side(side_seed=seed, annotator_id=1) == left_side(side_seed=seed, annotator_id=2) for seed in range(draws)
    )
    assert abs(same - draws / 2) < 4 * math.sqrt(draws / 4)


def test_sides_of_real_pairs_are_balanced(engine: sa.Engine, make_round: Any) -> None:
    _, pairs = make_round(engine, pairs=200)
    lefts = sum(left_side(side_seed=pair.side_seed, annotator_id=1) == "a" for pair in pairs)
    assert abs(lefts - 100) < 4 * math.sqrt(50)


def test_the_sides_on_screen_are_the_same_after_a_reload(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, (pair, *_) = make_round(engine)
    with reading(engine) as session:
        shown = [shown_pair(session=session, pair_id=pair.id, annotator_id=person) for person in people for _ in "12"]
    assert shown[0] == shown[1]
    for view in shown:
        a, b = (view.left, view.right) if view.left_side == "a" else (view.right, view.left)
        assert (a, b) == ("answer 1.0a", "answer 1.0b")


def test_what_is_shown_says_nothing_about_who_wrote_it() -> None:
    told = {"pair_id", "messages", "left", "right", "left_side", "round_id", "slate_id"}
    assert set(ShownPair.__dataclass_fields__) == told


def test_a_pair_that_is_not_there(engine: sa.Engine) -> None:
    with reading(engine) as session, pytest.raises(UnknownRecordError, match="no pair 99"):
        shown_pair(session=session, pair_id=99, annotator_id=1)


def test_the_queue_is_served_in_order_until_it_is_empty(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, pairs = make_round(engine, pairs=3)
    served = []
    while (pair_id := serve(engine, opened.id, people[0])) is not None:
        served.append(pair_id)
        say(engine, pair_id, people[0])
    assert served == [pair.id for pair in pairs]
    with reading(engine) as session:
        assert count_pairs(session=session, round_id=opened.id) == {"pairs": 3, "duels": 0, "open": 0}


def test_pairs_of_other_rounds_are_not_served(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    make_round(engine, pairs=2)
    later, pairs = make_round(engine, pairs=1)
    assert serve(engine, later.id, people[0]) == pairs[0].id


def test_a_reload_shows_the_same_pair(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, pairs = make_round(engine, pairs=3)
    assert serve(engine, opened.id, people[0]) == pairs[0].id
    assert serve(engine, opened.id, people[1]) == pairs[1].id
    with writing(engine) as session:
        release_hold(
            session=session, pair_id=pairs[0].id, annotator_id=people[0]
        )  # an earlier pair comes free meanwhile
    assert serve(engine, opened.id, people[1]) == pairs[1].id


@pytest.mark.parametrize("wanted", [1, 2])
def test_a_pair_is_on_as_many_screens_at_once_as_it_wants_answers(
    engine: sa.Engine, make_round: Any, people: list[int], wanted: int
) -> None:
    opened, _ = make_round(engine, pairs=6, wanted=wanted)
    on_screen: dict[int, int] = {}
    answers: Counter[int] = Counter()
    for turn in range(60):
        person = people[turn % 3]
        pair_id = serve(engine, opened.id, person)
        if pair_id is None:
            continue
        on_screen[person] = pair_id
        assert Counter(on_screen.values())[pair_id] + answers[pair_id] <= wanted
        if turn % 2:
            say(engine, on_screen.pop(person), person)
            answers[pair_id] += 1
    assert answers.total() == 6 * wanted


def test_an_answer_that_comes_late_does_not_free_the_pair_under_its_new_holder(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, pairs = make_round(engine, pairs=2, wanted=3)
    ada, ben, cleo = people
    assert serve(engine, opened.id, ada) == pairs[0].id
    let_holds_lapse(engine)
    assert serve(engine, opened.id, ben) == pairs[0].id
    say(engine, pairs[0].id, ada)  # there is room for her as well
    assert serve(engine, opened.id, cleo) == pairs[0].id
    assert serve(engine, opened.id, ben) == pairs[0].id
    say(engine, pairs[0].id, ben)
    assert serve(engine, opened.id, ben) == pairs[1].id
    assert serve(engine, opened.id, cleo) == pairs[0].id


def test_a_hold_lapses(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, pairs = make_round(engine, pairs=1)
    assert serve(engine, opened.id, people[0]) == pairs[0].id
    assert serve(engine, opened.id, people[1]) is None
    let_holds_lapse(engine)
    assert serve(engine, opened.id, people[1]) == pairs[0].id
    assert serve(engine, opened.id, people[0]) is None


def test_released_pairs_can_be_had_by_others(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, pairs = make_round(engine, pairs=1)
    serve(engine, opened.id, people[0])
    with writing(engine) as session:
        release_hold(session=session, pair_id=pairs[0].id, annotator_id=people[1])
    assert serve(engine, opened.id, people[1]) is None
    with writing(engine) as session:
        release_hold(session=session, pair_id=pairs[0].id, annotator_id=people[0])
    assert serve(engine, opened.id, people[1]) == pairs[0].id


def test_a_pair_that_was_taken_back_is_shown_next_and_kept_meanwhile(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, pairs = make_round(engine, pairs=3)
    ada, ben, _ = people
    say(engine, serve(engine, opened.id, ada), ada)
    assert serve(engine, opened.id, ada) == pairs[1].id
    with writing(engine) as session:
        undo_last(session=session, annotator_id=ada, round_id=opened.id)
    assert serve(engine, opened.id, ben) == pairs[2].id
    assert serve(engine, opened.id, ada) == pairs[0].id
    say(engine, pairs[0].id, ada)
    assert serve(engine, opened.id, ada) == pairs[1].id  # the pair she was at before


def test_a_pair_that_was_taken_back_and_left_goes_to_others_in_the_end(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, pairs = make_round(engine, pairs=1)
    say(engine, serve(engine, opened.id, people[0]), people[0])
    with writing(engine) as session:
        undo_last(session=session, annotator_id=people[0], round_id=opened.id)
    assert serve(engine, opened.id, people[1]) is None
    let_holds_lapse(engine)
    assert serve(engine, opened.id, people[1]) == pairs[0].id


def test_taking_back_a_skip_does_not_take_the_pair_from_whoever_sees_it_now(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, pairs = make_round(engine, pairs=2)
    ada, ben, _ = people
    say(engine, serve(engine, opened.id, ada), ada, "skip")
    assert serve(engine, opened.id, ben) == pairs[0].id
    with writing(engine) as session:
        undo_last(session=session, annotator_id=ada, round_id=opened.id)
    assert serve(engine, opened.id, ada) == pairs[1].id
    assert serve(engine, opened.id, ben) == pairs[0].id


def test_a_skipped_pair_stays_open_for_others_only(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, pairs = make_round(engine, pairs=1)
    say(engine, serve(engine, opened.id, people[0]), people[0], "skip")
    assert serve(engine, opened.id, people[0]) is None
    assert serve(engine, opened.id, people[1]) == pairs[0].id


def test_the_next_pair_is_found_by_index(engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path) -> None:
    opened, _ = make_round(engine)
    statements: list[tuple[str, Any]] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *call: statements.append((call[2], call[3])))
    assert serve(engine, opened.id, people[0])
    asked = [(statement, values) for statement, values in statements if "hold" in statement]
    assert len(asked) == 3  # what they hold, the queue's first, and the hold itself
    with sqlite3.connect(tmp_path / "pairloop.db") as connection:
        plans = [connection.execute(f"EXPLAIN QUERY PLAN {statement}", values) for statement, values in asked]
        plan = "\n".join(row[3] for rows in plans for row in rows)
    queue, holds = "pair_queue (round_id=? AND position>?)", "ix_hold_annotator_id (annotator_id=?)"
    for index in (queue, holds, "comparison_current (pair_id=?"):
        assert f"USING INDEX {index}" in plan
    # The team alone is looked through, and only for pairs of which they saw in the Playground who wrote what.
    assert set(re.findall(r"SCAN (\w+)", plan)) <= {"annotator", "account"}


def test_short_answers_that_come_up_again_keep_to_no_side(engine: sa.Engine, make_round: Any) -> None:
    opened, _ = make_round(engine, pairs=1)
    with writing(engine) as session:
        seeds = [
            add_pair(
                session=session,
                prompt_id=prompt.id,
                completions=[
                    add_completion(
                        session=session,
                        prompt_id=prompt.id,
                        new=NewCompletion(text),
                        checkpoint_id=opened.checkpoint_id,
                    )
                    for text in ("Yes.", "No.")
                ],
            ).side_seed
            for prompt in (add_prompt(session, f"question {number}") for number in range(200))
        ]
    left = Counter(left_side(side_seed=seed, annotator_id=1) for seed in seeds)
    assert 70 < left["a"] < 130
