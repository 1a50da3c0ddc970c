"""A checkpoint trained once more from its record: the same to the last bit, or why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlmodel import select

from dpo_core.config import WorkerSettings
from dpo_core.deciding import go_on
from dpo_core.errors import ModelError, RunError
from dpo_core.loop import start_training
from dpo_core.provenance import code_version, differing_facts, machine_facts
from dpo_core.reproduce import compare_weights, reproduce
from dpo_core.workspace import Workspace
from store.checkpoints import get_checkpoint
from store.database import reading, writing
from store.errors import SnapshotError, UnknownRecordError
from store.models import Checkpoint, Decision, Run, RunStatus, Snapshot
from tests.dpo_core.test_train import compare_all, prefer_longer, ready_to_train, run_next
from ui.cli import run

Make = Callable[..., Workspace]
QUICK = {"drift_samples": 0}
OF_LATE = ("machine", "weights")  # older records have neither


def train_a_round(workspace: Workspace) -> None:
    start_training(workspace, by="test")
    finished = run_next(workspace)
    assert finished.status == RunStatus.DONE, finished.error


def everything(workspace: Workspace) -> tuple[list[str], int, int]:
    """What is on disk but for remembered log-probs, and how many checkpoints and runs are registered."""
    files = [str(path) for path in workspace.folder.rglob("*") if path.is_file() and "pairloop.db" not in path.name]
    with reading(workspace.engine) as session:
        return sorted(files), len(session.exec(select(Checkpoint)).all()), len(session.exec(select(Run)).all())


def train_two_rounds(workspace: Workspace) -> None:
    """The first is promoted, so that the second is trained from it."""
    ready_to_train(workspace)
    train_a_round(workspace)
    go_on(workspace, decision=Decision.PROMOTE, by="test")
    assert run_next(workspace).status == RunStatus.DONE
    compare_all(workspace, prefer_longer)
    train_a_round(workspace)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_two_rounds_come_out_the_same_to_the_last_bit_and_leave_nothing(make_workspace: Make, tuning: str) -> None:
    workspace = make_workspace(model={"tuning": tuning}, training=QUICK)
    train_two_rounds(workspace)
    before = everything(workspace)
    torch.rand(7)  # nothing hangs on what was drawn before
    for which, parent in (("1", "base"), ("2", "round-1"), ("round-2", "round-1")):
        found = reproduce(workspace, which)
        assert (found.weights.differing, found.weights.largest, found.weights.apart) == (0, 0.0, ())
        assert found.weights.tensors > 5 and found.weights.within(0)
        assert (found.parent, found.facts) == (parent, [])
        assert (found.moved is None) == (tuning == "lora" and parent == "base")
        assert found.moved is None or found.moved > 0
    assert everything(workspace) == before


def test_what_is_not_as_recorded_is_said(make_workspace: Make) -> None:
    """A sweep's checkpoint is found by its name; a weight changed on disk is named; facts that differ are told."""
    workspace = make_workspace(training=QUICK)
    ready_to_train(workspace)
    start_training(workspace, by="test", sweep=["beta=0.1,0.5"])
    assert run_next(workspace).status == RunStatus.DONE
    assert reproduce(workspace, "round-1-beta-0.5").weights.within(0)
    path = workspace.folder / "checkpoints" / "round-1-beta-0.5" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][3] += 0.25
    save_file(weights, path, metadata={"format": "pt"})
    with writing(workspace.engine) as session:
        checkpoint = get_checkpoint(session=session, name="round-1-beta-0.5")
        machine = checkpoint.metrics["train"]["machine"]
        assert machine == machine_facts()
        trained = checkpoint.metrics["train"] | {"machine": machine | {"device": "another card"}}
        checkpoint.metrics = checkpoint.metrics | {"train": trained}
        checkpoint.code_version = checkpoint.code_version.replace("pairloop==", "pairloop==0.0.0-")
        session.add(checkpoint)
    found = reproduce(workspace, "round-1-beta-0.5")
    assert (found.weights.differing, found.weights.worst) == (1, "model.norm.weight")
    assert found.weights.largest == pytest.approx(0.25)
    assert [found.weights.within(tolerance) for tolerance in (0.1, 0.3)] == [False, True]
    assert [fact.name for fact in found.facts] == ["pairloop", "device"]
    assert found.facts[1].then == "another card"


def test_it_is_trained_with_as_many_threads_as_then(make_workspace: Make) -> None:
    """Sums of one thread and of three come out differently; the settings of now do not matter."""
    workspace = make_workspace(training=QUICK, worker={"threads": 1})
    ready_to_train(workspace)
    train_a_round(workspace)
    later = workspace.settings.model_copy(update={"worker": WorkerSettings(threads=3)})
    found = reproduce(replace(workspace, settings=later), "1")
    assert found.weights.within(0) and (found.facts, found.notes) == ([], [])


def test_a_parent_that_was_changed_since_is_told_before_anything_is_trained(
    make_workspace: Make, tiny_model: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "model")
    workspace = make_workspace(training=QUICK, model={"base": str(base)})
    train_two_rounds(workspace)
    change(base)
    heard: list[object] = []
    with pytest.raises(RunError, match=r"round-1 was trained from other weights .* those of base were changed since"):
        reproduce(workspace, "1", heard.append)
    assert heard == []
    found = reproduce(workspace, "2")
    assert found.weights.within(0), "the base is not in it"
    assert [fact.name for fact in found.facts] == ["weights of base"]
    change(workspace.folder / "checkpoints" / "round-1")
    with pytest.raises(RunError, match="those of base and round-1 were changed since"):
        reproduce(workspace, "2")


def change(folder: Path) -> None:
    """One weight is another."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"][0] += 0.5
    save_file(weights, path, metadata={"format": "pt"})


def test_what_is_not_on_record_is_said(make_workspace: Make) -> None:
    workspace = make_workspace(training=QUICK)
    ready_to_train(workspace)
    train_a_round(workspace)
    with writing(workspace.engine) as session:
        checkpoint = get_checkpoint(session=session, name="round-1")
        trained = {name: value for name, value in checkpoint.metrics["train"].items() if name not in OF_LATE}
        checkpoint.metrics = checkpoint.metrics | {"train": trained}
    notes = " ".join(reproduce(workspace, "1").notes)
    assert "How many processes trained it is not on record" in notes and "Which weights it started from" in notes


def test_the_commands_exit_code_says_whether_it_is_the_same(
    make_workspace: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_workspace(training=QUICK)
    ready_to_train(workspace)
    train_a_round(workspace)
    here = ["--workspace", str(workspace.folder)]
    assert run(["reproduce", "1", *here]) == 0
    assert "round-1: identical, all" in capsys.readouterr().out
    change(workspace.folder / "checkpoints" / "round-1")
    assert run(["reproduce", "1", *here]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "differ, by 0.5 at most (in model.norm.weight). More than the tolerance of 0." in said
    assert "The training moved weights by up to" in said and "Versions and machine are as they were" in said
    assert run(["reproduce", "round-1", "--tolerance", "0.6", "--json", *here]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["same"], told["reproduction"]["weights"]["worst"]) == (True, "model.norm.weight")
    assert run(["reproduce", "1", "--json", *here]) == 1
    assert json.loads(capsys.readouterr().out)["same"] is False


def test_what_cannot_be_trained_once_more(make_workspace: Make) -> None:
    workspace = make_workspace(training=QUICK)
    ready_to_train(workspace)
    with pytest.raises(RunError, match="Round 1 has not come to a checkpoint"):
        reproduce(workspace, "1")
    train_a_round(workspace)
    with pytest.raises(RunError, match="base was not trained here"):
        reproduce(workspace, "base")
    with pytest.raises(UnknownRecordError, match="no round 7"):
        reproduce(workspace, "7")
    with reading(workspace.engine) as session:
        snapshot = session.exec(select(Snapshot)).one()
    rows = workspace.folder / snapshot.path / "train.jsonl"
    whole = rows.read_bytes()
    rows.write_bytes(whole[:-2] + b" }"[:1] + whole[-1:])
    with pytest.raises(SnapshotError, match=r"train\.jsonl was changed after it was cut"):
        reproduce(workspace, "1")
    rows.write_bytes(whole)
    (workspace.folder / "checkpoints" / "round-1").rename(workspace.folder / "elsewhere")
    with pytest.raises(ModelError, match="The weights of round-1 are not there"):
        reproduce(workspace, "1")


def test_weights_by_hand(tmp_path: Path) -> None:
    for name, tensors in {
        "a": {"x": torch.tensor([1.0, 2.0]), "y": torch.zeros(2), "only": torch.zeros(1)},
        "b": {"x": torch.tensor([1.0, 2.5]), "y": torch.zeros(3)},
        "nan": {"x": torch.tensor([1.0, float("nan")])},
    }.items():
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    found = compare_weights(tmp_path / "a", tmp_path / "b")
    assert (found.tensors, found.differing, found.largest, found.worst) == (2, 1, 0.5, "x")
    assert found.apart == ("only", "y") and not found.within(1)
    assert not compare_weights(tmp_path / "b", tmp_path / "nan").within(1e9)
    assert compare_weights(tmp_path / "a", tmp_path / "a").within(0)


def test_facts_that_the_record_does_not_have_are_not_made_up() -> None:
    assert differing_facts("", {}) == []
    assert differing_facts(code_version(), machine_facts()) == []
    assert json.dumps(machine_facts())
