"""Gold pairs and repeats: mixed in with their shares, told from nothing else, counted nowhere, trained on never."""

from __future__ import annotations

import importlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import Session, col, select

from store.annotators import count_by_annotator, retract_annotator
from store.comparisons import count_comparisons, count_round, last_verdict
from store.database import reading, writing
from store.errors import ImportFileError
from store.measuring import due_purpose
from store.models import Comparison, Completion, Pair, Purpose
from store.pairs import count_pairs, shown_pair
from store.preferences import poll_comparisons
from store.prompts import count_prompts, prompts_to_ask
from store.queue_rules import QueueRules
from store.queue_tables import RoundWork
from store.round_work import work_done
from store.snapshot_filter import SnapshotFilter
from store.snapshots import cut_snapshot
from tests.store.imported import gold_from, jsonl, preferences_from, row_counts
from tests.store.queueing import add_gold, answer, go_through, serve
from tests.store.undoing import undo_last

MIXED = QueueRules(gold=0.25, repeats=0.25, repeat_after=5)


def purposes(pairs: list[Pair]) -> Counter[str]:
    return Counter(pair.purpose for pair in pairs)


@pytest.fixture
def worked(engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path) -> tuple[int, list[Pair]]:
    """A round of 60 pairs that one annotator went through with gold pairs and repeats mixed in."""
    opened, _ = make_round(engine, pairs=60)
    add_gold(engine, tmp_path, 40)
    return opened.id, go_through(engine, opened.id, people[0], MIXED)


def test_each_kind_has_its_share_over_many_draws() -> None:
    rules = QueueRules(gold=0.1, repeats=0.05)
    drawn = Counter(due_purpose(f"1:{person}:{number}", rules) for person in range(10) for number in range(1000))
    assert abs(drawn[Purpose.GOLD] - 1000) < 120  # four standard deviations
    assert abs(drawn[Purpose.REPEAT] - 500) < 90


def test_the_draws_come_at_no_regular_distance() -> None:
    rules = QueueRules(gold=0.1)
    places = [number for number in range(2000) if due_purpose(f"1:1:{number}", rules) == Purpose.GOLD]
    gaps = Counter(later - sooner for sooner, later in pairwise(places))
    assert len(gaps) > 15 and max(gaps.values()) < len(places) / 3


def test_gold_pairs_and_repeats_are_mixed_in_and_nothing_comes_twice(worked: tuple[int, list[Pair]]) -> None:
    _, served = worked
    found = purposes(served)
    assert found["train"] == 60 and 10 < found["gold"] <= 40 and found["repeat"] > 10
    assert len({pair.id for pair in served}) == len(served)
    repeated = [pair.repeats for pair in served if pair.purpose == "repeat"]
    assert len(set(repeated)) == len(repeated)


def test_a_repeat_comes_after_so_many_others(worked: tuple[int, list[Pair]]) -> None:
    _, served = worked
    place = {pair.id: number for number, pair in enumerate(served)}
    repeats = [pair for pair in served if pair.purpose == "repeat"]
    assert min(place[pair.id] - place[pair.repeats] for pair in repeats) > MIXED.repeat_after


def test_a_repeat_shows_the_same_texts_on_the_other_sides(
    engine: sa.Engine, worked: tuple[int, list[Pair]], people: list[int]
) -> None:
    _, served = worked
    for pair in (pair for pair in served if pair.purpose == "repeat"):
        with reading(engine) as session:
            first, again = (
                shown_pair(session=session, pair_id=each, annotator_id=people[0]) for each in (pair.repeats, pair.id)
            )
        assert (first.left, first.right) == (again.right, again.left)
        assert first.left_side == again.left_side  # the letters belong to the row; its texts are the other way round


def test_they_count_nowhere_and_are_trained_on_never(
    engine: sa.Engine, worked: tuple[int, list[Pair]], people: list[int], tmp_path: Path
) -> None:
    round_id, served = worked
    found = purposes(served)
    with writing(engine) as session:
        assert count_round(session=session, round_id=round_id)["total"] == 60
        assert count_pairs(session=session, round_id=round_id) == {"pairs": 60, "duels": 0, "open": 0}
        assert count_pairs(session=session, round_id=None)["pairs"] == 0
        assert count_comparisons(session=session)["comparisons"] == 60
        work = work_done(session=session, round_id=round_id, annotator_id=people[0])
        assert (work.judged, work.measured) == (60, found["gold"] + found["repeat"])
        # Whoever compares sees their count go up with each verdict: it would otherwise tell which pairs those are.
        assert work.mine == len(served)
        poll = poll_comparisons(session=session, filter=SnapshotFilter())
        assert poll.dropped["not_trained_on"] == found["repeat"]  # gold pairs are of no round: they are not looked at
        assert len(poll.preferences) == 60 and all(each.annotators == 1 for each in poll.preferences)
        cut = cut_snapshot(session=session, folder=tmp_path)
    texts = "".join(path.read_text() for path in (tmp_path / cut.path).glob("*.jsonl"))
    assert texts.count("\n") == 60 and "gold" not in texts and "wrong" not in texts


def test_what_a_retracted_annotator_said_is_counted_nowhere(
    engine: sa.Engine, worked: tuple[int, list[Pair]], people: list[int]
) -> None:
    round_id, served = worked
    with writing(engine) as session:
        assert count_by_annotator(session=session) == {people[0]: len(served)}
        assert count_comparisons(session=session) == {"comparisons": 60, "skips": 0, "annotators": 1}
        retract_annotator(session=session, name="Ada")
        assert count_round(session=session, round_id=round_id)["total"] == 0
        work = work_done(session=session, round_id=round_id, annotator_id=people[1])
        assert (work.judged, work.measured, work.mine) == (0, 0, 0)
        assert count_comparisons(session=session) == {"comparisons": 0, "skips": 0, "annotators": 0}


def test_a_model_is_not_asked_the_prompts_of_gold_pairs(engine: sa.Engine, worked: tuple[int, list[Pair]]) -> None:
    with reading(engine) as session:
        assert sum(count_prompts(session=session).values()) == 60
        asked = prompts_to_ask(session=session, count=200, held_out_share=0.2, seed=1)
    assert len(asked) == 60 and not any("gold" in prompt.messages[0]["content"] for prompt in asked)


def test_what_is_shown_does_not_tell_which_pairs_measure(
    engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path
) -> None:
    opened, _ = make_round(engine, pairs=30)
    add_gold(engine, tmp_path, 10)
    for _ in range(30):
        shown = serve(engine, opened.id, people[0], MIXED)
        assert shown.round_id == opened.id
        assert serve(engine, opened.id, people[0], MIXED) == shown  # a reload shows the same
        assert serve(engine, opened.id, people[0]) == shown  # whatever became of the rules meanwhile
        answer(engine, shown.pair_id, people[0])


def test_they_can_be_taken_back(engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path) -> None:
    opened, _ = make_round(engine, pairs=30)
    add_gold(engine, tmp_path, 10)
    met = set()
    while (shown := serve(engine, opened.id, people[0], MIXED)) is not None:
        said = answer(engine, shown.pair_id, people[0])
        with writing(engine) as session:
            assert last_verdict(session=session, annotator_id=people[0], round_id=opened.id) == (said.id, said.pair_id)
            undo_last(session=session, annotator_id=people[0], round_id=opened.id)
        assert serve(engine, opened.id, people[0], MIXED) == shown
        answer(engine, shown.pair_id, people[0], "right")
        with reading(engine) as session:
            met.add(session.get_one(Pair, shown.pair_id).purpose)
    assert met == {"train", "gold", "repeat"}


def test_an_undo_stays_within_its_round(engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path) -> None:
    opened, _ = make_round(engine, pairs=1)
    add_gold(engine, tmp_path, 2)
    go_through(engine, opened.id, people[0], QueueRules(gold=0.5))
    with writing(engine) as session:
        gold = session.exec(select(Pair.id).where(col(Pair.gold_verdict).is_not(None))).first()
    answer(engine, gold, people[0])
    later, _ = make_round(engine, pairs=1)
    with reading(engine) as session:
        assert last_verdict(session=session, annotator_id=people[0], round_id=later.id) is None
        assert work_done(session=session, round_id=later.id, annotator_id=people[0]).mine == 0


def test_all_annotators_may_judge_a_gold_pair_at_once_and_each_judges_it_once(
    engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path
) -> None:
    opened, _ = make_round(engine, pairs=40, wanted=3)
    add_gold(engine, tmp_path, 3)
    rules = QueueRules(gold=0.5)
    for person in people:
        assert purposes(go_through(engine, opened.id, person, rules))["gold"] == 3
    with reading(engine) as session:
        said = session.exec(select(Comparison.pair_id).join(Pair).where(Pair.purpose == Purpose.GOLD)).all()
    assert set(Counter(said).values()) == {3}


def test_without_gold_pairs_new_ones_are_asked(engine: sa.Engine, make_round: Any, people: list[int]) -> None:
    opened, pairs = make_round(engine, pairs=20)
    served = go_through(engine, opened.id, people[0], QueueRules(gold=0.5))
    assert [pair.id for pair in served] == [pair.id for pair in pairs]


# Files of gold pairs


def right_texts(session: Session) -> dict[str, str | None]:
    pairs = session.exec(select(Pair).where(Pair.purpose == Purpose.GOLD)).all()
    sides = {"a": "completion_a_id", "b": "completion_b_id"}
    return {session.get_one(Completion, getattr(pair, sides[pair.gold_verdict])).text: pair.note for pair in pairs}


def test_a_file_of_gold_pairs(engine: sa.Engine, tmp_path: Path) -> None:
    rows = [
        {"prompt": "Tea?", "chosen": "Yes.", "rejected": "No.", "note": " Politeness. "},
        {"prompt": "Tea?", "chosen": "Please.", "rejected": "No.", "explanation": "Even more so."},
        {"prompt": "Why?", "chosen": "Because.", "rejected": "So."},
        {"prompt": "Why?", "chosen": "So.", "rejected": "Because."},
    ]
    report = gold_from(engine, jsonl(tmp_path / "gold.jsonl", rows))
    assert (report.gold_added, report.contradictions, report.prompts_added) == (3, 1, 2)
    assert "4 rows: 3 gold pairs." in report.summary()
    with reading(engine) as session:
        assert right_texts(session) == {"Yes.": "Politeness.", "Please.": "Even more so.", "Because.": None}
    counts = row_counts(engine)
    assert (counts["Comparison"], counts["Annotator"], counts["Pair"]) == (0, 0, 3)
    again = gold_from(engine, jsonl(tmp_path / "again.jsonl", rows[:3]))
    assert (again.gold_added, again.duplicates) == (0, 3)
    assert row_counts(engine) | {"ImportRecord": 1} == counts


def test_a_gold_pair_may_be_trained_on_as_well_where_it_is_imported_for_that(
    engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path
) -> None:
    opened, _ = make_round(engine, pairs=10)
    path = jsonl(tmp_path / "both.jsonl", [{"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."}])
    gold_from(engine, path)
    go_through(engine, opened.id, people[0], QueueRules(gold=0.5))
    assert preferences_from(engine, path).comparisons_added == 1  # what people said of the gold pair is no preference


def test_a_note_that_is_no_text_is_refused(engine: sa.Engine, tmp_path: Path) -> None:
    row = {"prompt": "Tea?", "chosen": "Yes.", "rejected": "No.", "note": 3}
    with pytest.raises(ImportFileError, match="`note` must be text"):
        gold_from(engine, jsonl(tmp_path / "gold.jsonl", [row]))


def test_what_is_counted_along_the_way_is_what_an_older_database_is_given(
    engine: sa.Engine, worked: tuple[int, list[Pair]]
) -> None:
    def counted() -> list[tuple[int, ...]]:
        with reading(engine) as session:
            rows = session.exec(select(RoundWork).order_by(col(RoundWork.round_id), col(RoundWork.annotator_id)))
            return [(row.round_id, row.annotator_id, row.judged, row.measured) for row in rows]

    along_the_way = counted()
    migration = importlib.import_module("store.migrations.versions.0006_round_work")
    with writing(engine) as session:
        session.execute(sa.delete(RoundWork))
        session.execute(sa.text(migration.COUNTED))
    assert counted() == along_the_way and len(along_the_way) > 0
