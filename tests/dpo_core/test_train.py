"""A train run on a small workspace: what it writes, what it resumes, whose reference it takes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sqlmodel import select

from dpo_core.carry_out import carry_out_here
from dpo_core.changing_settings import change_training
from dpo_core.config import TrainingSettings
from dpo_core.deciding import decide, go_on
from dpo_core.errors import RunError, SettingsError
from dpo_core.loop import Step, plan_training, read_loop, retry, return_to_comparing, start_round, start_training
from dpo_core.progress import read_metrics
from dpo_core.train import label_chance
from dpo_core.workspace import Workspace
from store.annotators import get_or_add_annotator
from store.checkpoints import get_checkpoint
from store.comparisons import record_comparison
from store.database import reading, writing
from store.decisions import serving_checkpoint
from store.errors import SnapshotError, StateError
from store.held_out import rightness
from store.models import Checkpoint, Decision, Pair, PairReward, Prompt, Run, RunStatus
from store.pairs import next_pair
from store.runs import cancel_run
from store.snapshots import PreferencePair

Make = Callable[..., Workspace]


def compare_all(workspace: Workspace, choice: Callable[[str, str], str], name: str = "ann") -> int:
    """Judge every open pair of the round; returns how many."""
    done = 0
    while True:
        with writing(workspace.engine) as session:
            state = read_loop(session=session)
            assert state.round is not None and state.round.id is not None
            someone = get_or_add_annotator(session=session, name=name)
            assert someone.id is not None
            shown = next_pair(session=session, round_id=state.round.id, annotator_id=someone.id)
            if shown is None:
                return done
            record_comparison(
                session=session,
                pair_id=shown.pair_id,
                annotator_id=someone.id,
                choice=choice(shown.left, shown.right),
            )
            done += 1


def prefer_longer(left: str, right: str) -> str:
    return "left" if (len(left), left) > (len(right), right) else "right"


def run_next(workspace: Workspace, listener: Any = None) -> Run:
    with reading(workspace.engine) as session:
        run = read_loop(session=session).run
    assert run is not None and run.id is not None
    return carry_out_here(workspace, run.id, listener)


def weights(workspace: Workspace, name: str = "round-1") -> dict[str, Any]:
    folder = workspace.folder / "checkpoints" / name
    return load_file(next(iter(folder.glob("*.safetensors"))))


def ready_to_train(workspace: Workspace) -> None:
    start_round(workspace, by="test")
    assert run_next(workspace).status == RunStatus.DONE
    compare_all(workspace, prefer_longer)


def test_a_round_ends_in_a_checkpoint_that_can_say_where_it_comes_from(make_workspace: Make) -> None:
    workspace = make_workspace()
    ready_to_train(workspace)
    run = start_training(workspace, by="test")
    finished = run_next(workspace)
    assert finished.status == RunStatus.DONE, finished.error
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
        checkpoint = get_checkpoint(session=session, name="round-1")
        every = session.exec(select(PairReward)).all()
        rewards = [reward for reward in every if reward.checkpoint_id == checkpoint.id]
        held_out = {
            pair.id
            for pair, prompt in session.exec(select(Pair, Prompt).where(Pair.prompt_id == Prompt.id))
            if prompt.held_out
        }
        assert state.step == Step.DECIDE
        assert state.round is not None and state.round.result_checkpoint_id == checkpoint.id
        assert serving_checkpoint(session=session).name == "base"
    lineage = json.loads((workspace.folder / "checkpoints" / "round-1" / "pairloop.json").read_text())
    assert lineage["parent"] == "base" and lineage["run"] == run.id
    assert lineage["snapshot"] == run.settings["snapshot"]
    assert lineage["training"] == checkpoint.settings["training"] == run.settings["training"] | {"bf16": False}
    assert "trl==" in checkpoint.code_version
    assert checkpoint.metrics["eval"]["pairs"] == len(rewards) > 0
    assert {reward.pair_id for reward in rewards} <= held_out
    parents = [reward for reward in every if reward not in rewards]
    assert {reward.checkpoint_id for reward in parents} == {checkpoint.parent_id}
    assert sorted(reward.pair_id for reward in parents) == sorted(reward.pair_id for reward in rewards)
    right = [rightness(reward.margin) for reward in parents]
    assert checkpoint.metrics["eval"]["accuracy_before"] == sum(right) / len(right)
    canary = checkpoint.metrics["canary"]
    assert (canary["text"], checkpoint.metrics["checks"]) == ("canary.txt", [])
    assert canary["tokens"] > 3000  # of bytes, with the tiny tokenizer
    assert canary["perplexity_after"] == pytest.approx(math.exp(canary["after"])) != canary["perplexity_before"]
    for reward in rewards:
        beta = run.settings["training"]["beta"]
        assert reward.reward_chosen == pytest.approx(beta * (reward.logps_chosen - reward.ref_logps_chosen))
        assert reward.margin == pytest.approx(reward.reward_chosen - reward.reward_rejected)
    steps = [row for row in read_metrics(workspace.run_folder(run.id or 0)) if row["phase"] == "train"]
    assert [row["step"] for row in steps] == list(range(1, checkpoint.metrics["train"]["steps"] + 1))
    assert {"loss", "rewards/margins", "logps/chosen"} <= set(steps[0])
    decide(workspace, decision=Decision.PROMOTE, by="Rae")
    with reading(workspace.engine) as session:
        assert serving_checkpoint(session=session).name == "round-1"


def test_a_training_is_examined_by_ones_own_text_and_checks(make_workspace: Make) -> None:
    """A check that fails, or is no program, is on the record; a text that is not there is said before the training."""
    look = "import sys, pathlib; print(sorted(path.name for path in pathlib.Path(sys.argv[1]).iterdir())[-1]); "
    checks = [f"{sys.executable} -c '{look}sys.exit({code})' {{checkpoint}}" for code in (0, 1)]
    asked = {"canary": "mine.txt", "checks": [*checks, "no-such-program"]}
    workspace = make_workspace(evaluation=asked, training={"drift_samples": 0, "learning_rate": 0.1})
    ready_to_train(workspace)
    start_training(workspace, by="test")
    failed = run_next(workspace)
    assert failed.status == RunStatus.FAILED and "mine.txt cannot be read" in (failed.error or "")
    assert not (workspace.folder / "checkpoints" / "round-1").exists()
    (workspace.folder / "mine.txt").write_text("Plants take in carbon dioxide and water.")
    retry(workspace, run_id=failed.id or 0)
    done = run_next(workspace)
    assert done.status == RunStatus.DONE, done.error
    found = done.result["checks"]
    assert [each["passed"] for each in found] == [True, False, False]
    assert [each["said"] for each in found[:2]] == ["tokenizer_config.json"] * 2  # all is written when they run
    assert (done.result["canary"]["text"], done.result["canary"]["tokens"]) == ("mine.txt", 39)
    with reading(workspace.engine) as session:
        metrics = get_checkpoint(session=session, name="round-1").metrics
    assert (metrics["checks"], metrics["canary"]) == (found, done.result["canary"])
    assert workspace.settings.evaluation.check_minutes == 10


class Cut(BaseException):
    """A stand-in for sudden death: nothing in the code under test may catch it."""


def cut_at(step: int) -> Callable[[dict[str, Any]], None]:
    def listener(progress: dict[str, Any]) -> None:
        if progress["phase"] == "train" and progress["step"] == step:
            raise Cut

    return listener


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("step", [1, 4])
def test_a_run_that_was_cut_off_ends_with_the_weights_of_one_that_was_not(
    make_workspace: Make, tuning: str, step: int
) -> None:
    """`step` 1: before the trainer wrote anything to resume from; 4: after."""
    found = []
    for name, cut in (("whole", 0), ("cut", step)):
        workspace = make_workspace(name, model={"tuning": tuning}, training={"num_train_epochs": 3, "seed": 5})
        ready_to_train(workspace)
        start_training(workspace, by="test")
        if cut:
            with pytest.raises(Cut):
                run_next(workspace, cut_at(cut))
            lapse(workspace)
        finished = run_next(workspace)
        assert finished.status == RunStatus.DONE, finished.error
        assert finished.attempt == (2 if cut else 1)
        found.append(weights(workspace))
    whole, resumed = found
    assert set(whole) == set(resumed)
    for key, tensor in whole.items():
        assert tensor.equal(resumed[key]), key


def lapse(workspace: Workspace) -> None:
    """Let the leases of the dead run out, as time would."""
    with writing(workspace.engine) as session:
        for run in session.exec(select(Run).where(Run.status == RunStatus.RUNNING)):
            run.lease_expires_at = run.created_at
            session.add(run)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_second_round_is_trained_against_its_parent_not_the_base(make_workspace: Make, tuning: str) -> None:
    workspace = make_workspace(prompts=60, model={"tuning": tuning})
    ready_to_train(workspace)
    start_training(workspace, by="test")
    assert run_next(workspace).status == RunStatus.DONE
    go_on(workspace, decision=Decision.PROMOTE, by="test")
    assert run_next(workspace).status == RunStatus.DONE
    compare_all(workspace, prefer_longer)
    run = start_training(workspace, by="test")
    finished = run_next(workspace)
    assert finished.status == RunStatus.DONE, finished.error
    first = read_metrics(workspace.run_folder(run.id or 0))
    opening = next(row for row in first if row["phase"] == "train" and row["step"] == 1)
    assert opening["rewards/margins"] == pytest.approx(0, abs=1e-5)
    with reading(workspace.engine) as session:
        second = get_checkpoint(session=session, name="round-2")
        parent = session.get_one(Checkpoint, second.parent_id)
    assert parent.name == "round-1"
    assert second.kind == tuning
    one, two = weights(workspace, "round-1"), weights(workspace, "round-2")
    assert set(one) == set(two)
    assert any(not one[key].equal(two[key]) for key in one)


def test_a_cancelled_training_can_be_given_up_and_started_again(make_workspace: Make) -> None:
    workspace = make_workspace()
    ready_to_train(workspace)
    run = start_training(workspace, by="test")

    def cancel(progress: dict[str, Any]) -> None:
        if progress["phase"] == "train" and progress["step"] == 1:
            with writing(workspace.engine) as session:
                cancel_run(session=session, run_id=run.id or 0)

    assert run_next(workspace, cancel).status == RunStatus.CANCELLED
    assert not (workspace.folder / "checkpoints" / "round-1").exists()
    with reading(workspace.engine) as session:
        assert read_loop(session=session).step == Step.MEND_RUN
    return_to_comparing(workspace, by="test")
    start_training(workspace, by="test")
    assert run_next(workspace).status == RunStatus.DONE


def test_training_too_early_or_on_nothing_is_refused_in_words(make_workspace: Make) -> None:
    workspace = make_workspace()
    with pytest.raises(RunError, match="no comparisons were imported"):
        start_training(workspace, by="test")
    start_round(workspace, by="test")
    assert run_next(workspace).status == RunStatus.DONE
    with pytest.raises(RunError, match="0 of 10"):
        start_training(workspace, by="test")
    compare_all(workspace, lambda left, right: "tie")
    with pytest.raises(SnapshotError, match="tie"):
        start_training(workspace, by="test")
    with pytest.raises(SettingsError, match="did you mean 'beta'"):
        start_training(workspace, by="test", changes={"betta": 1})
    with pytest.raises(StateError, match="still open"):
        start_round(workspace, by="test")


def test_a_held_out_prompt_is_never_trained_on(make_workspace: Make) -> None:
    workspace = make_workspace(round={"comparisons": 16, "held_out_share": 0.5})
    ready_to_train(workspace)
    run = start_training(workspace, by="test")
    assert run_next(workspace).status == RunStatus.DONE
    folder = next(path for path in (workspace.folder / "snapshots").iterdir() if path.is_dir())
    asked = {line["prompt_hash"] for line in map(json.loads, (folder / "train.jsonl").read_text().splitlines())}
    with reading(workspace.engine) as session:
        held_out = {prompt.content_hash for prompt in session.exec(select(Prompt)) if prompt.held_out}
    assert asked and held_out
    assert not asked & held_out
    assert Path(folder / "test.jsonl").exists()
    assert run.settings["snapshot"].startswith(folder.name)


def weights_after_votes(make_workspace: Make, name: str, *, disagree: bool, confidence: str) -> dict[str, Any]:
    """A round in which three people judge each pair, the third of them perhaps the other way around."""
    workspace = make_workspace(
        name,
        round={"comparisons": 24, "comparisons_per_pair": 3},
        training={"confidence": confidence, "drift_samples": 0},  # of no matter here, and a third of the time
    )
    start_round(workspace, by="test")
    run_next(workspace)
    for person in ("ann", "ben", "cleo"):
        odd = disagree and person == "cleo"
        compare_all(
            workspace,
            lambda left, right, odd=odd: "left" if (prefer_longer(left, right) == "left") != odd else "right",
            name=person,
        )
    start_training(workspace, by="test")
    finished = run_next(workspace)
    assert finished.status == RunStatus.DONE, finished.error
    return weights(workspace)


def test_labels_count_as_they_are_believed(make_workspace: Make) -> None:
    def by(confidence: str, *, disagree: bool) -> dict[str, Any]:
        return weights_after_votes(make_workspace, f"{confidence}-{disagree}", disagree=disagree, confidence=confidence)

    def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
        return all(torch.equal(one[name], other[name]) for name in one)

    plain = by("ignore", disagree=True)
    found = {"ignore": plain} | {how: by(how, disagree=True) for how in ("agreement", "reliability")}
    assert not any(same(found[one], found[other]) for one, other in combinations(found, 2))
    assert not same(by("agreement", disagree=False), by("ignore", disagree=False)), "three votes are no certainty"


def test_what_a_label_is_believed() -> None:
    """By the votes, or by who gave them; what a researcher decided is in no doubt, whatever the votes."""
    votes = {"votes_for": 2, "votes_against": 1}  # and two ties, which are no votes against it
    pair = PreferencePair(1, [], "yes", "no", "a", agreement=0.4, annotators=5, **votes, confidence=0.9)
    decided = replace(pair, adjudicated=True, confidence=None)
    assert [label_chance(each, "agreement") for each in (pair, decided)] == [0.6364, 1.0]  # (2 + 1/3) / (3 + 2/3)
    assert label_chance(pair, "reliability") == 0.9
    with pytest.raises(RunError, match="cut without confidence"):
        label_chance(decided, "reliability")
    with pytest.raises(RunError, match="cut without confidence"):
        label_chance(replace(pair, votes_for=None, votes_against=None), "agreement")


def some_tied(left: str, right: str) -> str:
    return "tie" if (len(left) + len(right)) % 3 == 0 else prefer_longer(left, right)


@pytest.mark.parametrize("ties", ["davidson", "rao_kupper"])
def test_ties_are_trained_on_where_the_settings_of_this_training_say_so(
    make_workspace: Make, caplog: pytest.LogCaptureFixture, ties: str
) -> None:
    caplog.set_level("INFO", "pairloop")
    results: dict[str, Run] = {}
    learned: dict[str, dict[str, Any]] = {}
    for how in ("ignore", ties):
        workspace = make_workspace(how, round={"comparisons": 24}, training={"drift_samples": 0})
        start_round(workspace, by="test")
        run_next(workspace)
        compare_all(workspace, some_tied)
        changes = {"ties": how, "min_agreement": 0.6, "batch_size": 64, "num_train_epochs": 2}
        plan = plan_training(workspace, changes=changes)
        started = start_training(workspace, by="test", changes=changes)
        results[how] = run_next(workspace)
        assert results[how].status == RunStatus.DONE, results[how].error
        learned[how] = weights(workspace)
        manifest = json.loads(
            (workspace.folder / "snapshots" / started.settings["snapshot"][:12] / "manifest.json").read_text()
        )
        assert manifest["filter"]["min_agreement"] == 0.6
        figures = results[how].result["train"]
        assert figures["pairs"] == manifest["pairs"]["train"]
        assert figures.get("ties") == manifest["pairs"].get("ties")
        assert plan is not None and plan.work.pairs == figures["pairs"] + figures.get("ties", 0)
        assert results[how].result["eval"]["pairs"] == manifest["pairs"]["test"] > 0
    pairs, tied = (results[ties].result["train"][what] for what in ("pairs", "ties"))
    assert 1 < tied != pairs
    first = read_metrics(workspace.run_folder(results[ties].id or 0))
    (loss,) = [entry["loss"] for entry in first if entry["phase"] == "train" and entry["step"] == 1]
    by_hand = (pairs * math.log(4) + tied * math.log(2)) / (pairs + tied)  # all in one step, at h = 0
    assert loss == pytest.approx(by_hand, abs=1e-4)
    assert f"round-1: {pairs} pairs and {tied} ties to train on" in caplog.text
    assert any(not torch.equal(learned[ties][name], learned["ignore"][name]) for name in learned[ties])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss_type": ["sigmoid", "sft"]}, r'needs loss_type to be \["sigmoid"\] and nothing else'),
        ({"loss_type": ["ipo"]}, "nothing else"),
        ({"label_smoothing": 0.1}, "label_smoothing does nothing"),
        ({"loss_type": ["robust"], "label_smoothing": 0.1}, "nothing else"),
        ({"confidence": "agreement"}, "use one of them"),
    ],
)
def test_settings_that_do_not_go_with_ties(changes: dict[str, Any], said: str) -> None:
    for ties in ("davidson", "rao_kupper"):
        with pytest.raises(SettingsError, match=said):
            change_training(TrainingSettings(), changes | {"ties": ties})
