"""`pairloop up` as a process: it answers, revives what dies, stops cleanly, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dpo_core.config import ModelSettings, Settings
from dpo_core.workspace import create_workspace
from ui.commands.supervise import Child, answers, free_port, sole

PATIENCE = 60.0  # seconds; a machine with other things to do is slow to start two Pythons


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """An empty workspace."""
    create_workspace(tmp_path / "ws", Settings(model=ModelSettings(base="some/model"))).engine.dispose()
    return tmp_path / "ws"


def start(workspace: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ui.cli", "up", "-w", str(workspace), "--port", str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def up(workspace: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`pairloop up` on a free port, once it answers, and its address. What it leaves behind is killed."""
    port = free_port("127.0.0.1", 0)
    process = start(workspace, port)
    children: list[psutil.Process] = []
    try:
        url = f"http://127.0.0.1:{port}"
        answered = wait_until(lambda: answers(url) or process.poll() is not None) and process.poll() is None
        assert answered, process.communicate(timeout=5)[0]
        children = psutil.Process(process.pid).children(recursive=True)
        yield process, url
    finally:
        for left in [*children, process]:
            try:
                left.kill()
            except psutil.NoSuchProcess:
                continue
        process.communicate()


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def the_worker(process: subprocess.Popen[str]) -> psutil.Process | None:
    living = [child for child in children_of(process) if is_alive(child)]
    return next((child for child in living if "dpo_core.worker" in child.cmdline()), None)


def test_it_revives_its_worker_refuses_a_second_and_stops_on_ctrl_c(
    up: tuple[subprocess.Popen[str], str], workspace: Path
) -> None:
    process, url = up
    port = url.rpartition(":")[2]  # the same port, as where somebody just starts it twice
    second = subprocess.run(
        [sys.executable, "-m", "ui.cli", "up", "-w", str(workspace), "--port", port], capture_output=True, text=True
    )
    assert (second.returncode, url in second.stderr) == (2, True)
    first_worker = the_worker(process)
    assert first_worker is not None
    first_worker.kill()
    assert wait_until(lambda: the_worker(process) not in (None, first_worker))
    children = children_of(process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert url in said
    assert "The worker was ended by signal 9" in said
    assert not [child for child in children if is_alive(child)]
    assert not answers(url)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children whose parent was killed")
def test_kill_9_leaves_nothing_behind_and_nothing_locked(
    up: tuple[subprocess.Popen[str], str], workspace: Path
) -> None:
    process, _ = up
    children = children_of(process)
    process.kill()
    process.wait()
    assert len(children) == 2
    assert wait_until(lambda: not [child for child in children if is_alive(child)], 10)
    with sole(workspace / "logs" / "up.lock"):  # raises where it is still held
        pass


def test_a_port_that_is_taken_is_named(workspace: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        process = start(workspace, port)
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert f"Port {port}" in said
    assert "--port 0" in said
    assert "Traceback" not in said


def test_a_process_that_keeps_dying_is_started_again_later_each_time(tmp_path: Path) -> None:
    child = Child("test", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log")
    child.start()
    pauses = []
    for _ in range(2):
        assert child.process is not None
        child.process.wait()
        child.revive()
        assert child.process is None
        pauses.append(child.pause)
        assert wait_until(lambda: child.revive() or child.process is not None, 10)  # type: ignore[func-returns-value]
    assert pauses[1] == 2 * pauses[0]
    assert child.process is not None
    assert child.process.wait() == 3


def test_a_group_is_gone_once_stopped_even_where_sigterm_is_ignored(tmp_path: Path) -> None:
    from ui.commands import supervise

    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    child = Child("test", [sys.executable, "-c", stubborn], tmp_path / "log")
    child.start()
    assert wait_until(lambda: "up" in child.log.read_text())
    before, supervise.STOP_SECONDS = supervise.STOP_SECONDS, 0.3
    try:
        supervise.stop([child])
    finally:
        supervise.STOP_SECONDS = before
    assert child.process is not None
    assert child.process.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.killpg(child.process.pid, 0)
