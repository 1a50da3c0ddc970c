"""What a run says about itself, and what is heard of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dpo_core import progress
from dpo_core.errors import RunCancelled
from dpo_core.progress import RunProgress, read_metrics
from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.models import Run, RunKind, RunStatus
from store.runs import MAX_CRASHES, LostRunError, cancel_run, claim_run, get_run, queue_run, release_run


@pytest.fixture
def workspace(make_workspace: Callable[..., Workspace]) -> Workspace:
    return make_workspace(prompts=0)


@pytest.fixture
def run(workspace: Workspace) -> Run:
    with writing(workspace.engine) as session:
        queue_run(session=session, kind=RunKind.TRAIN, settings={}, requested_by="test")
    return claim(workspace)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still: `clock[0] += 1` lets a second pass."""
    seconds = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def claim(workspace: Workspace) -> Run:
    with writing(workspace.engine) as session:
        run = claim_run(session=session, owner="elsewhere:1:0", lease=timedelta(minutes=1))
    assert run is not None
    return run


def kept(workspace: Workspace, run: Run) -> dict[str, Any]:
    assert run.id is not None
    with reading(workspace.engine) as session:
        return get_run(session=session, run_id=run.id).progress


def reporter(workspace: Workspace, run: Run, **more: Any) -> RunProgress:
    assert run.id is not None
    return RunProgress(workspace, run.id, run.attempt, **more)


def test_the_row_gets_a_phases_first_step_its_last_and_two_a_second(
    workspace: Workspace, run: Run, clock: list[float]
) -> None:
    reports, rows = reporter(workspace, run), []
    for step in range(1, 11):
        reports.report("train", step, 10)
        rows.append(kept(workspace, run)["step"])
        clock[0] += 0.2
    assert rows == [1, 1, 1, 4, 4, 4, 7, 7, 7, 10]


def test_the_time_left_follows_from_this_attempts_own_pace(workspace: Workspace, run: Run, clock: list[float]) -> None:
    reports = reporter(workspace, run)
    reports.report("train", 20, 50)  # resumed at step 20: those steps took this attempt no time
    assert kept(workspace, run)["eta_seconds"] is None
    clock[0] += 10
    reports.report("train", 25, 50)  # 5 steps in 10 s; 25 to go
    assert kept(workspace, run)["eta_seconds"] == 50


def test_the_listener_hears_every_step_and_its_metrics(workspace: Workspace, run: Run) -> None:
    heard: list[dict[str, Any]] = []
    reports = reporter(workspace, run, listener=heard.append)
    for step in (1, 2, 3):
        reports.report("train", step, 9, {"loss": step / 2})
    assert [(item["phase"], item["step"], item["total"], item["loss"]) for item in heard] == [
        ("train", 1, 9, 0.5),
        ("train", 2, 9, 1.0),
        ("train", 3, 9, 1.5),
    ]


def test_metrics_can_be_followed_line_by_line(workspace: Workspace, run: Run) -> None:
    reports = reporter(workspace, run)
    for step in (1, 2):
        reports.report("train", step, 9, {"loss": step / 2})
        lines = (reports.folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["loss"] for line in lines] == [0.5, 1.0][:step]


def test_a_resumed_runs_line_replaces_the_earlier_one(tmp_path: Path) -> None:
    steps = [("train", 1, 5.0), ("train", 2, 4.0), ("train", 10, 1.0), ("evaluate", 1, 9.0), ("train", 2, 3.0)]
    lines = [json.dumps({"phase": phase, "step": step, "loss": loss}) for phase, step, loss in steps]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    read = [(entry["phase"], entry["step"], entry["loss"]) for entry in read_metrics(tmp_path)]
    assert read == [("evaluate", 1, 9.0), ("train", 1, 5.0), ("train", 2, 3.0), ("train", 10, 1.0)]


def test_half_a_line_is_ignored_and_swallows_nothing(workspace: Workspace, run: Run) -> None:
    reports = reporter(workspace, run)
    reports.report("train", 1, 9, {"loss": 5.0})
    with (reports.folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"phase": "train", "step": 2, "lo')  # killed here
    assert [entry["step"] for entry in read_metrics(reports.folder)] == [1]
    reporter(workspace, run).report("train", 2, 9, {"loss": 4.0})
    assert [(entry["step"], entry["loss"]) for entry in read_metrics(reports.folder)] == [(1, 5.0), (2, 4.0)]


def test_a_run_without_metrics_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_a_wish_to_cancel_is_heard(workspace: Workspace, run: Run) -> None:
    reports = reporter(workspace, run)
    reports.report("train", 1, 9)
    with writing(workspace.engine) as session:
        cancel_run(session=session, run_id=run.id or 0)
    with pytest.raises(RunCancelled):
        reports.report("evaluate", 1, 9)


def test_an_attempt_that_lost_the_run_leaves_no_line_behind(workspace: Workspace, run: Run, clock: list[float]) -> None:
    reports = reporter(workspace, run)
    reports.report("train", 1, 9, {"loss": 5.0})
    with writing(workspace.engine) as session:
        release_run(session=session, run_id=run.id or 0, attempt=run.attempt, crashed=True)
    claim(workspace)
    clock[0] += 1
    with pytest.raises(LostRunError):
        reports.report("train", 2, 9, {"loss": 4.0})
    assert [entry["step"] for entry in read_metrics(reports.folder)] == [1]
    assert kept(workspace, run)["step"] == 1


def die_at(workspace: Workspace, steps: list[int]) -> str:
    """Let one attempt after another go through all steps up to this one, and die there. Returns the run's status."""
    for last in steps:
        run = claim(workspace)
        reports = reporter(workspace, run)
        for step in range(1, last + 1):
            reports.report("load", step, last)
        with writing(workspace.engine) as session:
            status = release_run(session=session, run_id=run.id or 0, attempt=run.attempt, crashed=True).status
    return status


def test_going_further_than_ever_forgives_crashes_going_over_old_ground_does_not(workspace: Workspace) -> None:
    with writing(workspace.engine) as session:
        queue_run(session=session, kind=RunKind.TRAIN, settings={}, requested_by="test")
    assert die_at(workspace, list(range(1, 3 * MAX_CRASHES))) == RunStatus.QUEUED
    assert die_at(workspace, [3] * (MAX_CRASHES - 2)) == RunStatus.QUEUED  # the crash before these counts, too
    assert die_at(workspace, [3]) == RunStatus.FAILED
