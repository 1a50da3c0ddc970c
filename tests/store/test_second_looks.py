"""Second looks: which comparisons come back, to whom, seen as any other, counted nowhere, and what they came to."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import select

from store.adjudication import adjudicate, list_doubtful, said_about
from store.annotators import deactivate_annotator, retract_annotator
from store.checkpoints import base_checkpoint
from store.comparisons import Choice, count_comparisons, count_round, last_verdict
from store.database import reading, writing
from store.errors import PairChangedError
from store.held_out import judging_run
from store.measuring import _add_repeat
from store.models import Comparison, Pair, Round, RoundStatus
from store.pairs import count_pairs, left_side, pair_ahead, shown_pair
from store.preferences import poll_comparisons
from store.priorities import count_queue, first_in_queue, open_pairs_about
from store.quality import read_quality
from store.queue_rules import QueueRules
from store.round_work import work_done
from store.second_looks import move_open_looks, pairs_to_examine, read_second_looks
from store.snapshot_filter import SnapshotFilter
from tests.store import teams
from tests.store.queueing import answer, go_through, serve
from tests.store.undoing import undo_last


def choose(engine: sa.Engine, pair: Pair, person: int, verdict: str) -> Comparison:
    """Answer by the completion, whichever side it stands on, or think again."""
    left = left_side(side_seed=pair.side_seed, annotator_id=person)
    sided = Choice.LEFT if verdict == left else Choice.RIGHT
    return answer(engine, pair.id or 0, person, sided if verdict in ("a", "b") else verdict, replace=True)


def send_back(engine: sa.Engine, margins: dict[int, float], **more: Any) -> list[Pair]:
    """The second looks that come of these margins, the first one asked for first."""
    with writing(engine) as session:
        return teams.send_back(session, margins, **more)


def judged_otherwise_by_ben(engine: sa.Engine, pair: Pair, people: list[int]) -> None:
    """Ada, who judged it, is not there any more: its second look goes to Ben, who sees it the other way round."""
    with writing(engine) as session:
        deactivate_annotator(session=session, name="Ada")
    (look,) = send_back(engine, {pair.id or 0: -1.0})
    choose(engine, look, people[1], "a")


@pytest.fixture
def judged(engine: sa.Engine, make_round: Any, people: list[int]) -> tuple[Round, list[Pair]]:
    """A round of 12 pairs; Ada chose `a` in the first eight, the others are open."""
    opened, pairs = make_round(engine, pairs=12)
    for pair in pairs[:8]:
        choose(engine, pair, people[0], "a")
    return opened, pairs


def ids(pairs: Sequence[Pair]) -> list[int]:
    return [pair.id or 0 for pair in pairs]


def test_the_most_unlikely_come_back_and_only_those_below_zero(
    engine: sa.Engine, judged: tuple[Round, list[Pair]], people: list[int]
) -> None:
    opened, pairs = judged
    numbers = ids(pairs)
    margins = dict(zip(numbers, [0.4, -0.1, -2.0, 0.0, -0.7, -0.3, 1.0, -0.05], strict=False))
    looks = send_back(engine, margins, count=3)
    assert [look.repeats for look in looks] == [numbers[2], numbers[4], numbers[5]]
    assert {look.asked_of for look in looks} == {people[0]}
    assert {(look.purpose, look.wanted, look.open_slots, look.round_id) for look in looks} == {
        ("repeat", 1, 1, opened.id)
    }
    assert {look.position for look in looks} <= {pair.position for pair in pairs[8:]}  # among what is still asked
    more = send_back(engine, margins, count=9)
    assert [look.repeats for look in more] == [numbers[1], numbers[7]]  # none twice, and none that is likely


def test_where_nothing_is_asked_any_more_they_stand_among_the_duels_to_come(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    opened, _ = make_round(engine, pairs=4)
    go_through(engine, opened.id, people[0], QueueRules())
    with reading(engine) as session:
        said = {each.pair_id: each.verdict for each in session.exec(select(Comparison))}
    looks = send_back(engine, dict.fromkeys(said, -1.0), sides=said)
    assert len(looks) == 4 and all(4 <= look.position <= 9 for look in looks)


def test_the_sides_are_swapped_and_nothing_tells_them_apart(
    engine: sa.Engine, judged: tuple[Round, list[Pair]], people: list[int]
) -> None:
    opened, pairs = judged
    looks = {look.id: look for look in send_back(engine, dict.fromkeys(ids(pairs[:3]), -1.0))}
    served = []
    for number in range(7):
        shown = serve(engine, opened.id, people[0])
        assert shown is not None and shown.round_id == opened.id and shown.slate_id is None
        assert serve(engine, opened.id, people[0]) == shown  # a reload shows the same
        if shown.pair_id in looks:
            with reading(engine) as session:
                first = shown_pair(session=session, pair_id=looks[shown.pair_id].repeats, annotator_id=people[0])
            assert (first.left, first.right, first.messages) == (shown.right, shown.left, shown.messages)
        said = answer(engine, shown.pair_id, people[0])
        with writing(engine) as session:
            assert last_verdict(session=session, annotator_id=people[0], round_id=opened.id) == (said.id, said.pair_id)
            assert work_done(session=session, round_id=opened.id, annotator_id=people[0]).mine == 9 + number
            undo_last(session=session, annotator_id=people[0], round_id=opened.id)
        assert serve(engine, opened.id, people[0]) == shown
        answer(engine, shown.pair_id, people[0])
        served.append(shown.pair_id)
    assert set(looks) < set(served) and serve(engine, opened.id, people[0]) is None


def test_they_are_asked_of_nobody_else(engine: sa.Engine, judged: tuple[Round, list[Pair]], people: list[int]) -> None:
    opened, pairs = judged
    send_back(engine, dict.fromkeys(ids(pairs[:8]), -1.0), count=8)
    with writing(engine) as session:
        shown = pair_ahead(session=session, round_id=opened.id, annotator_id=people[1], shown=0)
    assert shown is None or shown.pair_id in ids(pairs[8:])
    assert {pair.purpose for pair in go_through(engine, opened.id, people[1], QueueRules())} == {"train"}


def test_they_count_nowhere_and_are_trained_on_never(
    engine: sa.Engine, judged: tuple[Round, list[Pair]], people: list[int]
) -> None:
    opened, pairs = judged
    with reading(engine) as session:
        before = count_queue(session=session, round_id=opened.id)
    looks = send_back(engine, dict.fromkeys(ids(pairs[:3]), -1.0))
    with reading(engine) as session:
        assert count_queue(session=session, round_id=opened.id) == before
        heads = [pair.id for pair, _ in first_in_queue(session=session, round_id=opened.id, limit=20)]
        assert heads == open_pairs_about(session=session, round_id=opened.id, words="question") == ids(pairs[8:])
    for look in looks:
        choose(engine, look, people[0], "b")
    with reading(engine) as session:
        assert count_round(session=session, round_id=opened.id)["total"] == 8
        assert count_comparisons(session=session)["comparisons"] == 8
        assert count_pairs(session=session, round_id=opened.id) == {"pairs": 12, "duels": 0, "open": 4}
        poll = poll_comparisons(session=session, filter=SnapshotFilter())
    assert len(poll.preferences) == 8 and poll.dropped["not_trained_on"] == 3
    assert {each.annotators for each in poll.preferences} == {1}


def test_somebody_else_is_asked_where_the_first_is_gone_or_was_asked_again_already(
    engine: sa.Engine, judged: tuple[Round, list[Pair]], people: list[int]
) -> None:
    opened, pairs = judged
    ada, ben, cleo = people
    with writing(engine) as session:
        _add_repeat(session, session.get_one(Pair, pairs[0].id), ada)
    choose(engine, pairs[8], ben, "a")
    with writing(engine) as session:
        deactivate_annotator(session=session, name="Ben")
    looks = send_back(engine, {pairs[0].id or 0: -2.0, pairs[8].id or 0: -1.0})
    assert [look.asked_of for look in looks] == [None, None]
    of_ada, of_ben = looks
    assert of_ada.id not in ids(go_through(engine, opened.id, ada, QueueRules()))  # it was she who judged it
    with reading(engine) as session:
        assert [
            each.annotator_id for each in session.exec(select(Comparison).where(Comparison.pair_id == of_ben.id))
        ] == [ada]
    shown = serve(engine, opened.id, cleo)
    assert shown is not None and shown.pair_id == of_ada.id
    answer(engine, of_ada.id or 0, cleo)
    assert serve(engine, opened.id, cleo) is None  # what Ada answered wants nothing more


def test_one_that_is_anybodys_gets_one_answer(
    engine: sa.Engine, judged: tuple[Round, list[Pair]], people: list[int]
) -> None:
    opened, pairs = judged
    _, ben, cleo = people
    with writing(engine) as session:
        deactivate_annotator(session=session, name="Ada")
    (look,) = send_back(engine, {pairs[0].id or 0: -1.0})
    with writing(engine) as session:
        session.get_one(Pair, look.id).position = -1
    first, second = (serve(engine, opened.id, person) for person in (ben, cleo))
    assert first is not None and second is not None and first.pair_id == look.id != second.pair_id
    with pytest.raises(PairChangedError):  # it is on Ben's screen
        answer(engine, look.id or 0, cleo)
    answer(engine, look.id or 0, ben)
    with pytest.raises(PairChangedError):
        answer(engine, look.id or 0, cleo)


def test_who_may_not_be_asked_is_not(engine: sa.Engine, judged: tuple[Round, list[Pair]], people: list[int]) -> None:
    opened, pairs = judged
    with writing(engine) as session:
        for name in ("Ben", "Cleo"):
            deactivate_annotator(session=session, name=name)
        _add_repeat(session, session.get_one(Pair, pairs[0].id), people[0])
    with writing(engine) as session:
        adjudicate(session=session, pair_id=pairs[1].id or 0, annotator_id=people[0], choice="tie")
        undo_last(session=session, annotator_id=people[0], round_id=opened.id)
    margins = dict.fromkeys(ids(pairs[:8]), -1.0)
    looks = send_back(engine, margins, count=20, sides={pairs[2].id or 0: "b"})
    # Not what she repeated, for there is nobody else; not what was decided, nor taken back, nor what nobody said.
    assert [look.repeats for look in looks] == ids(pairs[3:7])


def test_those_that_nobody_answered_go_along(
    engine: sa.Engine, judged: tuple[Round, list[Pair]], make_round: Any, people: list[int]
) -> None:
    opened, pairs = judged
    looks = send_back(engine, dict.fromkeys(ids(pairs[:3]), -1.0))
    choose(engine, looks[0], people[0], "a")
    with writing(engine) as session:
        session.get_one(Round, opened.id).status = RoundStatus.DONE
        deactivate_annotator(session=session, name="Ada")
    later, _ = make_round(engine, pairs=5)
    with writing(engine) as session:
        assert move_open_looks(session=session, round_id=later.id, places=5, seed=3) == 2
        moved = [session.get_one(Pair, look.id) for look in looks]
    assert [look.round_id for look in moved] == [opened.id, later.id, later.id]
    assert [look.asked_of for look in moved] == [people[0], None, None]
    assert sum(pair.purpose == "repeat" for pair in go_through(engine, later.id, people[1], QueueRules())) == 2


def test_which_are_examined(engine: sa.Engine, judged: tuple[Round, list[Pair]], people: list[int]) -> None:
    _opened, pairs = judged
    numbers = ids(pairs[:8])
    with writing(engine) as session:
        adjudicate(session=session, pair_id=numbers[0], annotator_id=people[0], choice="tie")
    send_back(engine, {numbers[1]: -1.0, numbers[2]: 1.0, numbers[3]: 1.0})

    def examined(most: int, seed: str = "x") -> list[int]:
        with reading(engine) as session:
            return pairs_to_examine(session=session, pair_ids=numbers, most=most, seed=seed)

    assert set(examined(100)) == set(numbers[2:])  # not what was decided, nor what was sent back
    assert set(examined(4)) == set(numbers[4:])  # first those that no checkpoint was asked about
    assert examined(3) == examined(4)[:3]
    assert len({tuple(examined(4, f"{seed}")) for seed in range(9)}) > 1


def test_what_was_overturned(engine: sa.Engine, judged: tuple[Round, list[Pair]], people: list[int]) -> None:
    _opened, pairs = judged
    numbers = ids(pairs)
    looks = send_back(engine, dict(zip(numbers, [-5.0, -4.0, -3.0, -2.0, -1.0, -0.5], strict=False)), count=6)
    send_back(engine, dict.fromkeys(numbers[:8], 1.0))  # a later training thinks otherwise: that is not shown
    for look, verdict in zip(looks, ["a", "b", "tie", "skip", "b"], strict=False):
        choose(engine, look, people[0], verdict)  # "b" of a repeat is "a" of its original
    with reading(engine) as session:
        found = read_second_looks(session=session)
        doubtful = {pair.pair_id: pair.why for pair in list_doubtful(session=session)}
        again = said_about(session=session, pair_id=numbers[0])
    assert (found.asked, found.overturned.count, found.overturned_count) == (6, 4, 2)
    assert [(look.pair_id, look.first, look.second, look.margin) for look in found.looks] == [
        (numbers[0], "a", "b", -5.0),
        (numbers[1], "a", "a", -4.0),
        (numbers[2], "a", "tie", -3.0),
        (numbers[4], "a", "a", -1.0),
    ]
    assert found.looks[0].texts == ("answer 1.0a", "answer 1.0b") and found.looks[0].prompt == "question 1.0"
    assert found.overturned.value == found.by_same.value == 0.5
    assert found.at_random.value is None and found.more is None
    assert "overturned" in doubtful[numbers[0]] and "overturned" in doubtful[numbers[2]]
    assert "overturned" not in doubtful.get(numbers[1], ())
    assert [(one.verdict, one.repeated) for one in again] == [("a", False), ("b", True)]
    with writing(engine) as session:  # the second verdict is let stand
        mine = left_side(side_seed=pairs[0].side_seed, annotator_id=people[1])
        adjudicate(
            session=session, pair_id=numbers[0], annotator_id=people[1], choice="left" if mine == "b" else "right"
        )
    with reading(engine) as session:
        poll = poll_comparisons(session=session, filter=SnapshotFilter())
        assert numbers[0] not in {pair.pair_id for pair in list_doubtful(session=session)}
    assert [each.chosen for each in poll.preferences if each.adjudicated] == ["answer 1.0b"]


def test_what_somebody_else_said_is_no_change_of_mind(
    engine: sa.Engine, judged: tuple[Round, list[Pair]], people: list[int]
) -> None:
    opened, pairs = judged
    judged_otherwise_by_ben(engine, pairs[0], people)
    with reading(engine) as session:
        found = read_second_looks(session=session)
        assert (found.overturned.value, found.by_same.value, found.looks[0].by_same) == (1.0, None, False)
    with writing(engine) as session:
        retract_annotator(session=session, name="Ben")
    with reading(engine) as session:
        assert read_second_looks(session=session).looks == []
    assert serve(engine, opened.id, people[2]) is not None  # it is asked again


def test_what_was_thought_of_training_pairs_judges_nothing(engine: sa.Engine, judged: tuple[Round, list[Pair]]) -> None:
    _opened, pairs = judged
    send_back(engine, {pairs[0].id or 0: -1.0})
    with reading(engine) as session:
        assert judging_run(session=session, checkpoint_id=base_checkpoint(session=session).id or 0) is None


def test_planted_flips_are_found_by_second_looks_and_do_not_bias_the_yardstick(
    engine: sa.Engine, make_round: Any, people: list[int]
) -> None:
    """Somebody presses the wrong one in 15 of 100; a policy that knows the truth, with noise, doubts those verdicts."""
    flip, draw = 0.15, Random(5)
    _opened, pairs = make_round(engine, pairs=400)
    ada, wrong = people[0], {}

    def judge_pair(pair: Pair, truth: str) -> bool:
        slips = draw.random() < flip
        choose(engine, pair, ada, ("b" if truth == "a" else "a") if slips else truth)
        return slips

    for pair in pairs:
        wrong[pair.id] = judge_pair(pair, "a")
    with writing(engine) as session:
        repeats = [
            session.get_one(Pair, _add_repeat(session, session.get_one(Pair, pair.id), ada))
            for pair in draw.sample(pairs, 120)
        ]
    for repeat in repeats:
        judge_pair(repeat, "b")
    with reading(engine) as session:
        before = read_quality(session=session).habits.consistency
    margins = {pair.id or 0: draw.gauss(-1 if wrong[pair.id] else 1, 1) for pair in pairs}
    sides = {pair.id or 0: "b" if wrong[pair.id] else "a" for pair in pairs}
    looks = send_back(engine, margins, count=40, sides=sides)
    assert len(looks) == 40
    for look in looks:
        judge_pair(look, "b")
    with reading(engine) as session:
        found = read_second_looks(session=session)
        after = read_quality(session=session).habits.consistency
    assert after == before and before.count == 120
    assert found.at_random.count == 120 and found.at_random.value == pytest.approx(1 - (before.value or 0))
    low, high = found.at_random.interval or (0, 0)
    assert low < 2 * flip * (1 - flip) < high  # two draws differ where one of them slips
    assert found.overturned.count >= 35 and (found.by_same.value or 0) > 0.5
    assert found.more is not None and found.more[0] > 0.2


def test_what_was_not_said_any_more_was_not_overturned(
    engine: sa.Engine, judged: tuple[Round, list[Pair]], people: list[int]
) -> None:
    """Ada thinks again before her second looks of two pairs come; of one she says so only after it."""
    _, pairs = judged
    looks = send_back(engine, dict(zip(ids(pairs[:3]), (-3.0, -2.0, -1.0), strict=True)))
    choose(engine, pairs[0], people[0], "b")
    choose(engine, pairs[1], people[0], "b")
    for look, verdict in zip(looks, "aab", strict=True):  # in the look's own terms: its sides are the other way round
        choose(engine, look, people[0], verdict)
    choose(engine, pairs[2], people[0], "b")
    with reading(engine) as session:
        found = read_second_looks(session=session)
    assert [(look.pair_id, look.overturned) for look in found.looks] == [(pairs[2].id, False)]
    with reading(engine) as session:
        assert {each.pair_id for each in list_doubtful(session=session)}.isdisjoint(ids(pairs[:2]))


def test_what_a_retracted_person_had_said_was_not_overturned(
    engine: sa.Engine, judged: tuple[Round, list[Pair]], people: list[int]
) -> None:
    _, pairs = judged
    judged_otherwise_by_ben(engine, pairs[0], people)
    with reading(engine) as session:
        assert read_second_looks(session=session).overturned_count == 1
    with writing(engine) as session:
        retract_annotator(session=session, name="Ada")
    with reading(engine) as session:
        assert read_second_looks(session=session).looks == []
