"""Which of a training's processes this one is. A launcher (accelerate, torchrun) says so in the environment.

The leader does whatever is done once: the database, progress, log-probs, checkpoints, judging. The others take their
share of each batch and say nothing. What the leader does alone is waited for at a file, not at a collective: process
groups give up after minutes, and a reference pass may take hours. Importable without torch.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from pathlib import Path

from dpo_core.errors import RunError
from dpo_core.packaged import packaged

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # what a launcher sets, and nobody else should
LOOK_SECONDS = 0.2
BUNDLED = "pairloop:"


def count() -> int:
    """How many processes share this training."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def count_here() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def is_leader() -> bool:
    """Whether this process speaks for all; true where it is the only one."""
    return int(os.environ.get("RANK") or 0) == 0


def leave_mark(mark: Path) -> None:
    """Let the others go on that wait at this mark. Marks are of one attempt: an old one would let them go too early."""
    if count() > 1:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def wait_at(mark: Path) -> None:
    """Wait, without end, until the leader leaves the mark: a leader that dies takes the others along."""
    while not mark.exists():
        time.sleep(LOOK_SECONDS)


def is_lost_peer(error: BaseException) -> bool:
    """Whether this is how the death of one process looks to another: nothing that a reader could mend."""
    text = str(error)
    lost = type(error).__name__.startswith("Dist") or "gloo" in text or "NCCL" in text
    return count() > 1 and isinstance(error, RuntimeError) and lost


def launcher_command(setting: str) -> list[str]:
    """The launcher of pairloop.toml as a command, `pairloop:fsdp2` as the path of the file that ships.

    Raises RunError that names the setting.
    """
    try:
        words = [_config(word, setting) if word.startswith(BUNDLED) else word for word in shlex.split(setting)]
    except ValueError as error:
        raise _unusable(setting, f"{error}") from error
    # Beside this Python first: a virtual environment need not be activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    program = shutil.which(words[0], path=path) if words else None
    if program is None:
        raise _unusable(setting, f"there is no program {words[0]!r} here" if words else "it names no program")
    return [program, *words[1:]]


def _config(word: str, setting: str) -> str:
    path = packaged(f"launch/{word.removeprefix(BUNDLED)}.yaml")
    if path.is_file():
        return str(path)
    known = ", ".join(sorted(BUNDLED + found.stem for found in packaged("launch").glob("*.yaml")))
    raise _unusable(setting, f"there is no {word}; these ship: {known}")


def _unusable(setting: str, why: str) -> RunError:
    return RunError(
        f"launcher = {setting!r} in [worker] of pairloop.toml cannot be used: {why}. Nothing was started. Mend "
        "it, start pairloop's worker again, then retry the run."
    )
