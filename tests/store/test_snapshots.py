"""Snapshots: a pure function of the comparisons. Oracles: counts worked out by hand, and laws of the hash."""

import json
import shutil
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import Session, select

from store.annotators import get_or_add_annotator, retract_annotator
from store.checkpoints import add_checkpoint
from store.database import open_database, reading, writing
from store.errors import SnapshotError, UnknownRecordError
from store.hashing import content_hash, file_hash, text_hash
from store.models import Comparison, Completion, Pair, Prompt, Round, RoundStatus, Snapshot, now
from store.pairs import NewCompletion, add_completion, add_pair
from store.snapshot_filter import REASONS, SnapshotFilter
from store.snapshots import (
    cut_snapshot,
    get_snapshot,
    list_snapshots,
    read_snapshot,
    snapshot_pairs,
    verify_snapshot,
)
from tests.store.asking import add_imported_text, add_prompt
from tests.store.exchanging import pick_by_hand


@dataclass(frozen=True)
class Given:
    """A pair and what annotators said about it: {"Ann": "a", ...}."""

    prompt: str
    a: str
    b: str
    said: dict[str, str]
    purpose: str = "train"
    round: int | None = 1
    held_out: bool = False


def say(session: Session, pairs: list[Given]) -> None:
    """Write pairs and comparisons; a capital "A" is a verdict that was superseded."""
    base = add_checkpoint(session=session, name="base", path="x")
    for number in sorted({pair.round for pair in pairs if pair.round}):
        if session.exec(select(Round).where(Round.number == number)).first() is None:
            session.add(Round(number=number, checkpoint_id=base.id, target=1, status=RoundStatus.DONE))
            session.flush()
    for given_pair in pairs:
        _say_one(session, given_pair, base.id)


def _say_one(session: Session, given_pair: Given, base_id: int) -> None:
    prompt = add_prompt(session, given_pair.prompt, held_out_share=1.0 if given_pair.held_out else 0.0)
    texts = [
        add_completion(session=session, prompt_id=prompt.id, new=NewCompletion(text), checkpoint_id=base_id)
        if given_pair.round
        else add_imported_text(session, prompt.id, text)
        for text in (given_pair.a, given_pair.b)
    ]
    opened = session.exec(select(Round).where(Round.number == given_pair.round)).first()
    pair = add_pair(
        session=session,
        prompt_id=prompt.id,
        completions=texts,
        round_id=opened.id if opened else None,
        purpose=given_pair.purpose,
    )
    for name, verdict in given_pair.said.items():
        annotator = get_or_add_annotator(session=session, name=name)
        superseded = now() if verdict == "A" else None
        session.add(
            Comparison(pair_id=pair.id, annotator_id=annotator.id, verdict=verdict.lower(), superseded_at=superseded)
        )
    session.flush()


def cut(engine, folder, **options) -> Snapshot:
    with writing(engine) as session:
        return cut_snapshot(session=session, folder=folder, filter=SnapshotFilter(**options))


def rows(snapshot, folder, split="train") -> dict[str, tuple[str, str]]:
    found = read_snapshot(snapshot=snapshot, folder=folder, split=split)
    return {row["prompt"][0]["content"]: (row["chosen"], row["rejected"]) for row in found}


WORKED = [
    Given("clear", "x", "y", {"Ann": "a", "Bob": "a", "Cy": "b"}),  # 3 used, agreement 2/3
    Given("other side", "x", "y", {"Ann": "b", "Bob": "skip"}),  # 1 used, 1 skip
    Given("half", "x", "y", {"Ann": "a", "Bob": "tie"}),  # 2 used, agreement 1/2
    Given("split", "x", "y", {"Ann": "a", "Bob": "b"}),  # 2 low agreement
    Given("mostly tied", "x", "y", {"Ann": "a", "Bob": "tie", "Cy": "both_bad"}),  # 3 low agreement (1/3)
    Given("tied", "x", "y", {"Ann": "tie", "Bob": "both_bad"}),  # 1 tie, 1 both bad
    Given("skipped", "x", "y", {"Ann": "skip"}),  # 1 skip
    Given("retracted", "x", "y", {"Mallory": "a"}),  # 1 retracted
    Given("changed", "x", "y", {"Ann": "A"}),  # superseded: not counted at all
    Given("duel", "x", "y", {"Ann": "a", "Bob": "a"}, purpose="duel"),  # 2 not trained on
    Given("gold", "x", "y", {"Ann": "skip"}, purpose="gold"),  # 1 not trained on
    Given("same", "x", "x ", {"Ann": "a"}),  # 1 identical but for white space
    Given("long", "x" * 100, "y", {"Ann": "a"}),  # 1 over length, where there is a limit
    Given("held", "x", "y", {"Ann": "b"}, held_out=True),  # 1 used, test split
    Given("imported", "x", "y", {"import:f": "a"}, round=None),  # 1 used
]


@pytest.fixture
def worked(engine):
    with writing(engine) as session:
        say(session, WORKED)
        retract_annotator(session=session, name="Mallory")
    return engine


def test_counts_worked_out_by_hand(worked, tmp_path):
    snapshot = cut(worked, tmp_path, max_chars=50)
    manifest = snapshot.manifest
    assert manifest["dropped"] == {
        "retracted": 1,
        "excluded_annotator": 0,
        "not_trained_on": 3,
        "skip": 2,
        "identical": 1,
        "over_length": 1,
        "tie": 1,
        "both_bad": 1,
        "low_agreement": 5,
    }
    assert (manifest["comparisons"], manifest["used"]) == (23, 8)
    assert manifest["pairs"] == {"train": 4, "test": 1}
    assert rows(snapshot, tmp_path) == {
        "clear": ("x", "y"),
        "other side": ("y", "x"),
        "half": ("x", "y"),
        "imported": ("x", "y"),
    }
    assert rows(snapshot, tmp_path, "test") == {"held": ("y", "x")}


def test_what_was_cut_before_ties_could_be_kept_has_the_same_hash(worked, tmp_path):
    snapshot = cut(worked, tmp_path)
    assert snapshot.hash == "35727d7e3e26b11e276a53c556818cfd88fc7e4688631099f2d98e722373cb6f"
    assert not (tmp_path / snapshot.path / "ties.jsonl").exists()
    assert read_snapshot(snapshot=snapshot, folder=tmp_path, split="ties") == []


@pytest.mark.parametrize(
    ("said", "min_agreement", "is_tie"),
    [
        ({"Ann": "tie"}, 0.5, True),
        ({"Ann": "tie", "Bob": "tie", "Cy": "a"}, 0.5, True),  # two of three
        ({"Ann": "tie", "Bob": "tie", "Cy": "a"}, 0.7, False),  # too few of three
        ({"Ann": "tie", "Bob": "both_bad"}, 0.5, True),  # half of them, and nobody for a side
        ({"Ann": "tie", "Bob": "both_bad", "Cy": "both_bad"}, 0.5, False),
        ({"Ann": "tie", "Bob": "a", "Cy": "b"}, 0.0, False),  # no more than for either side
        ({"Ann": "tie", "Bob": "tie", "Cy": "a", "Di": "b"}, 0.5, True),
        ({"Ann": "tie", "Bob": "tie", "Cy": "a"}, 0.3, False),  # it is a preference, as it would be without ties
        ({"Ann": "both_bad"}, 0.0, False),
        ({"Ann": "skip"}, 0.0, False),
    ],
)
def test_which_votes_make_a_tie(engine, tmp_path, said, min_agreement, is_tie):
    with writing(engine) as session:
        say(session, [Given("asked", "x", "y", said), *(Given(f"q{n}", "x", "y", {"Ann": "a"}) for n in range(2))])
    snapshot = cut(engine, tmp_path, keep_ties=True, min_agreement=min_agreement)
    manifest = snapshot.manifest
    assert set(rows(snapshot, tmp_path, "ties")) == ({"asked"} if is_tie else set())
    assert manifest["pairs"]["ties"] == is_tie
    assert manifest["comparisons"] == manifest["used"] + sum(manifest["dropped"].values())
    if is_tie:
        assert sum(manifest["dropped"].values()) == 0
    verify_snapshot(snapshot=snapshot, folder=tmp_path)


@pytest.mark.parametrize("min_agreement", [0.0, 0.3, 0.5, 0.7])
def test_ties_are_kept_beside_the_preferences_which_stay_as_they_are(worked, tmp_path, min_agreement):
    with writing(worked) as session:
        say(session, [Given(f"t{n}", *texts, {"Ann": "tie"}) for n, texts in enumerate(("xy", "yx"))])
        say(session, [Given("held out", "x", "y", {"Ann": "tie"}, held_out=True)])
        say(session, [Given("the same", "x", " x", {"Ann": "tie"})])
    without, kept = (cut(worked, tmp_path, keep_ties=on, min_agreement=min_agreement) for on in (False, True))
    for split in ("train", "test"):
        assert without.manifest["files"][f"{split}.jsonl"] == kept.manifest["files"][f"{split}.jsonl"]
    found = rows(kept, tmp_path, "ties")
    assert {"t0", "t1"} <= set(found) and not {"held out", "the same"} & set(found)
    assert found["t0"] == found["t1"] == tuple(sorted("xy", key=text_hash))  # whichever side stood first
    assert kept.manifest["dropped"]["tie"] >= 1  # the one on a held-out prompt
    assert kept.manifest["used"] > without.manifest["used"]
    row = read_snapshot(snapshot=kept, folder=tmp_path, split="ties")[0]
    assert row.keys() == read_snapshot(snapshot=kept, folder=tmp_path, split="train")[0].keys()
    with reading(worked) as session:
        pairs = snapshot_pairs(session=session, snapshot=kept, folder=tmp_path, split="ties")
    assert len(pairs) == kept.manifest["pairs"]["ties"] == len(found)


def test_ties_alone_cannot_be_trained_on(engine, tmp_path):
    with writing(engine) as session:
        say(session, [Given(f"t{n}", "x", "y", {"Ann": "tie"}) for n in range(3)])
    with pytest.raises(SnapshotError, match=r"3 comparisons, but no preference.* 3 ties cannot be trained on alone"):
        cut(engine, tmp_path, keep_ties=True)


def test_a_row_says_who_wrote_what_and_how_sure_it_is(worked, tmp_path):
    found = read_snapshot(snapshot=cut(worked, tmp_path), folder=tmp_path, split="train")
    by_prompt = {row["prompt"][0]["content"]: row for row in found}
    prompt = [{"role": "user", "content": "clear"}]
    assert by_prompt["clear"] == {
        "prompt": prompt,
        "prompt_hash": content_hash(prompt),
        "chosen": "x",
        "rejected": "y",
        "chosen_source": "base",
        "rejected_source": "base",
        "annotators": 3,
        "agreement": 0.666667,
        "purpose": "train",
        "round": 1,
    }
    imported = by_prompt["imported"]
    assert (imported["chosen_source"], imported["round"], imported["agreement"]) == ("file", None, 1.0)


def test_where_it_is_asked_for_a_row_says_how_many_named_either_text(worked, tmp_path):
    snapshot = cut(worked, tmp_path, votes=True, min_agreement=0)
    found = read_snapshot(snapshot=snapshot, folder=tmp_path, split="train")
    votes = {row["prompt"][0]["content"]: (row["votes_for"], row["votes_against"]) for row in found}
    once = ("other side", "half", "mostly tied", "long", "imported")  # ties name neither
    assert votes == {"clear": (2, 1)} | dict.fromkeys(once, (1, 0))
    assert snapshot.manifest["filter"]["votes"] is True
    with reading(worked) as session:
        pairs = snapshot_pairs(session=session, snapshot=snapshot, folder=tmp_path, split="train")
    assert sorted((pair.votes_for, pair.votes_against) for pair in pairs) == sorted(votes.values())


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({"min_agreement": 0.6}, {"clear", "other side", "long", "imported"}),
        ({"min_agreement": 0.0}, {"clear", "other side", "half", "mostly tied", "long", "imported"}),
        ({"include_imported": False}, {"clear", "other side", "half", "long"}),
        ({"exclude_annotators": ("Ann",)}, {"split", "imported"}),
        ({"round_numbers": (1,), "include_imported": False}, {"clear", "other side", "half", "long"}),
        ({"round_numbers": (1,)}, {"clear", "other side", "half", "long", "imported"}),
    ],
)
def test_filters(worked, tmp_path, options, trained):
    snapshot = cut(worked, tmp_path, **options)
    assert set(rows(snapshot, tmp_path)) == trained
    manifest = snapshot.manifest
    assert manifest["comparisons"] == manifest["used"] + sum(manifest["dropped"].values())
    assert set(manifest["dropped"]) == set(REASONS) - {"hand_picked"}


def test_what_was_picked_by_hand_is_trained_on_and_judges_nothing(engine, tmp_path):
    """README, "What judges is not selected". "chance": the same two texts, asked by hand and by chance."""
    asked = [(prompt, held_out) for prompt in ("by hand", "chance") for held_out in (False, True)]
    with writing(engine) as session:
        say(session, [Given(f"{prompt} {out}", "x", "y", {"Ann": "a"}, held_out=out) for prompt, out in asked])
        by_hand = session.exec(select(Pair)).all()
        for pair in by_hand:
            pick_by_hand(session, pair)
        say(session, [Given(f"chance {out}", "x", "y", {"Bob": "b", "Cy": "b"}, held_out=out) for out in (False, True)])
        better = add_completion(
            session=session, prompt_id=by_hand[1].prompt_id, new=NewCompletion("z"), checkpoint_id=1
        )
        texts = better, session.get(Completion, by_hand[1].completion_a_id)
        given = {"prompt_id": better.prompt_id, "completions": texts, "round_id": 1, "purpose": "rewrite"}
        rewrite = add_pair(session=session, **given)
        rewrite.repeats = by_hand[1].id
        session.add(Comparison(pair_id=rewrite.id, annotator_id=1, verdict="a"))
    snapshot = cut(engine, tmp_path)
    assert rows(snapshot, tmp_path) == {"by hand False": ("x", "y"), "chance False": ("y", "x")}
    assert rows(snapshot, tmp_path, "test") == {"chance True": ("y", "x")}
    assert (snapshot.manifest["dropped"]["hand_picked"], snapshot.manifest["used"]) == (3, 6)


def test_rounds_are_chosen_by_number(engine, tmp_path):
    with writing(engine) as session:
        say(session, [Given(f"p{n}", "x", "y", {"Ann": "a"}, round=n) for n in (1, 2, 3)])
        say(session, [Given("q", "x", "y", {"Ann": "a"}, round=2)])
    assert set(rows(cut(engine, tmp_path, round_numbers=(2,)), tmp_path)) == {"p2", "q"}
    with pytest.raises(UnknownRecordError, match="no round 9"):
        cut(engine, tmp_path, round_numbers=(9,))
    with pytest.raises(UnknownRecordError, match="nobody"):
        cut(engine, tmp_path, exclude_annotators=("nobody",))


def test_the_same_texts_in_two_pairs_are_one_poll(engine, tmp_path):
    with writing(engine) as session:
        say(
            session,
            [
                Given("p", "x", "y", {"Ann": "a"}, round=2),
                Given("p", "y", "x", {"Bob": "b", "Cy": "a"}, round=1),
                Given("q", "x", "y", {"Ann": "a"}),
            ],
        )
    snapshot = cut(engine, tmp_path)
    found = read_snapshot(snapshot=snapshot, folder=tmp_path, split="train")
    (row,) = [row for row in found if row["prompt"][0]["content"] == "p"]
    assert (row["chosen"], row["annotators"], row["agreement"], row["round"]) == ("x", 3, 0.666667, 1)
    assert len(found) == 2


def test_which_pair_speaks_for_the_same_texts_does_not_depend_on_the_order(engine, tmp_path):
    """Texts both imported (source "file") and written by "base": the first name in order, whichever came first."""
    imported, sampled = (Given("p", "x", "y", {name: "a"}, round=number) for name, number in (("f", None), ("Ann", 1)))
    with writing(engine) as session:
        say(session, [imported, sampled, replace(sampled, prompt="q"), replace(imported, prompt="q")])
    found = read_snapshot(snapshot=cut(engine, tmp_path), folder=tmp_path, split="train")
    assert [(row["chosen_source"], row["rejected_source"], row["round"]) for row in found] == [("base", "base", 1)] * 2


@settings(max_examples=8)
@given(data=st.data())
def test_the_hash_does_not_depend_on_the_order_of_writing(tmp_path_factory, blank_database, data):
    """Other ids, other sides, other annotator order: same bytes, same hash."""
    folders = [tmp_path_factory.mktemp("order") for _ in range(2)]
    pairs = [pair for pair in WORKED if pair.prompt != "retracted"] + [Given("clear", "x", "y", {"Di": "b"}, round=2)]
    order = data.draw(st.permutations(pairs))
    flips = data.draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    again = [flipped(pair) if flip else pair for pair, flip in zip(order, flips, strict=True)]
    keep_ties = data.draw(st.booleans())
    hashes = []
    for folder, given_pairs in zip(folders, (pairs, again), strict=True):
        engine = open_database(f"sqlite:///{shutil.copy(blank_database, folder)}")
        with writing(engine) as session:
            say(session, given_pairs)
        hashes.append(cut(engine, folder, keep_ties=keep_ties).hash)
        engine.dispose()
    assert hashes[0] == hashes[1]
    files = [
        {path.name: path.read_bytes() for path in (each / "snapshots" / hashes[0][:12]).iterdir()} for each in folders
    ]
    names = {"train.jsonl", "test.jsonl", "manifest.json"} | ({"ties.jsonl"} if keep_ties else set())
    assert files[0] == files[1] and set(files[0]) == names


def flipped(pair: Given) -> Given:
    other = {"a": "b", "b": "a"}
    said = {name: other.get(verdict, verdict) for name, verdict in reversed(pair.said.items())}
    return replace(pair, a=pair.b, b=pair.a, said=said)


def test_what_changes_the_hash(worked, tmp_path):
    first = cut(worked, tmp_path)
    assert cut(worked, tmp_path, min_pairs=3).hash == first.hash  # it can only refuse
    assert cut(worked, tmp_path, min_agreement=0.6).hash != first.hash
    with writing(worked) as session:
        say(session, [Given("one more", "x", "y", {"Ann": "skip"})])
    assert cut(worked, tmp_path).hash != first.hash  # the manifest counts the skip


def test_cutting_again_returns_the_same_snapshot_and_mends_missing_files(worked, tmp_path):
    first = cut(worked, tmp_path)
    folder = tmp_path / first.path
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert cut(worked, tmp_path).id == first.id
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    shutil.rmtree(folder)
    assert cut(worked, tmp_path).id == first.id
    verify_snapshot(snapshot=first, folder=tmp_path)
    with reading(worked) as session:
        assert len(list_snapshots(session=session)) == 1


def test_the_files_are_what_the_manifest_says(worked, tmp_path):
    snapshot = cut(worked, tmp_path)
    folder = tmp_path / snapshot.path
    assert snapshot.path == f"snapshots/{snapshot.hash[:12]}"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == snapshot.manifest and content_hash(manifest) == snapshot.hash
    assert manifest["files"] == {name: file_hash(folder / name) for name in ("train.jsonl", "test.jsonl")}
    lines = (folder / "train.jsonl").read_text().splitlines()
    assert [text_hash(line) for line in lines] == sorted(text_hash(line) for line in lines)
    assert not [path for path in (tmp_path / "snapshots").iterdir() if path.name.startswith(".")]


def test_changed_files_are_noticed(worked, tmp_path):
    snapshot = cut(worked, tmp_path)
    verify_snapshot(snapshot=snapshot, folder=tmp_path)
    train = tmp_path / snapshot.path / "train.jsonl"
    train.write_text(train.read_text().replace('"x"', '"z"', 1))
    for act in (
        lambda: verify_snapshot(snapshot=snapshot, folder=tmp_path),
        lambda: read_snapshot(snapshot=snapshot, folder=tmp_path, split="train"),
        lambda: cut(worked, tmp_path),
    ):
        with pytest.raises(SnapshotError, match="changed after it was cut"):
            act()
    train.unlink()
    with pytest.raises(SnapshotError, match="missing"):
        verify_snapshot(snapshot=snapshot, folder=tmp_path)


def test_a_changed_manifest_is_noticed(worked, tmp_path):
    snapshot = cut(worked, tmp_path)
    manifest = tmp_path / snapshot.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"used":', '"usde":'))
    with pytest.raises(SnapshotError, match="not what was cut"):
        verify_snapshot(snapshot=snapshot, folder=tmp_path)
    altered = Snapshot(hash=snapshot.hash, path=snapshot.path, manifest=snapshot.manifest | {"used": 99})
    with pytest.raises(SnapshotError, match="record of snapshot"):
        verify_snapshot(snapshot=altered, folder=tmp_path)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([], "no comparisons to cut a snapshot from yet"),
        (
            [Given(f"t{n}", "x", "y", {"Ann": "tie"}) for n in range(31)]
            + [Given(f"s{n}", "x", "y", {"Ann": "skip"}) for n in range(9)],
            "40 comparisons, but no preference to train on. Left out: 9 skips, 31 ties.",
        ),
        (
            [Given("p", "x", "y", {"Ann": "a"})],
            "1 comparison, and only 1 preference to train on; 2 are needed, 1 more.",
        ),
        (
            [Given("p", "x", "y", {"Ann": "a"}, held_out=True)],
            "1 comparison, but no preference to train on. 1 of them is on a held-out prompt, never trained on.",
        ),
    ],
)
def test_too_little_to_train_on(engine, tmp_path, pairs, said):
    with writing(engine) as session:
        say(session, pairs)
    with pytest.raises(SnapshotError) as error:
        cut(engine, tmp_path)
    assert said in str(error.value)
    assert not (tmp_path / "snapshots").exists()
    with reading(engine) as session:
        assert list_snapshots(session=session) == []


@pytest.mark.parametrize("options", [{"min_agreement": 1.5}, {"max_chars": 0}])
def test_filters_that_cannot_be_meant(options):
    with pytest.raises(SnapshotError, match=next(iter(options))):
        SnapshotFilter(**options)


def test_a_snapshot_is_found_by_its_hash(worked, tmp_path):
    first, second = cut(worked, tmp_path), cut(worked, tmp_path, min_agreement=0.6)
    with reading(worked) as session:
        assert get_snapshot(session=session, name="latest").id == second.id
        assert get_snapshot(session=session, name=first.hash[:8]).id == first.id
        assert [each.id for each in list_snapshots(session=session)] == [second.id, first.id]
        for name in ("zzz", ""):
            with pytest.raises(UnknownRecordError, match=second.hash[:12]):
                get_snapshot(session=session, name=name)


def test_rows_find_their_pairs_again(worked, tmp_path):
    snapshot = cut(worked, tmp_path)
    with reading(worked) as session:
        for split in ("train", "test"):
            found = snapshot_pairs(session=session, snapshot=snapshot, folder=tmp_path, split=split)
            written = read_snapshot(snapshot=snapshot, folder=tmp_path, split=split)
            assert [(each.messages, each.chosen, each.rejected) for each in found] == [
                (row["prompt"], row["chosen"], row["rejected"]) for row in written
            ]
            for each in found:
                pair = session.get_one(Pair, each.pair_id)
                ids = {"a": pair.completion_a_id, "b": pair.completion_b_id}
                assert session.get_one(Completion, ids[each.chosen_side]).text == each.chosen
                prompt = session.get_one(Prompt, pair.prompt_id)
                assert prompt.messages == each.messages and prompt.held_out == (split == "test")


def test_another_workspace_has_not_these_pairs(worked, tmp_path, blank_database):
    snapshot = cut(worked, tmp_path)
    other = open_database(f"sqlite:///{shutil.copy(blank_database, tmp_path / 'other.db')}")
    with reading(other) as session, pytest.raises(SnapshotError, match="another database"):
        snapshot_pairs(session=session, snapshot=snapshot, folder=tmp_path, split="train")
    other.dispose()


def test_a_disk_that_refuses_leaves_nothing_behind(worked, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("store.writing_files._force_to_disk", full)
    with pytest.raises(SnapshotError, match="disk is full"):
        cut(worked, tmp_path)
    assert list((tmp_path / "snapshots").iterdir()) == []
    with reading(worked) as session:
        assert list_snapshots(session=session) == []
