"""A worker's chat process (chat.py), from the worker's side: started when somebody asks, ended with the worker.

Never imports torch.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from os import getpid

import psutil
from sqlmodel import Session

from dpo_core.workspace import Workspace
from store.database import reading
from store.errors import DatabaseError
from store.workers import live_workers, process_here
from store.writing_exchanges import exchange_is_open, exchange_waits

log = logging.getLogger("pairloop")
AGAIN_SECONDS = 3.0  # between two starts: a process that cannot begin must not be started without end
STOP_SECONDS = 5.0  # that it gets to end before it is killed
MODULE = "dpo_core.chat"


class ChatChild:
    """One process for all chats of a workspace. It stays while it is asked, and ends by itself."""

    def __init__(self, workspace: Workspace, environment: dict[str, str]) -> None:
        self._workspace = workspace
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started = -AGAIN_SECONDS

    def look(self) -> None:
        """Start it if something waits to be written and it is not there. Called several times a second."""
        if self._process is not None and self._process.poll() is None:
            return
        if time.monotonic() - self._started >= AGAIN_SECONDS and self._is_wanted():
            self._start()

    def _is_wanted(self) -> bool:
        if not self._workspace.settings.worker.chat_minutes:
            return False
        try:
            with reading(self._workspace.engine) as session:
                return exchange_waits(session=session)
        except DatabaseError as error:
            log.warning("%s", error)
            return False

    def _start(self) -> None:
        self._started = time.monotonic()
        path = self._workspace.folder / "logs" / "chat.log"
        command = [sys.executable, "-m", MODULE, "--workspace", str(self._workspace.folder)]
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("ab") as stream:
                self._process = subprocess.Popen(
                    [*command, "--parent-pid", f"{getpid()}"],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C in the worker's terminal does not reach it
                    env=self._environment,
                )
        except OSError as error:
            log.warning("The chat's process could not be started: %s", error)

    def make_room(self) -> None:
        """End it if it only waits: a run is about to begin, and needs the memory."""
        try:
            with reading(self._workspace.engine) as session:
                busy = exchange_is_open(session=session)
        except DatabaseError as error:
            log.warning("%s", error)
            return
        if not busy:
            self.end()

    def end(self) -> None:
        """End it, if it is there: what it has not written to the end is written again by the next one."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:  # it is loading a model
            self._process.kill()
            self._process.wait()


def idle_memory(*, session: Session) -> int:
    """Bytes of RAM that the chat's process of this machine's worker holds idly: it ends as a run begins (`make_room`).

    0 where it is asked something, and where several workers are here: which of them takes the run is not known.
    """
    here = [number for worker in live_workers(session=session) if (number := process_here(worker.name)) is not None]
    if len(here) != 1 or exchange_is_open(session=session):
        return 0
    with contextlib.suppress(psutil.Error):  # it may end just now
        return sum(_held_by(child) for child in psutil.Process(here[0]).children() if MODULE in child.cmdline())
    return 0


def _held_by(process: psutil.Process) -> int:
    """What comes free with it: not pages of files, which count as free already. Only Linux tells them apart."""
    memory = process.memory_info()
    return int(memory.rss - getattr(memory, "shared", memory.rss))
