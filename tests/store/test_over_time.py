"""What was chosen and how far annotators agreed, day by day and week by week, against figures worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from store.annotators import retract_annotator
from store.comparisons import Choice
from store.database import reading, writing
from store.intervals import wilson
from store.models import Comparison, Pair
from store.over_time import read_agreement, read_choices
from store.searching import Search
from tests.conftest import MakeRound
from tests.store.test_rankings import make_slates, rank
from tests.store.test_searching import say

MONDAY = datetime(2026, 3, 2, 23, tzinfo=UTC)
DAY = timedelta(days=1)
LEFT, RIGHT, TIE, BOTH_BAD, SKIP = Choice.LEFT, Choice.RIGHT, Choice.TIE, Choice.BOTH_BAD, Choice.SKIP


@pytest.fixture
def judged(engine: sa.Engine, make_round: MakeRound, people: list[int]) -> list[Pair]:
    """Four pairs. Ada on Monday, Ben on Tuesday on the first three, Cleo on Wednesday on the first alone.

    On the first pair all prefer a; on the second Ada says tie, Ben both bad; on the third Ada prefers a, Ben skips.
    """
    _, pairs = make_round(engine, pairs=4, wanted=3)
    ada, ben, cleo = people
    said = [
        (0, ada, "a", 0), (1, ada, TIE, 0), (2, ada, "a", 0), (3, ada, SKIP, 0),
        (0, ben, "a", 1), (1, ben, BOTH_BAD, 1), (2, ben, SKIP, 1),
        (0, cleo, "a", 2),
    ]  # fmt: skip
    with writing(engine) as session:
        for place, who, choice, day in said:
            entry = say(session, pairs[place].id, who, LEFT if choice == "a" else choice, MONDAY + day * DAY)
            if choice == "a":  # whichever side it stood on for them
                entry.verdict = "a"
                session.add(entry)
    return pairs


def sides(engine: sa.Engine) -> list[bool]:
    """Whether each a that was chosen stood left, in order."""
    with reading(engine) as session:
        return [
            said.left_side == "a" for said in session.scalars(sa.select(Comparison).where(Comparison.verdict == "a"))
        ]


def test_choices_day_by_day(engine: sa.Engine, judged: list[Pair]) -> None:
    with reading(engine) as session:
        unit, rows = read_choices(session=session, search=Search())
    assert unit == "day"
    assert [row.moment for row in rows] == [MONDAY.replace(hour=0) + day * DAY for day in range(3)]
    assert [(row.tie, row.both_bad, row.skip) for row in rows] == [(1, 0, 1), (0, 1, 1), (0, 0, 0)]
    first, third, second, last = sides(engine)
    lefts = [first + third, int(second), int(last)]
    assert [row.left for row in rows] == lefts
    assert [row.left + row.right for row in rows] == [2, 1, 1]
    assert [row.left_share.count for row in rows] == [2, 1, 1]
    assert rows[0].left_share.value == lefts[0] / 2


def test_agreement_is_dated_by_the_later_verdict(engine: sa.Engine, judged: list[Pair]) -> None:
    """Tuesday: of the two pairs Ada and Ben both judged they agree on one. Wednesday: Cleo agrees with both of them."""
    with reading(engine) as session:
        unit, rows = read_agreement(session=session, search=Search())
        alone = read_agreement(session=session, search=Search(annotator_ids=(1,)))
        of_two = read_agreement(session=session, search=Search(annotator_ids=(1, 3)))[1]
    assert unit == "day" and alone == ("day", [])
    assert [(row.moment.day, row.share.value, row.share.count) for row in rows] == [(3, 0.5, 2), (4, 1.0, 2)]
    assert rows[0].share.interval == pytest.approx(wilson(0.5, 2))
    assert rows[1].share.interval == pytest.approx(wilson(1.0, 1)), "two verdicts on one prompt are worth one"
    assert [(row.moment.day, row.share.value, row.share.count) for row in of_two] == [(4, 1.0, 1)]


def test_a_long_time_is_told_by_weeks_that_begin_on_monday(engine: sa.Engine, judged: list[Pair]) -> None:
    late = MONDAY + 62 * DAY  # a Sunday
    with writing(engine) as session:
        session.execute(sa.update(Comparison).where(Comparison.id == 8).values(created_at=late))
    with reading(engine) as session:
        unit, rows = read_choices(session=session, search=Search())
        agreed = read_agreement(session=session, search=Search())
    assert (unit, [row.moment for row in rows]) == (
        "week",
        [MONDAY.replace(hour=0), late.replace(hour=0) - 6 * DAY],
    )
    assert [row.moment.weekday() for row in rows] == [0, 0]
    assert agreed[0] == "day" or [row.moment.weekday() for row in agreed[1]] == [0, 0]


def test_choices_are_those_between_two_sides_and_none_of_rankings(engine: sa.Engine, people: list[int]) -> None:
    skipped, ranked, _ = make_slates(engine, slates=3, size=4)
    rank(engine, ranked, people[0], [[0], [1], [2, 3]])  # five decided, one tie
    rank(engine, skipped, people[0], outcome="skip")
    rank(engine, skipped, people[1], outcome="all_bad")
    with reading(engine) as session:
        unit, rows = read_choices(session=session, search=Search())
        assert (unit, list(rows)) == ("day", [])


def test_what_retracted_people_said_is_left_out(engine: sa.Engine, judged: list[Pair]) -> None:
    with writing(engine) as session:
        retract_annotator(session=session, name="Ben")
    with reading(engine) as session:
        _, rows = read_agreement(session=session, search=Search())
        assert [(row.share.value, row.share.count) for row in rows] == [(1.0, 1)]
        assert read_agreement(session=session, search=Search(text="nowhere")) == ("day", [])
        assert read_choices(session=session, search=Search(text="nowhere")) == ("day", [])
