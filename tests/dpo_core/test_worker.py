"""Workers and their children as real processes: killed, stopped, doubled. Only the work itself is a fake one."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlmodel import col, select

from dpo_core import worker
from dpo_core.carry_out import ORPHANED
from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.models import Completion, Run, RunKind, RunStatus, Worker, now
from store.runs import MAX_CRASHES, cancel_run, claim_run, get_run, queue_run, retry_run
from store.workers import beat, is_gone, live_workers, own_name
from tests.dpo_core.watching import processes, until

FAKE = Path(__file__).with_name("fake_runs.py")
LONG = {"steps": 40, "seconds": 0.1}


@pytest.fixture
def workspace(make_workspace: Callable[..., Workspace]) -> Workspace:
    """A lease of five minutes: whatever is resumed within a test was not waited for."""
    return make_workspace(prompts=1, worker={"lease_seconds": 300, "niceness": 1, "threads": 1})


@pytest.fixture(autouse=True)
def no_orphans(workspace: Workspace) -> Iterator[None]:
    """Every process that worked on the test's workspace ends by itself."""
    yield
    try:
        until(lambda: not processes(workspace), seconds=10)
    finally:
        for process in processes(workspace):
            process.kill()


@pytest.fixture
def fake_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker within the test's own process starts children that do the fake work."""
    real = worker.child_command
    monkeypatch.setattr(worker, "child_command", lambda *given: [sys.executable, str(FAKE), "child", *real(*given)[3:]])


@pytest.fixture
def start_worker(workspace: Workspace, tmp_path: Path) -> Iterator[Callable[[], psutil.Popen]]:
    """A function that starts a worker process; those still alive at the end are told to stop, and must."""
    started: list[psutil.Popen] = []

    def start() -> psutil.Popen:
        command = [sys.executable, str(FAKE), "worker", "--workspace", str(workspace.folder)]
        with (tmp_path / "worker.log").open("ab") as stream:
            started.append(psutil.Popen(command, stderr=stream))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
        process.wait(20)


def queue(workspace: Workspace, **settings: Any) -> int:
    with writing(workspace.engine) as session:
        run = queue_run(session=session, kind=RunKind.SAMPLE, settings={"steps": 3} | settings, requested_by="test")
    assert run.id is not None
    return run.id


def fetch(workspace: Workspace, number: int) -> Run:
    with reading(workspace.engine) as session:
        return get_run(session=session, run_id=number)


def workers(workspace: Workspace) -> list[Worker]:
    with reading(workspace.engine) as session:
        return live_workers(session=session)


def over(workspace: Workspace, number: int) -> bool:
    return fetch(workspace, number).finished_at is not None


def written(workspace: Workspace, number: int) -> list[tuple[int | None, str]]:
    """(step, attempt) of all that a run wrote, in order."""
    with reading(workspace.engine) as session:
        rows = session.exec(select(Completion).where(Completion.run_id == number).order_by(col(Completion.id)))
        return [(row.seed, row.text) for row in rows]


def child_at_work(workspace: Workspace, number: int, attempt: int = 1) -> psutil.Process:
    """The process that carries out this attempt, once it has written something."""
    until(lambda: any(text == f"attempt {attempt}" for _, text in written(workspace, number)))
    return next(process for process in processes(workspace) if process.cmdline()[-3] == f"{attempt}")


def log_of(workspace: Workspace, number: int) -> str:
    return (workspace.run_folder(number) / "log.txt").read_text()


def work_off(workspace: Workspace) -> None:
    worker.work(workspace, stop=threading.Event(), once=True)


def test_runs_are_carried_out_in_order_each_in_a_quiet_process_of_its_own(
    workspace: Workspace, fake_child: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[dict[str, str]] = []
    real = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **given: children.append(given["env"]) or real(*args, **given)
    )
    numbers = [queue(workspace), queue(workspace)]
    work_off(workspace)
    first, second = (fetch(workspace, number) for number in numbers)
    assert (first.status, second.status, first.result) == (RunStatus.DONE, RunStatus.DONE, {"steps": 3})
    assert first.finished_at is not None and second.started_at is not None and first.finished_at < second.started_at
    assert "(sample), attempt 1" in log_of(workspace, first.id or 0)
    assert [child["OMP_NUM_THREADS"] for child in children] == ["1", "1"]
    assert workers(workspace) == [], "a worker that stops in good order signs off"


def test_a_failed_run_says_why_in_words_and_can_be_retried(workspace: Workspace, fake_child: None) -> None:
    number = queue(workspace, at={"2": "words"}, bad_attempts=1)
    work_off(workspace)
    run = fetch(workspace, number)
    assert (run.status, run.error) == (RunStatus.FAILED, "The cat sits on the keyboard. Lift it off and retry.")
    assert "Traceback" in log_of(workspace, number)
    with writing(workspace.engine) as session:
        retry_run(session=session, run_id=number)
    work_off(workspace)
    assert fetch(workspace, number).status == RunStatus.DONE
    assert written(workspace, number) == [(1, "attempt 1"), (2, "attempt 2"), (3, "attempt 2")]


def test_a_process_that_just_ends_fails_its_run_with_the_end_of_its_log(workspace: Workspace, fake_child: None) -> None:
    number = queue(workspace, at={"2": "exit"})
    work_off(workspace)
    run = fetch(workspace, number)
    assert run.status == RunStatus.FAILED
    assert "exit status 3" in (run.error or "")
    assert "Segmentation fault (no, but like it)" in (run.error or "")


def test_a_process_that_cannot_start_fails_its_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "child_command", lambda *_: ["/no/such/program"])
    number = queue(workspace)
    work_off(workspace)
    assert "could not be started: No such file or directory" in (fetch(workspace, number).error or "")


def test_the_real_command_reports_what_it_cannot_do(workspace: Workspace) -> None:
    (workspace.folder / "pairloop.toml").write_text("[trainning]\n")  # broken while the worker runs
    number = queue(workspace)
    work_off(workspace)
    run = fetch(workspace, number)
    assert run.status == RunStatus.FAILED
    assert "did you mean 'training'?" in (run.error or "")
    assert "Traceback" not in (run.error or "")


def test_cancelling_stops_a_run_within_a_second_of_its_next_step(
    workspace: Workspace, start_worker: Callable[[], psutil.Popen]
) -> None:
    number = queue(workspace, **LONG)
    start_worker()
    child_at_work(workspace, number)
    with writing(workspace.engine) as session:
        cancel_run(session=session, run_id=number)
    steps = len(written(workspace, number))
    until(lambda: over(workspace, number))
    assert fetch(workspace, number).status == RunStatus.CANCELLED
    assert len(written(workspace, number)) - steps <= 10


def test_a_killed_child_is_replaced_at_once_and_nothing_is_doubled(
    workspace: Workspace, start_worker: Callable[[], psutil.Popen]
) -> None:
    number = queue(workspace, steps=25, seconds=0.1)
    start_worker()
    child_at_work(workspace, number).kill()
    until(lambda: over(workspace, number))
    run = fetch(workspace, number)
    assert (run.status, run.attempt, run.crashes) == (RunStatus.DONE, 2, 0)
    assert [step for step, _ in written(workspace, number)] == list(range(1, 26))
    assert {text for _, text in written(workspace, number)} == {"attempt 1", "attempt 2"}
    assert "killed by signal 9; resuming" in log_of(workspace, number)


def test_a_killed_worker_takes_its_child_along_and_the_next_one_resumes_at_once(
    workspace: Workspace, start_worker: Callable[[], psutil.Popen]
) -> None:
    number = queue(workspace, steps=25, seconds=0.1)
    first = start_worker()
    child = child_at_work(workspace, number)
    first.kill()  # not waited for: a zombie is gone, too
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, seconds=5)
    assert workers(workspace) == []
    start_worker()
    until(lambda: over(workspace, number))
    run = fetch(workspace, number)
    assert (run.status, run.attempt) == (RunStatus.DONE, 2)
    assert [step for step, _ in written(workspace, number)] == list(range(1, 26))


def test_a_stopped_worker_puts_its_run_back(
    workspace: Workspace, start_worker: Callable[[], psutil.Popen], tmp_path: Path
) -> None:
    number = queue(workspace, **LONG)
    process = start_worker()
    child = child_at_work(workspace, number)
    process.terminate()
    assert process.wait(20) == 0
    assert not child.is_running()
    run = fetch(workspace, number)
    assert (run.status, run.crashes, run.owner) == (RunStatus.QUEUED, 0, None)
    said = (tmp_path / "worker.log").read_text()
    assert f"is ready for {workspace.folder}" in said
    assert "its worker is stopping" in said and "has stopped" in said


def test_a_child_that_is_deep_in_work_is_stopped_all_the_same(
    workspace: Workspace, start_worker: Callable[[], psutil.Popen]
) -> None:
    number = queue(workspace, at={"2": "hang"})
    process = start_worker()
    child_at_work(workspace, number)
    process.terminate()
    assert process.wait(20) == 0


def test_a_run_that_dies_at_one_spot_again_and_again_is_given_up(workspace: Workspace, fake_child: None) -> None:
    number = queue(workspace, at={"2": "die"})
    work_off(workspace)
    run = fetch(workspace, number)
    assert (run.status, run.attempt) == (RunStatus.FAILED, MAX_CRASHES)
    assert f"Its process died {MAX_CRASHES} times without any progress." in (run.error or "")
    assert written(workspace, number) == [(1, "attempt 1")]


@pytest.mark.parametrize(
    ("misfortune", "status", "told"),
    [
        ("none", 0, []),
        ("words", 2, ["Run 1 (sample) failed: The cat sits on the keyboard. Lift it off and retry."]),
        ("exit", 2, ["Run 1 (sample) failed: Its process ended early (exit status 3). The end of its log:"]),
    ],
)
def test_a_worker_that_came_for_what_is_queued_says_if_it_failed(
    workspace: Workspace, misfortune: str, status: int, told: list[str]
) -> None:
    queue(workspace, at={"2": misfortune})
    queue(workspace)
    command = [sys.executable, str(FAKE), "worker", "--workspace", str(workspace.folder), "--once"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = [line.partition(" ERROR ")[2] for line in done.stderr.splitlines() if " ERROR " in line]
    assert (done.returncode, len(lines)) == (status, len(told))
    assert all(line.startswith(start) for line, start in zip(lines, told, strict=True))
    assert fetch(workspace, 2).status == RunStatus.DONE, "what comes after a failed run is carried out all the same"


def test_a_run_that_crashed_and_was_finished_has_not_failed(workspace: Workspace, fake_child: None) -> None:
    number = queue(workspace, at={"2": "die"}, bad_attempts=1)
    had = worker.work(workspace, stop=threading.Event(), once=True)
    assert (had, fetch(workspace, number).status) == ([number, number], RunStatus.DONE)
    assert worker._failed(workspace, had) == []


def test_a_worker_forgets_those_that_died_without_a_word(workspace: Workspace) -> None:
    host, _, numbering = own_name().rsplit(":", 2)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    alive, heard, silent = f"{host}:{os.getppid()}:{numbering}", "elsewhere:1:0", "elsewhere:2:0"
    with writing(workspace.engine) as session:
        for name in (f"{host}:{ended.pid}:{numbering}", alive, heard):
            beat(session=session, name=name, doing="")
        session.add(Worker(name=silent, seen_at=now() - timedelta(days=2)))
    work_off(workspace)
    with reading(workspace.engine) as session:
        assert {row.name for row in session.exec(select(Worker))} == {alive, heard}


def test_two_workers_never_carry_out_the_same_run(
    workspace: Workspace, start_worker: Callable[[], psutil.Popen]
) -> None:
    start_worker(), start_worker()
    numbers = [queue(workspace, steps=5, seconds=0.02) for _ in range(6)]
    until(lambda: all(over(workspace, number) for number in numbers), seconds=60)
    runs = [fetch(workspace, number) for number in numbers]
    assert Counter((run.status, run.attempt) for run in runs) == {(RunStatus.DONE, 1): 6}
    assert all(len(written(workspace, number)) == 5 for number in numbers)
    assert all(log_of(workspace, number).count("attempt 1") == 1 for number in numbers)


def test_a_child_that_lost_its_run_ends_without_a_word(
    workspace: Workspace, start_worker: Callable[[], psutil.Popen]
) -> None:
    number = queue(workspace, **LONG)
    start_worker()
    child = child_at_work(workspace, number)
    with writing(workspace.engine) as session:
        run = get_run(session=session, run_id=number)
        run.attempt, run.owner = 2, "elsewhere:1:0"
        session.add(run)
    until(lambda: not child.is_running())
    run = fetch(workspace, number)
    assert (run.status, run.attempt, run.owner, run.error) == (RunStatus.RUNNING, 2, "elsewhere:1:0", None)


def test_a_child_without_its_worker_ends(workspace: Workspace) -> None:
    number = queue(workspace, at={"1": "hang"})
    with writing(workspace.engine) as session:
        assert claim_run(session=session, owner="gone", lease=timedelta(seconds=300), run_id=number) is not None
    command = [sys.executable, str(FAKE), "child", "--workspace", str(workspace.folder), "--run", f"{number}"]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    given = ["--attempt", "1", "--parent-pid", f"{ended.pid}"]
    assert subprocess.run([*command, *given], timeout=30).returncode == ORPHANED


def test_a_worker_knows_who_is_gone() -> None:
    mine = own_name()
    host, _, numbering = mine.rsplit(":", 2)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not is_gone(mine)
    assert not is_gone(f"{host}:{os.getppid()}:{numbering}")
    assert is_gone(f"{host}:{ended.pid}:{numbering}")
    assert not is_gone(f"another-host:{ended.pid}:{numbering}")
    assert not is_gone(f"{host}:{ended.pid}:another-boot")
    assert not is_gone("a name of another kind")


@pytest.mark.parametrize("module", ["dpo_core.worker", "dpo_core.carry_out"])
def test_the_worker_never_imports_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_folder_that_is_no_workspace_is_told_in_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dpo_core.worker", "--workspace", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is not a workspace" in done.stderr
    assert "Traceback" not in done.stderr


def test_signals_reach_a_worker_that_is_idle(workspace: Workspace, start_worker: Callable[[], psutil.Popen]) -> None:
    process = start_worker()
    until(lambda: workers(workspace))
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


FREES_AND_ASKS = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def once():
    block = libc.malloc(48 << 20)
    ctypes.memset(block, 1, 48 << 20)
    libc.free(block)
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone is told to keep memory")
def test_a_run_keeps_the_memory_it_freed_for_itself() -> None:
    def new_pages(environment: dict[str, str]) -> int:
        done = subprocess.run([sys.executable, "-c", FREES_AND_ASKS], env=environment, capture_output=True, check=True)
        return int(done.stdout)

    plain = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    assert new_pages(worker.run_environment(1)) < 10 < new_pages(plain)
