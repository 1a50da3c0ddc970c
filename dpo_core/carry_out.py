"""What a run does, and what becomes of it: done, failed in words, cancelled, or left to a later attempt.

The work itself finishes its run (`store.runs.finish_run`, in the transaction that writes its last results). Every other
ending is written here. A worker carries each run out in a process of its own, started as

    python -m dpo_core.carry_out --workspace W --run ID --attempt N --parent-pid P

A launcher starts several such processes for one training (ranks.py): the leader does all of this, the others work
beside it and speak only if they fail.

`carry_out_here` does the same within the calling process: the command line in the foreground, and simulations.
This module never imports torch; the kinds of work that need it do.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import cast

import psutil

from dpo_core import ranks
from dpo_core.errors import CoreError, RunCancelled, RunError
from dpo_core.progress import Listener, QuietProgress, RunProgress
from dpo_core.workspace import Workspace, open_workspace
from store.database import reading, writing
from store.errors import DatabaseError, StoreError
from store.models import Run, RunKind, RunStatus
from store.runs import (
    OPEN,
    LostRunError,
    check_run_held,
    claim_run,
    end_cancelled_run,
    fail_run,
    get_run,
    release_run,
    renew_lease,
)
from store.workers import own_name

log = logging.getLogger("pairloop")
Work = Callable[[Workspace, Run, RunProgress], None]

WORK = {
    RunKind.SAMPLE: "dpo_core.sampling:sample_round",
    RunKind.TRAIN: "dpo_core.train:train_round",
    RunKind.EVALUATE: "dpo_core.evaluate:evaluate_run",
    RunKind.DUEL: "dpo_core.writing_duels:write_duels",
}
LOST = 75  # exit status of a process whose run belongs to a later attempt
ORPHANED = 76  # exit status of a process whose worker is gone
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
CUT_SHORT = 77  # exit status of one of several processes that did not come to the end: the launcher ends the others
PARENT_SECONDS = 1.0
LEADER_SECONDS = 5.0  # that the leader gets to say in its own words what all of them ran into
PR_SET_PDEATHSIG = 1

_DISK_FULL = (
    "The disk is full. Everything saved so far is kept. Free some space, then retry the run: it goes on from there."
)
_NO_MEMORY = (
    "There was not enough memory. Everything saved so far is kept. Close other programs and retry the run, or choose a "
    "smaller {setting} in pairloop.toml and start this step anew (a retry keeps the settings the run was queued with)."
)
_WRITING = "sampling.batch_size or max_new_tokens"
_SIZES = {RunKind.SAMPLE: _WRITING, RunKind.DUEL: _WRITING}


def carry_out(workspace: Workspace, run: Run, progress: RunProgress) -> bool:
    """Do a claimed run's work and record how it ended. Raises DatabaseError where that cannot be written.

    Returns whether the work was done to its end.
    """
    try:
        _work(workspace, run)(workspace, run, progress)
        if ranks.is_leader():
            _end(
                workspace, run, "It ended without saying what it made. This is a defect of pairloop: please report it."
            )
        return True
    except LostRunError as error:
        log.info("%s", error)
    except RunCancelled:
        log.info("Run %s was cancelled.", run.id)
        _end(workspace, run, None)
    except Exception as error:
        _fail(workspace, run, error)
    return False


def _work(workspace: Workspace, run: Run) -> Work:
    module, _, name = WORK[RunKind(run.kind)].partition(":")
    work = cast(Work, getattr(importlib.import_module(module), name))
    if "torch" in sys.modules:  # only some work needs it
        import torch

        torch.set_num_threads(thread_count(workspace))
    return work


def _fail(workspace: Workspace, run: Run, error: Exception) -> None:
    """Record what went wrong; of several processes, only the leader does where it went wrong in all of them."""
    if ranks.is_lost_peer(error):
        log.warning("Run %s: another of its processes is gone.", run.id)
        return
    log.exception("Run %s failed.", run.id)
    if not ranks.is_leader():
        time.sleep(LEADER_SECONDS)
    _end(workspace, run, explain(error, RunKind(run.kind)))


def thread_count(workspace: Workspace) -> int:
    """CPU threads for a run: as pairloop.toml says, else one for each core; each of several processes has its share."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, (workspace.settings.worker.threads or cores) // ranks.count_here())


def _end(workspace: Workspace, run: Run, error: str | None) -> None:
    """Mark the run failed, or cancelled where there is no error, unless its end has been written already."""
    assert run.id is not None
    try:
        with writing(workspace.engine) as session:
            if error is None:
                end_cancelled_run(session=session, run_id=run.id, attempt=run.attempt)
            else:
                fail_run(session=session, run_id=run.id, attempt=run.attempt, error=error)
    except LostRunError:
        log.debug("Run %s is over already.", run.id)


def explain(error: Exception, kind: RunKind) -> str:
    """What went wrong, for somebody who has never seen a traceback: what happened, what is kept, what to do."""
    text = str(error).strip()
    if isinstance(error, (CoreError, StoreError)):
        return text
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return _DISK_FULL
    if is_out_of_memory(error):
        return _NO_MEMORY.format(setting=_SIZES.get(kind, "training.batch_size or max_length"))
    what = f"{type(error).__name__}: {text[:1000]}" if text else type(error).__name__
    return f"An error that pairloop did not expect: {what}\nThe run's log has the details. What was saved is kept."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was what there was too little of."""
    # torch's own class and its CPU allocator's words are told by name: torch is not to be imported for this.
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "DefaultCPUAllocator" in str(error)


@contextmanager
def lease_kept(workspace: Workspace, run: Run, on_lost: Callable[[], None]) -> Iterator[None]:
    """Renew the run's lease from a thread while the block lasts; `on_lost` is called there if the run is lost."""
    over = threading.Event()
    thread = threading.Thread(target=_keep_lease, args=(workspace, run, on_lost, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _keep_lease(workspace: Workspace, run: Run, on_lost: Callable[[], None], over: threading.Event) -> None:
    assert run.id is not None
    lease = lease_of(workspace)
    while not over.wait(lease.total_seconds() / 3):
        try:
            with writing(workspace.engine) as session:
                renew_lease(session=session, run_id=run.id, attempt=run.attempt, lease=lease)
        except LostRunError:
            if not _ended_itself(workspace, run):
                on_lost()
            return
        except DatabaseError as error:  # the next beat may succeed; if none does, the lease runs out
            log.warning("%s", error)


def _ended_itself(workspace: Workspace, run: Run) -> bool:
    """Whether the run is over by this attempt's own doing, which may still have files to tidy up."""
    assert run.id is not None
    with reading(workspace.engine) as session:
        current = get_run(session=session, run_id=run.id)
    return current.attempt == run.attempt and current.status not in OPEN


def lease_of(workspace: Workspace) -> timedelta:
    """How long a run stays claimed after the last sign of life."""
    return timedelta(seconds=workspace.settings.worker.lease_seconds)


def carry_out_here(workspace: Workspace, run_id: int, listener: Listener | None = None) -> Run:
    """Claim this run, carry it out in this process, and return it as it ended: done, failed or cancelled.

    Interrupted (Ctrl-C), the run goes back to the queue. Raises RunError where the run cannot be claimed.
    """
    run = _claim(workspace, run_id)
    progress = RunProgress(workspace, run_id, run.attempt, listener)
    with _logged(progress.folder), lease_kept(workspace, run, on_lost=lambda: None):
        if run.kind == RunKind.TRAIN and workspace.settings.worker.launcher:
            log.warning("One process trains: the launcher in pairloop.toml is for the runs of a worker.")
        try:
            carry_out(workspace, run, progress)
        except BaseException:
            _release(workspace, run)
            raise
    with reading(workspace.engine) as session:
        return get_run(session=session, run_id=run_id)


def _claim(workspace: Workspace, run_id: int) -> Run:
    with writing(workspace.engine) as session:
        run = claim_run(session=session, owner=own_name(), lease=lease_of(workspace), run_id=run_id)
        if run is not None:
            return run
        held = get_run(session=session, run_id=run_id)
    whose = f" by {held.owner}" if held.status == RunStatus.RUNNING else ""
    raise RunError(f"Run {run_id} cannot be carried out here: it is {held.status}{whose}.")


def _release(workspace: Workspace, run: Run) -> None:
    assert run.id is not None
    try:
        with writing(workspace.engine) as session:
            release_run(session=session, run_id=run.id, attempt=run.attempt, crashed=False)
    except StoreError as error:  # it is over, or its lease will run out
        log.debug("%s", error)


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Keep the run's log beside its metrics, as a worker's child does."""
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def main(arguments: list[str] | None = None) -> int:
    """A worker's child process, or one of several: carry out one attempt at one run. Its output is the run's log."""
    given = _parse(arguments)
    logging.basicConfig(format=LOG_FORMAT, level=logging.WARNING)
    log.setLevel(logging.INFO if ranks.is_leader() else logging.WARNING)
    die_with(given.parent_pid)
    try:
        workspace = open_workspace(given.workspace)
        run = _held(workspace, given.run, given.attempt)
    except LostRunError as error:
        log.info("%s", error)
        return LOST
    except (CoreError, StoreError) as error:
        log.error("%s", error)
        return 1
    os.nice(workspace.settings.worker.niceness)
    if ranks.count() == 1:
        _lead(workspace, run)
        return 0
    whole = _lead(workspace, run) if ranks.is_leader() else _follow(workspace, run)
    logging.shutdown()
    os._exit(0 if whole else CUT_SHORT)  # a process group whose other members are gone may never close


def _lead(workspace: Workspace, run: Run) -> bool:
    assert run.id is not None
    with lease_kept(workspace, run, on_lost=lambda: os._exit(LOST)):
        return carry_out(workspace, run, RunProgress(workspace, run.id, run.attempt))


def _follow(workspace: Workspace, run: Run) -> bool:
    assert run.id is not None
    return carry_out(workspace, run, QuietProgress(workspace, run.id, run.attempt))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dpo_core.carry_out", description=main.__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--run", type=int, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    return parser.parse_args(arguments)


def die_with(parent: int) -> None:
    """End this process as soon as its worker is gone, however the worker died: at once on Linux, else in a second.

    Under a launcher the worker is not its parent but further up: the launcher's death counts as the worker's.
    """
    die_with_parent()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def die_with_parent() -> None:
    """On Linux, have the kernel kill this process when its parent is gone, whatever program it runs by then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(worker: int) -> None:
    while any(process.pid == worker for process in psutil.Process().parents()):
        time.sleep(PARENT_SECONDS)
    os._exit(ORPHANED)


def _held(workspace: Workspace, run_id: int, attempt: int) -> Run:
    """The run, its lease renewed now that its process stands. Raises LostRunError."""
    if not ranks.is_leader():
        with reading(workspace.engine) as session:
            return check_run_held(session=session, run_id=run_id, attempt=attempt)
    with writing(workspace.engine) as session:
        renew_lease(session=session, run_id=run_id, attempt=attempt, lease=lease_of(workspace))
        run = get_run(session=session, run_id=run_id)
    log.info("%s", first_words(run))
    return run


def first_words(run: Run) -> str:
    """What the process that carries out this attempt says in the run's log once it stands."""
    return f"Run {run.id} ({run.kind}), attempt {run.attempt}"


if __name__ == "__main__":
    raise SystemExit(main())
