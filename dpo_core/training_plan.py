"""What a train run works with, read once from its settings: records, pairs as tokens, and the points of a sweep."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

from dpo_core.alarms import Alarm, alarms_before, alarms_held_out, left_out, with_examples
from dpo_core.changing_settings import change_training
from dpo_core.config import ModelSettings, SamplingSettings, TrainingSettings
from dpo_core.policies import context_length, load_config, load_tokenizer, saved_stop_ids
from dpo_core.progress import RunProgress
from dpo_core.sweep import Point, point_name, point_words
from dpo_core.tokenization import TokenizedPair, require_room, tokenize_pairs
from dpo_core.workspace import Workspace
from store.checkpoints import base_checkpoint, get_checkpoint
from store.database import reading
from store.models import Checkpoint, Run, Snapshot
from store.snapshots import SPLITS, TIES, PreferencePair, get_snapshot, snapshot_pairs

log = logging.getLogger("pairloop")


@dataclass(frozen=True)
class Plan:
    """What a train run works with: records, settings, and the pairs, as cut (`found`) and as tokens.

    `train` and `test` are preferences. `ties` are trained on too where the settings say so, and none where they do not.
    `precision` says in words what is computed in. `sweep` are the settings in which its trainings differ; `point` those
    of one of them.
    """

    name: str
    base: Checkpoint
    parent: Checkpoint
    snapshot: Snapshot
    model: ModelSettings
    training: TrainingSettings
    sampling: SamplingSettings
    found: dict[str, list[PreferencePair]]
    train: list[TokenizedPair]
    test: list[TokenizedPair]
    ties: list[TokenizedPair] = field(default_factory=list)
    precision: str = ""
    point: Point = field(default_factory=dict)
    sweep: tuple[Point, ...] = ()

    @property
    def kind(self) -> str:
        """Full weights or an adapter: once an adapter, always one."""
        return "lora" if self.model.tuning == "lora" or self.parent.kind == "lora" else "full"

    @property
    def train_and_ties(self) -> list[TokenizedPair]:
        """Whatever is trained on, the preferences first."""
        return [*self.train, *self.ties]

    @property
    def points(self) -> list[Plan]:
        """What is trained: a plan for each point of the sweep, or this one."""
        return [
            replace(
                self, name=point_name(self.name, point), training=change_training(self.training, point), point=point
            )
            for point in self.sweep
        ] or [self]

    @property
    def phase(self) -> str:
        """What the run's progress calls its training."""
        return f"train {point_words(self.point)}".rstrip()

    @property
    def trained(self) -> Checkpoint:
        """The new checkpoint as it is on disk, before it is registered."""
        return Checkpoint(name=self.name, path=f"checkpoints/{self.name}", kind=self.kind, parent_id=self.parent.id)


def make_plan(workspace: Workspace, run: Run, progress: RunProgress) -> Plan:
    """Read and tokenize what the run trains on. Raises RunError where no pair leaves room for a completion."""
    settings = run.settings
    training = within_context(workspace, TrainingSettings.model_validate(settings["training"]))
    with reading(workspace.engine) as session:
        parent = get_checkpoint(session=session, name=settings["parent"])
        base = base_checkpoint(session=session)
        snapshot = get_snapshot(session=session, name=settings["snapshot"])
        pairs = {
            split: snapshot_pairs(session=session, snapshot=snapshot, folder=workspace.folder, split=split)
            for split in (*SPLITS, *((TIES,) if training.ties != "ignore" else ()))
        }
    count = sum(map(len, pairs.values()))
    progress.report("tokenize", 0, count)
    tokenizer = load_tokenizer(workspace.checkpoint_path(parent))
    tokens = {split: tokenize_pairs(found, tokenizer, max_length=training.max_length) for split, found in pairs.items()}
    require_room(pairs["train"], tokens["train"], max_length=training.max_length)
    progress.report("tokenize", count, count)
    return Plan(
        name=settings["name"],
        base=base,
        parent=parent,
        snapshot=snapshot,
        model=ModelSettings.model_validate(settings["model"]),
        training=training,
        sampling=SamplingSettings.model_validate(settings["sampling"]),
        found=pairs,
        train=tokens["train"],
        test=tokens["test"],
        ties=tokens.get(TIES, []),
        sweep=tuple(settings["sweep"]),
    )


def within_context(workspace: Workspace, training: TrainingSettings) -> TrainingSettings:
    """No more tokens than the model has positions for."""
    room = positions(workspace)
    if room is None or training.max_length <= room:
        return training
    log.warning("max_length = %d is more than the model has room for: %d is used.", training.max_length, room)
    return training.model_copy(update={"max_length": room})


def positions(workspace: Workspace) -> int | None:
    with reading(workspace.engine) as session:
        base = workspace.checkpoint_path(base_checkpoint(session=session))
    return context_length(load_config(base))


def unfounded(training: TrainingSettings, manifest: dict[str, Any]) -> list[Alarm]:
    """Labels are weighed by how reliable people are, and nothing in the snapshot with this manifest tells who is."""
    told = manifest.get("confidence", {}).get("informative_comparisons")
    if training.confidence != "reliability" or told != 0:
        return []
    text = (
        'confidence = "reliability" has nothing to go by: no pair was judged by two people, and no answer is known. '
        "Each label is believed alike, at 80%, which is plain smoothing. Have some pairs judged by two or more people "
        "(round.comparisons_per_pair, queue.overlap), or import gold pairs."
    )
    return [Alarm("confidence-unfounded", "note", text)]


def alarms_in(workspace: Workspace, plan: Plan) -> list[Alarm]:
    """What is wrong with the pairs as the model will see them: what it learns from, then what it is judged by."""
    room, context = plan.training.max_length, positions(workspace)
    tokenizer = load_tokenizer(workspace.checkpoint_path(plan.parent))
    ends = saved_stop_ids(workspace.checkpoint_path(plan.base), tokenizer)
    found = alarms_before(plan.train, ties=plan.ties, eos_ids=ends, max_length=room, context=context)
    pairs = [*plan.found["train"], *plan.found.get(TIES, [])]
    return [
        *unfounded(plan.training, plan.snapshot.manifest),
        *left_out(pairs, plan.train_and_ties, max_length=room, context=context),
        *with_examples(found, pairs),
        *alarms_held_out(plan.found["test"], plan.test, max_length=room, context=context),
    ]
