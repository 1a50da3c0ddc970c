"""Runs: leases that lapse, attempts that are fenced off, crashes that are counted, cancelling and trying again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from store import runs
from store.database import reading, writing
from store.errors import StateError, UnknownRecordError
from store.models import Run, RunKind, RunStatus, now
from store.runs import MAX_CRASHES, LostRunError
from store.workers import beat, live_workers, sign_off

LEASE = timedelta(minutes=1)
Call = Callable[..., Any]


@pytest.fixture
def call(engine: sa.Engine) -> Call:
    """`call(runs.claim_run, owner=...)`: one of the store's functions, in a transaction of its own."""

    def in_a_transaction(function: Call, **arguments: Any) -> Any:
        with writing(engine) as session:
            return function(session=session, **arguments)

    return in_a_transaction


def queue(call: Call, kind: RunKind = RunKind.TRAIN, round_id: int | None = None) -> Run:
    return call(runs.queue_run, kind=kind, settings={"beta": 0.1}, requested_by="Ada", round_id=round_id)


def claim(call: Call, owner: str = "worker-1") -> Run | None:
    return call(runs.claim_run, owner=owner, lease=LEASE)


def let_leases_lapse(engine: sa.Engine) -> None:
    with writing(engine) as session:
        session.execute(sa.update(Run).values(lease_expires_at=now() - timedelta(seconds=1)))


def read(engine: sa.Engine, run: Run) -> Run:
    with reading(engine) as session:
        return runs.get_run(session=session, run_id=run.id)


def test_runs_are_claimed_once_and_oldest_first(call: Call) -> None:
    queued = [queue(call) for _ in range(3)]
    claimed = [claim(call, owner) for owner in ("one", "two", "three", "four")]
    assert [run.id if run else None for run in claimed] == [run.id for run in queued] + [None]
    assert [(run.owner, run.attempt, run.status) for run in claimed[:2]] == [
        ("one", 1, "running"),
        ("two", 1, "running"),
    ]


def test_a_run_whose_lease_is_renewed_is_left_alone(call: Call, engine: sa.Engine) -> None:
    queue(call)
    run = claim(call)
    let_leases_lapse(engine)
    assert call(runs.renew_lease, run_id=run.id, attempt=1, lease=LEASE) is False
    assert claim(call, "worker-2") is None


def test_a_lapsed_run_is_claimed_again_and_its_old_attempt_can_write_nothing(call: Call, engine: sa.Engine) -> None:
    queue(call)
    run = claim(call)
    let_leases_lapse(engine)
    again = claim(call, "worker-2")
    assert (again.id, again.attempt, again.owner, again.crashes) == (run.id, 2, "worker-2", 1)
    for function, more in WRITES:
        with pytest.raises(LostRunError, match=r"attempt 2\); attempt 1 must stop"):
            call(function, run_id=run.id, attempt=1, **more)
    after = read(engine, run)
    assert (after.status, after.progress, after.result, after.owner) == ("running", {}, {}, "worker-2")


WRITES: list[tuple[Call, dict[str, Any]]] = [
    (runs.renew_lease, {"lease": LEASE}),
    (runs.report_progress, {"progress": {"step": 9}}),
    (runs.check_run_held, {}),
    (runs.finish_run, {"result": {"loss": 0.1}}),
    (runs.fail_run, {"error": "no"}),
    (runs.end_cancelled_run, {}),
    (runs.release_run, {"crashed": True}),
]


@pytest.mark.parametrize("end", [(runs.finish_run, {"result": {}}), (runs.fail_run, {"error": "out of memory"})])
def test_a_run_that_is_over_can_be_written_no_more(call: Call, end: tuple[Call, dict[str, Any]]) -> None:
    queue(call)
    run = claim(call)
    call(end[0], run_id=run.id, attempt=1, **end[1])
    for function, more in WRITES:
        with pytest.raises(LostRunError):
            call(function, run_id=run.id, attempt=1, **more)


def test_a_finished_run_says_what_it_made(call: Call, engine: sa.Engine) -> None:
    queue(call)
    run = claim(call)
    call(runs.finish_run, run_id=run.id, attempt=1, result={"loss": 0.5})
    done = read(engine, run)
    assert (done.status, done.result, done.owner, done.lease_expires_at) == ("done", {"loss": 0.5}, None, None)
    assert done.started_at <= done.finished_at


def die(call: Call, engine: sa.Engine, *, lapse: bool) -> None:
    run_id, attempt = 1, read_attempt(engine)
    if lapse:
        let_leases_lapse(engine)
    else:
        call(runs.release_run, run_id=run_id, attempt=attempt, crashed=True)


def read_attempt(engine: sa.Engine) -> int:
    with reading(engine) as session:
        return runs.get_run(session=session, run_id=1).attempt


@pytest.mark.parametrize("lapse", [True, False], ids=["lease lapsed", "worker saw it die"])
def test_a_run_that_dies_at_one_spot_is_given_up(call: Call, engine: sa.Engine, lapse: bool) -> None:
    """Every attempt loads, resumes at step 10 and dies at step 12: phases and steps repeat, nothing is gained."""
    run = queue(call)
    attempts = 0
    while claim(call) is not None:
        attempts += 1
        for progress in ({"phase": "loading"}, *({"phase": "training", "step": step} for step in (10, 11, 12))):
            call(runs.report_progress, run_id=run.id, attempt=attempts, progress=progress)
        die(call, engine, lapse=lapse)
    assert attempts == MAX_CRASHES
    failed = read(engine, run)
    assert failed.status == "failed"
    assert failed.error.startswith(f"Its process died {MAX_CRASHES} times without any progress.")


def test_a_run_that_gets_further_each_time_is_not_given_up(call: Call, engine: sa.Engine) -> None:
    run = queue(call)
    for attempt in range(1, 3 * MAX_CRASHES):
        assert claim(call).crashes <= 1
        for step in (attempt - 1, attempt):
            progress = {"phase": "training", "step": step}
            call(runs.report_progress, run_id=run.id, attempt=attempt, progress=progress)
        die(call, engine, lapse=True)


def test_a_worker_that_stops_in_good_order_is_no_crash(call: Call, engine: sa.Engine) -> None:
    run = queue(call)
    for attempt in range(1, 3 * MAX_CRASHES):
        assert claim(call).crashes == 0
        call(runs.release_run, run_id=run.id, attempt=attempt, crashed=False)
    assert read(engine, run).status == "queued"


def test_progress_is_kept_as_it_was_reported(call: Call, engine: sa.Engine) -> None:
    run = queue(call)
    claim(call)
    progress = {"phase": "training", "step": 3, "total": 9, "eta_seconds": 4.5}
    assert call(runs.report_progress, run_id=run.id, attempt=1, progress=progress) is False
    assert progress.items() <= read(engine, run).progress.items()


def test_a_queued_run_is_cancelled_at_once(call: Call) -> None:
    run = queue(call)
    assert call(runs.cancel_run, run_id=run.id).status == "cancelled"
    assert claim(call) is None
    with pytest.raises(StateError, match="is cancelled already"):
        call(runs.cancel_run, run_id=run.id)


def test_a_running_run_hears_of_it_at_its_next_step(call: Call, engine: sa.Engine) -> None:
    run = queue(call)
    claim(call)
    assert call(runs.cancel_run, run_id=run.id).status == "running"
    assert call(runs.renew_lease, run_id=run.id, attempt=1, lease=LEASE) is True
    assert call(runs.report_progress, run_id=run.id, attempt=1, progress={"step": 1}) is True
    call(runs.end_cancelled_run, run_id=run.id, attempt=1)
    assert read(engine, run).status == "cancelled"


def test_a_run_nobody_is_running_any_more_is_cancelled_at_once(call: Call, engine: sa.Engine) -> None:
    run = queue(call)
    claim(call)
    let_leases_lapse(engine)
    assert call(runs.cancel_run, run_id=run.id).status == "cancelled"
    with pytest.raises(LostRunError):
        call(runs.renew_lease, run_id=run.id, attempt=1, lease=LEASE)


@pytest.mark.parametrize("lapse", [True, False])
def test_a_cancelled_run_is_not_resumed(call: Call, engine: sa.Engine, lapse: bool) -> None:
    run = queue(call)
    claim(call)
    call(runs.cancel_run, run_id=run.id)
    die(call, engine, lapse=lapse)
    assert claim(call) is None
    assert read(engine, run).status == "cancelled"


def test_a_failed_run_can_be_tried_again(call: Call, engine: sa.Engine) -> None:
    run = queue(call)
    claim(call)
    with pytest.raises(StateError, match="is running; only a failed or cancelled run"):
        call(runs.retry_run, run_id=run.id)
    call(runs.fail_run, run_id=run.id, attempt=1, error="The disk is full.")
    assert read(engine, run).error == "The disk is full."
    call(runs.retry_run, run_id=run.id)
    again = claim(call)
    assert (again.id, again.attempt, again.error, again.crashes, again.finished_at) == (run.id, 2, None, 0, None)


def test_a_round_has_one_open_run_of_a_kind(call: Call, engine: sa.Engine, make_round: Any) -> None:
    opened, _ = make_round(engine)
    first = queue(call, round_id=opened.id)
    queue(call, RunKind.EVALUATE, round_id=opened.id)
    with pytest.raises(StateError, match=f"Run {first.id} .train. of this round is queued already"):
        queue(call, round_id=opened.id)
    call(runs.cancel_run, run_id=first.id)
    second = queue(call, round_id=opened.id)
    with pytest.raises(StateError, match=f"Run {second.id} "):
        call(runs.retry_run, run_id=first.id)
    with reading(engine) as session:
        assert runs.last_run(session=session, round_id=opened.id, kind=RunKind.TRAIN).id == second.id
        assert runs.last_run(session=session, round_id=opened.id, kind=RunKind.SAMPLE) is None
        assert [run.id for run in runs.list_runs(session=session)] == [3, 2, 1]


def test_a_run_that_is_not_there(call: Call) -> None:
    with pytest.raises(UnknownRecordError, match="no run 9"):
        call(runs.cancel_run, run_id=9)


def test_every_status_is_one_the_database_knows(call: Call, engine: sa.Engine) -> None:
    run = queue(call)
    for status in RunStatus:
        with writing(engine) as session:
            session.get_one(Run, run.id).status = status
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
        session.get_one(Run, run.id).status = "asleep"


def test_workers_that_have_been_heard_of_lately(call: Call, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for doing in ("waiting", "run 1"):
        call(beat, name="one", doing=doing)
    call(beat, name="two", doing="waiting")
    call(sign_off, name="two")
    assert [(worker.name, worker.doing) for worker in call(live_workers)] == [("one", "run 1")]
    monkeypatch.setattr("store.workers.SILENCE", timedelta(0))
    assert call(live_workers) == []
