"""A checkpoint trained once more from its record, and its weights held against those on disk, tensor by tensor.

What is used is what is on record: the parent's weights and the snapshot's files (both checked against their hashes),
the settings that the training was settled on, and as many threads. Log-probs of the reference come from the
workspace's `logps/`, as for any training; they are found by the parent's weights and the pairs' tokens, and computed
where they are not there. Nothing is registered, and what is trained lies in a temporary folder that is gone afterwards.

On the machine and with the versions that trained it the weights should be the same to the last bit. Elsewhere they
differ a little: `facts` says in what the place differs. So do those of a training in several processes: here one sees
the same pairs at each step (shared_order.py), and adds its sums in another order. `notes` says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from dpo_core.alarms import Alarm
from dpo_core.carry_out import thread_count
from dpo_core.errors import RunError
from dpo_core.logps import checkpoint_logps
from dpo_core.policies import weights_hash
from dpo_core.progress import Listener, RunProgress
from dpo_core.provenance import Fact, differing_facts
from dpo_core.shared_order import PairTrainerForSeveral
from dpo_core.train import make_trainer
from dpo_core.trainer import PairTrainer
from dpo_core.training_plan import Plan, make_plan
from dpo_core.workspace import Workspace
from store.ancestry import Ancestry, read_ancestry
from store.checkpoints import get_checkpoint
from store.database import reading
from store.models import Run, RunKind
from store.rounds import get_round
from store.snapshots import verify_snapshot


@dataclass(frozen=True)
class WeightDifference:
    """Two sets of weights. `largest`: the largest absolute difference; `worst`: the tensor that has it.

    `apart`: tensors that only one of them has, or with other shapes. `differing`: how many of the others differ at all.
    """

    tensors: int
    differing: int
    largest: float
    worst: str
    apart: tuple[str, ...]

    def within(self, tolerance: float) -> bool:
        """Whether no weight differs by more than this."""
        return not self.apart and self.largest <= tolerance  # NaN is within nothing


@dataclass(frozen=True)
class Reproduction:
    """What training a checkpoint once more came to. `moved`: how far the training moved any weight from its parent;
    None where the two have no weights in common (a first adapter). `facts`: what differs here from the record. `notes`:
    why the weights may differ all the same."""

    checkpoint: str
    parent: str
    snapshot: str
    weights: WeightDifference
    moved: float | None
    facts: list[Fact] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def reproduce(workspace: Workspace, which: str, listener: Listener | None = None) -> Reproduction:
    """Train a round's checkpoint (`"3"`), or one of this name, once more from the record, and compare the weights.

    Raises RunError for one that no training made, and where its parent's weights are not those of then,
    UnknownRecordError, SnapshotError where the snapshot was changed, ModelError where weights are gone.
    """
    with reading(workspace.engine) as session:
        name = _named(session, which)
        found = next(each for each in read_ancestry(session=session) if each.name == name)
    if found.parent is None or found.snapshot is None:
        raise RunError(f"{name} was not trained here, so there is nothing to train once more.")
    verify_snapshot(snapshot=found.snapshot, folder=workspace.folder)
    trained = found.checkpoint.metrics.get("train") or {}
    otherwise = _changed_weights(workspace, found, trained.get("weights") or {})
    there = Path(workspace.checkpoint_path(found.checkpoint))
    machine = trained.get("machine") or {}
    torch.set_num_threads(machine.get("threads") or thread_count(workspace))
    processes = machine.get("processes") or 1
    with tempfile.TemporaryDirectory(prefix=".reproduce-", dir=workspace.folder) as aside:
        progress = Rehearsal(workspace, Path(aside), listener)
        plan = make_plan(workspace, _as_recorded(workspace, found, processes), progress)
        here = _train(workspace, plan, processes, progress)
        weights = compare_weights(there, here)
    moved = _moved(Path(workspace.checkpoint_path(plan.parent)), there)
    facts = [*otherwise, *differing_facts(found.checkpoint.code_version, machine)]
    return Reproduction(name, found.parent, found.snapshot.hash, weights, moved, facts, list(_notes(trained)))


def _changed_weights(workspace: Workspace, found: Ancestry, then: dict[str, str]) -> list[Fact]:
    """The checkpoints whose weights are not those of `then`. Raises RunError where it would start from such."""
    with reading(workspace.engine) as session:
        known = [get_checkpoint(session=session, name=name) for name in then]
    now = {each.name: weights_hash(workspace, each) for each in known}
    changed = [Fact(f"weights of {name}", then[name][:12], now[name][:12]) for name in then if now[name] != then[name]]
    if found.parent is not None and now.get(found.parent) != then.get(found.parent):
        names = " and ".join(name for name in then if now[name] != then[name])
        raise RunError(
            f"{found.name} was trained from other weights than are there now: those of {names} were changed since. "
            "Nothing was trained. Put back what was there then, and try again."
        )
    return changed


def _notes(trained: dict[str, Any]) -> Iterator[str]:
    processes = (trained.get("machine") or {}).get("processes")
    if processes is None:
        yield "How many processes trained it is not on record: it was taken for one."
    elif processes > 1:
        yield (
            f"It was trained in {processes} processes. Here one saw the same pairs at each step and added its sums in "
            "another order, so that the last bits are not expected to be the same."
        )
    if not trained.get("weights"):
        yield "Which weights it started from is not on record: its parent may have been changed since."


def _named(session: Any, which: str) -> str:
    """The name of the checkpoint that is meant."""
    if not which.isdigit():
        return get_checkpoint(session=session, name=which).name
    current = get_round(session=session, number=int(which))
    names = {each.checkpoint.id: each.name for each in read_ancestry(session=session)}
    if current.result_checkpoint_id is None:
        raise RunError(f"Round {which} has not come to a checkpoint, so there is nothing to train once more.")
    return names[current.result_checkpoint_id]


def _as_recorded(workspace: Workspace, found: Ancestry, processes: int) -> Run:
    """A run, of no database, that trains this one checkpoint with the settings that it was trained with.

    One process adds up the batches that several had between them.
    """
    training = dict(found.checkpoint.settings["training"])  # precision and checkpointing as they were settled
    training["gradient_accumulation_steps"] = processes * training.get("gradient_accumulation_steps", 1)
    assert found.snapshot is not None
    asked = found.run.settings if found.run is not None else {}
    settings = {
        "name": found.name,
        "parent": found.parent,
        "snapshot": found.snapshot.hash,
        "model": found.checkpoint.settings["model"],
        "training": training,
        "sampling": asked.get("sampling") or workspace.settings.sampling.model_dump(),
        "sweep": [],
    }
    return Run(kind=RunKind.TRAIN, settings=settings)


def _train(workspace: Workspace, plan: Plan, processes: int, progress: RunProgress) -> Path:
    """Train in the progress's folder, as so many processes did; where the weights are."""
    of = PairTrainer if processes == 1 else partial(PairTrainerForSeveral, processes=processes)
    # The same call as in a training, held-out pairs included: what goes through the model together is the same.
    both = checkpoint_logps(workspace, plan.parent, [*plan.train_and_ties, *plan.test], plan.training, progress)
    trainer, _ = make_trainer(workspace, plan, both[: len(plan.train_and_ties)], progress, of)
    trainer.train()
    trainer.model.save_pretrained(progress.folder / "weights")
    return progress.folder / "weights"


class Rehearsal(RunProgress):
    """Progress of a training that is no run: heard by whoever waits for it, and written nowhere."""

    def __init__(self, workspace: Workspace, folder: Path, listener: Listener | None) -> None:
        self.workspace = workspace
        self.run_id = self.attempt = 0
        self.folder = folder
        self.alarms = []
        self._listener = listener

    def report(self, phase: str, step: int, total: int, metrics: dict[str, float] | None = None) -> None:
        """Tell the listener."""
        if self._listener is not None:
            self._listener({"phase": phase, "step": step, "total": total} | (metrics or {}))

    def sound(self, alarms: Sequence[Alarm]) -> None:
        """Nothing: the training itself gave rise to the same ones."""


def compare_weights(one: Path, other: Path) -> WeightDifference:
    """The weights in two folders, read tensor by tensor: neither has to fit into memory as a whole."""
    left, right = _files_of(one), _files_of(other)
    apart, differing, largest, worst = set(left) ^ set(right), 0, 0.0, ""
    both = sorted(set(left) & set(right))
    for name in both:
        a, b = _tensor(left, name), _tensor(right, name)
        if a.shape != b.shape:
            apart.add(name)
            continue
        if torch.equal(a, b):
            continue
        differing += 1
        difference = float((a.double() - b.double()).abs().max())
        if not difference <= largest:  # NaN counts as the largest there is
            largest, worst = difference, name
    return WeightDifference(len(both), differing, largest, worst, tuple(sorted(apart)))


def _files_of(folder: Path) -> dict[str, Path]:
    """The file that each tensor is in."""
    return {name: path for path in sorted(folder.glob("*.safetensors")) for name in _names_in(path)}


def _names_in(path: Path) -> Iterator[str]:
    with safe_open(path, framework="pt") as stream:
        yield from stream.keys()


def _tensor(files: dict[str, Path], name: str) -> torch.Tensor:
    with safe_open(files[name], framework="pt") as stream:
        tensor: torch.Tensor = stream.get_tensor(name)
    return tensor


def _moved(parent: Path, checkpoint: Path) -> float | None:
    """How far any weight is from the parent's; None where they have none in common, or the parent is no folder."""
    if not parent.is_dir():
        return None
    found = compare_weights(parent, checkpoint)
    return found.largest if found.tensors and not found.apart else None
