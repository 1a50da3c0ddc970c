"""Imported rankings: every shape, what is left out of a list, what is known already, and what the errors say."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import col, select

from store.annotators import get_annotator, retract_annotator
from store.database import open_database, reading, writing
from store.errors import ImportFileError, StateError
from store.importing import ImportReport, Kind, import_file
from store.models import Comparison, Completion, Pair, Role
from store.ranking_tables import Ranking, Slate, SlateItem
from store.slates import slate_completions
from tests.store.imported import ASKED, jsonl, preferences_from, row_counts, saved_prompts, user

PLAIN = {"prompt": "Tea?", "completions": ["Yes", "No", "Maybe", "What?"], "ranks": [1, 2, 2, 3]}
SCORED = {"prompt": "Tea?", "completions": ["Yes", "No", "Maybe", "What?"], "scores": [9, 4.5, 4.5, -1]}
NECTAR = {  # as the data set's card has it
    "prompt": "\n\nHuman: Tea?\n\nAssistant: ",
    "answers": [
        {"answer": "No", "model": "llama-2-7b-chat", "rank": 2.0},
        {"answer": "Yes", "model": "gpt-4", "rank": 1.0},
        {"answer": "What?", "model": "gpt-3.5-turbo", "rank": 3.0},
        {"answer": "Maybe", "model": "mistral-7b-instruct-v0.1", "rank": 2.0},
    ],
    "turns": 1,
    "num_responses": 4,
    "source": ["lmsys-chat-1m"],
    "good_natured": True,
}
ULTRAFEEDBACK = {
    "source": "sharegpt",
    "instruction": "Tea?",
    "models": ["alpaca-7b", "gpt-4", "llama-2-70b-chat", "starchat"],
    "completions": [
        {"model": "alpaca-7b", "response": "No", "overall_score": 5.0, "fine-grained_score": 4.0, "critique": "Short."},
        {"model": "gpt-4", "response": "Yes", "overall_score": 8.5, "fine-grained_score": 4.75},
        {"model": "llama-2-70b-chat", "response": "Maybe", "overall_score": "5"},
        {"model": "starchat", "response": "What?", "overall_score": 1.0},
    ],
    "correct_answers": ["None"],
    "incorrect_answers": ["None"],
}
TOLD = [["Yes"], ["Maybe", "No"], ["What?"]]


def rankings_from(engine: sa.Engine, path: Path, **more: Any) -> ImportReport:
    """Import a file without saying what it holds."""
    return import_file(engine=engine, path=path, held_out_share=0.2, **more)


def rankings(engine: sa.Engine) -> list[list[list[str]]]:
    """Every ranking there is as tiers of texts, each tier by the alphabet."""
    with reading(engine) as session:
        found = []
        for ranking in session.exec(select(Ranking).order_by(col(Ranking.id))):
            texts = [each.text for each in slate_completions(session=session, slate_id=ranking.slate_id)]
            found.append([sorted(texts[place] for place in tier) for tier in ranking.tiers])
        return found


def verdicts(engine: sa.Engine) -> dict[tuple[str, str], str]:
    """What stands of each two texts, by the alphabet: the better one, or "tie"."""
    with reading(engine) as session:
        found = {}
        for said in session.exec(select(Comparison)):
            pair = session.get_one(Pair, said.pair_id)
            texts = [session.get_one(Completion, each).text for each in (pair.completion_a_id, pair.completion_b_id)]
            key = tuple(sorted(texts))
            assert key not in found and said.ranking_id is not None
            found[key] = {"a": texts[0], "b": texts[1]}.get(said.verdict, said.verdict)
        return found


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (PLAIN, "prompt, completions, ranks"),
        (SCORED, "prompt, completions, scores"),
        (NECTAR, "answers with rank"),
        (ULTRAFEEDBACK, "completions with overall_score"),
    ],
)
def test_every_shape_is_one_ranking_and_all_its_pairs(
    engine: sa.Engine, tmp_path: Path, row: dict[str, Any], shape: str
) -> None:
    report = rankings_from(engine, jsonl(tmp_path / "r.jsonl", [row]))
    assert (report.kind, report.format) == (Kind.RANKINGS, f"jsonl: {shape}")
    assert (report.rows, report.rankings_added, report.comparisons_added, report.prompts_added) == (1, 1, 6, 1)
    assert saved_prompts(engine) == [ASKED]
    assert rankings(engine) == [TOLD]
    assert verdicts(engine) == {
        ("Maybe", "Yes"): "Yes",
        ("No", "Yes"): "Yes",
        ("What?", "Yes"): "Yes",
        ("Maybe", "No"): "tie",
        ("Maybe", "What?"): "Maybe",
        ("No", "What?"): "No",
    }
    with reading(engine) as session:
        assert get_annotator(session=session, name="import:r").role == Role.SOURCE
        assert {pair.open_slots for pair in session.exec(select(Pair))} == {0}
        assert session.exec(select(Slate)).one().size == 4
    assert "1 row: 1 ranking, which come to 6 comparisons, and 1 new prompt" in report.summary()


def test_who_wrote_what_is_kept_where_the_file_says_so(engine: sa.Engine, tmp_path: Path) -> None:
    rankings_from(engine, jsonl(tmp_path / "nectar.jsonl", [NECTAR]))
    with reading(engine) as session:
        sources = {each.text: each.source for each in session.exec(select(Completion))}
    assert sources["Yes"] == "nectar: gpt-4" and sources["No"] == "nectar: llama-2-7b-chat"


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.parquet"])
def test_lists_come_through_in_the_formats_that_have_them(engine: sa.Engine, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist([NECTAR]), path)
    else:
        path.write_text(json.dumps([NECTAR] if name == "r.json" else NECTAR))
    rankings_from(engine, path)
    assert rankings(engine) == [TOLD]


def test_what_is_left_out_of_a_list_is_counted(engine: sa.Engine, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "completions": ["x", "y", "y ", " "], "ranks": [1, 2, 2, 3]},  # y twice, and nothing once
        {"prompt": "b", "completions": ["x", "y", "y", "z"], "ranks": [1, 2, 4, 3]},  # nobody knows where y stands
        {"prompt": "c", "completions": ["x", "x"], "ranks": [1, 1]},
        {"prompt": " ", "completions": ["x", "y"], "ranks": [1, 2]},
        ULTRAFEEDBACK | {"completions": [*ULTRAFEEDBACK["completions"], {"response": "Hm", "overall_score": "N/A"}]},
    ]
    report = rankings_from(engine, jsonl(tmp_path / "r.jsonl", rows))
    assert rankings(engine) == [[["x"], ["y"]], [["x"], ["z"]], TOLD]
    assert report.skipped == {
        "identical completions": 1,
        "empty completion": 1,
        "the same completion at two ranks": 2,
        "fewer than two completions to rank": 1,
        "empty prompt": 1,
        "completion without a score": 1,
    }
    assert (report.rows, report.rankings_added, report.comparisons_added) == (5, 3, 8)


def test_the_same_again_changes_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", [PLAIN])
    rankings_from(engine, path)
    before = row_counts(engine), rankings(engine)
    again = rankings_from(engine, path)
    assert again.imported_before is not None and "nothing changed" in again.summary()
    shuffled = PLAIN | {"completions": ["What?", "Maybe", "No", "Yes"], "ranks": [9, 5, 5, 1]}
    other = rankings_from(engine, jsonl(tmp_path / "again.jsonl", [shuffled]))
    assert (other.rankings_added, other.duplicates, other.contradictions) == (0, 6, 0)
    with reading(engine) as session:
        assert len(session.exec(select(Ranking)).all()) == len(session.exec(select(Slate)).all()) == 1
    counts = row_counts(engine)
    assert {name: counts[name] for name in ("Prompt", "Completion", "Pair", "Comparison")} == {
        name: before[0][name] for name in ("Prompt", "Completion", "Pair", "Comparison")
    }


def test_what_was_said_first_stands(engine: sa.Engine, tmp_path: Path) -> None:
    preferences_from(engine, jsonl(tmp_path / "p.jsonl", [{"prompt": "Tea?", "chosen": "No", "rejected": "Yes"}]))
    report = rankings_from(engine, jsonl(tmp_path / "r.jsonl", [PLAIN]))
    assert (report.rankings_added, report.comparisons_added) == (1, 5)
    assert (report.contradictions, report.duplicates) == (1, 0)
    assert rankings(engine) == [TOLD]  # as it was given, also where one comparison of it was not wanted
    with reading(engine) as session:
        assert len(session.exec(select(Pair)).all()) == len(session.exec(select(Comparison)).all()) == 6
    later = preferences_from(
        engine, jsonl(tmp_path / "q.jsonl", [{"prompt": "Tea?", "chosen": "No", "rejected": "Maybe"}])
    )
    assert (later.comparisons_added, later.contradictions) == (0, 1)  # a ranking called these two a tie


def test_a_source_given_by_name_is_an_opinion_of_its_own(engine: sa.Engine, tmp_path: Path) -> None:
    rankings_from(engine, jsonl(tmp_path / "r.jsonl", [PLAIN]), source="one")
    other = PLAIN | {"ranks": [3, 2, 1, 4]}
    report = rankings_from(engine, jsonl(tmp_path / "s.jsonl", [other]), source="two")
    assert (report.rankings_added, report.comparisons_added, report.prompts_added) == (1, 6, 0)
    with reading(engine) as session:
        assert len(session.exec(select(Slate)).all()) == 1  # the same texts, whoever ranks them
        assert len(session.exec(select(SlateItem)).all()) == 4
        assert len(session.exec(select(Pair)).all()) == 6
    again = rankings_from(engine, jsonl(tmp_path / "t.jsonl", [PLAIN | {"id": 1}]), source="two")
    assert (again.rankings_added, again.duplicates, again.contradictions) == (0, 3, 3)


def test_one_text_more_is_another_slate_whose_new_pairs_alone_come_in(engine: sa.Engine, tmp_path: Path) -> None:
    longer = {"prompt": "Tea?", "completions": [*PLAIN["completions"], "Later"], "ranks": [1, 2, 2, 3, 4]}
    report = rankings_from(engine, jsonl(tmp_path / "r.jsonl", [PLAIN, longer, PLAIN]))
    assert (report.rankings_added, report.comparisons_added, report.duplicates) == (2, 10, 12)
    assert len(verdicts(engine)) == 10


def test_a_retracted_source_brings_nothing_more(engine: sa.Engine, tmp_path: Path) -> None:
    rankings_from(engine, jsonl(tmp_path / "r.jsonl", [PLAIN]))
    with writing(engine) as session:
        retract_annotator(session=session, name="import:r")
    before = row_counts(engine)
    with pytest.raises(StateError, match="retracted"):
        rankings_from(engine, jsonl(tmp_path / "q.jsonl", [SCORED | {"prompt": "Now?"}]), source="r")
    assert row_counts(engine) == before
    report = rankings_from(engine, jsonl(tmp_path / "s.jsonl", [PLAIN | {"id": 1}]))  # what was retracted is unknown
    assert (report.rankings_added, report.comparisons_added) == (1, 6)


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        (PLAIN | {"ranks": [1, 2]}, "expected 4 numbers in `ranks`, one for each of `completions`, found 2"),
        (PLAIN | {"ranks": [1, 2, "x", 3]}, "`ranks` must hold numbers alone"),
        (PLAIN | {"ranks": [1, 2, True, 3]}, "`ranks` must hold numbers alone"),
        (PLAIN | {"completions": ["a", 1, "b", "c"]}, "`completions` must hold texts, not int"),
        (PLAIN | {"completions": ["a", {"text": "b"}, "c", "d"]}, "texts alone, or objects alone"),
        ({"prompt": "a", "completions": ["x", "y"], "rank": [1, 2]}, "Is `rank` meant for `ranks`?"),
        ({"prompt": "a", "completion": ["x", "y"], "ranks": [1, 2]}, "Is `completion` meant for `completions`?"),
        ({"promt": "a", "completions": ["x", "y"], "ranks": [1, 2]}, "Is `promt` meant for `prompt`?"),
        ({"prompt": "a", "answers": [{"answer": "x", "rank": "first"}]}, "a `rank` must be a number, not 'first'"),
        ({"prompt": "a", "answers": [{"reply": "x", "rank": 1}]}, "needs a text, as `answer` or `response`"),
        ({"prompt": "a", "completions": list("abcdefghijklmnopqrstu"), "ranks": [1] * 21}, "at most 20"),
    ],
)
def test_errors_name_file_and_line_and_what_was_expected(
    engine: sa.Engine, tmp_path: Path, row: dict[str, Any], hint: str
) -> None:
    path = jsonl(tmp_path / "r.jsonl", [PLAIN, row])
    with pytest.raises(ImportFileError, match=r"r\.jsonl, line 2: ") as error:
        rankings_from(engine, path)
    assert hint in str(error.value)
    assert set(row_counts(engine).values()) == {0}
    if "completions" in row or "answers" in row:  # told by its first row as well, misspelled or not
        with pytest.raises(ImportFileError, match="line 1: ") as first:
            rankings_from(engine, jsonl(tmp_path / "s.jsonl", [row]))
        assert hint in str(first.value)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Tea?", "completions": ["Yes", "No"]},  # nobody ranked these
        {"prompt": "Tea?", "answers": {"text": ["Yes"]}},
        {"prompt": "Tea?", "answers": ["Yes"]},
    ],
)
def test_answers_that_nobody_ranked_are_a_file_of_prompts(
    engine: sa.Engine, tmp_path: Path, row: dict[str, Any]
) -> None:
    assert rankings_from(engine, jsonl(tmp_path / "p.jsonl", [row])).kind == Kind.PROMPTS
    assert saved_prompts(engine) == [user("Tea?")]


RANKS = st.lists(st.integers(1, 4), min_size=2, max_size=6)


@settings(max_examples=25)
@given(ranks=RANKS, order=st.randoms(use_true_random=False))
def test_any_ranking_comes_to_what_its_ranks_say(
    tmp_path_factory: pytest.TempPathFactory, blank_database: Path, ranks: list[int], order: Any
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "x.db").write_bytes(blank_database.read_bytes())
    engine = open_database(f"sqlite:///{folder / 'x.db'}")
    texts = [f"text {number}" for number in range(len(ranks))]
    order.shuffle(texts)
    rankings_from(engine, jsonl(folder / "r.jsonl", [{"prompt": "q", "completions": texts, "ranks": ranks}]))
    rank = dict(zip(texts, ranks, strict=True))
    assert verdicts(engine) == {
        (one, other): "tie" if rank[one] == rank[other] else min(one, other, key=rank.__getitem__)
        for one, other in combinations(sorted(texts), 2)
    }
    engine.dispose()
