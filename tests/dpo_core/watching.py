"""Looking at real processes from outside: which there are, and when something becomes true of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil

from dpo_core.workspace import Workspace


def processes(workspace: Workspace) -> list[psutil.Process]:
    """Workers, launchers and the processes of runs of this workspace, told by their command lines."""
    found = psutil.process_iter(["cmdline", "status"])
    return [
        process
        for process in found
        if str(workspace.folder) in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.03)
    return value
