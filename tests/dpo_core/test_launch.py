"""Training in several processes: real launchers and ranks (gloo, on the CPU), against one process on the same pairs."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.data_loader import BatchSamplerShard
from safetensors.torch import load_file
from sqlmodel import select
from torch.utils.data import BatchSampler

from dpo_core import ranks, worker
from dpo_core.carry_out import carry_out_here, thread_count
from dpo_core.errors import RunError
from dpo_core.loop import start_round, start_training
from dpo_core.packaged import packaged
from dpo_core.progress import QuietProgress, read_metrics
from dpo_core.reproduce import reproduce
from dpo_core.workspace import Workspace
from store.checkpoints import list_checkpoints
from store.database import reading
from store.models import Run, RunKind, RunStatus
from store.runs import get_run
from tests.dpo_core import watching
from tests.dpo_core.conftest import all_tied
from tests.dpo_core.test_train import compare_all, prefer_longer
from tests.dpo_core.watching import processes

Make = Callable[..., Workspace]
TWO = "accelerate launch --config_file pairloop:ddp --num_processes 2"
SPLIT = "accelerate launch --config_file pairloop:fsdp2 --num_processes 2"
# accelerate splits weights between GPUs only, torch between CPU processes as well: ranks are told that theirs are GPUs.
AS_IF_GPUS = """
import os
if "RANK" in os.environ:
    import accelerate.state, torch
    def as_gpus(self, *args, **kwargs):
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        return "gloo", accelerate.state.DistributedType.MULTI_GPU
    accelerate.state.PartialState._prepare_backend = as_gpus
    accelerate.state.PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
"""
PAIRS = 10  # to train on: every step is on all of them, however they are shared out
STEPS = 12
until = partial(watching.until, seconds=120)  # libraries are imported in several processes
CONFIGS = sorted(path.stem for path in packaged("launch").glob("*.yaml"))


@pytest.fixture
def make(make_workspace: Make) -> Iterator[Callable[..., tuple[Workspace, int]]]:
    """A function that makes a workspace with a training in the queue. Nothing may be left at work on it at the end."""
    made: list[Workspace] = []

    def make(
        name: str = "workspace", launcher: str = TWO, count: int = 2, **more: int | float
    ) -> tuple[Workspace, int]:
        workspace = make_workspace(name, worker={"lease_seconds": 300, "niceness": 1, "launcher": launcher})
        made.append(workspace)
        run = start_round(workspace, by="test")
        assert carry_out_here(workspace, run.id or 0).status == RunStatus.DONE
        compare_all(workspace, prefer_longer)
        changes = {"batch_size": PAIRS // count, "num_train_epochs": STEPS, "learning_rate": 1e-3, "save_steps": 2}
        asked = changes | {"drift_samples": 2} | more
        return workspace, start_training(workspace, by="test", changes=asked).id or 0

    yield make
    left = [process for workspace in made for process in processes(workspace)]
    try:
        psutil.wait_procs(left, timeout=5)
        assert not [process for process in left if process.is_running()]
    finally:
        for process in left:
            process.kill()


def ranks_of(workspace: Workspace) -> list[psutil.Process]:
    """The training processes, which the launcher started: the first is the leader."""
    found = []
    for process in processes(workspace):
        place = process.environ().get("RANK")
        if place is not None:
            found.append((place, process))
    return [process for _, process in sorted(found)]


def work_off(workspace: Workspace) -> None:
    worker.work(workspace, stop=threading.Event(), once=True)


def fetch(workspace: Workspace, number: int) -> Run:
    with reading(workspace.engine) as session:
        return get_run(session=session, run_id=number)


def steps_of(workspace: Workspace, number: int) -> list[dict[str, Any]]:
    return [entry for entry in read_metrics(workspace.run_folder(number)) if entry["phase"] == "train"]


def log_of(workspace: Workspace, number: int) -> str:
    return (workspace.run_folder(number) / "log.txt").read_text()


def assert_same_training(workspace: Workspace, number: int, other: Workspace, its_number: int) -> None:
    """The same losses and margins at every step, and the same weights, but for the order in which sums were added."""
    ours, theirs = steps_of(workspace, number), steps_of(other, its_number)
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in theirs] == list(range(1, STEPS + 1))
    for one, two in zip(ours, theirs, strict=True):
        assert all_tied(one) == all_tied(two) == (one["step"] <= 2), "the first step warms up at a rate of 0"
        accuracy = [] if all_tied(two) else ["rewards/accuracies"]
        for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen", *accuracy):
            assert one[name] == pytest.approx(two[name], rel=1e-4, abs=1e-4), (name, one["step"])
    place = Path("checkpoints") / "round-1" / "model.safetensors"
    mine, its = load_file(workspace.folder / place), load_file(other.folder / place)
    assert set(mine) == set(its)
    for name, tensor in mine.items():
        assert tensor.sub(its[name]).abs().max() < 1e-4, name


def test_two_processes_train_as_one_does(make: Callable[..., tuple[Workspace, int]]) -> None:
    alone, its_number = make("one", launcher="", count=1)
    assert carry_out_here(alone, its_number).status == RunStatus.DONE
    workspace, number = make("two")
    work_off(workspace)
    run = fetch(workspace, number)
    assert (run.status, run.attempt) == (RunStatus.DONE, 1), run.error
    raw = (workspace.run_folder(number) / "metrics.jsonl").read_text().splitlines()
    assert len([line for line in raw if '"phase": "train"' in line]) == STEPS, "only the leader writes"
    assert steps_of(workspace, number)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert steps_of(workspace, number)[-1]["loss"] < 0.6, "it does learn"
    assert_same_training(workspace, number, alone, its_number)
    with reading(workspace.engine) as session:
        assert [checkpoint.name for checkpoint in list_checkpoints(session=session)] == ["base", "round-1"]
        assert len(session.exec(select(Run).where(Run.kind == RunKind.TRAIN)).all()) == 1
    assert log_of(workspace, number).count("attempt 1") == 1, "only the leader speaks"
    assert processes(workspace) == []


def test_what_two_processes_trained_is_trained_once_more_by_one(make: Callable[..., tuple[Workspace, int]]) -> None:
    """Ten pairs, four at a time, the last two of an epoch filled up with its first; two batches of each to a step."""
    workspace, number = make(batch_size=2, gradient_accumulation_steps=2, num_train_epochs=4)
    work_off(workspace)
    run = fetch(workspace, number)
    assert (run.status, len(steps_of(workspace, number))) == (RunStatus.DONE, 8), run.error
    found = reproduce(workspace, "1")
    assert found.moved is not None and found.moved > 1e-3
    assert found.weights.within(1e-5), found.weights
    assert [(fact.name, fact.then, fact.now) for fact in found.facts] == [("processes", "2", "1")]
    assert "It was trained in 2 processes." in found.notes[0]


def test_a_killed_rank_is_no_end_and_weights_that_are_split_go_on_from_where_they_were(
    make: Callable[..., tuple[Workspace, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(AS_IF_GPUS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    alone, its_number = make("one", launcher="", count=1)
    assert carry_out_here(alone, its_number).status == RunStatus.DONE
    workspace, number = make("two", launcher=SPLIT)

    def kill_a_follower() -> None:
        _, follower = until(lambda: found if len(found := ranks_of(workspace)) == 2 else None)
        until(lambda: len(steps_of(workspace, number)) >= 3)
        follower.kill()

    killer = threading.Thread(target=kill_a_follower)
    killer.start()
    work_off(workspace)
    killer.join()
    run = fetch(workspace, number)
    assert (run.status, run.attempt) == (RunStatus.DONE, 2), run.error
    assert "one of its processes died; resuming" in log_of(workspace, number)
    assert "resuming from checkpoint-" in log_of(workspace, number)
    assert "FSDPLlamaForCausalLM" in log_of(workspace, number), "it was split indeed"
    assert_same_training(workspace, number, alone, its_number)


def test_a_last_step_is_filled_up_with_the_first_pairs_of_its_epoch() -> None:
    """Two processes with batches of 4 on 10 pairs, in an order that an epoch drew. The README says so."""
    order = [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]
    shards = [BatchSamplerShard(BatchSampler(order, 4, drop_last=False), 2, place) for place in (0, 1)]
    assert list(shards[0]) == [[4, 1, 7, 5], [6, 2, 4, 1]]
    assert list(shards[1]) == [[3, 9, 0, 8], [7, 5, 3, 9]]


def test_a_killed_worker_takes_launcher_and_ranks_along(make: Callable[..., tuple[Workspace, int]]) -> None:
    workspace, _ = make()
    command = [sys.executable, "-m", "dpo_core.worker", "--workspace", str(workspace.folder)]
    working = psutil.Popen(command)
    until(lambda: len(ranks_of(workspace)) == 2)
    assert len(processes(workspace)) == 4, "the worker, its launcher, two ranks"
    working.kill()
    working.wait(10)
    until(lambda: not processes(workspace), seconds=5)


def test_a_stopped_worker_puts_the_run_back_and_leaves_nobody(make: Callable[..., tuple[Workspace, int]]) -> None:
    workspace, number = make()
    command = [sys.executable, "-m", "dpo_core.worker", "--workspace", str(workspace.folder)]
    working = psutil.Popen(command)
    until(lambda: len(ranks_of(workspace)) == 2)
    working.terminate()
    assert working.wait(20) == 0
    assert processes(workspace) == []
    run = fetch(workspace, number)
    assert (run.status, run.crashes) == (RunStatus.QUEUED, 0)


@pytest.mark.parametrize(
    ("launcher", "told"),
    [
        ("accelerat launch", "there is no program 'accelerat' here"),
        ("accelerate launch --config_file pairloop:fsdp3", "there is no pairloop:fsdp3; these ship: pairloop:ddp"),
        ('accelerate "launch', "No closing quotation"),
        ("''", "there is no program '' here"),
    ],
)
def test_a_launcher_that_cannot_be_used_fails_its_run_in_words(
    make: Callable[..., tuple[Workspace, int]], launcher: str, told: str
) -> None:
    workspace, number = make(launcher=launcher)
    work_off(workspace)
    run = fetch(workspace, number)
    assert run.status == RunStatus.FAILED
    assert told in (run.error or "") and "in [worker] of pairloop.toml" in (run.error or "")


def test_a_launcher_that_gives_up_fails_its_run_with_what_it_said(make: Callable[..., tuple[Workspace, int]]) -> None:
    workspace, number = make(launcher="accelerate launch --no-such-option")
    work_off(workspace)
    run = fetch(workspace, number)
    assert (run.status, run.attempt) == (RunStatus.FAILED, 1)
    assert "exit status 2" in (run.error or "") and "--no-such-option" in (run.error or "")


def test_what_ships_is_what_accelerate_reads() -> None:
    assert CONFIGS == ["ddp", "deepspeed-zero2", "fsdp2"]
    for name in CONFIGS:
        words = ranks.launcher_command(f"accelerate launch --config_file pairloop:{name}")
        assert Path(words[0]).name == "accelerate" and words[1:3] == ["launch", "--config_file"]
        config = load_config_from_file(words[3])  # an unknown key at the top raises
        known = set(launch_options())
        for section in (config.fsdp_config, config.deepspeed_config):
            assert set(section) <= known, name


def launch_options() -> list[str]:
    from accelerate.commands.launch import launch_command_parser

    return [action.dest for action in launch_command_parser()._actions]


def test_only_a_launcher_tells_a_process_that_it_is_one_of_many(
    make_workspace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(prompts=1, worker={"threads": 8, "launcher": TWO})
    assert (ranks.count(), ranks.count_here(), ranks.is_leader()) == (1, 1, True)
    assert thread_count(workspace) == 8
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert (ranks.count(), ranks.is_leader(), thread_count(workspace)) == (4, False, 2)
    assert ranks.is_lost_peer(RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer"))
    assert not ranks.is_lost_peer(RunError("The cat sits on the keyboard."))
    assert not set(worker.run_environment(8)) & set(ranks.NAMES), "a worker within a cluster's job"


def test_only_trainings_are_launched(make_workspace: Make) -> None:
    workspace = make_workspace(prompts=1, worker={"launcher": TWO})
    for kind, program in ((RunKind.TRAIN, "accelerate"), (RunKind.SAMPLE, Path(sys.executable).name)):
        run = Run(id=1, kind=kind, settings={}, requested_by="test")
        assert Path(worker.child_command(workspace, run)[0]).name == program


def test_whoever_is_not_the_leader_writes_nothing(make_workspace: Make) -> None:
    workspace = make_workspace(prompts=1)
    quiet = QuietProgress(workspace, 7, 1)
    quiet.report("train", 1, 2, {"loss": 1.0})
    quiet.sound([])
    assert not quiet.folder.exists()


def test_the_others_go_on_when_the_leader_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "trainer" / "round-1.1.ready"
    ranks.leave_mark(mark)
    assert not mark.exists(), "a process alone has nobody to tell"
    monkeypatch.setenv("WORLD_SIZE", "2")
    waiting = threading.Thread(target=ranks.wait_at, args=(mark,), daemon=True)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    ranks.leave_mark(mark)
    waiting.join(5)
    assert not waiting.is_alive()
