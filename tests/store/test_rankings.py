"""Rankings: written with the comparisons they come to, as a whole or not at all; superseded, never deleted."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import col, select

from store.adjudication import adjudicate, list_doubtful, take_back_decision
from store.annotators import deactivate_annotator, get_or_add_annotator, retract_annotator
from store.checkpoints import add_checkpoint
from store.comparisons import (
    comparisons_since,
    count_round,
    last_verdict,
    record_comparison,
    undo_comparison,
)
from store.database import open_database, reading, writing
from store.errors import PairChangedError, StoreError, UnknownRecordError
from store.exporting import export_snapshot
from store.lineage import trace_comparison
from store.measuring import _long_ago
from store.models import Comparison, Completion, Pair, Round, Verdict, now
from store.pairs import NewCompletion, add_completion, add_pair, count_pairs, left_side, next_pair
from store.preferences import poll_comparisons
from store.priorities import ask_again, count_queue, open_pairs_about, put_first
from store.quality import read_quality
from store.queue_rules import QueueRules
from store.ranking_tables import Ranking, Slate
from store.rankings import current_ranking, positions_of, record_ranking, verdict_between
from store.round_work import work_done
from store.searching import Search, write_csv
from store.slates import add_slate, comparisons_in, shown_order, shown_slate, slate_pairs
from store.snapshot_filter import SnapshotFilter
from store.snapshots import cut_snapshot, read_snapshot
from tests.store.asking import add_prompt
from tests.store.undoing import undo_last

Tiers = list[list[int]]


def make_slates(engine: sa.Engine, *, slates: int = 2, size: int = 4, wanted: int = 1) -> list[int]:
    """A round with so many slates; their numbers, in the queue's order. Text 0 of each is the best."""
    with writing(engine) as session:
        base = add_checkpoint(session=session, name="base", path="checkpoints/base")
        opened = Round(number=1, checkpoint_id=base.id, target=slates * wanted, status="comparing")
        session.add(opened)
        session.flush()
        return [_slate(session, opened.id, base.id, number, size, wanted) for number in range(slates)]


def _slate(session: Any, round_id: int, checkpoint_id: int, number: int, size: int, wanted: int) -> int:
    prompt = add_prompt(session, f"question {number}")
    texts = [
        add_completion(
            session=session,
            prompt_id=prompt.id,
            new=NewCompletion(text=f"answer {number}.{each}"),
            checkpoint_id=checkpoint_id,
        )
        for each in range(size)
    ]
    slate = add_slate(
        session=session, prompt_id=prompt.id, completions=texts, round_id=round_id, position=number, wanted=wanted
    )
    return slate.id


def rank(engine: sa.Engine, slate_id: int, person: int, tiers: Sequence[Sequence[int]] = (), **more: Any) -> Ranking:
    with writing(engine) as session:
        return record_ranking(session=session, slate_id=slate_id, annotator_id=person, tiers=tiers, **more)


def rank_truly(engine: sa.Engine, slate_id: int, person: int) -> Ranking:
    """The slate's own order, text 0 first, whatever the screen shows."""
    with reading(engine) as session:
        texts = shown_slate(session=session, slate_id=slate_id, annotator_id=person).texts
    return rank(engine, slate_id, person, [[texts.index(text)] for text in sorted(texts)])


def rows(engine: sa.Engine) -> list[Comparison]:
    with reading(engine) as session:
        return list(session.exec(select(Comparison).order_by(col(Comparison.id))))


def standing(engine: sa.Engine) -> list[Comparison]:
    return [row for row in rows(engine) if row.superseded_at is None]


def open_pairs(engine: sa.Engine) -> list[tuple[int, int]]:
    with reading(engine) as session:
        return [(pair.id, pair.open_slots) for pair in session.exec(select(Pair)) if pair.open_slots]


def serve(engine: sa.Engine, person: int, **rules: Any) -> Any:
    with writing(engine) as session:
        return next_pair(session=session, round_id=1, annotator_id=person, rules=QueueRules(**rules))


@st.composite
def any_tiers(draw: st.DrawFn) -> tuple[int, Tiers]:
    """A size, and its positions put into tiers in any way."""
    size = draw(st.integers(3, 6))
    order = draw(st.permutations(range(size)))
    cuts = draw(st.sets(st.integers(1, size - 1)))
    edges = [0, *sorted(cuts), size]
    return size, [list(order[start:end]) for start, end in pairwise(edges)]


# --- what a ranking comes to ------------------------------------------------------------------------------------------


@given(any_tiers())
def test_any_tiers_come_to_verdicts_that_agree_with_each_other(given_tiers: tuple[int, Tiers]) -> None:
    size, tiers = given_tiers
    said = {both: verdict_between(tiers, *both) for both in permutations(range(size), 2)}
    mirrored = {Verdict.A: Verdict.B, Verdict.B: Verdict.A, Verdict.TIE: Verdict.TIE}
    assert all(said[one, other] == mirrored[said[other, one]] for one, other in said)
    for one, two, three in permutations(range(size), 3):  # at least as good, passed on
        if said[one, two] != Verdict.B and said[two, three] != Verdict.B:
            assert said[one, three] != Verdict.B
        if said[one, two] == said[two, three] == Verdict.TIE:
            assert said[one, three] == Verdict.TIE
    beaten = Counter(one for (one, _), verdict in said.items() if verdict == Verdict.A)
    below = {place: sum(len(tier) for tier in tiers[at + 1 :]) for at, tier in enumerate(tiers) for place in tier}
    assert below == {place: beaten[place] for place in range(size)}


@settings(max_examples=20)
@given(given_tiers=any_tiers(), person=st.integers(1, 3))
def test_any_ranking_is_written_as_it_was_seen(
    tmp_path_factory: pytest.TempPathFactory, blank_database: Path, given_tiers: tuple[int, Tiers], person: int
) -> None:
    size, tiers = given_tiers
    path = tmp_path_factory.mktemp("any") / "x.db"
    shutil.copy(blank_database, path)
    engine = open_database(f"sqlite:///{path}")
    with writing(engine) as session:
        for name in ("Ada", "Ben", "Cleo"):
            get_or_add_annotator(session=session, name=name)
    [slate_id] = make_slates(engine, slates=1, size=size)
    ranking = rank(engine, slate_id, person, tiers, seconds=12.5)
    with reading(engine) as session:
        texts = shown_slate(session=session, slate_id=slate_id, annotator_id=person).texts
        tier_of = {texts[position]: number for number, tier in enumerate(tiers) for position in tier}
        found = session.exec(select(Comparison)).all()
        assert len(found) == comparisons_in(size) == size * (size - 1) // 2
        for said in found:
            pair = session.get_one(Pair, said.pair_id)
            a, b = (
                tier_of[session.get_one(Completion, each).text] for each in (pair.completion_a_id, pair.completion_b_id)
            )
            assert said.verdict == ("tie" if a == b else "a" if a < b else "b")
            assert (said.ranking_id, said.seconds, said.left_side) == (ranking.id, None, None)
    assert positions_of(ranking) == [sorted(tier) for tier in tiers]
    assert (ranking.seconds, open_pairs(engine)) == (12.5, [])
    engine.dispose()


@pytest.mark.parametrize(("outcome", "verdict"), [("all_bad", "both_bad"), ("skip", "skip")])
def test_what_is_said_of_all_is_said_of_every_pair(
    engine: sa.Engine, people: list[int], outcome: str, verdict: str
) -> None:
    [slate_id, _] = make_slates(engine)
    ranking = rank(engine, slate_id, people[0], outcome=outcome, tags=["Cannot tell"] if outcome == "skip" else ())
    assert [row.verdict for row in rows(engine)] == [verdict] * 6
    assert ranking.tiers == [] and ranking.tags == (["Cannot tell"] if outcome == "skip" else [])
    assert (1 in dict(open_pairs(engine))) == (outcome == "skip")  # a skip is no answer


@pytest.mark.parametrize("tiers", [[], [[0], [1]], [[0, 1], [1, 2, 3]], [[0, 1, 2, 4]], [[0], [], [1, 2, 3]]])
def test_tiers_that_do_not_name_each_once_are_refused(engine: sa.Engine, people: list[int], tiers: Tiers) -> None:
    [slate_id, _] = make_slates(engine)
    with pytest.raises(StoreError, match="each of the 4 completions once"):
        rank(engine, slate_id, people[0], tiers)
    with pytest.raises(StoreError, match="ranked, all_bad, skip"):
        rank(engine, slate_id, people[0], tiers, outcome="perfect")
    with pytest.raises(UnknownRecordError):
        rank(engine, 99, people[0], tiers)
    assert rows(engine) == []


def test_a_slate_is_three_texts_or_more_all_different(engine: sa.Engine) -> None:
    make_slates(engine)
    with writing(engine) as session:
        texts = session.exec(select(Completion)).all()
        with pytest.raises(StoreError, match="two are a pair"):
            add_slate(session=session, prompt_id=1, completions=texts[:2], round_id=1)
        with pytest.raises(StoreError, match="different prompts"):
            add_slate(session=session, prompt_id=1, completions=[*texts[:2], texts[-1]], round_id=1)
        session.rollback()


def test_who_may_not_compare_ranks_nothing(engine: sa.Engine, people: list[int]) -> None:
    [slate_id, _] = make_slates(engine)
    with writing(engine) as session:
        deactivate_annotator(session=session, name="Ada")
    with pytest.raises(PairChangedError, match="not active"):
        rank_truly(engine, slate_id, people[0])
    assert rows(engine) == []


# --- once, and not twice ----------------------------------------------------------------------------------------------


def test_a_second_press_is_the_first_one(engine: sa.Engine, people: list[int]) -> None:
    [slate_id, _] = make_slates(engine)
    first = rank(engine, slate_id, people[0], [[0], [1], [2], [3]])
    second = rank(engine, slate_id, people[0], [[3], [2], [1], [0]])
    assert first.id == second.id and second.tiers == first.tiers
    assert len(rows(engine)) == 6


def test_two_tabs_at_once_write_one_ranking(engine: sa.Engine, people: list[int]) -> None:
    slates = make_slates(engine, slates=5)
    together = threading.Barrier(4)

    def press(slate_id: int, order: Sequence[int]) -> None:
        together.wait()
        rank(engine, slate_id, people[0], [[position] for position in order])

    for slate_id in slates:
        threads = [
            threading.Thread(target=press, args=(slate_id, order))
            for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(standing(engine)) == len(rows(engine)) == 30
    with reading(engine) as session:
        assert len(session.exec(select(Ranking)).all()) == 5


def test_the_database_itself_refuses_a_second_standing_ranking(engine: sa.Engine, people: list[int]) -> None:
    [slate_id, _] = make_slates(engine)
    rank_truly(engine, slate_id, people[0])
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
        session.add(Ranking(slate_id=slate_id, annotator_id=people[0], outcome="ranked"))


def test_nothing_is_written_where_one_of_the_pairs_fails(
    engine: sa.Engine, people: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    [slate_id, _] = make_slates(engine)
    monkeypatch.setattr("store.rankings.recount_open_slots", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rank_truly(engine, slate_id, people[0])
    with reading(engine) as session:
        assert session.exec(select(Ranking)).all() == [] and session.exec(select(Comparison)).all() == []


# --- undo, a change of mind, decisions --------------------------------------------------------------------------------


def test_undo_takes_the_whole_ranking_back_and_it_can_be_given_again(engine: sa.Engine, people: list[int]) -> None:
    [slate_id, other] = make_slates(engine)
    rank_truly(engine, slate_id, people[0])
    rank_truly(engine, other, people[0])
    with writing(engine) as session:
        undone = undo_last(session=session, annotator_id=people[0], round_id=1)
        again = undo_comparison(session=session, comparison_id=undone.id, annotator_id=people[0])
    assert undone.pair_id == 7 and again is None
    assert [row.superseded_at is None for row in rows(engine)] == [True] * 6 + [False] * 6
    assert open_pairs(engine) == [(7, 1)]
    assert serve(engine, people[0]).slate_id == other
    with reading(engine) as session:
        assert current_ranking(session=session, slate_id=other, annotator_id=people[0]) is None
        said = shown_slate(session=session, slate_id=other, annotator_id=people[0]).said
        texts = shown_slate(session=session, slate_id=other, annotator_id=people[0]).texts
    assert [texts[position] for [position] in said] == sorted(texts)  # what was said is shown again
    rank(engine, other, people[0], said)
    assert [row.verdict for row in standing(engine)] == ["a"] * 12
    assert len(rows(engine)) == 18 and open_pairs(engine) == []


def test_undo_of_any_of_its_comparisons_is_undo_of_all(engine: sa.Engine, people: list[int]) -> None:
    [slate_id, _] = make_slates(engine)
    rank_truly(engine, slate_id, people[0])
    with writing(engine) as session:
        undo_comparison(session=session, comparison_id=4, annotator_id=people[0])
    assert standing(engine) == [] and (1, 1) in open_pairs(engine)


def test_a_change_of_mind_supersedes_the_whole_and_deletes_nothing(engine: sa.Engine, people: list[int]) -> None:
    [slate_id, _] = make_slates(engine)
    first = rank(engine, slate_id, people[0], [[0], [1], [2], [3]])
    second = rank(engine, slate_id, people[0], [[3, 2, 1], [0]], replace=True)
    found = rows(engine)
    assert [row.ranking_id for row in found] == [first.id] * 6 + [second.id] * 6
    assert [row.superseded_at is None for row in found] == [False] * 6 + [True] * 6
    with reading(engine) as session:
        kept = session.get_one(Ranking, first.id)
        assert kept.superseded_at is not None and positions_of(kept) == [[0], [1], [2], [3]]


def test_a_decision_about_one_pair_stays_when_the_ranking_changes(engine: sa.Engine, people: list[int]) -> None:
    [slate_id, _] = make_slates(engine, wanted=2)
    rank_truly(engine, slate_id, people[0])
    with reading(engine) as session:
        texts = shown_slate(session=session, slate_id=slate_id, annotator_id=people[1]).texts
    rank(engine, slate_id, people[1], [[texts.index(text)] for text in sorted(texts, reverse=True)])
    with reading(engine) as session:
        assert {pair.pair_id for pair in list_doubtful(session=session)} == {1, 2, 3, 4, 5, 6}
    with writing(engine) as session:
        decided = adjudicate(session=session, pair_id=3, annotator_id=people[0], choice="tie")
    rank(engine, slate_id, people[0], [[0, 1, 2, 3]], replace=True)
    with reading(engine) as session:
        ranking = current_ranking(session=session, slate_id=slate_id, annotator_id=people[0])
    mine = [row for row in standing(engine) if row.annotator_id == people[0]]
    said = [row for row in mine if not row.adjudicates]
    assert [row.ranking_id for row in said] == [ranking.id] * 6  # beside the decision, and none of the earlier ranking
    assert [row.id for row in mine if row.adjudicates] == [decided.id]
    with writing(engine) as session:
        take_back_decision(session=session, comparison_id=decided.id, annotator_id=people[0])
    assert [row for row in standing(engine) if row.annotator_id == people[0]] == said


def test_a_decision_about_the_pair_that_stands_for_a_slate_leaves_the_slate_open(
    engine: sa.Engine, people: list[int]
) -> None:
    [slate_id] = make_slates(engine, slates=1, wanted=3)
    ranking = rank_truly(engine, slate_id, people[0])
    with writing(engine) as session:
        adjudicate(session=session, pair_id=1, annotator_id=people[0], choice="tie")
        assert last_verdict(session=session, annotator_id=people[0], round_id=1) == (1, 1)
    assert open_pairs(engine) == [(1, 2)]
    for person in people[1:]:
        assert serve(engine, person).slate_id == slate_id
        rank_truly(engine, slate_id, person)
    assert open_pairs(engine) == []
    with writing(engine) as session:
        undone = undo_last(session=session, annotator_id=people[0], round_id=1)
        assert undone.ranking_id == ranking.id
    assert open_pairs(engine) == [(1, 1)] and serve(engine, people[0]).slate_id == slate_id


def test_one_decision_does_not_keep_a_doubtful_slate_from_being_asked_again(
    engine: sa.Engine, people: list[int]
) -> None:
    [slate_id] = make_slates(engine, slates=1, size=3, wanted=2)
    with reading(engine) as session:
        texts = shown_slate(session=session, slate_id=slate_id, annotator_id=people[1]).texts
    rank_truly(engine, slate_id, people[0])
    rank(engine, slate_id, people[1], [[texts.index(text)] for text in sorted(texts, reverse=True)])
    with writing(engine) as session:
        adjudicate(session=session, pair_id=1, annotator_id=people[2], choice="tie")
        assert ask_again(session=session, round_id=1, below=0.9) == [1]
    assert open_pairs(engine) == [(1, 1)] and serve(engine, people[2]).slate_id == slate_id


# --- in the queue -----------------------------------------------------------------------------------------------------


def test_one_pair_stands_in_the_queue_for_the_slate(engine: sa.Engine, people: list[int]) -> None:
    slates = make_slates(engine, slates=2, size=4)
    assert open_pairs(engine) == [(1, 1), (7, 1)]
    with reading(engine) as session:
        assert count_pairs(session=session, round_id=1) == {"pairs": 12, "duels": 0, "open": 2}
        queue = count_queue(session=session, round_id=1)
        assert queue["slots"] == 12
        assert [pair.follows for pair in slate_pairs(session=session, slate_id=slates[1])] == [None, *[7] * 5]
    shown = [serve(engine, person) for person in people[:2]]
    assert [(each.pair_id, each.slate_id) for each in shown] == [(1, slates[0]), (7, slates[1])]
    assert serve(engine, people[2]) is None  # both are on somebody's screen
    assert serve(engine, people[0]).pair_id == 1  # a reload


def test_overlap_gives_a_slate_as_many_rankings_as_it_wants(engine: sa.Engine, people: list[int]) -> None:
    [slate_id] = make_slates(engine, slates=1, wanted=2)
    for person in people[:2]:
        assert serve(engine, person).slate_id == slate_id
    assert serve(engine, people[2]) is None
    for person in people[:2]:
        rank_truly(engine, slate_id, person)
    with pytest.raises(PairChangedError, match="for so long"):
        rank_truly(engine, slate_id, people[2])
    assert rank(engine, slate_id, people[2], outcome="skip").outcome == "skip"  # no answer, and wants no room
    with pytest.raises(PairChangedError, match="for so long"):
        rank(engine, slate_id, people[2], outcome="all_bad", replace=True)
    with reading(engine) as session:
        assert count_round(session=session, round_id=1)["done"] == 12
        poll = poll_comparisons(session=session, filter=SnapshotFilter())
    assert {(each.annotators, each.agreement) for each in poll.preferences} == {(2, 1.0)}


def test_annotators_at_once_are_never_given_more_than_is_wanted(engine: sa.Engine) -> None:
    make_slates(engine, slates=6, wanted=2)
    with writing(engine) as session:
        crowd = [get_or_add_annotator(session=session, name=f"person {number}").id for number in range(5)]

    def work(person: int) -> None:
        while (shown := serve(engine, person)) is not None:
            with writing(engine) as session:
                record_ranking(session=session, slate_id=shown.slate_id, annotator_id=person, tiers=[[2], [0, 1], [3]])

    threads = [threading.Thread(target=work, args=(person,)) for person in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = Counter(row.pair_id for row in rows(engine))
    assert set(answers.values()) == {2} and len(answers) == 36
    assert open_pairs(engine) == []


def test_a_ranking_is_one_piece_of_work_and_many_comparisons(engine: sa.Engine, people: list[int]) -> None:
    slates = make_slates(engine, slates=5)
    since = now()
    for slate_id in slates[:2]:
        rank_truly(engine, slate_id, people[0])
    with reading(engine) as session:
        assert count_round(session=session, round_id=1) == {
            "a": 12,
            "b": 0,
            "tie": 0,
            "both_bad": 0,
            "skip": 0,
            "done": 12,
            "total": 12,
            "duels": 0,
        }
        assert work_done(session=session, round_id=1, annotator_id=people[0]).mine == 12
        today = comparisons_since(session=session, annotator_id=people[0], round_id=1, since=since)
        assert [said.pair_id for said in today] == [1, 7]
        assert last_verdict(session=session, annotator_id=people[0], round_id=1)[0] == 7
    assert serve(engine, people[0], daily_quota=3) is not None
    assert serve(engine, people[1], daily_quota=2) is not None
    rank_truly(engine, slates[2], people[0])
    assert serve(engine, people[0], daily_quota=3) is None
    assert serve(engine, people[0], daily_quota=4) is not None


def test_a_retracted_annotators_slate_is_asked_again(engine: sa.Engine, people: list[int]) -> None:
    [slate_id, _] = make_slates(engine)
    rank_truly(engine, slate_id, people[0])
    with writing(engine) as session:
        retract_annotator(session=session, name="Ada")
    assert open_pairs(engine) == [(1, 1), (7, 1)]


def test_slates_are_put_first_and_asked_again_as_a_whole(engine: sa.Engine, people: list[int]) -> None:
    slates = make_slates(engine, slates=3, wanted=2)
    with writing(engine) as session:
        found = open_pairs_about(session=session, round_id=1, words="question 2")
        put_first(session=session, round_id=1, pair_ids=found)
    assert serve(engine, people[0]).slate_id == slates[2]
    rank(engine, slates[0], people[0], [[0], [1], [2], [3]])
    with reading(engine) as session:
        texts = [shown_slate(session=session, slate_id=slates[0], annotator_id=each).texts for each in people[:2]]
    swapped = [texts[1].index(texts[0][place]) for place in (0, 1, 3, 2)]  # they part on the last two alone
    rank(engine, slates[0], people[1], [[position] for position in swapped])
    assert 1 not in dict(open_pairs(engine))
    with writing(engine) as session:
        assert ask_again(session=session, round_id=1, below=0.9) == [1]
    assert serve(engine, people[2]).slate_id == slates[0]


def test_repeats_are_not_drawn_from_rankings(engine: sa.Engine, people: list[int]) -> None:
    make_slates(engine, slates=8)
    with writing(engine) as session:
        texts = [
            add_completion(session=session, prompt_id=1, new=NewCompletion(text=text), checkpoint_id=1)
            for text in ("this", "that")
        ]
        pair = add_pair(session=session, prompt_id=1, completions=texts, round_id=1, position=-1)
    with writing(engine) as session:
        record_comparison(session=session, pair_id=pair.id, annotator_id=people[0], choice="left")
    while (shown := serve(engine, people[0], repeats=0.5, repeat_after=1)) is not None:
        if shown.slate_id is not None:
            rank_truly(engine, shown.slate_id, people[0])
        else:
            with writing(engine) as session:
                record_comparison(session=session, pair_id=shown.pair_id, annotator_id=people[0], choice="left")
    with reading(engine) as session:
        repeated = session.exec(select(Pair).where(Pair.purpose == "repeat")).all()
    # `repeat_after` counts pairs of their own alone: this one, with only rankings after it, is not due yet.
    assert repeated == []
    with writing(engine) as session:
        more = add_pair(session=session, prompt_id=1, completions=texts[::-1], round_id=1, position=9)
    with writing(engine) as session:
        record_comparison(session=session, pair_id=more.id, annotator_id=people[0], choice="left")
        repeats = _long_ago(session, 1, people[0], 1)
    assert repeats == [pair.id]


# --- on the screen ----------------------------------------------------------------------------------------------------


def test_the_order_on_the_screen_is_drawn_for_each_and_kept(engine: sa.Engine, people: list[int]) -> None:
    [slate_id, _] = make_slates(engine)
    with reading(engine) as session:
        slate = session.get_one(Slate, slate_id)
        shown = [shown_slate(session=session, slate_id=slate_id, annotator_id=person) for person in people]
        again = shown_slate(session=session, slate_id=slate_id, annotator_id=people[0])
    assert again == shown[0]
    assert all(sorted(each.texts) == sorted(shown[0].texts) for each in shown)
    ranking = rank_truly(engine, slate_id, people[0])
    assert ranking.shown == shown_order(order_seed=slate.order_seed, annotator_id=people[0], size=4)
    assert len({each.mark for each in shown}) == 3


def test_every_order_is_about_as_likely() -> None:
    orders = Counter(tuple(shown_order(order_seed=seed, annotator_id=1, size=3)) for seed in range(6000))
    assert set(orders) == set(permutations(range(3)))
    assert all(850 < count < 1150 for count in orders.values())  # 1000 expected, 5 standard deviations about 145


# --- where it goes ----------------------------------------------------------------------------------------------------


def test_a_snapshot_says_what_was_ranked_together(engine: sa.Engine, people: list[int], tmp_path: Path) -> None:
    slates = make_slates(engine, slates=2, size=3)
    for slate_id in slates:
        rank_truly(engine, slate_id, people[0])
    with writing(engine) as session:
        cut = cut_snapshot(session=session, folder=tmp_path)
        names = {slate.content_hash for slate in session.exec(select(Slate))}
    found = read_snapshot(snapshot=cut, folder=tmp_path, split="train")
    assert Counter((row["ranking"], row["ranked_together"]) for row in found) == {(name, 3): 3 for name in names}
    assert all(row["chosen"] < row["rejected"] for row in found)  # answer 1.0 before 1.1 before 1.2


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_an_export_has_the_ranking_beside_each_row(
    engine: sa.Engine, people: list[int], tmp_path: Path, file_format: str
) -> None:
    from datasets import load_dataset

    slates = make_slates(engine, slates=2, size=3)
    with writing(engine) as session:  # and a pair of its own, which came of no ranking
        texts = [
            add_completion(session=session, prompt_id=1, new=NewCompletion(text=text), checkpoint_id=1)
            for text in ("this", "that")
        ]
        pair = add_pair(session=session, prompt_id=1, completions=texts, round_id=1)
        record_comparison(session=session, pair_id=pair.id, annotator_id=people[0], choice="left")
    for slate_id in slates:
        rank_truly(engine, slate_id, people[0])
    with writing(engine) as session:
        cut = cut_snapshot(session=session, folder=tmp_path)
    with reading(engine) as session:
        target = tmp_path / "out"
        export_snapshot(session=session, snapshot=cut, folder=tmp_path, target=target, file_format=file_format)
    loaded = load_dataset(str(target), cache_dir=str(tmp_path / "cache"))["train"]
    assert sorted(Counter(loaded["ranked_together"]).items(), key=str) == [(3, 6), (None, 1)]
    assert sorted(Counter(loaded["ranking"]).values()) == [1, 3, 3]
    assert "6 preferences come from rankings" in (target / "README.md").read_text()


def test_the_same_rankings_give_the_same_bytes_whatever_their_ids(
    engine: sa.Engine, people: list[int], tmp_path: Path, blank_database: Path
) -> None:
    hashes = []
    for name, order in (("one", [0, 1, 2]), ("other", [2, 0, 1])):
        path = tmp_path / f"{name}.db"
        shutil.copy(blank_database, path)
        other = open_database(f"sqlite:///{path}")
        with writing(other) as session:
            add_checkpoint(session=session, name="base", path="base")
            session.add(Round(number=1, checkpoint_id=1, target=9))
            session.flush()
            for number in order:
                _slate(session, 1, 1, number, 3, 1)
            person = get_or_add_annotator(session=session, name="Ada").id
        for slate_id in (1, 2, 3):
            rank_truly(other, slate_id, person)
        with writing(other) as session:
            hashes.append(cut_snapshot(session=session, folder=tmp_path / name).hash)
        other.dispose()
    assert hashes[0] == hashes[1]


def test_a_workspace_without_rankings_has_the_snapshots_it_had(
    engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path
) -> None:
    _, pairs = make_round(engine, pairs=3)
    with writing(engine) as session:
        for pair in pairs:  # the first text is the better one, wherever it stands
            choice = {"a": "left", "b": "right"}[left_side(side_seed=pair.side_seed, annotator_id=people[0])]
            record_comparison(session=session, pair_id=pair.id, annotator_id=people[0], choice=choice)
        cut = cut_snapshot(session=session, folder=tmp_path)
    # As it was cut by the code before there were rankings.
    assert cut.hash == HASH_BEFORE
    assert all("ranking" not in row for row in read_snapshot(snapshot=cut, folder=tmp_path, split="train"))


HASH_BEFORE = "15d743bccb41857140489e53e4d4f3b85b1f7e3fa272634c1119f6d4dfdb1a53"


def test_lineage_shows_the_ranking_that_a_comparison_came_of(engine: sa.Engine, people: list[int]) -> None:
    [slate_id, _] = make_slates(engine)
    ranking = rank_truly(engine, slate_id, people[0])
    with reading(engine) as session:
        lineage = trace_comparison(session=session, comparison_id=5)
    assert lineage.ranking == ranking
    assert [each.text for each in lineage.ranked] == [f"answer 0.{place}" for place in range(4)]
    assert [[lineage.ranked[place].text for place in tier] for tier in lineage.ranking.tiers] == [
        [f"answer 0.{place}"] for place in range(4)
    ]


def test_found_comparisons_name_their_ranking(engine: sa.Engine, people: list[int], tmp_path: Path) -> None:
    [slate_id, _] = make_slates(engine)
    ranking = rank_truly(engine, slate_id, people[0])
    with reading(engine) as session, (tmp_path / "x.csv").open("w", newline="") as stream:
        assert write_csv(session=session, search=Search(), stream=stream) == 6
    head, *lines = (tmp_path / "x.csv").read_text().splitlines()
    assert head.endswith(",ranking,selected_by,reward_margin")
    assert all(line.endswith(f",{ranking.id},,") for line in lines)


def test_quality_takes_rankings_for_comparisons_without_sides(engine: sa.Engine, people: list[int]) -> None:
    slates = make_slates(engine, slates=5, wanted=2)
    for slate_id in slates:
        for person in people[:2]:
            rank_truly(engine, slate_id, person)
    with reading(engine) as session:
        quality = read_quality(session=session)
    assert quality.habits.comparisons == 60 and quality.agreement.value == 1.0
    assert quality.habits.left.count == 0  # nothing stood left or right


@pytest.mark.parametrize("size", [3, 4, 6])
def test_every_two_texts_are_one_pair(engine: sa.Engine, size: int) -> None:
    [slate_id] = make_slates(engine, slates=1, size=size)
    with reading(engine) as session:
        pairs = slate_pairs(session=session, slate_id=slate_id)
        ids = sorted(each.id for each in session.exec(select(Completion)))
    assert [{pair.completion_a_id, pair.completion_b_id} for pair in pairs] == [
        set(two) for two in combinations(ids, 2)
    ]
