"""Whose comparisons are in which checkpoint: counts worked by hand, and the law that what is counted was used."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa

from store import teaching
from store.ancestry import cut_moments
from store.annotators import get_or_add_annotator, retract_annotator
from store.checkpoints import add_checkpoint
from store.database import reading, writing
from store.errors import NotAllowedError, UnknownRecordError
from store.lineage import snapshots_with, trace_comparison
from store.models import Checkpoint, Comparison, Completion, Role, Run, RunKind, RunStatus, Snapshot, now
from store.roles import on_behalf_of
from store.snapshots import rows_to_train_on
from store.teaching import Contribution, Touch, makeup, touched_by, who_taught
from tests.store.test_snapshots import WORKED, Given, cut, say

NAMES = ("Ann", "Bob", "Cy", "Di")
VERDICTS = ("a", "b", "tie", "both_bad", "skip", "A")


def taught(engine: sa.Engine, folder: Path, snapshot: Snapshot) -> list[tuple[str, int, int]]:
    with reading(engine) as session:
        found = who_taught(session=session, snapshot=snapshot, folder=folder)
    return [(each.annotator, each.trained, each.held_out) for each in found.by]


def touches(engine: sa.Engine, folder: Path, name: str) -> list[tuple[str, int, str]]:
    with reading(engine) as session:
        found = touched_by(session=session, folder=folder, name=name)
    return [(each.checkpoint, each.comparisons, each.inherited_from) for each in found]


def train(engine: sa.Engine, name: str, parent: str, snapshot: Snapshot) -> None:
    with writing(engine) as session:
        run = Run(kind=RunKind.TRAIN, status=RunStatus.DONE, settings={"snapshot": snapshot.hash})
        above = session.exec(sa.select(Checkpoint.id).where(Checkpoint.name == parent)).scalar_one()  # type: ignore[call-overload, arg-type]
        made = add_checkpoint(session=session, name=name, path=name, parent_id=above, snapshot_id=snapshot.id)
        run.checkpoint_id = made.id
        session.add(run)


@pytest.fixture
def worked(engine: sa.Engine) -> sa.Engine:
    with writing(engine) as session:
        say(session, WORKED)
        retract_annotator(session=session, name="Mallory")
    return engine


def test_whose_comparisons_a_snapshot_holds(worked: sa.Engine, tmp_path: Path) -> None:
    """By hand, from WORKED: `clear`, `other side`, `half` and `imported` are trained on, `held` is judged by."""
    snapshot = cut(worked, tmp_path, max_chars=50)
    assert taught(worked, tmp_path, snapshot) == [("Ann", 3, 1), ("Bob", 2, 0), ("Cy", 1, 0), ("import:f", 1, 0)]
    rest = cut(worked, tmp_path, exclude_annotators=("Ann",), max_chars=50)
    assert taught(worked, tmp_path, rest) == [("Bob", 1, 0), ("import:f", 1, 0)]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_counted_is_what_was_used(engine: sa.Engine, tmp_path: Path, seed: int) -> None:
    """Whatever was said, asked and filtered: everybody's comparisons add up to the manifest's `used`."""
    draw = Random(seed)
    pairs = [
        Given(
            f"prompt {draw.randrange(6)}" if number % 3 else f"imported {number}",
            draw.choice("xyz"),
            draw.choice(("w", "x ")),
            {name: draw.choice(VERDICTS) for name in draw.sample(NAMES, draw.randint(1, 4))},
            round=draw.choice((1, 2)) if number % 3 else None,
            purpose=draw.choice(("train", "train", "duel")) if number % 3 else "train",
        )
        for number in range(40)
    ]
    pairs += [Given(f"sure {n}", "x", "y", {"Ann": "a"}) for n in range(2)]
    pairs += [Given("held", "x", "y", {"Bob": "a", "Cy": "a"}, held_out=True)]
    with writing(engine) as session:
        say(session, pairs)
    options = {
        "keep_ties": draw.random() < 0.5,
        "min_agreement": draw.choice((0.0, 0.5, 0.7)),
        "include_imported": draw.random() < 0.5,
        "round_numbers": draw.choice((None, (1,))),
    }
    snapshot = cut(engine, tmp_path, **options)
    say_later(engine)
    found = taught(engine, tmp_path, snapshot)
    assert sum(trained + held for _, trained, held in found) == snapshot.manifest["used"] > 5


def say_later(engine: sa.Engine) -> None:
    """After the cut somebody says more on the same texts, and Ann is retracted: neither changes what went in."""
    with writing(engine) as session:
        say(session, [Given("sure 0", "x", "y", {"Zoe": "a"})])
        retract_annotator(session=session, name="Ann")


def test_a_retracted_annotator_is_found_in_what_was_trained_before_and_in_all_that_descends(
    worked: sa.Engine, tmp_path: Path
) -> None:
    """round-1 on Ann's; round-2 from it, without hers; round-3 from the base, without hers; round-4 from round-2."""
    with_ann = cut(worked, tmp_path, max_chars=50)
    train(worked, "round-1", "base", with_ann)
    with writing(worked) as session:
        retract_annotator(session=session, name="Ann")
        say(session, [Given("new", "x", "y", {"Bob": "a"}), Given("newer", "x", "y", {"Bob": "a"})])
    without = cut(worked, tmp_path)
    for name, parent in (("round-2", "round-1"), ("round-3", "base"), ("round-4", "round-2")):
        train(worked, name, parent, without)
    assert touches(worked, tmp_path, "Ann") == [
        ("round-1", 3, ""),
        ("round-2", 0, "round-1"),
        ("round-4", 0, "round-1"),
    ]
    assert [name for name, _, _ in touches(worked, tmp_path, "Bob")] == ["round-1", "round-2", "round-3", "round-4"]
    assert touches(worked, tmp_path, "Bob")[1][2] == "round-1", "it was trained on theirs, and inherits as well"
    assert touches(worked, tmp_path, "import:f") == [
        ("round-1", 1, ""),
        ("round-2", 1, "round-1"),
        ("round-3", 1, ""),
        ("round-4", 1, "round-2"),
    ]
    assert touches(worked, tmp_path, "Mallory") == []
    with reading(worked) as session:
        by = who_taught(session=session, snapshot=with_ann, folder=tmp_path).by
        assert by[0] == Contribution("Ann", "annotator", True, 3, 1)
        with pytest.raises(UnknownRecordError, match="no annotator called"):
            touched_by(session=session, folder=tmp_path, name="Nobody")


def take_back(engine: sa.Engine, name: str) -> None:
    """All that somebody said stands no more."""
    with writing(engine) as session:
        who = get_or_add_annotator(session=session, name=name)
        for said in session.execute(sa.select(Comparison).where(Comparison.annotator_id == who.id)).scalars():  # type: ignore[arg-type]
            said.superseded_at = now()
            session.add(said)


def test_an_equal_snapshot_is_cut_anew_for_each_training(engine: sa.Engine, tmp_path: Path) -> None:
    """Ann says four things, which are cut and then taken back; Bob says the same four, and only these are trained on.
    Then they are Ann's again, for a second training."""
    pairs = [(f"p{n}", "x", "y") for n in range(4)]
    with writing(engine) as session:
        say(session, [Given(*texts, {"Ann": "a"}) for texts in pairs])
    first = cut(engine, tmp_path)
    take_back(engine, "Ann")
    with writing(engine) as session:
        say(session, [Given(*texts, {"Bob": "a"}) for texts in pairs])
    assert cut(engine, tmp_path).id == first.id
    train(engine, "round-1", "base", first)
    take_back(engine, "Bob")
    with writing(engine) as session:
        say(session, [Given(*texts, {"Ann": "a"}) for texts in pairs])
    train(engine, "round-2", "base", cut(engine, tmp_path))
    assert touches(engine, tmp_path, "Bob") == [("round-1", 4, "")]
    assert touches(engine, tmp_path, "Ann") == [("round-2", 4, "")]
    with reading(engine) as session:
        moments = cut_moments(session=session)
        by = [
            who_taught(session=session, snapshot=first, folder=tmp_path, at=at).by[0].annotator
            for at in (None, *moments.values())
        ]
    assert by == ["Ann", "Bob", "Ann"]
    assert uses(engine, tmp_path) == {
        "Ann": [[], ["round-2"]],
        "Bob": [["round-1"]],
    }, "what she took back was cut, and never trained on"


def uses(engine: sa.Engine, folder: Path) -> dict[str, list[list[str]]]:
    """What was trained on the snapshot while their comparison of p0 stood, by annotator; one they made later after."""
    found: dict[str, list[list[str]]] = {}
    with reading(engine) as session:
        for number in session.execute(sa.select(Comparison.id).order_by(Comparison.id)).scalars():  # type: ignore[call-overload, arg-type]
            traced = trace_comparison(session=session, comparison_id=number)
            if traced.prompt.messages[-1]["content"] == "p0":
                [use] = snapshots_with(session=session, folder=folder, lineage=traced)
                found.setdefault(traced.annotator.name, []).append(use.trained)
    return found


def test_every_snapshot_is_read_once_for_however_many(
    worked: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = cut(worked, tmp_path, max_chars=50), cut(worked, tmp_path, max_chars=40)
    for name, snapshot in (("round-1", first), ("round-2", second), ("round-3", first)):
        train(worked, name, "base", snapshot)
    alone = {name: touches(worked, tmp_path, name) for name in ("Ann", "Bob", "Mallory")}
    read: list[str] = []

    def counted_rows(*, snapshot: Snapshot, folder: Path) -> list[dict[str, Any]]:
        read.append(snapshot.hash)
        return rows_to_train_on(snapshot=snapshot, folder=folder)

    monkeypatch.setattr(teaching, "rows_to_train_on", counted_rows)
    with reading(worked) as session:
        found = teaching.touches(session=session, folder=tmp_path, names=list(alone))
    assert sorted(read) == sorted([first.hash, second.hash])
    told = {
        name: [(each.checkpoint, each.comparisons, each.inherited_from) for each in of] for name, of in found.items()
    }
    assert told == alone


def test_held_out_comparisons_alone_touch_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    pairs = [Given(f"p{n}", "x", "y", {"Ann": "a"}) for n in range(2)]
    with writing(engine) as session:
        say(session, [*pairs, Given("held", "x", "y", {"Bob": "a"}, held_out=True)])
    train(engine, "round-1", "base", cut(engine, tmp_path))
    assert touches(engine, tmp_path, "Bob") == []
    assert touches(engine, tmp_path, "Ann") == [("round-1", 2, "")]


def test_without_its_files_all_that_could_have_gone_in_is_counted(worked: sa.Engine, tmp_path: Path) -> None:
    snapshot = cut(worked, tmp_path, max_chars=50)
    train(worked, "round-1", "base", snapshot)
    shutil.rmtree(tmp_path / "snapshots")
    with reading(worked) as session:
        found = who_taught(session=session, snapshot=snapshot, folder=tmp_path)
        [touch] = touched_by(session=session, folder=tmp_path, name="Ann")
    assert (found.exact, touch.exact) == (False, False)
    # By hand: beside her three, `split`, `mostly tied`, `tied`, `same` and `long`.
    assert touch == Touch("round-1", 8, "", exact=False)
    assert found.trained > 7


def test_what_a_snapshots_pairs_are(worked: sa.Engine, tmp_path: Path) -> None:
    """Pairs by several: `clear` (2 of 3 for what was chosen) and `half` (1 of 2)."""
    with writing(worked) as session:
        written = session.exec(sa.select(Completion).where(Completion.text == "y")).scalars()  # type: ignore[call-overload, arg-type]
        next(written).names_maker = True
    snapshot = cut(worked, tmp_path, max_chars=50)
    with reading(worked) as session:
        found = makeup(session=session, snapshot=snapshot, folder=tmp_path)
    assert (found.pairs, found.imported, found.several, found.rewrites, found.ranked) == (4, 1, 2, 0, 0)
    assert found.agreement == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.sources == {"base": 6, "file": 2}
    assert found.naming_makers == 4


def test_it_is_for_researchers(worked: sa.Engine, tmp_path: Path) -> None:
    with writing(worked) as session:
        number = get_or_add_annotator(session=session, name="Bob", role=Role.ANNOTATOR).id or 0
    refused = pytest.raises(NotAllowedError, match="Only a researcher may look through the lineage")
    with reading(on_behalf_of(worked, number)) as session, refused:
        touched_by(session=session, folder=tmp_path, name="Ann")
