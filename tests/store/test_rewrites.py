"""Rewrites: a preference over the original, with whose it is and what it betters."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import col, select

from store.annotators import count_by_annotator
from store.comparisons import count_round, last_verdict, record_comparison
from store.database import reading, writing
from store.models import Comparison, Completion, Pair
from store.pairs import next_pair, shown_pair
from store.preferences import poll_comparisons
from store.rewrites import replace_rewrites, standing_rewrites
from store.round_work import work_done
from store.snapshot_filter import SnapshotFilter


def rewrite(engine: sa.Engine, pair_id: int, annotator_id: int, **texts: str) -> dict[str, str]:
    """Let these be the rewrites, by side; returns what stands then."""
    who = {"pair_id": pair_id, "annotator_id": annotator_id}
    with writing(engine) as session:
        replace_rewrites(session=session, **who, texts=texts)
        return standing_rewrites(session=session, **who)


def preferred(engine: sa.Engine) -> list[tuple[str, str]]:
    with reading(engine) as session:
        kept = poll_comparisons(session=session, filter=SnapshotFilter()).preferences
    return [(row.chosen, row.rejected) for row in kept]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_rewrite_is_preferred_over_what_it_betters(
    engine: sa.Engine, make_round: Any, people: list[int], side: str
) -> None:
    opened, pairs = make_round(engine, pairs=4)
    with writing(engine) as session:
        seen = shown_pair(session=session, pair_id=pairs[0].id, annotator_id=people[0])
        record_comparison(session=session, pair_id=pairs[0].id, annotator_id=people[0], choice="tie")
    rewrite(engine, pairs[0].id, people[0], **{side: "My own words."})
    with reading(engine) as session:
        kept = poll_comparisons(session=session, filter=SnapshotFilter()).preferences
        counted = count_round(session=session, round_id=opened.id)["done"]
        mine = work_done(session=session, round_id=opened.id, annotator_id=people[0]).mine
        assert count_by_annotator(session=session) == {people[0]: 1}
        written = session.exec(select(Completion).where(Completion.text == "My own words.")).one()
        original = session.get_one(Completion, written.rewrite_of)
    assert [(row.chosen, row.rejected, row.chosen_source, row.purpose) for row in kept] == [
        ("My own words.", getattr(seen, side), "rewrite", "rewrite")
    ]
    assert (counted, mine) == (1, 1), "a rewrite is no comparison that the round asked for"
    assert (written.annotator_id, original.text) == (people[0], getattr(seen, side))


def test_nobody_is_asked_about_a_rewrite(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, pairs = make_round(engine, pairs=1)
    with writing(engine) as session:
        first = record_comparison(session=session, pair_id=pairs[0].id, annotator_id=people[0], choice="tie")
    rewrite(engine, pairs[0].id, people[0], left="My own words.")
    with writing(engine) as session:
        assert next_pair(session=session, round_id=opened.id, annotator_id=people[1]) is None
        assert last_verdict(session=session, annotator_id=people[0], round_id=opened.id) == (first.id, first.pair_id)


def test_what_is_on_screen_already_is_no_rewrite(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine, pairs=1)
    with reading(engine) as session:
        seen = shown_pair(session=session, pair_id=pairs[0].id, annotator_id=people[0])
    assert rewrite(engine, pairs[0].id, people[0], left=f" {seen.left}\n", right="  ") == {}
    assert rewrite(engine, pairs[0].id, people[0], left=seen.right) == {}, "it would be a second vote"
    assert preferred(engine) == []


def test_two_who_write_the_same_agree(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine, pairs=1)
    for who in people[:2]:
        with reading(engine) as session:
            seen = shown_pair(session=session, pair_id=pairs[0].id, annotator_id=who)
        rewrite(engine, pairs[0].id, who, **{"left" if seen.left_side == "a" else "right": "The same words."})
    with reading(engine) as session:
        kept = poll_comparisons(session=session, filter=SnapshotFilter()).preferences
    assert [(row.annotators, row.agreement) for row in kept] == [(2, 1.0)]


def test_only_what_was_changed_is_superseded(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine, pairs=1)
    both = {"left": "Better left.", "right": "Better right."}
    assert rewrite(engine, pairs[0].id, people[0], **both) == both
    changed = {"left": "Better left.", "right": "Best right."}
    assert rewrite(engine, pairs[0].id, people[0], **changed) == changed
    with reading(engine) as session:
        rows = session.exec(select(Comparison).order_by(col(Comparison.id))).all()
    assert [row.superseded_at is None for row in rows] == [True, False, True]
    assert rewrite(engine, pairs[0].id, people[0]) == {} and preferred(engine) == []
    with reading(engine) as session:
        assert session.exec(select(Completion).where(Completion.text == "Best right.")).one(), "the text stays"


@pytest.mark.parametrize("purpose", ["gold", "repeat"])
def test_nothing_is_trained_on_where_people_are_measured(
    engine: sa.Engine, make_round: Any, people: list[int], purpose: str
) -> None:
    _, pairs = make_round(engine, pairs=1)
    with writing(engine) as session:
        session.get_one(Pair, pairs[0].id).purpose = purpose
    assert rewrite(engine, pairs[0].id, people[0], left="My own words.") == {}
    assert preferred(engine) == []
    with reading(engine) as session:
        assert (
            session.exec(select(Completion).where(Completion.text == "My own words.")).one().annotator_id == people[0]
        )
