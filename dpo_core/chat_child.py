"""A worker's chat process (chat.py), from the worker's side: started when somebody asks, ended with the worker.

Never imports torch.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from os import getpid

from dpo_core.workspace import Workspace
from store.database import reading
from store.errors import DatabaseError
from store.exchanges import exchange_is_open, exchange_waits

log = logging.getLogger("pairloop")
AGAIN_SECONDS = 3.0  # between two starts: a process that cannot begin must not be started without end
STOP_SECONDS = 5.0  # that it gets to end before it is killed


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
        command = [sys.executable, "-m", "dpo_core.chat", "--workspace", str(self._workspace.folder)]
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
