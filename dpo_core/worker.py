"""The worker: claims queued runs and carries each out in a process of its own, at low priority.

A run's process may die (out of memory, a crash in native code) without taking the worker along: the run goes back to
the queue and is resumed. A worker that dies takes its run's process along; its lease runs out and the next worker
resumes the run, at once if it is on the same machine. Several workers may share a workspace. With a launcher in
pairloop.toml a training is several processes, which end together. Beside its runs a worker has a process for the
Playground's chats (chat_child.py). Never imports torch.

    python -m dpo_core.worker --workspace W
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

import psutil

from dpo_core import ranks
from dpo_core.automatic import Pilot
from dpo_core.carry_out import LOG_FORMAT, die_with_parent, first_words, lease_of, thread_count
from dpo_core.chat_child import ChatChild
from dpo_core.errors import CoreError, RunError
from dpo_core.progress import note_in_log
from dpo_core.run_plan import free_on_cards
from dpo_core.serving import LinkKeeper
from dpo_core.workspace import Workspace, open_workspace
from store.database import reading, writing
from store.errors import DatabaseError, StoreError
from store.models import Run, RunKind, RunStatus
from store.runs import LostRunError, claim_run, fail_run, get_run, release_run, run_waits
from store.workers import NO_CHATS, beat, forget_dead_workers, own_name, sign_off

log = logging.getLogger("pairloop")
IDLE_SECONDS = 0.5  # between two looks for a run
WATCH_SECONDS = 0.2  # between two looks at the child
BEAT_SECONDS = 5.0
TROUBLE_SECONDS = 5.0  # before the database is tried again
STOP_SECONDS = 5.0  # that a child gets to end before it is killed
START = timedelta(seconds=30)  # added to the first lease: a child needs a while before it renews it
# glibc hands every large block back to the system as it is freed, and a training frees and asks for the same ones at
# every layer: new pages each time took a sixth of a training's time. A run keeps them until its process ends, and asks
# for large pages (malloc's tunables: glibc manual, "Memory Allocation Tunables"). Its peak stays the same.
KEEP_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.hugetlb=1"


def work(workspace: Workspace, *, stop: threading.Event, once: bool = False) -> list[int]:
    """Carry out runs, one at a time, until `stop` is set; with `once`, until none is left in the queue.

    A run that `stop` interrupts goes back to the queue. Trouble with the database is logged and waited out.
    Returns the numbers of the runs it had in hand, whatever became of them.
    """
    keeper = LinkKeeper()
    keeper.look(workspace)  # a decision may have been cut off before it came to that
    presence = _Presence(workspace)
    had: list[int] = []
    pilot = Pilot()
    # Half the cores, so that a chat and a training get on beside each other. None for a worker that does not stay.
    chats = None if once else ChatChild(workspace, run_environment(max(1, thread_count(workspace) // 2)))
    try:
        while not stop.is_set():
            keeper.look(workspace)
            found = _next(workspace, presence, chats, stop, had) or pilot.look(workspace)
            if once and not found:
                break
    finally:
        if chats is not None:
            chats.end()
        presence.sign_off()
    return had


def _next(
    workspace: Workspace, presence: _Presence, chats: ChatChild | None, stop: threading.Event, had: list[int]
) -> bool:
    """Carry out the next run, if there is one, and add it to `had`. Returns whether to look again at once."""
    presence.say("")
    if chats is not None:
        chats.look()
    try:
        run = _claim(workspace, presence.name)
        if run is not None and run.id is not None:
            had.append(run.id)
            _carry_out_in_child(workspace, run, presence, chats, stop)
            return True
    except DatabaseError as error:
        log.warning("%s", error)
        time.sleep(TROUBLE_SECONDS)
        return True
    # Not stop.wait(): a signal handler that sets the event while this thread is inside wait() could lock up.
    time.sleep(IDLE_SECONDS)
    return False


def _claim(workspace: Workspace, name: str) -> Run | None:
    with reading(workspace.engine) as session:
        if not run_waits(session=session):
            return None
    with writing(workspace.engine) as session:
        return claim_run(session=session, owner=name, lease=lease_of(workspace) + START)


class _Presence:
    """What the worker says about itself in the database. Trouble there must not end a run, so none is raised."""

    def __init__(self, workspace: Workspace) -> None:
        self.name = own_name()
        self._workspace = workspace
        self._said = ("?", 0.0)
        self._write(forget_dead_workers)  # those that were killed could not sign off

    def say(self, doing: str) -> None:
        said, moment = self._said
        if doing == said and time.monotonic() - moment < BEAT_SECONDS:
            return
        self._said = (doing, time.monotonic())
        self._write(beat, name=self.name, doing=doing)

    def sign_off(self) -> None:
        self._write(sign_off, name=self.name)

    def _write(self, function: Callable[..., None], **given: str) -> None:
        try:
            with writing(self._workspace.engine) as session:
                function(session=session, **given)
        except StoreError as error:
            log.warning("%s", error)


def _carry_out_in_child(
    workspace: Workspace, run: Run, presence: _Presence, chats: ChatChild | None, stop: threading.Event
) -> None:
    alone = run.kind == RunKind.TRAIN and bool(free_on_cards())  # its card is not shared with a chat
    if chats is not None and alone:
        chats.end()
    elif chats is not None:
        chats.make_room()
    log.info("Run %s (%s), attempt %d", run.id, run.kind, run.attempt)
    try:
        child = _start(workspace, run)
    except OSError as error:
        _settle(workspace, run, error=f"Its process could not be started: {error.strerror}. Mend that and retry it.")
        return
    except RunError as error:
        _settle(workspace, run, error=str(error))
        return
    try:
        while child.poll() is None and not stop.is_set():
            presence.say(f"run {run.id} ({run.kind})" + f", {NO_CHATS}" * alone)
            if chats is not None and not alone:
                chats.look()
            time.sleep(WATCH_SECONDS)
        stopped = child.poll() is None
    finally:
        _end(child)
    _settle_child(workspace, run, child.returncode, stopped=stopped)


def child_command(workspace: Workspace, run: Run) -> list[str]:
    """The command that carries out this attempt at the run. Raises RunError for a launcher that cannot be used."""
    starter = ranks.launcher_command(workspace.settings.worker.launcher) if _is_launched(workspace, run) else []
    program = [*(starter or [sys.executable]), "-m", "dpo_core.carry_out", "--workspace", str(workspace.folder)]
    return [*program, "--run", f"{run.id}", "--attempt", f"{run.attempt}", "--parent-pid", f"{os.getpid()}"]


def _is_launched(workspace: Workspace, run: Run) -> bool:
    return run.kind == RunKind.TRAIN and bool(workspace.settings.worker.launcher.strip())


def _start(workspace: Workspace, run: Run) -> subprocess.Popen[bytes]:
    """Start the child: its output is the run's log, and Ctrl-C in the worker's terminal does not reach it."""
    path = _log_path(workspace, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        return subprocess.Popen(
            child_command(workspace, run),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Our own program sees to this by itself, a launcher does not. The worker's one thread makes it safe.
            preexec_fn=die_with_parent if _is_launched(workspace, run) else None,  # noqa: PLW1509
            env=run_environment(thread_count(workspace)),
        )


def run_environment(threads: int) -> dict[str, str]:
    """The environment that a run's process computes in, with `threads` threads."""
    # The thread pools of BLAS and OpenMP are made as their libraries load: too early to be set from within.
    pools = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), f"{threads}")
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    # Names that a cluster set for this worker's own process would make its child one of many.
    inherited = {name: value for name, value in os.environ.items() if name not in ranks.NAMES}
    return {
        "GLIBC_TUNABLES": KEEP_MEMORY,
        **inherited,
        **pools,
        **quiet,
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child if it runs still, and whatever it started."""
    below = _started_by(child)
    if child.poll() is None:
        _signal_group(child, signal.SIGTERM)
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("The run's process does not stop; it is killed.")
    _signal_group(child, signal.SIGKILL)
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    child.wait()


def _started_by(child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes below a child: a launcher puts them into groups of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(psutil.Process(child.pid).children(recursive=True))
    return []


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):  # nobody left (macOS says so with the second)
        return


def _settle_child(workspace: Workspace, run: Run, code: int, *, stopped: bool) -> None:
    """Record the end of a child that left no record of its own."""
    if stopped:
        _settle(workspace, run, crashed=False, note="its worker is stopping")
    elif code < 0:
        _settle(workspace, run, crashed=True, note=f"killed by signal {-code}")
    elif code and _is_launched(workspace, run) and _has_begun(workspace, run):
        # They record what they run into; one that could not was killed, and the launcher does not say how.
        _settle(workspace, run, crashed=True, note="one of its processes died")
    else:
        tail = _tail(_log_text(workspace, run))
        _settle(workspace, run, error=f"Its process ended early (exit status {code}). The end of its log:\n{tail}")


def _settle(workspace: Workspace, run: Run, *, crashed: bool = False, note: str = "", error: str | None = None) -> None:
    """Fail the run, or put it back in the queue. Nothing where the child has recorded the end, or lost the run."""
    assert run.id is not None
    try:
        with writing(workspace.engine) as session:
            if error is not None:
                after = fail_run(session=session, run_id=run.id, attempt=run.attempt, error=error)
            else:
                after = release_run(session=session, run_id=run.id, attempt=run.attempt, crashed=crashed)
    except LostRunError:
        return
    outcome = "resuming" if after.status == RunStatus.QUEUED else after.status
    _note(workspace, run, f"Run {run.id}: {note or error}; {outcome}")


def _note(workspace: Workspace, run: Run, text: str) -> None:
    """Say it in the worker's log and in the run's."""
    assert run.id is not None
    log.warning("%s", text)
    note_in_log(workspace, run.id, text)


def _has_begun(workspace: Workspace, run: Run) -> bool:
    return f"{first_words(run)}\n" in _log_text(workspace, run)


def _log_path(workspace: Workspace, run: Run) -> Path:
    assert run.id is not None
    return workspace.run_folder(run.id) / "log.txt"


def _log_text(workspace: Workspace, run: Run) -> str:
    path = _log_path(workspace, run)
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _tail(text: str, lines: int = 5) -> str:
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:]) or "(it is empty)"


def serve(workspace: Workspace, *, once: bool = False) -> int:
    """Work in this process until SIGTERM or SIGINT; with `once`, until the queue is empty.

    Returns the exit status: 2 where a run failed under `once`, for the script that waits for it, as `pairloop train`
    does; else 0. (A worker that stays has done its job when a run fails: it said so in the run.) Raises DatabaseError
    if the database cannot be opened, or not be asked what failed.
    """
    _ = workspace.engine  # opened now: later trouble with it is waited out
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("Worker %s is ready for %s", own_name(), workspace.folder)
    had = work(workspace, stop=stop, once=once)
    failed = _failed(workspace, had) if once else []
    for run in failed:
        log.error("Run %s (%s) failed: %s", run.id, run.kind, " ".join((run.error or "").split()))
    log.info("Worker %s has stopped", own_name())
    return 2 if failed else 0


def _failed(workspace: Workspace, numbers: Iterable[int]) -> list[Run]:
    """Those of these runs that have failed, each once: a run that crashed was in hand several times."""
    with reading(workspace.engine) as session:
        runs = [get_run(session=session, run_id=number) for number in dict.fromkeys(numbers)]
    return [run for run in runs if run.status == RunStatus.FAILED]


def main(arguments: list[str] | None = None) -> int:
    """The worker's process: `pairloop up` and `pairloop worker` start it."""
    parser = argparse.ArgumentParser(prog="python -m dpo_core.worker", description=main.__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--once", action="store_true", help="stop when the queue is empty")
    given = parser.parse_args(arguments)
    logging.basicConfig(format=LOG_FORMAT, level=logging.WARNING)
    log.setLevel(logging.INFO)
    try:
        return serve(open_workspace(given.workspace), once=given.once)
    except (CoreError, StoreError) as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
