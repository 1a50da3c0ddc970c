"""What the loop waits for at each point, without any model: runs are ended by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from dpo_core.errors import RunError
from dpo_core.loop import (
    Step,
    decide,
    read_loop,
    retry,
    round_stories,
    sample_more,
    start_round,
    start_training,
    suggested_decision,
)
from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.errors import StateError
from store.importing import import_preferences
from store.models import Checkpoint, Decision, Round, RoundStatus, Run, RunKind, RunStatus
from store.runs import claim_run, fail_run, list_runs

Make = Callable[..., Workspace]


def step(workspace: Workspace) -> Step:
    with reading(workspace.engine) as session:
        return read_loop(session=session).step


def claim(workspace: Workspace) -> Run:
    with writing(workspace.engine) as session:
        run = claim_run(session=session, owner="test", lease=timedelta(minutes=1))
    assert run is not None
    return run


def test_first_prompts_then_a_round_then_pairs(make_workspace: Make) -> None:
    empty = make_workspace("empty", prompts=0)
    assert step(empty) == Step.IMPORT_PROMPTS
    with pytest.raises(RunError, match="pairloop import"):
        start_round(empty, by="test")
    workspace = make_workspace()
    assert step(workspace) == Step.START_ROUND
    opened = start_round(workspace, by="test")
    assert (opened.number, opened.target, opened.status) == (1, 10, RoundStatus.SAMPLING)
    assert step(workspace) == Step.WAIT_FOR_PAIRS
    with pytest.raises(StateError, match="still open"):
        start_round(workspace, by="test")


def test_a_failed_run_is_to_be_mended_and_can_be_retried(make_workspace: Make) -> None:
    workspace = make_workspace()
    start_round(workspace, by="test")
    run = claim(workspace)
    with writing(workspace.engine) as session:
        fail_run(session=session, run_id=run.id or 0, attempt=run.attempt, error="The model is not there.")
    assert step(workspace) == Step.MEND_RUN
    retry(workspace, run_id=run.id or 0)
    assert step(workspace) == Step.WAIT_FOR_PAIRS


def test_a_run_that_was_overtaken_is_not_retried(make_workspace: Make) -> None:
    workspace = make_workspace()
    start_round(workspace, by="test")
    run = claim(workspace)
    with writing(workspace.engine) as session:
        fail_run(session=session, run_id=run.id or 0, attempt=run.attempt, error="No.")
        current = session.get_one(Round, run.round_id)
        given_up = Run(kind=RunKind.TRAIN, status=RunStatus.FAILED, round_id=current.id)
        taken = Run(kind=RunKind.TRAIN, status=RunStatus.FAILED, round_id=current.id)
        session.add_all([given_up, taken])
        current.status = RoundStatus.COMPARING
    with pytest.raises(RunError, match="went on without run"):
        retry(workspace, run_id=taken.id or 0)
    set_status(workspace, RoundStatus.TRAINING)
    with pytest.raises(RunError, match=f"Run {taken.id} took the place"):
        retry(workspace, run_id=given_up.id or 0)
    set_status(workspace, RoundStatus.DONE)
    for old in (run, given_up, taken):
        with pytest.raises(RunError, match="Round 1 is done"):
            retry(workspace, run_id=old.id or 0)
    set_status(workspace, RoundStatus.TRAINING)
    assert retry(workspace, run_id=taken.id or 0).status == RunStatus.QUEUED


def set_status(workspace: Workspace, status: RoundStatus) -> None:
    with writing(workspace.engine) as session:
        session.get_one(Round, 1).status = status


def test_a_round_asks_for_each_prompt_once_and_for_the_held_out_share(make_workspace: Make) -> None:
    workspace = make_workspace(prompts=100)
    start_round(workspace, by="test")
    with reading(workspace.engine) as session:
        [run] = list_runs(session=session)
    ids = run.settings["prompt_ids"]
    assert len(ids) == len(set(ids)) == 12  # 10 comparisons and a quarter to spare, rounded to even
    with pytest.raises(StateError, match="queued already"):
        sample_more(workspace, pairs=5, by="test")


def test_imported_comparisons_can_be_trained_on_at_once(make_workspace: Make, tmp_path: Path) -> None:
    workspace = make_workspace(prompts=0)
    path = tmp_path / "preferences.jsonl"
    rows = [{"prompt": f"Question {n}?", "chosen": f"Yes, {n}.", "rejected": f"No {n}."} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_preferences(engine=workspace.engine, path=path, held_out_share=0.2)
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
    assert (state.step, state.imported) == (Step.START_ROUND, 20)
    run = start_training(workspace, by="test")
    assert run.kind == RunKind.TRAIN and step(workspace) == Step.WAIT_FOR_TRAINING
    with reading(workspace.engine) as session:
        [story] = round_stories(session=session)
    assert story.snapshot is not None
    assert sum(story.snapshot.manifest["pairs"].values()) == 20
    assert story.checkpoint.name == run.settings["parent"] == "base"
    with pytest.raises(StateError, match="no new checkpoint"):
        decide(workspace, decision=Decision.PROMOTE, by="test")


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        ({}, Decision.PROMOTE),
        ({"pairs": 0}, Decision.PROMOTE),
        ({"pairs": 8, "accuracy_before": 0.5, "accuracy_after": 0.4, "interval_after": [0.1, 0.7]}, Decision.PROMOTE),
        ({"pairs": 80, "accuracy_before": 0.5, "accuracy_after": 0.3, "interval_after": [0.2, 0.4]}, Decision.KEEP),
        ({"pairs": 80, "accuracy_before": 0.6, "accuracy_after": 0.7, "interval_after": [0.6, 0.8]}, Decision.PROMOTE),
    ],
)
def test_only_a_clear_loss_speaks_for_keeping_the_parent(judged: dict[str, object], expected: Decision) -> None:
    assert suggested_decision(Checkpoint(name="round-1", path="x", metrics={"eval": judged})) == expected
