"""Sweeps: what is swept, on one reference pass, each point as if it were trained alone, and one that goes on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest
import torch

from dpo_core import logps, train
from dpo_core.alarms import Alarm, recorded_alarms
from dpo_core.config import TrainingSettings
from dpo_core.deciding import decide, pick_candidate
from dpo_core.drift import divergence
from dpo_core.errors import RunError, SettingsError
from dpo_core.logps import PairLogps
from dpo_core.loop import Step, read_loop, round_stories, start_training
from dpo_core.progress import read_metrics
from dpo_core.sweep import best_point, point_name, read_sweep
from dpo_core.workspace import Workspace
from store.checkpoints import get_checkpoint
from store.database import reading
from store.decisions import serving_checkpoint
from store.models import Decision, Run, RunStatus
from tests.dpo_core.test_train import ready_to_train, run_next, weights

Make = Callable[..., Workspace]
SWEEP = ["beta=0.05,1.0"]


def test_a_sweep_is_a_grid_of_settings() -> None:
    points = read_sweep(["beta=0.05,0.1", "lr=1e-5, 2e-5"], TrainingSettings())
    assert points == [
        {"beta": 0.05, "learning_rate": 1e-5},
        {"beta": 0.05, "learning_rate": 2e-5},
        {"beta": 0.1, "learning_rate": 1e-5},
        {"beta": 0.1, "learning_rate": 2e-5},
    ]
    assert point_name("round-3", points[0]) == "round-3-beta-0.05-learning_rate-1e-05"
    assert point_name("round-3", {}) == "round-3"


def test_a_sweep_keeps_to_one_set_of_pairs() -> None:
    assert len(read_sweep(["confidence=ignore,agreement"], TrainingSettings())) == 2
    for settings in (TrainingSettings(), TrainingSettings(confidence="reliability")):
        with pytest.raises(SettingsError, match="for all of its points or for none"):
            read_sweep(["confidence=ignore,reliability"], settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("beta", "Write it as KEY=VALUE,VALUE"),
        ("beta=", "Write it as KEY=VALUE,VALUE"),
        ("betta=0.1,0.2", "did you mean 'beta'"),
        ("beta=0.1,-1", "greater than 0"),
        ("beta=0.1,0.1", "twice"),
        ("max_length=10,20", "max_length has to stay as it is"),
        ("ties=davidson,rao_kupper", "ties has to stay as it is"),
        ("beta=" + ",".join(f"0.{n}" for n in range(1, 30) if n % 10), "16 are the most"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_sweep([text], TrainingSettings())
    assert said in str(caught.value)


def test_the_best_is_right_most_often_and_among_equals_the_nearest() -> None:
    def result(accuracy: float | None, nats: float) -> dict[str, Any]:
        return {"eval": {} if accuracy is None else {"accuracy_after": accuracy}, "kl": {"nats": nats}}

    assert best_point([result(0.6, 9.0), result(0.7, 9.0), result(0.7, 2.0)]) == 2
    assert best_point([result(None, 3.0), result(None, 1.0)]) == 1
    assert best_point([result(0.4, 0.0), result(None, 5.0)]) == 1, "no held-out pair is worth a coin toss"


def test_divergence_worked_by_hand() -> None:
    policy, reference = [PairLogps(-10.0, 0.0), PairLogps(-20.0, 0.0)], [PairLogps(-12.0, 0.0), PairLogps(-21.0, 0.0)]
    found = divergence(policy, reference)
    assert (found["nats"], found["samples"]) == (1.5, 2)  # (2 + 1) / 2
    assert found["low"] < 1.5 < found["high"]
    assert divergence(policy, policy)["nats"] == 0
    assert divergence([], []) == {}


def swept(workspace: Workspace, listener: Any = None, **given: Any) -> Run:
    start_training(workspace, by="test", **given)
    finished = run_next(workspace, listener)
    assert finished.status == RunStatus.DONE, finished.error
    return finished


def test_each_point_is_what_it_would_be_alone_and_the_reference_is_passed_once(
    make_workspace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = make_workspace("alone")
    ready_to_train(alone)
    swept(alone, changes={"beta": 1.0})
    workspace = make_workspace("swept")
    ready_to_train(workspace)
    asked: list[int] = []
    real = logps.pair_logps
    monkeypatch.setattr(
        logps, "pair_logps", lambda m, t, pairs, **o: asked.append(len(pairs)) or real(m, t, pairs, **o)
    )
    phases: list[str] = []
    finished = swept(workspace, lambda progress: phases.append(progress["phase"]), sweep=SWEEP)
    assert [phase for phase, _ in groupby(phases) if phase.startswith("write samples")] == [
        f"write samples of {name}" for name in ("base", "round-1-beta-0.05", "round-1-beta-1.0")
    ]
    one, other = weights(workspace, "round-1-beta-0.05"), weights(workspace, "round-1-beta-1.0")
    expected = weights(alone)
    assert all(torch.equal(other[name], expected[name]) for name in expected)
    assert any(not torch.equal(one[name], expected[name]) for name in expected)
    pairs, held_out = finished.result["train"]["pairs"], finished.result["eval"]["pairs"]
    # The parent on all pairs; then for each point the checkpoint on held-out pairs, and both on their own answers.
    assert asked[0] == pairs + held_out
    assert asked[1::3] == [held_out, held_out]
    assert len(asked) == 7 and max(asked[2:]) <= finished.result["kl"]["samples"]
    assert [entry["point"] for entry in finished.result["sweep"]] == [{"beta": 0.05}, {"beta": 1.0}]
    trained = {entry["phase"] for entry in read_metrics(workspace.run_folder(finished.id or 0)) if "loss" in entry}
    assert trained == {"train beta 0.05", "train beta 1.0"}


def test_one_of_the_checkpoints_goes_on_and_another_may_be_picked(make_workspace: Make) -> None:
    workspace = make_workspace()
    ready_to_train(workspace)
    finished = swept(workspace, sweep=SWEEP)
    names = ["round-1-beta-0.05", "round-1-beta-1.0"]
    with reading(workspace.engine) as session:
        assert read_loop(session=session).step == Step.DECIDE
        story = round_stories(session=session)[-1]
    assert [item.name for item in story.candidates] == names
    assert story.result is not None and story.result.id == finished.checkpoint_id
    other = next(name for name in names if name != story.result.name)
    with pytest.raises(RunError, match=r"to: round-1-beta-0.05, round-1-beta-1.0"):
        pick_candidate(workspace, checkpoint="base", by="test")
    pick_candidate(workspace, checkpoint=other, by="test")
    decide(workspace, decision=Decision.PROMOTE, by="test")
    with reading(workspace.engine) as session:
        assert serving_checkpoint(session=session).name == other
    with pytest.raises(RunError, match="No round is open"):
        pick_candidate(workspace, checkpoint=names[0], by="test")


def test_each_checkpoint_keeps_its_own_alarms(make_workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of the pairs stands with all of them; what one of the trainings gave rise to, with that one."""
    sounded = iter([[Alarm("longer", "warning", "The first.")], [Alarm("shorter", "warning", "The second.")]])
    monkeypatch.setattr(train, "alarms_in", lambda *_: [Alarm("pairs", "note", "Of all.")])
    monkeypatch.setattr(train, "alarms_after", lambda *_, **__: next(sounded))
    workspace = make_workspace()
    ready_to_train(workspace)
    finished = swept(workspace, sweep=SWEEP)
    with reading(workspace.engine) as session:
        names = ["round-1-beta-0.05", "round-1-beta-1.0"]
        found = {name: alarm_names(get_checkpoint(session=session, name=name).metrics) for name in names}
    mine, others = {"pairs", "longer"}, {"pairs", "shorter"}
    assert mine <= found[names[0]] and others <= found[names[1]]
    assert "shorter" not in found[names[0]] and "longer" not in found[names[1]]
    assert [alarm_names(entry) for entry in finished.result["sweep"]] == list(found.values())
    assert alarm_names(finished.result) == found[finished.result["checkpoint"]]


def alarm_names(record: dict[str, Any]) -> set[str]:
    return {alarm.name for alarm in recorded_alarms(record)}


class CutError(BaseException):
    """Stands in for a kill: nothing catches it."""


def test_a_sweep_that_was_cut_off_goes_on_with_its_second_point(make_workspace: Make) -> None:
    whole = make_workspace("whole")
    ready_to_train(whole)
    swept(whole, sweep=SWEEP)
    workspace = make_workspace("cut")
    ready_to_train(workspace)

    def cut(progress: dict[str, Any]) -> None:
        if progress["phase"] == "train beta 1.0" and progress["step"] == 2:
            raise CutError

    start_training(workspace, by="test", sweep=SWEEP)
    with pytest.raises(CutError):
        run_next(workspace, cut)
    first = (workspace.folder / "checkpoints" / "round-1-beta-0.05" / "model.safetensors").stat().st_mtime_ns
    assert run_next(workspace).status == RunStatus.DONE
    assert (workspace.folder / "checkpoints" / "round-1-beta-0.05" / "model.safetensors").stat().st_mtime_ns == first
    for name in ("round-1-beta-0.05", "round-1-beta-1.0"):
        ours, theirs = weights(workspace, name), weights(whole, name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
