"""Rewrites: a preference over the original, with whose it is and what it betters."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import col, select

from store.annotators import count_by_annotator
from store.comparisons import count_annotator, count_round, last_comparison_id, record_comparison
from store.database import reading, writing
from store.errors import StoreError
from store.models import Comparison, Completion, Pair
from store.pairs import next_pair, shown_pair
from store.preferences import SnapshotFilter, poll_comparisons
from store.rewrites import record_rewrite, withdraw_rewrites


def rewrite(engine: sa.Engine, pair_id: int, annotator_id: int, side: str, text: str) -> Pair | None:
    with writing(engine) as session:
        return record_rewrite(session=session, pair_id=pair_id, annotator_id=annotator_id, side=side, text=text)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_rewrite_is_preferred_over_what_it_betters(
    engine: sa.Engine, make_round: Any, people: list[int], side: str
) -> None:
    opened, pairs = make_round(engine, pairs=4)
    with writing(engine) as session:
        seen = shown_pair(session=session, pair_id=pairs[0].id, annotator_id=people[0])
        record_comparison(session=session, pair_id=pairs[0].id, annotator_id=people[0], choice="tie")
    rewrite(engine, pairs[0].id, people[0], side, "My own words.")
    with reading(engine) as session:
        kept = poll_comparisons(session=session, filter=SnapshotFilter()).preferences
        counted = count_round(session=session, round_id=opened.id)["done"]
        mine = count_annotator(session=session, round_id=opened.id, annotator_id=people[0])
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
    rewrite(engine, pairs[0].id, people[0], "left", "My own words.")
    with writing(engine) as session:
        assert next_pair(session=session, round_id=opened.id, annotator_id=people[1]) is None
        assert last_comparison_id(session=session, annotator_id=people[0], round_id=opened.id) == first.id


def test_what_was_not_changed_is_no_rewrite(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine, pairs=1)
    with reading(engine) as session:
        left = shown_pair(session=session, pair_id=pairs[0].id, annotator_id=people[0]).left
    assert rewrite(engine, pairs[0].id, people[0], "left", f" {left}\n") is None
    with pytest.raises(StoreError, match="needs some text"):
        rewrite(engine, pairs[0].id, people[0], "left", "  ")


def test_two_who_write_the_same_agree(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine, pairs=1)
    with reading(engine) as session:
        sides = {}
        for who in people[:2]:
            seen = shown_pair(session=session, pair_id=pairs[0].id, annotator_id=who)
            sides[who] = "left" if seen.left_side == "a" else "right"
    made = [rewrite(engine, pairs[0].id, who, side, "The same words.") for who, side in sides.items()]
    assert made[0] is not None and made[1] is not None and made[0].id == made[1].id
    with reading(engine) as session:
        kept = poll_comparisons(session=session, filter=SnapshotFilter()).preferences
    assert [(row.annotators, row.agreement) for row in kept] == [(2, 1.0)]


def test_a_rewrite_can_be_taken_back_and_its_text_stays(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    _, pairs = make_round(engine, pairs=1)
    rewrite(engine, pairs[0].id, people[0], "left", "My own words.")
    with writing(engine) as session:
        withdraw_rewrites(session=session, pair_id=pairs[0].id, annotator_id=people[0])
    with reading(engine) as session:
        assert poll_comparisons(session=session, filter=SnapshotFilter()).preferences == []
        assert session.exec(select(Completion).where(Completion.text == "My own words.")).one()
    rewrite(engine, pairs[0].id, people[0], "left", "My own words.")
    with reading(engine) as session:
        standing = session.exec(select(Comparison).where(col(Comparison.superseded_at).is_(None))).all()
    assert len(standing) == 1
