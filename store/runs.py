"""Runs: background jobs. Queued by people, claimed by a worker, fenced by their attempt number.

A claim gives the worker a lease. The heartbeat renews it; a worker that dies lets it run out, and the run is claimed
again, one attempt later. Everything the old attempt still tries to write is refused (`LostRunError`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlmodel import Session, col, select

from store.errors import StateError, StoreError, UnknownRecordError
from store.models import Run, RunKind, RunStatus, now

MAX_CRASHES = 5  # deaths of the process without any progress in between, before a run is called failed
OPEN = (RunStatus.QUEUED, RunStatus.RUNNING)


class LostRunError(StoreError):
    """The run belongs to a later attempt, or is over: whoever holds this one must stop and write nothing."""


def queue_run(
    *,
    session: Session,
    kind: RunKind,
    settings: dict[str, Any],
    requested_by: str,
    round_id: int | None = None,
) -> Run:
    """Ask for a run. Raises StateError while the round has a run of this kind open."""
    _refuse_twin(session, round_id, kind)
    run = Run(kind=kind, settings=settings, requested_by=requested_by, round_id=round_id)
    session.add(run)
    session.flush()
    return run


def _refuse_twin(session: Session, round_id: int | None, kind: str) -> None:
    if round_id is None:
        return
    twin = session.exec(
        select(Run).where(Run.round_id == round_id, Run.kind == kind, col(Run.status).in_(OPEN))
    ).first()
    if twin is not None:
        raise StateError(f"Run {twin.id} ({kind}) of this round is {twin.status} already.")


def claim_run(*, session: Session, owner: str, lease: timedelta) -> Run | None:
    """Take the oldest run that is queued, or running with a lease that ran out; None if there is none.

    A run whose process died MAX_CRASHES times without progress is marked failed instead.
    """
    moment = now()
    while True:
        lapsed = (col(Run.status) == RunStatus.RUNNING) & (col(Run.lease_expires_at) < moment)
        ready = select(Run).where((col(Run.status) == RunStatus.QUEUED) | lapsed).order_by(col(Run.id)).limit(1)
        run = session.exec(ready.with_for_update(skip_locked=True)).first()
        if run is None:
            return None
        if run.status == RunStatus.RUNNING:
            run.crashes += 1
        if run.cancel_requested:
            _close(session, run, RunStatus.CANCELLED, None)
        elif run.crashes >= MAX_CRASHES:
            _close(session, run, RunStatus.FAILED, f"Its process died {run.crashes} times without any progress.")
        else:
            return _start(session, run, owner=owner, lease=lease)


def _start(session: Session, run: Run, *, owner: str, lease: timedelta) -> Run:
    run.status = RunStatus.RUNNING
    run.owner = owner
    run.attempt += 1
    run.error = None
    run.started_at = run.started_at or now()
    run.lease_expires_at = now() + lease
    session.add(run)
    session.flush()
    return run


def _close(session: Session, run: Run, status: RunStatus, error: str | None) -> None:
    run.status = status
    run.error = error
    run.finished_at = now()
    run.owner = None
    run.lease_expires_at = None
    session.add(run)
    session.flush()


def _held(session: Session, run_id: int, attempt: int) -> Run:
    run = _locked(session, run_id)
    if run.attempt != attempt or run.status != RunStatus.RUNNING:
        raise LostRunError(f"Run {run_id} is {run.status} (attempt {run.attempt}); attempt {attempt} must stop.")
    return run


def renew_lease(*, session: Session, run_id: int, attempt: int, lease: timedelta) -> bool:
    """Keep a claim alive. Returns whether somebody asked to cancel. Raises LostRunError."""
    run = _held(session, run_id, attempt)
    run.lease_expires_at = now() + lease
    session.add(run)
    return run.cancel_requested


def report_progress(*, session: Session, run_id: int, attempt: int, progress: dict[str, Any]) -> bool:
    """Write how far a run is (`phase`, `step`, `total`, `eta_seconds`, ...). Returns whether somebody asked to cancel.

    Getting further than any attempt before forgives earlier crashes: only a run that dies again and again at one spot
    is given up. The furthest step of each phase is kept under `furthest`, because an attempt that resumes goes
    through the same phases, and some of the same steps, once more. Raises LostRunError.
    """
    run = _held(session, run_id, attempt)
    phase, step = str(progress.get("phase", "")), progress.get("step") or 0
    furthest = dict(run.progress.get("furthest", {}))
    if step > furthest.get(phase, -1):
        run.crashes = 0
        furthest[phase] = step
    run.progress = {**progress, "furthest": furthest}
    session.add(run)
    return run.cancel_requested


def check_run_held(*, session: Session, run_id: int, attempt: int) -> Run:
    """The run, if this attempt still holds it. Called first in any transaction that writes a run's work.

    Raises LostRunError.
    """
    return _held(session, run_id, attempt)


def finish_run(
    *, session: Session, run_id: int, attempt: int, result: dict[str, Any], checkpoint_id: int | None = None
) -> Run:
    """Mark a run done with what it made. Raises LostRunError."""
    run = _held(session, run_id, attempt)
    run.result = result
    run.checkpoint_id = checkpoint_id
    _close(session, run, RunStatus.DONE, None)
    return run


def fail_run(*, session: Session, run_id: int, attempt: int, error: str) -> Run:
    """Mark a run failed, with its error in words. Raises LostRunError."""
    run = _held(session, run_id, attempt)
    _close(session, run, RunStatus.FAILED, error)
    return run


def end_cancelled_run(*, session: Session, run_id: int, attempt: int) -> Run:
    """Mark a run cancelled once its work has stopped. Raises LostRunError."""
    run = _held(session, run_id, attempt)
    _close(session, run, RunStatus.CANCELLED, None)
    return run


def release_run(*, session: Session, run_id: int, attempt: int, crashed: bool) -> Run:
    """Put a run back in the queue, to be resumed: its process died (`crashed`) or its worker is stopping.

    A run that somebody asked to cancel is cancelled instead. Raises LostRunError.
    """
    run = _held(session, run_id, attempt)
    run.crashes += int(crashed)
    if run.cancel_requested:
        _close(session, run, RunStatus.CANCELLED, None)
        return run
    if run.crashes >= MAX_CRASHES:
        _close(session, run, RunStatus.FAILED, f"Its process died {run.crashes} times without any progress.")
        return run
    run.status = RunStatus.QUEUED
    run.owner = None
    run.lease_expires_at = None
    session.add(run)
    return run


def cancel_run(*, session: Session, run_id: int) -> Run:
    """Ask a run to stop: at its next step if it is running, at once if nobody is running it (any more).

    Raises StateError if it is over.
    """
    run = _locked(session, run_id)
    lapsed = run.lease_expires_at is not None and run.lease_expires_at < now()
    if run.status == RunStatus.QUEUED or (run.status == RunStatus.RUNNING and lapsed):
        _close(session, run, RunStatus.CANCELLED, None)
    elif run.status == RunStatus.RUNNING:
        run.cancel_requested = True
        session.add(run)
    else:
        raise StateError(f"Run {run_id} is {run.status} already.")
    return run


def retry_run(*, session: Session, run_id: int) -> Run:
    """Queue a failed or cancelled run again; it goes on from what it has on disk. Raises StateError otherwise."""
    run = _locked(session, run_id)
    if run.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
        raise StateError(f"Run {run_id} is {run.status}; only a failed or cancelled run can be retried.")
    _refuse_twin(session, run.round_id, run.kind)
    run.status = RunStatus.QUEUED
    run.error = None
    run.crashes = 0
    run.cancel_requested = False
    run.finished_at = None
    session.add(run)
    return run


def _locked(session: Session, run_id: int) -> Run:
    """The run, its row locked where the database has row locks."""
    run = session.get(Run, run_id, with_for_update=True)
    if run is None:
        raise UnknownRecordError(f"There is no run {run_id}.")
    return run


def get_run(*, session: Session, run_id: int) -> Run:
    """The run with this number. Raises UnknownRecordError."""
    run = session.get(Run, run_id)
    if run is None:
        raise UnknownRecordError(f"There is no run {run_id}.")
    return run


def list_runs(*, session: Session, round_id: int | None = None) -> list[Run]:
    """Runs, newest first; of one round or of all."""
    query = select(Run).order_by(col(Run.id).desc())
    return list(session.exec(query if round_id is None else query.where(Run.round_id == round_id)))


def last_run(*, session: Session, round_id: int, kind: RunKind) -> Run | None:
    """The round's latest run of a kind, if any."""
    return next((run for run in list_runs(session=session, round_id=round_id) if run.kind == kind), None)
