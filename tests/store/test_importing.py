"""Importing: every public shape, all or nothing, never twice. The oracles are rows as published, written out here."""

import csv
import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import Session, select

from store.annotators import get_annotator, get_or_add_annotator, retract_annotator
from store.database import open_database, reading, writing
from store.errors import ImportFileError, StateError
from store.hashing import content_hash, text_hash
from store.importing import ImportReport, detect_kind, import_preferences, import_prompts
from store.models import Annotator, Comparison, Completion, ImportRecord, Pair, Prompt, Role
from store.pairs import NewCompletion, add_completion, add_pair
from store.prompts import get_or_add_prompt, is_held_out

HH_SAMPLE = Path(__file__).parents[2] / ".." / "shared" / "data" / "hh-harmless-test.jsonl.gz"
TABLES = (Prompt, Completion, Pair, Comparison, ImportRecord, Annotator)
ODD = "caf\u00e9 \u2028 \u2029 \u0085 \"quoted\", 'it''s' \t\U0001f600 \u202eabc; d\r\ne\n\nf"


def jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prompts_from(engine, path: Path, **options) -> ImportReport:
    return import_prompts(engine=engine, path=path, held_out_share=0.2, **options)


def preferences_from(engine, path: Path, **options) -> ImportReport:
    return import_preferences(engine=engine, path=path, held_out_share=0.2, **options)


def row_counts(engine: sa.Engine) -> dict[str, int]:
    with reading(engine) as session:
        return {table.__name__: len(session.exec(select(table)).all()) for table in TABLES}


def saved_prompts(engine: sa.Engine) -> list[list[dict[str, str]]]:
    with reading(engine) as session:
        return [prompt.messages for prompt in session.exec(select(Prompt).order_by(Prompt.id))]


def said(session: Session) -> list[tuple]:
    """Every standing verdict, spelled out: (prompt messages, chosen text, rejected text, annotator, role)."""
    found = []
    for comparison in session.exec(select(Comparison).order_by(Comparison.id)):
        pair = session.get_one(Pair, comparison.pair_id)
        texts = [session.get_one(Completion, each).text for each in (pair.completion_a_id, pair.completion_b_id)]
        chosen, rejected = texts if comparison.verdict == "a" else reversed(texts)
        annotator = session.get_one(Annotator, comparison.annotator_id)
        messages = session.get_one(Prompt, pair.prompt_id).messages
        found.append((messages, chosen, rejected, annotator.name, annotator.role))
    return found


def saved_preferences(engine: sa.Engine) -> list[tuple]:
    with reading(engine) as session:
        return [row[:3] for row in said(session)]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# --- prompts ---------------------------------------------------------------------------------------------------------

CHAT = [{"role": "system", "content": "Be brief."}, *user("Hi"), assistant("Hello"), *user("Bye")]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": CHAT, "id": 7}, CHAT),
        ({"prompt": "Why?", "topic": "x"}, user("Why?")),
        ({"prompt": CHAT}, CHAT),
        ({"prompt": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:"}, CHAT[1:]),
        ({"instruction": "Translate.", "input": "chat"}, user("Translate.\n\nchat")),
        ({"instruction": "Sing.", "input": ""}, user("Sing.")),
        ({"question": "Where?"}, user("Where?")),
        ({"prompt": "Why?", "chosen": "x", "rejected": "y"}, user("Why?")),
    ],
)
def test_prompt_shapes(engine, tmp_path, row, messages):
    report = prompts_from(engine, jsonl(tmp_path / "p.jsonl", [row]))
    assert saved_prompts(engine) == [messages]
    assert (report.rows, report.prompts_added, report.duplicates, report.skipped) == (1, 1, 0, {})


def write_as(path: Path, texts: list[str], name: str) -> Path:
    rows = [{"prompt": text} for text in texts]
    plain = path / name.removesuffix(".gz")
    if ".jsonl" in name:
        jsonl(plain, rows)
    elif ".json" in name:
        plain.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8-sig")
    elif ".csv" in name or ".tsv" in name:
        with plain.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t" if ".tsv" in name else ",")
            writer.writerows([["prompt", "n"], *[[text, k] for k, text in enumerate(texts)]])
    elif ".parquet" in name:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), plain)
    else:
        plain.write_text("\n".join(texts) + "\n", encoding="utf-8")
    if name.endswith(".gz"):
        plain.with_name(name).write_bytes(gzip.compress(plain.read_bytes()))
    return path / name


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format_keeps_odd_texts(engine, tmp_path, kind, packed):
    texts = [ODD, "plain", ODD + " again", "long " * 40_000]  # CSV's own limit is 131,072 characters
    path = write_as(tmp_path, texts, f"p.{kind}{packed}")
    assert detect_kind(path) == "prompts"
    prompts_from(engine, path)
    assert saved_prompts(engine) == [user(text.strip()) for text in texts]


@pytest.mark.parametrize("name", ["p.txt", "p.txt.gz"])
def test_txt_is_one_prompt_a_line(engine, tmp_path, name):
    prompts_from(engine, write_as(tmp_path, ["one \u2028 line", "", "  two\r", "Human: three"], name))
    assert saved_prompts(engine) == [user("one \u2028 line"), user("two"), user("Human: three")]


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30)


@settings(max_examples=40)
@given(texts=st.lists(TEXTS.filter(str.strip), min_size=1, max_size=4), kind=st.sampled_from(["jsonl", "json", "csv"]))
def test_any_text_comes_through(tmp_path_factory, texts, kind):
    from store.reading_files import read_rows

    rows = list(read_rows(write_as(tmp_path_factory.mktemp("any"), texts, f"p.{kind}")))
    assert [row.values["prompt"] for row in rows] == texts


def test_held_out_follows_the_hash_and_source_is_kept(engine, tmp_path):
    report = prompts_from(engine, jsonl(tmp_path / "own.jsonl", [{"prompt": f"q{n}"} for n in range(200)]))
    with reading(engine) as session:
        prompts = session.exec(select(Prompt)).all()
    assert all(prompt.held_out == is_held_out(prompt.content_hash, share=0.2) for prompt in prompts)
    assert report.held_out == sum(prompt.held_out for prompt in prompts) > 0
    assert {prompt.source for prompt in prompts} == {"own"}
    assert all(prompt.content_hash == content_hash(prompt.messages) and prompt.import_id for prompt in prompts)


def test_csv_cells_may_hold_messages_and_semicolons_may_part_them(engine, tmp_path):
    path = tmp_path / "p.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows([["id", "messages"], [1, json.dumps(CHAT)]])
    prompts_from(engine, path)
    assert saved_prompts(engine) == [CHAT]


def test_empty_prompts_are_counted_not_errors(engine, tmp_path):
    report = prompts_from(engine, jsonl(tmp_path / "p.jsonl", [{"prompt": " "}, {"prompt": "a"}, {"prompt": "a "}]))
    assert (report.rows, report.prompts_added, report.duplicates) == (3, 1, 1)
    assert report.skipped == {"empty prompt": 1}


# --- preferences -----------------------------------------------------------------------------------------------------

HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Help?\n\nAssistant: Sure.\n\nWith what?",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Help?\n\nAssistant: No",
}
HH_READ = ([*user("Hi"), assistant("Hello"), *user("Help?")], "Sure.\n\nWith what?", "No")
ASKED, YES, NO = user("Tea?"), [assistant(" Yes\n")], [assistant("No")]


@pytest.mark.parametrize(
    ("row", "preference"),
    [
        ({"prompt": "Tea?", "chosen": " Yes", "rejected": "No"}, (ASKED, "Yes", "No")),
        ({"prompt": ASKED, "chosen": YES, "rejected": NO}, (ASKED, " Yes\n", "No")),
        ({"prompt": ASKED, "chosen": "Yes", "rejected": "No"}, (ASKED, "Yes", "No")),
        ({"prompt": "Tea?", "chosen": YES, "rejected": NO}, (ASKED, " Yes\n", "No")),
        ({"prompt": "Tea?", "chosen": ASKED + YES, "rejected": ASKED + NO}, (ASKED, " Yes\n", "No")),
        ({"chosen": ASKED + YES, "rejected": ASKED + NO, "score": 3}, (ASKED, " Yes\n", "No")),
        ({"chosen": "2 + 2 = 13", "rejected": "2 + 2 = 14"}, (user("2 + 2 ="), "13", "14")),
        ({"chosen": "Tea? Yes", "rejected": "Tea? Yes please"}, (ASKED, "Yes", "Yes please")),
        (HH, HH_READ),
        ({"chosen": HH["chosen"].strip(), "rejected": HH["rejected"].strip()}, HH_READ),
        (
            {"prompt": "\n\nHuman: Tea?\n\nAssistant:", "chosen": " Yes", "rejected": " No"},
            (ASKED, "Yes", "No"),
        ),
        # A model that went on and wrote "Assistant:" itself: one completion, not a conversation that parts earlier.
        (
            {
                "chosen": "\n\nHuman: Tea?\n\nAssistant: Yes\n\nAssistant: Please",
                "rejected": "\n\nHuman: Tea?\n\nAssistant: No",
            },
            (ASKED, "Yes\n\nPlease", "No"),
        ),
        (
            {
                "chosen": "\n\nHuman: Tea?\n\nAssistant:\n\nHuman: Now?\n\nAssistant: Yes",
                "rejected": "\n\nHuman: Tea?\n\nAssistant:\n\nHuman: Now?\n\nAssistant: No",
            },
            (user("Tea?\n\nNow?"), "Yes", "No"),
        ),
    ],
)
def test_preference_shapes(engine, tmp_path, row, preference):
    path = jsonl(tmp_path / "p.jsonl", [row])
    assert detect_kind(path) == "preferences"
    report = preferences_from(engine, path)
    assert saved_preferences(engine) == [preference]
    assert (report.rows, report.comparisons_added, report.prompts_added, report.skipped) == (1, 1, 1, {})


HEAD = "\n\nHuman: Tea?\n\nAssistant:"


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (HEAD + " Yes", HEAD + " Yes ", "identical completions"),
        (HEAD + " Yes", HEAD, "empty completion"),
        (HEAD + " Yes\n\nHuman: ok", HEAD + " No\n\nHuman: ok", "no assistant turn at the end"),
        (
            HEAD + " Yes\n\nHuman: Now?\n\nAssistant: Yes",
            HEAD + " No\n\nHuman: Now?\n\nAssistant: No",
            "conversations that differ before the last turn",
        ),
        ("\n\nAssistant: Yes", "\n\nAssistant: No", "no user turn before the completion"),
    ],
)
def test_transcripts_that_say_nothing_are_skipped_and_counted(engine, tmp_path, chosen, rejected, reason):
    report = preferences_from(engine, jsonl(tmp_path / "hh.jsonl", [{"chosen": chosen, "rejected": rejected}, HH]))
    assert report.skipped == {reason: 1}
    assert saved_preferences(engine) == [HH_READ]
    assert reason in report.summary()


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
        prompt, _ = get_or_add_prompt(session=session, messages=ASKED, source="x", held_out_share=0)
        texts = [
            add_completion(session=session, prompt_id=prompt.id, new=NewCompletion(text)) for text in ("Yes", "No")
        ]
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

    monkeypatch.setattr("store.bulk_adding._add_comparisons", fail)
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


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"prompt": "p", "chosen": "x", "rejcted": "y"}, "Is `rejcted` meant for `rejected`?"),
        ({"prompt": "p", "Chosen": "x", "rejected": "y"}, "Is `Chosen` meant for `chosen`?"),
        ({"chosen": "x", "rejected": "y"}, "add a column `prompt`"),
        ({"prompt": "p", "chosen": "x", "rejected": [assistant("y")]}, "must both be"),
        ({"prompt": "p", "chosen": [{"role": "bot", "content": "x"}], "rejected": NO}, "not 'bot'"),
        ({"prompt": [assistant("x")], "chosen": "x", "rejected": "y"}, "must end with a user message"),
        ({"prompt": "p", "chosen": "\ud800", "rejected": "y"}, "half of a character"),
    ],
)
def test_malformed_preferences_say_what_is_expected(engine, tmp_path, row, hint):
    path = jsonl(tmp_path / "p.jsonl", [row])
    assert "half" in hint or detect_kind(path) == "preferences"
    with pytest.raises(ImportFileError, match="line 1") as error:
        preferences_from(engine, path)
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"promt": "a", "id": 1}, "Is `promt` meant for `prompt`?"),
        ({"messages": [*user("a"), assistant("b")]}, "must end with a user message"),
        ([1], "expected a JSON object, found list"),
    ],
)
def test_malformed_prompts_say_what_is_expected(engine, tmp_path, row, hint):
    with pytest.raises(ImportFileError) as error:
        prompts_from(engine, jsonl(tmp_path / "p.jsonl", [row]))
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.docx", b"x", "kind of file is not known"),
        ("p.jsonl", b"", "holds no rows"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}\n', "line 2: this is not UTF-8"),
        ("p.jsonl.gz", b"not gzip", "cannot be read"),
        ("p.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 99)[:-12], "cannot be read"),
        ("p.parquet", b"not parquet", "not a Parquet file"),
        ("p.csv", b'prompt,n\nok,1\n"a"b,2\n', "line 3: expected CSV"),
        ("p.csv", b"prompt,n\nok,1\nonly\n", "line 3: expected 2 fields"),
        ("p.csv", b'prompt,n\n"two\nlines",1\n"open,2\n', "line 4: expected CSV"),
        ("p.csv", b"prompt,n\n\xff,1\n", "not UTF-8"),
        ("p.json", b'[{"prompt": "a"},\n{"prompt": }]', "line 2: expected a JSON object"),
        ("p.json", b'[{"prompt": "a"},\n\n{"prompt": 1}]', "line 3: "),
        ("p.json", b'[{"prompt": "a"}', "expected a JSON object, or the end"),
    ],
)
def test_files_that_are_not_what_they_say(engine, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImportFileError) as error:
        prompts_from(engine, tmp_path / name)
    assert said in str(error.value) and name in str(error.value)
    assert row_counts(engine)["Prompt"] == 0


def test_a_missing_file(engine, tmp_path):
    with pytest.raises(ImportFileError, match=r"no\.jsonl"):
        prompts_from(engine, tmp_path / "no.jsonl")
    with pytest.raises(ImportFileError, match="no such file"):
        detect_kind(tmp_path / "no.jsonl")


def test_progress_is_told(engine, tmp_path):
    told = []
    rows = [{"prompt": f"q{n}", "chosen": "x", "rejected": "y"} for n in range(1200)]
    preferences_from(engine, jsonl(tmp_path / "p.jsonl", rows), on_progress=lambda *step: told.append(step))
    assert ("reading", 1000, 0) in told and told[-1] == ("writing", 1200, 1200)


@pytest.mark.skipif(not HH_SAMPLE.exists(), reason="the HH-RLHF sample is not part of the repository")
def test_the_published_harmless_test_split(engine):
    report = preferences_from(engine, HH_SAMPLE)
    assert (report.rows, report.comparisons_added, report.skipped) == (2312, 2308, {"empty completion": 4})
    assert (report.prompts_added, report.joined_turns, report.duplicates) == (2306, 9, 0)
    with reading(engine) as session:
        assert get_annotator(session=session, name="import:hh-harmless-test").role == Role.SOURCE
        for messages, chosen, rejected, *_ in said(session):
            assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]
            assert chosen != rejected and "\n\nAssistant:" not in chosen + rejected
