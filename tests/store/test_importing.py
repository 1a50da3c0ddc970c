"""Importing: what is kept, all of a file or nothing, never twice."""

import shutil
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import select

from store.annotators import get_or_add_annotator, retract_annotator
from store.database import open_database, reading, writing
from store.errors import ImportFileError, StateError
from store.hashing import text_hash
from store.importing import Kind, import_file
from store.models import Comparison, Completion, Pair, Role
from store.pairs import add_pair
from tests.store.asking import add_imported_text, add_prompt
from tests.store.imported import (
    ASKED,
    HH,
    jsonl,
    preferences_from,
    prompts_from,
    row_counts,
    said,
    saved_preferences,
    saved_prompts,
)


def test_how_preferences_are_stored(engine, tmp_path):
    rows = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(120)]
    preferences_from(engine, jsonl(tmp_path / "mine.v1.jsonl", rows))
    with reading(engine) as session:
        completions = session.exec(select(Completion)).all()
        pairs = session.exec(select(Pair)).all()
        comparisons = session.exec(select(Comparison)).all()
        assert {row[3:] for row in said(session)} == {("import:mine.v1", Role.SOURCE)}
    assert {(c.checkpoint_id, c.source, c.finish_reason) for c in completions} == {(None, "mine.v1", "imported")}
    assert all(completion.text_hash == text_hash(completion.text) for completion in completions)
    assert {(p.round_id, p.wanted, p.open_slots, p.purpose) for p in pairs} == {(None, 0, 0, "train")}
    assert {comparison.left_side for comparison in comparisons} == {None}
    sides = Counter(comparison.verdict for comparison in comparisons)
    assert set(sides) == {"a", "b"}
    assert min(sides.values()) > 30  # drawn by hash: 120 fair coins fall this far apart once in 10^8


def test_twice_changes_nothing(engine, tmp_path):
    path = jsonl(tmp_path / "hh.jsonl", [HH, {"prompt": "Tea?", "chosen": "Yes", "rejected": "No"}])
    preferences_from(engine, path)
    before = row_counts(engine)
    again = preferences_from(engine, path)
    assert row_counts(engine) == before
    assert again.imported_before is not None and (again.comparisons_added, again.prompts_added) == (0, 0)
    assert "already imported on" in again.summary()


@pytest.mark.parametrize("name", ["tea.jsonl", "tea-edited.jsonl"])
def test_an_edited_file_adds_only_what_is_new(engine, tmp_path, name):
    first = {"prompt": "Tea?", "chosen": "Yes", "rejected": "No"}
    preferences_from(engine, jsonl(tmp_path / "tea.jsonl", [first]))
    rows = [
        first,
        {"prompt": "Tea?", "chosen": "No", "rejected": "Yes"},
        {"prompt": "Tea?", "chosen": "Yes", "rejected": "Later"},
    ]
    report = preferences_from(engine, jsonl(tmp_path / name, rows))
    assert (report.comparisons_added, report.duplicates, report.contradictions, report.prompts_added) == (1, 1, 1, 0)
    assert saved_preferences(engine) == [(ASKED, "Yes", "No"), (ASKED, "Yes", "Later")]
    assert row_counts(engine)["Completion"] == 3


def test_a_named_source_is_an_opinion_of_its_own(engine, tmp_path):
    preferences_from(engine, jsonl(tmp_path / "a.jsonl", [{"prompt": "Tea?", "chosen": "Yes", "rejected": "No"}]))
    other = jsonl(tmp_path / "b.jsonl", [{"prompt": "Tea?", "chosen": "No", "rejected": "Yes"}])
    report = preferences_from(engine, other, source="bob")
    assert (report.comparisons_added, report.contradictions) == (1, 0)
    assert row_counts(engine)["Pair"] == 1
    with reading(engine) as session:
        assert [row[1:4] for row in said(session)] == [("Yes", "No", "import:a"), ("No", "Yes", "import:bob")]


def test_texts_compared_here_are_known(engine, tmp_path):
    """An export of the workspace, imported again, adds nothing."""
    with writing(engine) as session:
        prompt = add_prompt(session, ASKED)
        texts = [add_imported_text(session, prompt.id, text) for text in ("Yes", "No")]
        pair = add_pair(session=session, prompt_id=prompt.id, completions=texts, wanted=1)
        ann = get_or_add_annotator(session=session, name="Ann")
        session.add(Comparison(pair_id=pair.id, annotator_id=ann.id, verdict="b"))
    rows = [
        {"prompt": "Tea?", "chosen": "No", "rejected": "Yes"},
        {"prompt": "Tea?", "chosen": "Yes", "rejected": "No"},
    ]
    report = preferences_from(engine, jsonl(tmp_path / "x.jsonl", rows))
    assert (report.comparisons_added, report.duplicates, report.contradictions) == (0, 1, 1)


def test_a_retracted_source_cannot_import(engine, tmp_path):
    preferences_from(engine, jsonl(tmp_path / "a.jsonl", [HH]))
    with writing(engine) as session:
        retract_annotator(session=session, name="import:a")
    with pytest.raises(StateError, match="retracted"):
        preferences_from(engine, jsonl(tmp_path / "a.jsonl", [{"prompt": "p", "chosen": "x", "rejected": "y"}]))
    assert row_counts(engine)["Comparison"] == 1


@settings(max_examples=15)
@given(order=st.permutations(range(6)), seed=st.integers(0, 3))
def test_every_row_is_counted_once(tmp_path_factory, blank_database, order, seed):
    folder = tmp_path_factory.mktemp("law")
    rows = [
        {"prompt": "p", "chosen": "x", "rejected": "y"},
        {"prompt": "p", "chosen": "y", "rejected": "x"},
        {"prompt": "p ", "chosen": "x", "rejected": "y"},
        {"prompt": f"p{seed}", "chosen": "x", "rejected": "x"},
        {"prompt": f"p{seed}", "chosen": "", "rejected": "x"},
        HH,
    ]
    engine = open_database(f"sqlite:///{shutil.copy(blank_database, folder)}")
    report = preferences_from(engine, jsonl(folder / "p.jsonl", [rows[at] for at in order]))
    engine.dispose()
    added = report.comparisons_added + report.duplicates + report.contradictions
    assert report.rows == 6 == added + sum(report.skipped.values())
    assert report.comparisons_added == 2 and report.duplicates + report.contradictions == 2


# --- all or nothing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prompts", "preferences"])
def test_a_bad_last_line_imports_nothing(engine, tmp_path, kind):
    path = jsonl(tmp_path / "p.jsonl", [{"prompt": f"q{n}", "chosen": "x", "rejected": "y"} for n in range(50)])
    path.write_text(path.read_text() + '{"prompt": "q", \n')
    before = row_counts(engine)
    with pytest.raises(ImportFileError, match=r"p\.jsonl, line 51: expected one JSON object.*\nNothing was imported"):
        (prompts_from if kind == "prompts" else preferences_from)(engine, path)
    assert row_counts(engine) == before == dict.fromkeys(before, 0)


def test_a_write_that_fails_imports_nothing(engine, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("boom")

    monkeypatch.setattr("store.bulk_adding._insert_comparisons", fail)
    with pytest.raises(OSError, match="boom"):
        preferences_from(engine, jsonl(tmp_path / "p.jsonl", [HH]))
    assert sum(row_counts(engine).values()) == 0


def test_the_first_five_bad_lines_are_named_and_the_others_counted(engine, tmp_path):
    rows = [{"prompt": "fine"}, *[{"prompt": 3}] * 7]
    with pytest.raises(ImportFileError) as error:
        prompts_from(engine, jsonl(tmp_path / "p.jsonl", rows))
    said = str(error.value)
    assert [f"line {n}:" in said for n in range(1, 9)] == [False] + [True] * 5 + [False] * 2
    assert "2 more bad lines" in said


def test_a_missing_file(engine, tmp_path):
    with pytest.raises(ImportFileError, match=r"no\.jsonl"):
        prompts_from(engine, tmp_path / "no.jsonl")
    with pytest.raises(ImportFileError, match="no such file"):
        import_file(engine=engine, path=tmp_path / "no.jsonl", held_out_share=0.2)


def test_what_a_file_holds_can_be_said(engine, tmp_path):
    path = jsonl(tmp_path / "p.jsonl", [{"prompt": "Tea?", "chosen": "Yes", "rejected": "No"}])
    reports = [
        import_file(engine=engine, path=path, held_out_share=0, kind=kind) for kind in (Kind.PROMPTS, None, None)
    ]
    assert [report.kind for report in reports] == ["prompts", "preferences", "preferences"]
    assert [report.prompts_added for report in reports] == [1, 0, 0]
    assert [report.comparisons_added for report in reports] == [0, 1, 0]
    assert saved_prompts(engine) == [ASKED]


def test_progress_is_told(engine, tmp_path):
    told = []
    rows = [{"prompt": f"q{n}", "chosen": "x", "rejected": "y"} for n in range(1200)]
    preferences_from(engine, jsonl(tmp_path / "p.jsonl", rows), on_progress=lambda *step: told.append(step))
    assert ("reading", 1000, 0) in told and told[-1] == ("writing", 1200, 1200)
