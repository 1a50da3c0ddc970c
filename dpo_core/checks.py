"""The user's own checks of a new checkpoint: commands, such as a benchmark, that pass or fail.

A command is split as a shell would and run without one, in the workspace's folder, with `{checkpoint}` filled in. What
it says goes into the run's log as well. Whatever it does, the training stands: a check that cannot be started has
failed, with the reason. Importable without torch.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from dpo_core import ranks
from dpo_core.progress import RunProgress
from dpo_core.workspace import Workspace
from store.models import Checkpoint

log = logging.getLogger("pairloop")
PHASE = "check"
PLACE = "{checkpoint}"
LOOK_SECONDS = 0.5  # between two looks at whether the run is cancelled
KEPT = 300  # characters of the last line
TAIL_BYTES = 64 * 1024  # of the output, in which the last line is looked for


def run_checks(workspace: Workspace, checkpoint: Checkpoint, progress: RunProgress) -> list[dict[str, Any]]:
    """Every check's outcome, in order: `command`, `passed`, `said` (its last line) and `seconds`.

    Raises RunCancelled, LostRunError; a check that is under way is then ended.
    """
    asked = workspace.settings.evaluation
    folder = workspace.checkpoint_path(checkpoint)
    done = []
    for number, command in enumerate(asked.checks):
        report = partial(progress.report, f"{PHASE} {checkpoint.name}", number, len(asked.checks))
        report()
        words = [word.replace(PLACE, folder) for word in shlex.split(command)]
        started = time.monotonic()
        passed, said = _run(words, workspace.folder, 60 * asked.check_minutes, report)
        log.info("check %s: %s: %s", "passed" if passed else "failed", command, said)
        seconds = round(time.monotonic() - started, 1)
        done.append({"command": command, "passed": passed, "said": said, "seconds": seconds})
    return done


def _run(words: list[str], folder: Path, limit: float, report: Callable[[], None]) -> tuple[bool, str]:
    """Whether the command passed, and what it said last. `limit` in seconds."""
    with tempfile.TemporaryFile() as output:
        try:
            with _started(words, folder, output) as process:
                code = _wait(process, limit, report)
        except (OSError, ValueError) as error:  # the second for a null byte in a word
            return False, f"It could not be started: {getattr(error, 'strerror', None) or error} ({words[0]})."
        said = _last_line(output)
    if code is None:
        return False, f"It was stopped after {limit / 60:g} minutes. {said}".rstrip()
    return code == 0, said or ("" if code == 0 else _silent(code))


def _silent(code: int) -> str:
    return f"It said nothing and ended with exit status {code}." if code > 0 else f"It was killed by signal {-code}."


@contextmanager
def _started(words: list[str], folder: Path, output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The command under way, in a process group of its own, of which nothing is left after the block."""
    # Names that a launcher set for this process would make the command believe that it is one of several.
    environment = {name: value for name, value in os.environ.items() if name not in ranks.NAMES}
    process = subprocess.Popen(
        words,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=environment,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], limit: float, report: Callable[[], None]) -> int | None:
    """The exit status; None where the limit came first."""
    end = time.monotonic() + limit
    while (left := end - time.monotonic()) > 0:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(min(LOOK_SECONDS, left))
        report()  # which hears whether the run is cancelled or lost
    return process.poll()


def _last_line(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - TAIL_BYTES))
    lines = [line.strip() for line in output.read().decode("utf-8", errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return last if len(last) <= KEPT else last[:KEPT] + "…"
