"""Adjudication: which pairs wait for it, what it writes, and that it alone decides what is trained on."""

from datetime import timedelta

import pytest

from store.adjudication import adjudicate, list_doubtful, said_about, take_back_decision
from store.annotators import count_by_annotator, retract_annotator
from store.comparisons import (
    Choice,
    count_comparisons,
    count_round,
    current_comparison,
    last_verdict,
    record_comparison,
    undo_comparison,
)
from store.database import reading, writing
from store.dawid_skene import KNOWN
from store.errors import PairChangedError, StoreError
from store.exporting import export_snapshot
from store.models import Comparison, Pair, Purpose
from store.pairs import shown_pair
from store.preferences import poll_comparisons
from store.quality import read_quality
from store.rewrites import replace_rewrites
from store.round_work import work_done
from store.snapshot_filter import SnapshotFilter
from store.snapshots import cut_snapshot, read_snapshot, snapshot_pairs
from tests.store.teams import ask, ask_again, say


def inbox(engine):
    with reading(engine) as session:
        return list_doubtful(session=session)


def said_of(engine, pair):
    with reading(engine) as session:
        return said_about(session=session, pair_id=pair.id)


def test_why_pairs_are_in_the_inbox_the_most_doubtful_first(engine):
    with writing(engine) as session:
        split = ask(session, {"Ada": "a", "Ben": "b"})
        newer = ask(session, {"Ada": "b", "Ben": "a"})
        half = ask(session, {"Ada": "a", "Ben": "tie"})
        flagged = ask(session, {"Ada": {"verdict": "a", "flags": {"b": ["unsafe"]}}})
        tagged = ask(session, {"Ben": {"verdict": "skip", "flags": {"a": ["broken"]}}})
        ask(session, {"Ada": "a", "Ben": "a"})
        ask(session, {"Ada": "a"})
        ask(session, {"Ada": {"verdict": "a", "flags": {"a": [], "b": []}}})
        ask(session, {"Ada": "a", "Ben": "b"}, purpose=Purpose.DUEL)
        again = ask(session, {"Cleo": "b"})
        ask_again(session, again, "Cleo", "b")
        for _ in range(6):
            ask(session, {"Dan": "b"}, purpose=Purpose.GOLD, gold="a")
        doubted = ask(session, {"Dan": "b"})
    found = {pair.pair_id: pair for pair in inbox(engine)}
    assert {number: pair.why for number, pair in found.items()} == {
        split.id: ("disagreement",),
        newer.id: ("disagreement",),
        half.id: ("disagreement",),
        flagged.id: ("flagged",),
        tagged.id: ("flagged",),
        again.id: ("disagreement",),
        doubted.id: ("low_confidence",),
    }
    order = list(found)
    assert order[:4] == [tagged.id, newer.id, split.id, doubted.id]  # a half each, the newest first, and a little more
    assert [found[number].chance for number in order[:4]] == [None, None, None, 0.5038]  # (8 + 6 * 0.01) / 16
    assert all(found[number].chance > 0.7 for number in order[4:])
    assert [(one.verdict, one.repeated) for one in said_of(engine, again)] == [("b", False), ("a", True)]


def test_what_was_flagged_on_a_repeat_is_said_of_the_right_completion(engine):
    with writing(engine) as session:
        pair = ask(session, {"Ada": "a"})
        repeat = ask_again(session, pair, "Ada", "b")
        say(session, repeat, "Ben", verdict="b", flags={"b": ["unsafe"]})
    assert [pair.pair_id for pair in inbox(engine)] == [pair.id]
    assert [one.flags for one in said_of(engine, pair)] == [{}, {}, {"a": ["unsafe"]}]


def test_a_bettered_text_is_nothing_that_was_said_of_the_pair(engine, make_round, people):
    _, (pair,) = make_round(engine, pairs=1, wanted=2)
    with writing(engine) as session:
        for person, choice in zip(people[:2], ("tie", "both_bad"), strict=True):
            record_comparison(session=session, pair_id=pair.id, annotator_id=person, choice=choice)
        replace_rewrites(session=session, pair_id=pair.id, annotator_id=people[0], texts={"left": "My own."})
    assert [each.pair_id for each in inbox(engine)] == [pair.id]
    assert [(one.annotator, one.verdict, one.repeated) for one in said_of(engine, pair)] == [
        ("Ada", "tie", False),
        ("Ben", "both_bad", False),
    ]


def test_retracted_annotators_put_nothing_in_doubt(engine):
    with writing(engine) as session:
        ask(session, {"Ada": "a", "Mal": "b"})
        retract_annotator(session=session, name="Mal")
    assert inbox(engine) == []


def decide(engine, pair, annotator_id, choice, **options):
    with writing(engine) as session:
        return adjudicate(session=session, pair_id=pair.id, annotator_id=annotator_id, choice=choice, **options)


def test_a_decision_is_written_once_and_takes_the_pair_out(engine, make_round, people):
    _, (pair, _) = make_round(engine, pairs=2, wanted=2)
    with writing(engine) as session:
        for person, choice in zip(people[:2], ("a", "b"), strict=True):
            side = shown_pair(session=session, pair_id=pair.id, annotator_id=person).left_side
            left = Choice.LEFT if side == choice else Choice.RIGHT
            record_comparison(session=session, pair_id=pair.id, annotator_id=person, choice=left)
    assert [each.pair_id for each in inbox(engine)] == [pair.id]
    first = decide(engine, pair, people[2], Choice.LEFT, reason="It answers.")
    again = decide(engine, pair, people[2], Choice.LEFT)
    with reading(engine) as session:
        side = shown_pair(session=session, pair_id=pair.id, annotator_id=people[2]).left_side
        standing = session.get(Comparison, first.id)
    assert (first.id, first.adjudicates, first.verdict, first.reason) == (again.id, True, side, "It answers.")
    assert standing.superseded_at is None
    assert inbox(engine) == []
    changed = decide(engine, pair, people[2], Choice.RIGHT)
    assert changed.id != first.id and changed.verdict != side
    with writing(engine) as session:
        assert undo_comparison(session=session, comparison_id=changed.id, annotator_id=people[2]) is None
        take_back_decision(session=session, comparison_id=changed.id, annotator_id=people[1])  # not theirs
    assert inbox(engine) == []
    with writing(engine) as session:
        take_back_decision(session=session, comparison_id=changed.id, annotator_id=people[2])
    assert [each.pair_id for each in inbox(engine)] == [pair.id]


def test_who_may_not_compare_may_not_decide(engine, make_round, people):
    _, (pair,) = make_round(engine, pairs=1)
    with writing(engine) as session:
        retract_annotator(session=session, name="Cleo")
    with pytest.raises(PairChangedError):
        decide(engine, pair, people[2], Choice.LEFT)
    with pytest.raises(StoreError, match="A choice is one of"):
        decide(engine, pair, people[0], "worse")


# What it decides


def poll(engine, **options):
    with reading(engine) as session:
        return poll_comparisons(session=session, filter=SnapshotFilter(**options))


def ruled(session, said: dict, *rulings: tuple[str, str], **options):
    pair = ask(session, said, **options)
    for number, (name, verdict) in enumerate(rulings):
        say(session, pair, name, verdict=verdict, adjudicates=True, after=timedelta(hours=number))
    return pair


def test_a_decision_holds_against_all_others(engine):
    with writing(engine) as session:
        ruled(session, {"Ada": "a", "Ben": "a"}, ("Rea", "b"))
    (found,) = poll(engine, min_agreement=0.9).preferences
    assert (found.chosen, found.rejected) == ("a longer text", "short")
    assert (found.agreement, found.annotators, found.adjudicated) == (round(1 / 3, 6), 3, True)
    assert poll(engine, confidence=True).preferences[0].confidence == KNOWN


@pytest.mark.parametrize("verdict", ["tie", "both_bad", "skip"])
def test_a_decision_for_neither_drops_the_pair(engine, verdict):
    with writing(engine) as session:
        ruled(session, {"Ada": "a", "Ben": "a"}, ("Rea", verdict))
    found = poll(engine)
    assert (found.preferences, found.comparisons, found.dropped[verdict], sum(found.dropped.values())) == ([], 3, 3, 3)
    kept = poll(engine, keep_ties=True)
    assert [tie.adjudicated for tie in kept.ties] == ([True] if verdict == "tie" else [])


def test_the_latest_decision_holds_until_its_maker_is_retracted(engine):
    with writing(engine) as session:
        ruled(session, {"Ada": "b"}, ("Rea", "a"), ("Sam", "b"))
    assert poll(engine).preferences[0].chosen == "a longer text"
    with writing(engine) as session:
        retract_annotator(session=session, name="Sam")
    assert poll(engine).preferences[0].chosen == "short"
    with writing(engine) as session:
        retract_annotator(session=session, name="Rea")
    assert not poll(engine).preferences[0].adjudicated


def test_a_skip_that_decides_is_counted_once(engine):
    with writing(engine) as session:
        ruled(session, {"Ada": "a"}, ("Rea", "skip"), ("Sam", "a"))
    found = poll(engine)
    assert (len(found.preferences), found.comparisons, found.dropped["skip"]) == (1, 3, 1)
    assert found.preferences[0].agreement == 1


def test_snapshots_and_exports_say_what_was_decided(engine, tmp_path):
    with writing(engine) as session:
        ruled(session, {"Ada": "a", "Ben": "a"}, ("Rea", "b"), prompt="decided")
        ask(session, {"Ada": "a"}, prompt="as said")
        snapshot = cut_snapshot(session=session, folder=tmp_path)
        pairs = snapshot_pairs(session=session, snapshot=snapshot, folder=tmp_path, split="train")
        export_snapshot(
            session=session, snapshot=snapshot, folder=tmp_path, target=tmp_path / "out", file_format="parquet"
        )
    found = read_snapshot(snapshot=snapshot, folder=tmp_path, split="train")
    assert {row["prompt"][0]["content"]: row.get("adjudicated") for row in found} == {"decided": True, "as said": None}
    assert sorted((pair.adjudicated, pair.chosen_side) for pair in pairs) == [(False, "a"), (True, "b")]
    assert "For 1 of them a researcher decided" in (tmp_path / "out" / "README.md").read_text()
    import pyarrow.parquet as pq

    assert sorted(pq.read_table(tmp_path / "out" / "data" / "train.parquet")["adjudicated"].to_pylist()) == [
        False,
        True,
    ]


def test_a_decision_is_no_answer_that_the_round_asked_for(engine, make_round, people):
    opened, pairs = make_round(engine, pairs=2, wanted=2)
    with writing(engine) as session:
        record_comparison(session=session, pair_id=pairs[0].id, annotator_id=people[0], choice=Choice.LEFT)
    decide(engine, pairs[0], people[2], Choice.RIGHT)
    with writing(engine) as session:
        counted = count_round(session=session, round_id=opened.id)["done"]
        mine = work_done(session=session, round_id=opened.id, annotator_id=people[2]).mine
        undoable = last_verdict(session=session, annotator_id=people[2], round_id=opened.id)
        slots = session.get_one(Pair, pairs[0].id).open_slots
    assert (counted, mine, undoable, slots) == (1, 0, None, 0), "what was decided wants nothing more"


def test_what_one_had_said_stands_beside_ones_decision_and_after_it(engine, make_round, people):
    opened, (pair,) = make_round(engine, pairs=1)
    who = {"pair_id": pair.id, "annotator_id": people[0]}
    with writing(engine) as session:
        said = record_comparison(session=session, **who, choice=Choice.LEFT, strength=3)
    ruling = decide(engine, pair, people[0], Choice.RIGHT)
    for _ in range(2):
        with writing(engine) as session:
            assert current_comparison(session=session, **who).id == said.id
            assert last_verdict(session=session, annotator_id=people[0], round_id=opened.id) == (said.id, pair.id)
            assert work_done(session=session, round_id=opened.id, annotator_id=people[0]).judged == 1
            assert (session.get_one(Pair, pair.id).open_slots, count_comparisons(session=session)["comparisons"]) == (
                0,
                1,
            )
            assert count_by_annotator(session=session) == {people[0]: 1}
            take_back_decision(session=session, comparison_id=ruling.id, annotator_id=people[0])
    with reading(engine) as session:
        assert session.get_one(Comparison, ruling.id).superseded_at is not None


def test_deciding_changes_no_figure_of_how_people_agree(engine, make_round, people):
    """Ada and Ben disagree on every third of 12 pairs; Ben decides these."""
    opened, pairs = make_round(engine, pairs=12, wanted=2)
    with writing(engine) as session:
        for number, pair in enumerate(pairs):
            for person in people[:2]:
                side = shown_pair(session=session, pair_id=pair.id, annotator_id=person).left_side
                first = "ab"[number % 2] if person == people[0] or number % 3 else "ba"[number % 2]
                choice = Choice.LEFT if side == first else Choice.RIGHT
                record_comparison(session=session, pair_id=pair.id, annotator_id=person, choice=choice)

    def figures():
        with reading(engine) as session:
            quality = read_quality(session=session)
            done = count_round(session=session, round_id=opened.id)["done"]
        return quality.alpha, quality.agreement, quality.habits, [each.kappa for each in quality.annotators], done

    before = figures()
    assert before[1].value == pytest.approx(8 / 12) and before[-1] == 24
    assert len(inbox(engine)) == 4
    for doubtful in inbox(engine):
        with writing(engine) as session:
            adjudicate(session=session, pair_id=doubtful.pair_id, annotator_id=people[1], choice=Choice.LEFT)
    assert inbox(engine) == [] and figures() == before


def test_gold_tells_of_reliability_whatever_rounds_are_asked_for(engine):
    with writing(engine) as session:
        for _ in range(3):
            ask(session, {"Ada": "b"}, purpose=Purpose.GOLD, gold="a")
        ask(session, {"Ada": "a"}, prompt="asked")
    everything = poll(engine, confidence=True)
    rounds = poll(engine, confidence=True, include_imported=False)
    assert everything.reliability.informative == rounds.reliability.informative == 3
