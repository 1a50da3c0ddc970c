"""Runs: background jobs. Queued by people, claimed by a worker, fenced by their attempt number.

A claim gives the worker a lease. The heartbeat renews it; a worker that dies lets it run out, and the run is claimed
again, one attempt later (at once where the dead worker was on this machine). Everything the old attempt still tries to
write is refused (`LostRunError`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from store.errors import StateError, StoreError, UnknownRecordError
from store.models import Run, RunKind, RunStatus, now
from store.roles import require_researcher
from store.workers import is_gone

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
    """Ask for a run. Raises StateError while the round has a run of this kind open, NotAllowedError."""
    require_researcher(session=session, to="start a run")
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


def claim_run(*, session: Session, owner: str, lease: timedelta, run_id: int | None = None) -> Run | None:
    """Take the oldest run (or the one asked for) that is queued or abandoned; None if there is none.

    A run whose process died MAX_CRASHES times without progress is marked failed instead.
    """
    # SQLite has its one write lock; elsewhere the rows are locked, and rows that others hold are theirs.
    for run in session.exec(_open_runs(run_id).with_for_update(skip_locked=True)):
        if not _free(run):
            continue
        run.crashes += int(run.status == RunStatus.RUNNING)
        if run.cancel_requested:
            _close(session, run, RunStatus.CANCELLED, None)
        elif run.crashes >= MAX_CRASHES:
            _give_up(session, run)
        else:
            return _start(session, run, owner=owner, lease=lease)
    return None


def run_waits(*, session: Session) -> bool:
    """Whether there is a run to claim. Only reads, so that an idle worker does not take the write lock to look."""
    return any(_free(run) for run in session.exec(_open_runs(None)))


def _open_runs(run_id: int | None) -> SelectOfScalar[Run]:
    query = select(Run).where(col(Run.status).in_(OPEN)).order_by(col(Run.id))
    return query if run_id is None else query.where(Run.id == run_id)


def _free(run: Run) -> bool:
    """Whether nobody carries out this open run (any more)."""
    if run.status == RunStatus.QUEUED:
        return True
    lapsed = run.lease_expires_at is None or run.lease_expires_at < now()
    return lapsed or run.owner is None or is_gone(run.owner)


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


def _give_up(session: Session, run: Run) -> None:
    _close(
        session,
        run,
        RunStatus.FAILED,
        f"Its process died {run.crashes} times without any progress. The usual cause is too little memory: close other "
        "programs or choose smaller batches. The run's log says more. A retry goes on from what was saved.",
    )


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
    elif run.crashes >= MAX_CRASHES:
        _give_up(session, run)
    else:
        run.status = RunStatus.QUEUED
        run.owner = None
        run.lease_expires_at = None
        session.add(run)
    return run


def cancel_run(*, session: Session, run_id: int) -> Run:
    """Ask a run to stop: at its next step if it is running, at once if nobody is running it (any more).

    Raises StateError if it is over, NotAllowedError.
    """
    require_researcher(session=session, to="cancel a run")
    run = _locked(session, run_id)
    if run.status in OPEN and _free(run):
        _close(session, run, RunStatus.CANCELLED, None)
    elif run.status == RunStatus.RUNNING:
        run.cancel_requested = True
        session.add(run)
    else:
        raise StateError(f"Run {run_id} is {run.status} already.")
    return run


def retry_run(*, session: Session, run_id: int) -> Run:
    """Queue a failed or cancelled run again; it goes on from what it has on disk.

    Raises StateError otherwise, NotAllowedError.
    """
    require_researcher(session=session, to="try a run again")
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


def runs_asked_by(*, session: Session, by: str, limit: int) -> list[Run]:
    """The last runs that somebody asked for, newest first."""
    return list(session.exec(select(Run).where(Run.requested_by == by).order_by(col(Run.id).desc()).limit(limit)))


def last_run(*, session: Session, round_id: int, kind: RunKind) -> Run | None:
    """The round's latest run of a kind, if any."""
    return session.scalar(_LAST, {"round_id": round_id, "kind": kind})


_LAST = (
    select(Run)
    .where(Run.round_id == sa.bindparam("round_id"), Run.kind == sa.bindparam("kind"))
    .order_by(col(Run.id).desc())
    .limit(1)
)
