"""Comparisons found, sorted, counted, written as CSV; and one traced back to where it comes from."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from store.annotators import get_or_add_annotator
from store.comparisons import Choice, Remarks, record_comparison, undo_comparison
from store.database import reading, writing
from store.errors import UnknownRecordError
from store.lineage import snapshots_with, trace_comparison
from store.models import Comparison, Pair, Prompt, Purpose, Round
from store.searching import COLUMNS, Search, Sort, count_found, find_comparisons, read_pace, write_csv
from store.snapshots import cut_snapshot
from tests.conftest import MakeRound
from tests.store.asking import add_imported_text, add_prompt

START = datetime(2026, 3, 1, 22, tzinfo=UTC)
CHOICES = (Choice.LEFT, Choice.TIE, Choice.SKIP, Choice.RIGHT, Choice.BOTH_BAD, Choice.LEFT)


@pytest.fixture
def asked(engine: sa.Engine, make_round: MakeRound, people: list[int]) -> list[Pair]:
    """Six pairs of round 1, answered one an hour by Ada and Ben in turn; two days later one of an import by Cleo."""
    _, pairs = make_round(engine, pairs=6)
    with writing(engine) as session:
        for number, (pair, choice) in enumerate(zip(pairs, CHOICES, strict=True)):
            say(session, pair.id, people[number % 2], choice, START + timedelta(hours=number), seconds=10.0 - number)
        prompt = add_prompt(session, "Où est 100% du café_?")
        texts = [add_imported_text(session, prompt.id, text) for text in ("Ici.", "Là-bas, sans role ni content.")]
        pair = Pair(
            prompt_id=prompt.id, completion_a_id=texts[0].id, completion_b_id=texts[1].id, side_seed=1, wanted=0,
            purpose=Purpose.GOLD,
        )  # fmt: skip
        session.add(pair)
        session.flush()
        said = say(session, pair.id, people[2], Choice.LEFT, START + timedelta(days=2), remarks=Remarks(reason="@warm"))
        said.tags = ["odd"]
        session.add(said)
    return pairs


def say(session: Any, pair_id: int, who: int, choice: Choice, at: datetime, **more: Any) -> Comparison:
    said = record_comparison(session=session, pair_id=pair_id, annotator_id=who, choice=choice, **more)
    said.created_at = at
    session.add(said)
    session.flush()
    return said


def found(engine: sa.Engine, limit: int = 50, offset: int = 0, **asks: Any) -> list[int]:
    """The numbers of what is found, in order; the count is checked on the way."""
    with reading(engine) as session:
        search = Search(**asks)
        page = find_comparisons(session=session, search=search, limit=limit, offset=offset)
        if (limit, offset) == (50, 0):
            assert count_found(session=session, search=search) == len(page)
    return [entry.comparison.id for entry in page]


def test_everything_that_stands_newest_first_page_by_page(engine: sa.Engine, asked: list[Pair]) -> None:
    assert found(engine) == [7, 6, 5, 4, 3, 2, 1]
    assert [found(engine, limit=3, offset=offset) for offset in (0, 3, 6, 9)] == [[7, 6, 5], [4, 3, 2], [1], []]
    with reading(engine) as session:
        first, *_, last = find_comparisons(session=session, search=Search(), limit=50)
    assert (first.annotator, first.purpose, first.round_number) == ("Cleo", "gold", None)
    assert (last.annotator, last.purpose, last.round_number) == ("Ada", "train", 1)
    assert last.messages == [{"role": "user", "content": "question 1.0"}]


@pytest.mark.parametrize(
    ("asks", "numbers"),
    [
        ({"annotator_ids": (1,)}, [5, 3, 1]),
        ({"annotator_ids": (1, 3)}, [7, 5, 3, 1]),
        ({"verdicts": ("tie", "skip")}, [3, 2]),
        ({"purposes": ("gold",)}, [7]),
        ({"round_id": 1}, [6, 5, 4, 3, 2, 1]),
        ({"round_id": 0}, [7]),
        ({"marked": True}, [7]),
        ({"since": date(2026, 3, 2)}, [7, 6, 5, 4, 3]),
        ({"until": date(2026, 3, 1)}, [2, 1]),
        ({"since": date(2026, 3, 2), "until": date(2026, 3, 2)}, [6, 5, 4, 3]),
        ({"annotator_ids": (1,), "verdicts": ("both_bad",), "round_id": 1}, [5]),
        ({"sort": Sort.OLDEST}, [1, 2, 3, 4, 5, 6, 7]),
        ({"sort": Sort.SLOWEST}, [1, 2, 3, 4, 5, 6, 7]),
        ({"sort": Sort.QUICKEST}, [6, 5, 4, 3, 2, 1, 7]),
        ({"sort": Sort.ANNOTATOR}, [5, 3, 1, 6, 4, 2, 7]),
    ],
)
def test_filters_and_orders(engine: sa.Engine, asked: list[Pair], asks: dict[str, Any], numbers: list[int]) -> None:
    assert found(engine, **asks) == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("question 1.4", [5]),
        ("QUESTION 1.4", [5]),
        ("answer 1.2b", [3]),
        ("answer", [6, 5, 4, 3, 2, 1]),
        ("@warm", [7]),
        ("Où", [7]),  # as JSON it is kept as an escape
        ("OÙ EST", [7]),  # whose large and small letters are unlike
        ("CAFÉ_", [7]),
        ("LÀ-BAS", [7]),
        ("LÃ-BAS", []),
        ("[é]", []),
        ("100%", [7]),
        ("100_", []),  # % and _ stand for themselves
        ("café_", [7]),
        ("role", [7]),  # and not every prompt's JSON
        ("content", [7]),
        ('"', []),
        ("  ", [7, 6, 5, 4, 3, 2, 1]),
    ],
)
def test_a_text_is_found_in_prompts_completions_and_reasons(
    engine: sa.Engine, asked: list[Pair], text: str, numbers: list[int]
) -> None:
    assert found(engine, text=text) == numbers


@pytest.mark.parametrize(
    ("reason", "finds", "not_this"),
    [
        ("Судьба [я*?]^", "сУДЬБА [Я*?]^", "судьбе"),
        ("Σίσυφος", "ΣΊΣΥΦΟΣ", "σίσηφος"),
        ("Größe 100%_", "GRÖẞE 100%_", "größe 1000_"),
        ("'Tschüss' \\ /", "TSCHÜSS' \\ /", "tschüss' /"),
        ("日本語", "本", "木"),
        ("naïve 🙂", "NAÏVE 🙂", "naïve 🙃"),
    ],
)
def test_large_and_small_letters_of_any_script_are_alike(
    engine: sa.Engine, asked: list[Pair], reason: str, finds: str, not_this: str
) -> None:
    with writing(engine) as session:
        session.execute(sa.update(Comparison).where(Comparison.id == 3).values(reason=reason))
        prompt = session.get_one(Prompt, session.get_one(Pair, 5).prompt_id)
        prompt.messages = [{"role": "user", "content": reason}]
        session.add(prompt)
    assert found(engine, text=finds) == [5, 3]
    assert found(engine, text=not_this) == []


def test_what_was_taken_back_is_found_where_it_is_asked_for(engine: sa.Engine, asked: list[Pair]) -> None:
    with writing(engine) as session:
        undo_comparison(session=session, comparison_id=6, annotator_id=2)
    assert found(engine, round_id=1) == [5, 4, 3, 2, 1]
    assert found(engine, round_id=1, superseded=True) == [6, 5, 4, 3, 2, 1]


def test_the_pace_by_the_hour_and_by_the_day(engine: sa.Engine, asked: list[Pair]) -> None:
    with reading(engine) as session:
        unit, rows = read_pace(session=session, search=Search(round_id=1))
        assert unit == "hour"
        assert [(row.moment, row.annotator, row.comparisons) for row in rows][:2] == [
            (START, "Ada", 1),
            (START + timedelta(hours=1), "Ben", 1),
        ]
        assert read_pace(session=session, search=Search(text="nowhere")) == ("day", [])
    with writing(engine) as session:
        late = session.get_one(Comparison, 7)
        late.created_at = START + timedelta(days=9)
        session.add(late)
    with reading(engine) as session:
        unit, rows = read_pace(session=session, search=Search())
    day = START.replace(hour=0)
    assert unit == "day"
    assert [((row.moment - day).days, row.annotator, row.comparisons) for row in rows] == [
        *((0, "Ada", 1), (0, "Ben", 1), (1, "Ada", 2), (1, "Ben", 2), (9, "Cleo", 1))
    ]


def test_the_csv_holds_all_that_is_found_and_no_formula(engine: sa.Engine, asked: list[Pair]) -> None:
    stream = io.StringIO(newline="")
    with reading(engine) as session:
        assert write_csv(session=session, search=Search(sort=Sort.OLDEST), stream=stream) == 7
    rows = list(csv.DictReader(io.StringIO(stream.getvalue(), newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert [row["comparison"] for row in rows] == list("1234567")
    assert (rows[0]["prompt"], rows[0]["completion_a"], rows[0]["checkpoint_b"]) == (
        "question 1.0",
        "answer 1.0a",
        "base",
    )
    assert rows[0]["made_at"] == "2026-03-01T22:00:00+00:00"
    last = rows[-1]
    assert (last["reason"], last["tags"], last["round"], last["checkpoint_a"]) == ("'@warm", '["odd"]', "", "")
    assert last["prompt"] == "Où est 100% du café_?"


def test_a_comparison_tells_its_whole_history_and_the_snapshots_it_stood_for(
    engine: sa.Engine, make_round: MakeRound, people: list[int], tmp_path: Path
) -> None:
    _, (pair, more) = make_round(engine, pairs=2, wanted=2)

    def judge(who: int, choice: Choice, *, replace: bool = False) -> int:
        with writing(engine) as session:
            said = record_comparison(session=session, pair_id=pair.id, annotator_id=who, choice=choice, replace=replace)
        return said.id

    with writing(engine) as session:
        record_comparison(session=session, pair_id=more.id, annotator_id=people[2], choice=Choice.LEFT)
    first = judge(people[0], Choice.LEFT)
    with writing(engine) as session:
        one = cut_snapshot(session=session, folder=tmp_path)
    second = judge(people[0], Choice.RIGHT, replace=True)
    other = judge(people[1], Choice.SKIP)
    with writing(engine) as session:
        two = cut_snapshot(session=session, folder=tmp_path)
    with reading(engine) as session:
        uses = {}
        for number in (first, second):
            lineage = trace_comparison(session=session, comparison_id=number)
            assert [said.comparison.id for said in lineage.history] == [first, second, other]
            assert [maker and maker.name for maker in lineage.makers.values()] == ["base", "base"]
            assert (lineage.pair.id, lineage.round and lineage.round.number, lineage.annotator.name) == (
                *(pair.id, 1, "Ada"),
            )
            found_in = snapshots_with(session=session, folder=tmp_path, lineage=lineage)
            uses[number] = [(use.snapshot.hash, use.split, use.chosen, use.trained) for use in found_in]
            verdict = lineage.comparison.verdict
            assert uses[number] == [({first: one, second: two}[number].hash, "train", verdict, [])]
        with pytest.raises(UnknownRecordError):
            trace_comparison(session=session, comparison_id=99)


def test_a_round_is_told_by_its_number_not_its_row(engine: sa.Engine, asked: list[Pair]) -> None:
    with writing(engine) as session:
        session.execute(sa.update(Round).values(number=7))
        get_or_add_annotator(session=session, name="Dora")
    with reading(engine) as session:
        (entry,) = find_comparisons(session=session, search=Search(text="question 1.4"), limit=5)
    assert entry.round_number == 7
