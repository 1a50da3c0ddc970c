"""The user's checks: what passes, what fails, what was said; real commands."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from dpo_core.checks import run_checks
from dpo_core.config import Settings
from dpo_core.errors import RunCancelled
from dpo_core.progress import Listener, RunProgress
from dpo_core.workspace import Workspace
from store.database import writing
from store.models import Checkpoint, RunKind
from store.runs import cancel_run, claim_run, queue_run
from tests.browser.seeding import LEASE

Make = Callable[..., Workspace]
PYTHON = sys.executable


def checked(make: Make, *commands: str, **asked: Any) -> list[dict[str, Any]]:
    workspace = make("a folder with spaces", prompts=0, evaluation={"checks": list(commands), **asked})
    return run_checks(workspace, trained(workspace), at_work(workspace))


def trained(workspace: Workspace) -> Checkpoint:
    checkpoint = Checkpoint(name="round-1", path="checkpoints/round-1")
    (workspace.folder / checkpoint.path).mkdir()
    return checkpoint


def at_work(workspace: Workspace, listener: Listener | None = None) -> RunProgress:
    with writing(workspace.engine) as session:
        queue_run(session=session, kind=RunKind.TRAIN, settings={}, requested_by="test")
        run = claim_run(session=session, owner="test", lease=LEASE)
        assert run is not None and run.id is not None
    return RunProgress(workspace, run.id, run.attempt, listener)


def script(folder: Path, text: str) -> str:
    path = folder / "check.py"
    path.write_text(text)
    return f"{PYTHON} {path}"


def test_exit_status_and_last_line_are_kept(
    make_workspace: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    command = script(
        tmp_path,
        "import os, sys\nprint('begin')\nprint(os.path.relpath(sys.argv[2]), len(sys.argv), 'RANK' in os.environ)\n"
        "print()\nsys.exit(int(sys.argv[1]) or sys.argv[3] != 'of ' + sys.argv[2])\n",
    )
    passed, failed = checked(make_workspace, f"{command} 0 {{checkpoint}} 'of {{checkpoint}}'", f"{command} 3 . .")
    assert (passed["said"], failed["said"]) == ("checkpoints/round-1 4 False", ". 4 False")
    assert (passed["passed"], failed["passed"]) == (True, False)
    assert passed["command"].endswith("'of {checkpoint}'")
    assert 0 <= passed["seconds"] < 60
    assert set(passed) == {"command", "passed", "said", "seconds"}


def test_there_is_no_shell(make_workspace: Make, tmp_path: Path) -> None:
    command = script(tmp_path, "import sys; print(sys.argv[1:])")
    (found,) = checked(make_workspace, f"{command} a && echo $HOME > {tmp_path}/made")
    assert found["said"] == str(["a", "&&", "echo", "$HOME", ">", f"{tmp_path}/made"])
    assert not (tmp_path / "made").exists()


def test_what_cannot_be_started_has_failed_with_the_reason(make_workspace: Make) -> None:
    missing, silent = checked(make_workspace, "no-such-program --at all", f"{PYTHON} -c 'raise SystemExit(2)'")
    assert (missing["passed"], missing["said"]) == (
        False,
        "It could not be started: No such file or directory (no-such-program).",
    )
    assert silent["said"] == "It said nothing and ended with exit status 2."


def test_one_that_takes_too_long_is_stopped_with_all_that_it_started(make_workspace: Make, tmp_path: Path) -> None:
    command = script(
        tmp_path,
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\ntime.sleep(60)\n",
    )
    (found,) = checked(make_workspace, command, check_minutes=0.05)
    stopped, _, said = found["said"].partition(". ")
    assert (found["passed"], stopped) == (False, "It was stopped after 0.05 minutes")
    assert found["seconds"] < 30
    assert ended(int(said))


def ended(number: int) -> bool:
    for _ in range(50):
        try:
            if psutil.Process(number).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_a_cancelled_run_waits_for_no_check(make_workspace: Make) -> None:
    workspace = make_workspace(prompts=0, evaluation={"checks": [f"{PYTHON} -c 'import time; time.sleep(60)'"]})
    heard: list[object] = []

    def listener(_: object) -> None:
        heard.append(_)
        if len(heard) == 2:  # the check is under way
            with writing(workspace.engine) as session:
                cancel_run(session=session, run_id=1)

    started = time.monotonic()
    with pytest.raises(RunCancelled):
        run_checks(workspace, trained(workspace), at_work(workspace, listener))
    assert len(heard) > 1
    assert time.monotonic() - started < 30


def test_much_output_is_cut_to_its_end(make_workspace: Make, tmp_path: Path) -> None:
    command = script(tmp_path, "print('x' * 400000)\nprint('y' * 400)\n")
    (found,) = checked(make_workspace, command)
    assert found["said"] == "y" * 300 + "…"


@pytest.mark.parametrize("command", ["", "  ", "say 'and never end"])
def test_what_is_no_command_is_refused_by_the_settings(command: str) -> None:
    with pytest.raises(ValueError, match="checks"):
        Settings.model_validate({"evaluation": {"checks": [command]}})
