"""Two processes side by side, for `pairloop up`: the worker and the web server.

A process that dies is started again, later each time it dies soon. Whatever ends `pairloop up` ends them too: Ctrl-C,
SIGTERM and a closed terminal in good order; kill -9 through PR_SET_PDEATHSIG, which only Linux has.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_core.errors import CoreError, WorkspaceError
from ui.commands.printing import remark

STOP_SECONDS = 8.0  # how long a process may take to end in good order before it is killed
STEADY_SECONDS = 60.0  # one that lived this long is started again at once when it dies
LONGEST_PAUSE = 30.0
POLL_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # looked up now: nothing may be imported after a fork


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Child:
    """One process, its log file, and when to start it again."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 0.5
    due: float = 0.0

    def start(self) -> None:
        """Start the process, in a group of its own so that Ctrl-C in the terminal reaches it through us alone."""
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                self.command,
                env=os.environ | {"PYTHONSAFEPATH": "1"},  # a folder called store/ must not be taken for our package
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call into libc, and there are no threads here
            )
        self.started = time.monotonic()

    def revive(self) -> None:
        """Start the process again if it died, after a pause that doubles while it keeps dying soon."""
        moment = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            self.pause = 1.0 if moment - self.started > STEADY_SECONDS else min(2 * self.pause, LONGEST_PAUSE)
            self.due = moment + self.pause
            remark(f"The {self.name} {self.ending()}; starting it again in {self.pause:.0f} s. Its log: {self.log}")
            self.process = None
        if self.process is None and moment >= self.due:
            self.start()

    def ending(self) -> str:
        """How the process ended, in words."""
        code = self.process.returncode if self.process is not None else None
        return f"was ended by signal {-code}" if code is not None and code < 0 else f"stopped with exit code {code}"

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and all it started."""
        if self.process is not None:
            with suppress(ProcessLookupError):  # all of them are gone
                os.killpg(self.process.pid, number)


def stop(children: list[Child]) -> None:
    """End the processes: each is asked, all get STOP_SECONDS together, what is left then is killed."""
    for child in children:
        if child.process is not None and child.process.poll() is None:
            child.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and any(child.process and child.process.poll() is None for child in children):
        time.sleep(POLL_SECONDS)
    for child in children:
        child.signal_group(signal.SIGKILL)
        if child.process is not None:
            child.process.wait()


def supervise(children: list[Child], *, url: str, on_ready: Callable[[], None]) -> None:
    """Run the processes until a signal asks to stop. `on_ready` is called once the server answers at `url`.

    The last of `children` is the server. Raises CoreError, with its last words, if it ends before it ever answered.
    """
    ready = False
    with _stop_signals() as asked_to_stop:
        try:
            for child in children:
                child.start()
            while not asked_to_stop:
                time.sleep(POLL_SECONDS)
                if not ready and answers(url):
                    ready = True
                    on_ready()
                elif not ready:
                    _check_server(children[-1])
                for child in children if ready else children[:-1]:
                    child.revive()
        finally:
            stop(children)


def _check_server(server: Child) -> None:
    if server.process is not None and server.process.poll() is not None:
        words = server.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
        raise CoreError("The app did not start.\n" + "\n".join(words) + f"\nIts whole log: {server.log}")


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that Ctrl-C, SIGTERM and a closed terminal write to, in place of what they do otherwise.

    Not a threading.Event: a handler that sets one while this thread is inside its wait() could lock up.
    """
    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def answers(url: str) -> bool:
    """Whether the server at this address is ready for people."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def free_port(address: str, port: int) -> int:
    """The port, once it is known to be free; for 0 any free one. Raises CoreError that says how to choose another."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port just left is free
        try:
            probe.bind((address, port))
        except OSError as error:
            raise CoreError(
                f"Port {port} on {address} cannot be used: {error.strerror}.\n"
                "Choose another with --port 8600, or any free one with --port 0 (or in pairloop.toml: [server] port)."
            ) from error
        return int(probe.getsockname()[1])


@contextmanager
def sole(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Hold a workspace's lock file while running. The kernel lets go of it when we die.

    Yields a function that tells others who holds it: `tell({"url": ...})`.

    Raises WorkspaceError if another `pairloop up` holds it.
    """
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise WorkspaceError(_taken(lock.read())) from None

        def tell(facts: dict[str, Any]) -> None:
            lock.truncate(0)
            lock.write(json.dumps({"pid": os.getpid()} | facts))
            lock.flush()

        lock.truncate(0)
        yield tell
        lock.truncate(0)


def _taken(text: str) -> str:
    try:
        holder = json.loads(text)
        where, pid = holder["url"], holder["pid"]
    except (ValueError, KeyError):  # it has only just taken it
        return "pairloop is up for this workspace already. Stop that one first (Ctrl-C where it runs)."
    return f"pairloop is up for this workspace already: {where} (process {pid}).\nOpen that, or stop it: kill {pid}"
