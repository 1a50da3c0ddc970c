"""Importing: every public shape and format. The oracles are rows as published, written out here."""

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import select

from store.annotators import get_annotator
from store.database import reading
from store.errors import ImportFileError
from store.hashing import content_hash
from store.importing import ImportReport, import_file
from store.models import Prompt, Role
from store.prompts import is_held_out
from tests.store.imported import (
    ASKED,
    HH,
    HH_READ,
    NO,
    YES,
    assistant,
    jsonl,
    preferences_from,
    prompts_from,
    row_counts,
    said,
    saved_preferences,
    saved_prompts,
    user,
)

ODD = "caf\u00e9 \u2028 \u2029 \u0085 \"quoted\", 'it''s' \t\U0001f600 \u202eabc; d\r\ne\n\nf"

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
        ({"text": "Where?"}, user("Where?")),
        ({"prompt": "Why?", "chosen": "x", "rejected": "y"}, user("Why?")),
    ],
)
def test_prompt_shapes(engine, tmp_path, row, messages):
    report = prompts_from(engine, jsonl(tmp_path / "p.jsonl", [row]))
    assert saved_prompts(engine) == [messages]
    assert (report.rows, report.prompts_added, report.duplicates, report.skipped) == (1, 1, 0, {})


def told_apart(engine, path: Path) -> ImportReport:
    """Import a file without saying what it holds."""
    return import_file(engine=engine, path=path, held_out_share=0.2)


def write_as(path: Path, texts: list[str], name: str, column: str = "prompt") -> Path:
    rows = [{column: text} for text in texts]
    plain = path / name.removesuffix(".gz")
    if ".jsonl" in name:
        jsonl(plain, rows)
    elif ".json" in name:
        plain.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8-sig")
    elif ".csv" in name or ".tsv" in name:
        with plain.open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t" if ".tsv" in name else ",")
            writer.writerows([[column], *[[text] for text in texts]])
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
    assert told_apart(engine, path).kind == "prompts"
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
    report = told_apart(engine, path)
    assert report.kind == "preferences"
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


# --- what is none ----------------------------------------------------------------------------------------------------


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
    for import_it in (preferences_from, told_apart):
        with pytest.raises(ImportFileError, match="line 1") as error:
            import_it(engine, path)
        assert hint in str(error.value)


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"promt": "a", "id": 1}, "found `promt`, `id`. Is `promt` meant for `prompt`?"),
        ({"promt": "a"}, "found `promt`. Is `promt` meant for `prompt`?"),
        ({"txt": "a"}, "found `txt`. Is `txt` meant for `text`?"),
        ({"answer": "a"}, "expected a column `prompt`, `messages` or `instruction`, or `text` alone, found `answer`"),
        ({"text": "a", "label": "b"}, "or `text` alone, found `text`, `label`"),
        ({"messages": [*user("a"), assistant("b")]}, "must end with a user message"),
        ([1], "expected a JSON object, found list"),
    ],
)
def test_malformed_prompts_say_what_is_expected(engine, tmp_path, row, hint):
    with pytest.raises(ImportFileError, match=r"p\.jsonl, line 2") as error:
        prompts_from(engine, jsonl(tmp_path / "p.jsonl", [{"prompt": "fine"}, row]))
    assert hint in str(error.value)
    assert row_counts(engine)["Prompt"] == 0


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_a_lone_column_that_is_misspelled_is_named_in_every_format(engine, tmp_path, kind):
    with pytest.raises(ImportFileError, match=rf"p\.{kind}, (line|row) \d: .* found `promt`\. Is `promt` meant"):
        told_apart(engine, write_as(tmp_path, ["a", "b"], f"p.{kind}", column="promt"))
    assert row_counts(engine)["Prompt"] == 0


def test_a_wrong_header_is_said_once(engine, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("prompt,chosen,rejcted\n" + "p,x,y\n" * 3)
    with pytest.raises(ImportFileError) as error:
        told_apart(engine, path)
    assert str(error.value).split("\n")[0].startswith("p.csv, line 1: expected columns")
    assert str(error.value).count("Is `rejcted` meant for `rejected`?\n") == 1
    path.write_text("prompt,chosen,rejected\np,x,y\np,x,\np,x,\n")  # here lines 3 and 4 are wrong
    with pytest.raises(ImportFileError, match=r"line 3: (.|\n)*line 4: "):
        told_apart(engine, path)


def test_bad_json_is_placed_by_the_files_line_and_the_column(engine, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "a" "b"}\n')
    with pytest.raises(ImportFileError, match=r"line 2: .* \(Expecting ',' delimiter, at column 16\)"):
        told_apart(engine, path)


def test_an_unknown_kind_of_file(engine, tmp_path):
    with pytest.raises(ImportFileError, match=r"Known are \.jsonl.* Nothing was imported\."):
        told_apart(engine, tmp_path / "p.docx")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.docx", b"x", "kind of file is not known"),
        ("p.jsonl", b"", "holds no rows"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}\n', "line 2: this is not UTF-8"),
        ("p.jsonl.gz", b"not gzip", "cannot be read"),
        ("p.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 99, mtime=0)[:-12], "cannot be read"),
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


HH_SAMPLE = Path(__file__).parents[2] / ".." / "shared" / "data" / "hh-harmless-test.jsonl.gz"


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
