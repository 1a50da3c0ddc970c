"""Exports: opened by `datasets`, trained on by an untouched TRL, and read back by our own import as the same thing."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import select

from store.database import open_database, reading, writing
from store.errors import SnapshotError
from store.exporting import FIELDS, export_snapshot, plain_prompt
from store.hashing import file_hash
from store.importing import import_preferences
from store.models import Comparison, Completion, Pair, Prompt
from store.snapshot_filter import SnapshotFilter
from store.snapshots import cut_snapshot, read_snapshot

ODD = 'caf\u00e9 \u2028 \u2029 \u0085 "quoted" \\u2028 \t\U0001f600 | `x`'
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": ODD},
]


def make_snapshot(engine, folder: Path, preferences: list[tuple], held_out_share: float = 0.0):
    """Import (messages, chosen, rejected) triples and cut a snapshot of them."""
    source = folder / "source.jsonl"
    rows = [
        {
            "prompt": messages,
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for messages, chosen, rejected in preferences
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_preferences(engine=engine, path=source, held_out_share=held_out_share)
    with writing(engine) as session:
        return cut_snapshot(session=session, folder=folder, filter=SnapshotFilter(min_pairs=1))


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


SOME = [(user(f"question {n}"), f"good answer {n}", f"bad {n}") for n in range(40)] + [(TURNS, ODD, "no\r\n")]


@pytest.fixture
def snapshot(engine, tmp_path):
    return make_snapshot(engine, tmp_path, SOME, held_out_share=0.3)


def export(engine, snapshot, folder: Path, target: Path, **options):
    with reading(engine) as session:
        return export_snapshot(session=session, snapshot=snapshot, folder=folder, target=target, **options)


def load(target: Path, cache: Path):
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(target), cache_dir=str(cache))


ALL = [(style, kind) for style in ("conversational", "plain") for kind in ("jsonl", "parquet")]


@pytest.mark.parametrize(("style", "kind"), ALL)
def test_datasets_opens_it(engine, snapshot, tmp_path, style, kind):
    target = tmp_path / "export"
    report = export(engine, snapshot, tmp_path, target, style=style, file_format=kind)
    loaded = load(target, tmp_path / "cache")
    assert set(loaded) == {"train", "test"}
    for split, rows in loaded.items():
        written = read_snapshot(snapshot=snapshot, folder=tmp_path, split=split)
        assert rows.column_names == list(FIELDS)
        assert report.rows[split] == len(rows) == len(written) > 5
        for row, expected in zip(rows, written, strict=True):
            texts = ("prompt", "chosen", "rejected")
            assert {name: row[name] for name in FIELDS if name not in texts} == {
                name: expected[name] for name in FIELDS if name not in texts
            }
            if style == "plain":
                assert [row[name] for name in texts] == [
                    plain_prompt(expected["prompt"]),
                    expected["chosen"],
                    expected["rejected"],
                ]
            else:
                assert row["prompt"] == expected["prompt"]
                assert [row[name] for name in texts[1:]] == [
                    [{"role": "assistant", "content": expected[name]}] for name in texts[1:]
                ]


def test_what_the_folder_holds(engine, snapshot, tmp_path):
    target = tmp_path / "deep" / "export"
    export(engine, snapshot, tmp_path, target, style="plain", file_format="parquet")
    names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert names == ["README.md", "data/test.parquet", "data/train.parquet", "manifest.json"]
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["snapshot"] == snapshot.hash and manifest["pairs"] == snapshot.manifest["pairs"]
    data = ("data/test.parquet", "data/train.parquet")
    assert manifest["files"] == {name: file_hash(target / name) for name in data}
    card = (target / "README.md").read_text()
    assert snapshot.hash[:12] in card and "license: unknown" in card and "`source`" in card
    assert f"| train | {manifest['pairs']['train']} |" in card
    assert all(f"| `{name}` |" in card for name in FIELDS)


def snapshot_with_ties(engine, tmp_path, *, keep_ties):
    """Of 41 comparisons, with three that were called ties."""
    make_snapshot(engine, tmp_path, SOME)
    with writing(engine) as session:
        for comparison in session.exec(select(Comparison).limit(3)):
            comparison.verdict = "tie"
            session.add(comparison)
        session.flush()
        return cut_snapshot(session=session, folder=tmp_path, filter=SnapshotFilter(keep_ties=keep_ties))


def test_the_card_says_what_was_left_out(engine, tmp_path):
    snapshot = snapshot_with_ties(engine, tmp_path, keep_ties=False)
    export(engine, snapshot, tmp_path, tmp_path / "x")
    card = (tmp_path / "x" / "README.md").read_text()
    assert "Of 41 comparisons, 38 were used." in card and "| ties | 3 |" in card


def test_ties_that_a_snapshot_keeps_are_not_exported(engine, tmp_path):
    snapshot = snapshot_with_ties(engine, tmp_path, keep_ties=True)
    report = export(engine, snapshot, tmp_path, tmp_path / "x")
    assert report.rows == {"train": 38}
    assert [path.name for path in (tmp_path / "x" / "data").iterdir()] == ["train.jsonl"]
    card = (tmp_path / "x" / "README.md").read_text()
    assert "38 preferences (and 3 ties that the snapshot keeps, not in this dataset) come from 41 comparisons" in card


def test_no_held_out_rows_no_test_split(engine, tmp_path):
    snapshot = make_snapshot(engine, tmp_path, SOME)
    report = export(engine, snapshot, tmp_path, tmp_path / "x")
    assert report.rows == {"train": 41}
    assert not (tmp_path / "x" / "data" / "test.jsonl").exists()
    assert set(load(tmp_path / "x", tmp_path / "cache")) == {"train"}


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=20)
SPOKEN = WORDS.map(str.strip).filter(bool)
ROLES = st.sampled_from([["user"], ["system", "user"], ["user", "assistant", "user"]])
ASKED = ROLES.flatmap(
    lambda roles: st.tuples(*[SPOKEN.map(lambda text, role=role: {"role": role, "content": text}) for role in roles])
).map(list)


def said(engine) -> list:
    """Every preference in a database, in an order of its own."""
    found = []
    with reading(engine) as session:
        for comparison in session.exec(select(Comparison)):
            pair = session.get_one(Pair, comparison.pair_id)
            texts = [session.get_one(Completion, each).text for each in (pair.completion_a_id, pair.completion_b_id)]
            chosen, rejected = texts if comparison.verdict == "a" else reversed(texts)
            found.append((session.get_one(Prompt, pair.prompt_id).messages, chosen, rejected))
    return sorted(found, key=repr)


def round_trip(folder: Path, blank: Path, preferences: list, style: str, kind: str) -> tuple[list, list]:
    """What was said before the export, and what an empty workspace holds after importing it."""
    before = open_database(f"sqlite:///{shutil.copy(blank, folder / 'before.db')}")
    after = open_database(f"sqlite:///{shutil.copy(blank, folder / 'after.db')}")
    snapshot = make_snapshot(before, folder, preferences)
    export(before, snapshot, folder, folder / "x", style=style, file_format=kind)
    import_preferences(engine=after, path=folder / "x" / "data" / f"train.{kind}", held_out_share=0)
    before.dispose()
    after.dispose()
    return said(before), said(after)


@settings(max_examples=12)
@given(asked=ASKED, chosen=WORDS.filter(str.strip), kind=st.sampled_from(["jsonl", "parquet"]))
def test_export_then_import_is_identity(tmp_path_factory, blank_database, asked, chosen, kind):
    preferences = [(asked, chosen, "r" + chosen), (user("other"), "x", chosen + "\u2028y")]
    before, after = round_trip(tmp_path_factory.mktemp("trip"), blank_database, preferences, "conversational", kind)
    assert before == after == sorted(preferences, key=repr)


@settings(max_examples=8)
@given(asked=SPOKEN, chosen=SPOKEN, kind=st.sampled_from(["jsonl", "parquet"]))
def test_plain_export_of_single_turns_then_import_is_identity(tmp_path_factory, blank_database, asked, chosen, kind):
    preferences = [(user(asked), chosen, "r" + chosen)]
    before, after = round_trip(tmp_path_factory.mktemp("trip"), blank_database, preferences, "plain", kind)
    assert before == after == preferences


def test_importing_an_export_into_its_own_workspace_adds_nothing(engine, snapshot, tmp_path):
    before = said(engine)
    export(engine, snapshot, tmp_path, tmp_path / "x")
    report = import_preferences(engine=engine, path=tmp_path / "x" / "data" / "train.jsonl", held_out_share=0)
    assert (report.comparisons_added, report.duplicates) == (0, report.rows)
    assert said(engine) == before


def test_plain_prompts():
    assert plain_prompt(user("What?")) == "What?\n"
    assert plain_prompt([{"role": "system", "content": "Be kind."}, *user("Hi")]) == (
        "System: Be kind.\n\nUser: Hi\n\nAssistant:\n"
    )
    turns = [*user("a"), {"role": "assistant", "content": "b"}, *user("c")]
    assert plain_prompt(turns) == "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant:\n"


def test_a_target_in_use_is_refused(engine, snapshot, tmp_path):
    target = tmp_path / "x"
    target.mkdir()
    export(engine, snapshot, tmp_path, target)  # empty: fine
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*")}
    with pytest.raises(SnapshotError, match="not empty"):
        export(engine, snapshot, tmp_path, target, style="plain")
    assert {path: path.stat().st_mtime_ns for path in target.rglob("*")} == before
    with pytest.raises(SnapshotError, match="not empty"):
        export(engine, snapshot, tmp_path, tmp_path / "pairloop.db")


@pytest.mark.parametrize("options", [{"style": "chatty"}, {"file_format": "csv"}])
def test_unknown_options_are_refused(engine, snapshot, tmp_path, options):
    with pytest.raises(SnapshotError, match="conversational, plain"):
        export(engine, snapshot, tmp_path, tmp_path / "x", **options)


def test_a_full_disk_leaves_everything_as_it_was(engine, snapshot, tmp_path, monkeypatch):
    before = {path: path.read_bytes() for path in (tmp_path / "snapshots").rglob("*") if path.is_file()}
    write = Path.write_bytes

    def full(path, data):
        if path.name == "README.md":  # the last file
            raise OSError(28, os.strerror(28))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SnapshotError, match=r"disk is full.*everything saved before is as it was"):
        export(engine, snapshot, tmp_path, tmp_path / "out" / "x")
    assert list((tmp_path / "out").iterdir()) == []
    assert {path: path.read_bytes() for path in before} == before


def test_a_changed_snapshot_is_not_exported(engine, snapshot, tmp_path):
    with (tmp_path / snapshot.path / "train.jsonl").open("a") as stream:
        stream.write("\n")
    with pytest.raises(SnapshotError, match="changed after it was cut"):
        export(engine, snapshot, tmp_path, tmp_path / "x")


def test_columns_of_dates_go_to_parquet_only(engine, tmp_path):
    """`datasets` 5.2 reads a JSONL column of dates as timestamps: "2020-01-01" came back as "2020-01-01 00:00:00"."""
    snapshot = make_snapshot(engine, tmp_path, [(user(f"q{n}"), f"2020-01-0{n}", f"1999-12-0{n}") for n in (1, 2)])
    with pytest.raises(SnapshotError, match="export as parquet"):
        export(engine, snapshot, tmp_path, tmp_path / "x", style="plain")
    assert not (tmp_path / "x").exists()
    export(engine, snapshot, tmp_path, tmp_path / "x", style="plain", file_format="parquet")
    assert set(load(tmp_path / "x", tmp_path / "cache")["train"]["chosen"]) == {"2020-01-01", "2020-01-02"}


# --- TRL -------------------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([text for messages, *texts in SOME for text in (messages[-1]["content"], *texts)], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", pad_token="<pad>")
    made.chat_template = TEMPLATE
    return made


def save_tiny_model(tokenizer, folder: Path) -> str:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("style", "kind"), [("conversational", "jsonl"), ("plain", "parquet")])
def test_trl_trains_on_it(engine, snapshot, tmp_path, tokenizer, style, kind):
    """One step of an untouched DPOTrainer; at the first step policy and reference are equal, so the loss is ln 2."""
    import trl

    export(engine, snapshot, tmp_path, tmp_path / "x", style=style, file_format=kind)
    dataset = load(tmp_path / "x", tmp_path / "cache")
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        per_device_train_batch_size=4,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
    )
    trainer = trl.DPOTrainer(
        model=save_tiny_model(tokenizer, tmp_path / "model"),
        args=arguments,
        train_dataset=dataset["train"],
        eval_dataset=dataset["test"],
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.6931, abs=1e-3)


def test_plain_prompts_end_where_tokens_end(tokenizer):
    """The line break keeps the completion's first letters out of the prompt's last token."""
    for messages, chosen, _ in SOME:
        prompt = plain_prompt(messages)
        ids = tokenizer(prompt)["input_ids"]
        assert tokenizer(prompt + chosen)["input_ids"][: len(ids)] == ids
