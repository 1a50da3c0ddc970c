"""Work that is quick and fails on demand, and the real worker and child processes carrying it out:

    python fake_runs.py worker --workspace W
    python fake_runs.py child --workspace W --run ID --attempt N --parent-pid P

A run's settings say what happens: `steps`, `seconds` for each, `at` (step -> misfortune), `bad_attempts` (how many
attempts it strikes; all by default).
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time

from sqlmodel import col, func, select

from dpo_core import carry_out, worker
from dpo_core.errors import RunError
from dpo_core.progress import RunProgress
from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.models import Completion, Prompt, Run
from store.runs import check_run_held, finish_run


def write_completions(workspace: Workspace, run: Run, progress: RunProgress) -> None:
    """One completion for each step, going on after those that are there. The database refuses the same step twice."""
    steps = run.settings["steps"]
    with reading(workspace.engine) as session:
        done = session.exec(select(func.count(col(Completion.id))).where(Completion.run_id == run.id)).one()
    for step in range(done + 1, steps + 1):
        _suffer(run, step)
        _write(workspace, run, step)
        progress.report("write", step, steps, {"loss": 1 / step})
        time.sleep(run.settings.get("seconds", 0))
    with writing(workspace.engine) as session:
        finish_run(session=session, run_id=run.id, attempt=run.attempt, result={"steps": steps})


def _write(workspace: Workspace, run: Run, step: int) -> None:
    with writing(workspace.engine) as session:
        check_run_held(session=session, run_id=run.id, attempt=run.attempt)
        prompt = session.exec(select(Prompt)).first()
        text_hash = f"{run.id}.{step}"
        text = f"attempt {run.attempt}"
        session.add(Completion(prompt_id=prompt.id, run_id=run.id, text=text, text_hash=text_hash, seed=step))


def _suffer(run: Run, step: int) -> None:
    if run.attempt <= run.settings.get("bad_attempts", 99):
        MISFORTUNES[run.settings.get("at", {}).get(f"{step}", "none")]()


def _throw(error: BaseException) -> None:
    raise error


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


MISFORTUNES = {
    "none": lambda: None,
    "words": lambda: _throw(RunError("The cat sits on the keyboard. Lift it off and retry.")),
    "bug": lambda: _throw(ValueError("seven")),
    "disk": lambda: _throw(OSError(errno.ENOSPC, "No space left on device")),
    "disk, says safetensors": lambda: _throw(RuntimeError("I/O error: No space left on device (os error 28)")),
    "memory": lambda: _throw(MemoryError()),
    "memory, says torch": lambda: _throw(OutOfMemoryError("CUDA out of memory.")),
    "interrupt": lambda: _throw(KeyboardInterrupt()),
    "exit": lambda: _throw(SystemExit(sys.stderr.write("Segmentation fault (no, but like it)\n") and 3)),
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(120),
}


def forget_to_finish(workspace: Workspace, run: Run, progress: RunProgress) -> None:
    """Work with a defect: it never says that it is done."""


def main() -> int:
    """The real entry points, with the work and the child's command put in place of the real ones."""
    role, *arguments = sys.argv[1:]
    carry_out.WORK = dict.fromkeys(carry_out.WORK, "fake_runs:write_completions")
    real_command = worker.child_command
    worker.child_command = lambda *given: [sys.executable, __file__, "child", *real_command(*given)[3:]]
    return {"worker": worker.main, "child": carry_out.main}[role](arguments)


if __name__ == "__main__":
    raise SystemExit(main())
