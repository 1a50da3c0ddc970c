"""Ten kills (-9) at random moments of labeling, training and exporting: nothing lost, nothing doubled, all finished."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from sqlmodel import col, select

from dpo_core.carry_out import carry_out_here
from dpo_core.loop import Step, read_loop, start_round, start_training
from dpo_core.workspace import Workspace
from store.database import reading
from store.models import Comparison, Run, RunStatus
from store.runs import get_run

LABELLER = """
import sys
from pathlib import Path
from dpo_core.workspace import open_workspace
from store.annotators import get_or_add_annotator
from store.comparisons import record_comparison
from store.database import writing
from store.pairs import next_pair
engine = open_workspace(Path(sys.argv[1])).engine
while True:
    with writing(engine) as session:
        ann = get_or_add_annotator(session=session, name="ann")
        shown = next_pair(session=session, round_id=1, annotator_id=ann.id)
    if shown is None:
        break
    choice = "left" if len(shown.left) >= len(shown.right) else "right"
    with writing(engine) as session:
        said = record_comparison(session=session, pair_id=shown.pair_id, annotator_id=ann.id, choice=choice)
    print(said.id, shown.pair_id, said.verdict, flush=True)
"""
DEADLINE = 120  # seconds; a guard, not a measure


@contextmanager
def started(arguments: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, *arguments], text=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {DEADLINE} s"
        time.sleep(0.02)


def label(workspace: Workspace, lines: int | None) -> list[str]:
    """Let an annotator's process work until it has said `lines` verdicts, then kill it; None: until it is done."""
    with started(["-c", LABELLER, str(workspace.folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.strip())
            if lines is not None and len(said) >= lines:
                process.kill()
                break
        return said


def train_until(workspace: Workspace, run_id: int, killed: Callable[[Run], int | None]) -> None:
    """Run a worker, and kill -9 whatever process `killed` names, until the run is over or the worker was killed."""
    with started(["-m", "dpo_core.worker", "--workspace", str(workspace.folder)], stderr=subprocess.DEVNULL) as worker:
        wait_for(lambda: step_done(workspace, run_id, killed, worker.pid), "the next step")


def step_done(workspace: Workspace, run_id: int, killed: Callable[[Run], int | None], worker: int) -> bool:
    with reading(workspace.engine) as session:
        run = get_run(session=session, run_id=run_id)
    if run.status == RunStatus.DONE:
        return True
    assert run.status in (RunStatus.QUEUED, RunStatus.RUNNING), run.error
    whom = killed(run)
    if whom is None:
        return False
    children = psutil.Process(worker).children()
    victim = worker if whom == 0 else children[0].pid if children else None
    if victim is None:
        return False
    os.kill(victim, signal.SIGKILL)
    return True


def export(workspace: Workspace, target: Path, seconds: float | None) -> int | None:
    """Run `pairloop export`; kill it after `seconds`. Its exit status, None where it was killed."""
    arguments = ["-m", "ui.cli", "export", "latest", str(target), "--workspace", str(workspace.folder)]
    with started(arguments, stdout=subprocess.DEVNULL) as process:
        try:
            return process.wait(DEADLINE if seconds is None else seconds)
        except subprocess.TimeoutExpired:
            return None


def check_exported(target: Path, pairs: int) -> None:
    rows = (target / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len([json.loads(row) for row in rows]) == pairs
    assert (target / "README.md").exists() and (target / "manifest.json").exists()


@pytest.mark.timeout(600)
def test_ten_kills_lose_and_double_nothing(make_workspace: Callable[..., Workspace], tmp_path: Path) -> None:
    draw = random.Random()
    workspace = make_workspace(prompts=60, round={"comparisons": 30}, training={"num_train_epochs": 6})
    start_round(workspace, by="test")
    with reading(workspace.engine) as session:
        sampling = read_loop(session=session).run
    assert sampling is not None and carry_out_here(workspace, sampling.id or 0).status == RunStatus.DONE

    said = [line for _ in range(4) for line in label(workspace, draw.randint(1, 6))]  # kills 1 to 4
    said += label(workspace, None)
    with reading(workspace.engine) as session:
        rows = session.exec(select(Comparison).where(col(Comparison.superseded_at).is_(None))).all()
        assert read_loop(session=session).step == Step.TRAIN
    stored = {f"{row.id} {row.pair_id} {row.verdict}" for row in rows}
    assert set(said) <= stored
    assert len(rows) == len({row.pair_id for row in rows}) == 38  # every pair of the round, once

    run_id = start_training(workspace, by="test").id or 0
    for victim in (1, 0, 1, 0):  # kills 5 to 8: the child, then the worker, twice
        after = draw.randint(0, 6)
        train_until(
            workspace,
            run_id,
            lambda run, after=after, victim=victim: (  # type: ignore[misc]
                victim if run.status == RunStatus.RUNNING and run.progress.get("step", 0) >= after else None
            ),
        )
    train_until(workspace, run_id, lambda run: None)
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
        finished = get_run(session=session, run_id=run_id)
    assert state.step == Step.DECIDE and finished.attempt >= 2
    weights = load_file(workspace.folder / "checkpoints" / "round-1" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())

    pairs = finished.result["train"]["pairs"]
    target = tmp_path / "exported"
    for _ in range(2):  # kills 9 and 10
        status = export(workspace, target, draw.uniform(0.1, 3))
        if target.exists():
            check_exported(target, pairs)
        else:
            assert status is None
    if not target.exists():
        assert export(workspace, target, None) == 0
    check_exported(target, pairs)
