"""Every way in which a run can end, carried out within the test's own process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from dpo_core import carry_out, progress
from dpo_core.carry_out import carry_out_here, lease_kept
from dpo_core.errors import RunError
from dpo_core.progress import read_metrics
from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.models import Completion, Run, RunKind, RunStatus, now
from store.runs import cancel_run, claim_run, finish_run, get_run, queue_run, release_run, retry_run

ELSEWHERE = "elsewhere:1:0"


@pytest.fixture
def workspace(make_workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setitem(carry_out.WORK, RunKind.SAMPLE, "fake_runs:write_completions")
    return make_workspace(prompts=1, worker={"lease_seconds": 2})


def queue(workspace: Workspace, **settings: Any) -> int:
    with writing(workspace.engine) as session:
        run = queue_run(session=session, kind=RunKind.SAMPLE, settings={"steps": 4} | settings, requested_by="test")
    assert run.id is not None
    return run.id


def written(workspace: Workspace) -> list[tuple[int | None, str]]:
    with reading(workspace.engine) as session:
        return [(row.seed, row.text) for row in session.exec(select(Completion).order_by(col(Completion.id)))]


def fetch(workspace: Workspace, number: int) -> Run:
    with reading(workspace.engine) as session:
        return get_run(session=session, run_id=number)


def claim(workspace: Workspace, *, owner: str = ELSEWHERE, seconds: float = 60) -> Run:
    with writing(workspace.engine) as session:
        run = claim_run(session=session, owner=owner, lease=timedelta(seconds=seconds))
    assert run is not None
    return run


def take_away(workspace: Workspace, number: int) -> None:
    """Let the run's lease run out, and somebody else claim it."""
    with writing(workspace.engine) as session:
        run = get_run(session=session, run_id=number)
        run.lease_expires_at = now() - timedelta(seconds=1)
        session.add(run)
    assert claim(workspace).id == number


def log_of(workspace: Workspace, number: int) -> str:
    return (workspace.run_folder(number) / "log.txt").read_text()


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_run_that_goes_well_is_done(workspace: Workspace) -> None:
    heard: list[dict[str, Any]] = []
    run = carry_out_here(workspace, queue(workspace), heard.append)
    assert (run.status, run.attempt, run.result) == (RunStatus.DONE, 1, {"steps": 4})
    assert (run.error, run.owner, run.lease_expires_at) == (None, None, None)
    assert written(workspace) == [(step, "attempt 1") for step in (1, 2, 3, 4)]
    assert [item["step"] for item in heard] == [1, 2, 3, 4]
    assert [line["loss"] for line in read_metrics(workspace.run_folder(run.id or 0))] == [1, 1 / 2, 1 / 3, 1 / 4]


@pytest.mark.parametrize(
    ("misfortune", "told"),
    [
        ("words", "The cat sits on the keyboard. Lift it off and retry."),
        ("disk", "The disk is full. Everything saved so far is kept. Free some space, then retry"),
        ("disk, says safetensors", "The disk is full."),
        ("memory", "smaller sampling.batch_size"),
        ("memory, says torch", "There was not enough memory. Everything saved so far is kept."),
        ("bug", "An error that pairloop did not expect: ValueError: seven\nThe run's log has the details."),
    ],
)
def test_what_went_wrong_is_told_in_words_and_a_retry_goes_on(workspace: Workspace, misfortune: str, told: str) -> None:
    number = queue(workspace, at={"3": misfortune}, bad_attempts=1)
    run = carry_out_here(workspace, number)
    assert run.status == RunStatus.FAILED
    assert told in (run.error or "")
    assert "Traceback" not in (run.error or "")
    assert "Traceback" in log_of(workspace, number)
    with writing(workspace.engine) as session:
        retry_run(session=session, run_id=number)
    assert carry_out_here(workspace, number).status == RunStatus.DONE
    assert written(workspace) == [(1, "attempt 1"), (2, "attempt 1"), (3, "attempt 2"), (4, "attempt 2")]
    assert "Traceback" in log_of(workspace, number), "the log of the first attempt is kept"


def test_training_that_lacks_memory_is_told_its_own_settings() -> None:
    assert "training.batch_size" in carry_out.explain(MemoryError(), RunKind.TRAIN)


@pytest.mark.parametrize("target", ["no_such_module:work", "fake_runs:no_such_work"])
def test_work_that_cannot_be_imported_fails_the_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setitem(carry_out.WORK, RunKind.SAMPLE, target)
    run = carry_out_here(workspace, queue(workspace))
    assert run.status == RunStatus.FAILED
    assert "no_such" in (run.error or "")


def test_work_that_never_says_it_is_done_fails_the_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(carry_out.WORK, RunKind.SAMPLE, "fake_runs:forget_to_finish")
    run = carry_out_here(workspace, queue(workspace))
    assert run.status == RunStatus.FAILED
    assert "without saying what it made" in (run.error or "")


def test_a_cancelled_run_stops_at_the_same_step(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REPORT_SECONDS", 0)
    number = queue(workspace)

    def cancel_at_two(item: dict[str, Any]) -> None:
        if item["step"] == 2:
            with writing(workspace.engine) as session:
                cancel_run(session=session, run_id=number)

    run = carry_out_here(workspace, number, cancel_at_two)
    assert (run.status, run.error) == (RunStatus.CANCELLED, None)
    assert len(written(workspace)) == 2


def test_an_attempt_that_lost_the_run_writes_nothing_more(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REPORT_SECONDS", 0)
    number = queue(workspace)
    run = carry_out_here(workspace, number, lambda item: take_away(workspace, number) if item["step"] == 2 else None)
    assert (run.status, run.attempt, run.owner, run.error) == (RunStatus.RUNNING, 2, ELSEWHERE, None)
    assert len(written(workspace)) == 2
    assert [line["step"] for line in read_metrics(workspace.run_folder(number))] == [1]
    assert run.progress["step"] == 1


def test_losing_the_run_between_reports_is_noticed_by_the_next_write(workspace: Workspace) -> None:
    number = queue(workspace, steps=50)
    run = carry_out_here(workspace, number, lambda item: take_away(workspace, number) if item["step"] == 7 else None)
    assert (run.status, run.attempt) == (RunStatus.RUNNING, 2)
    assert len(written(workspace)) == 7


def test_ctrl_c_puts_the_run_back_in_the_queue(workspace: Workspace) -> None:
    number = queue(workspace, at={"3": "interrupt"}, bad_attempts=1)
    with pytest.raises(KeyboardInterrupt):
        carry_out_here(workspace, number)
    run = fetch(workspace, number)
    assert (run.status, run.crashes, run.owner) == (RunStatus.QUEUED, 0, None)
    assert carry_out_here(workspace, number).status == RunStatus.DONE
    assert [step for step, _ in written(workspace)] == [1, 2, 3, 4]


def test_a_run_that_is_over_or_in_other_hands_is_refused(workspace: Workspace) -> None:
    number = queue(workspace)
    claim(workspace)
    with pytest.raises(RunError, match=f"Run {number} cannot be carried out here: it is running by {ELSEWHERE}"):
        carry_out_here(workspace, number)
    assert fetch(workspace, number).attempt == 1
    with writing(workspace.engine) as session:
        finish_run(session=session, run_id=number, attempt=1, result={})
    with pytest.raises(RunError, match="it is done"):
        carry_out_here(workspace, number)


def test_only_the_run_that_was_asked_for_is_carried_out(workspace: Workspace) -> None:
    first, second = queue(workspace), queue(workspace)
    carry_out_here(workspace, second)
    assert (fetch(workspace, first).status, fetch(workspace, second).status) == (RunStatus.QUEUED, RunStatus.DONE)


def test_the_lease_is_renewed_while_the_work_lasts(workspace: Workspace) -> None:
    number = queue(workspace)
    before = claim(workspace, seconds=1).lease_expires_at
    assert before is not None
    with lease_kept(workspace, fetch(workspace, number), on_lost=lambda: None):
        until(lambda: (fetch(workspace, number).lease_expires_at or before) > before + timedelta(seconds=1))


def test_the_loss_of_a_run_is_noticed_without_any_report(workspace: Workspace) -> None:
    number = queue(workspace)
    run, lost = claim(workspace), threading.Event()
    with lease_kept(workspace, run, on_lost=lost.set):
        take_away(workspace, number)
        assert lost.wait(10)


@pytest.mark.parametrize("released", [False, True])
def test_a_run_that_ended_by_itself_is_not_lost(workspace: Workspace, released: bool) -> None:
    number = queue(workspace)
    run, lost = claim(workspace), threading.Event()
    with lease_kept(workspace, run, on_lost=lost.set):
        with writing(workspace.engine) as session:
            if released:
                release_run(session=session, run_id=number, attempt=1, crashed=False)
            else:
                finish_run(session=session, run_id=number, attempt=1, result={})
        assert lost.wait(1.5) == released  # two beats
