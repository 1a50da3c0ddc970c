"""One train run, top to bottom: snapshot -> tokens -> reference log-probs -> DPO -> checkpoint on disk -> evaluation.

Everything is a function of the run's settings, so a run that was killed does the same again, skipping what it finds
done: log-probs in the workspace's `logps/`, the trainer's own checkpoints in the run's `trainer/`. The policy is always
built from the PARENT and then moved to where the trainer had come: a half-way point must not become its own reference.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import LoraConfig
from sqlmodel import Session

from dpo_core.config import ModelSettings, TrainingSettings
from dpo_core.errors import RunError
from dpo_core.evaluate import Judged, judge, save_rewards, summarize
from dpo_core.logps import PairLogps, checkpoint_logps
from dpo_core.policies import context_length, load_config, load_policy, load_tokenizer
from dpo_core.progress import RunProgress
from dpo_core.tokenization import TokenizedPair, require_room, tokenize_pairs
from dpo_core.trainer import PairTrainer, last_complete_checkpoint, sync_folder, trainer_arguments, training_rows
from dpo_core.workspace import Workspace
from store.checkpoints import add_checkpoint, base_checkpoint, get_checkpoint
from store.database import reading, writing
from store.models import Checkpoint, Round, RoundStatus, Run, Snapshot
from store.runs import check_run_held, finish_run
from store.snapshots import get_snapshot, snapshot_pairs

log = logging.getLogger("pairloop")


@dataclass(frozen=True)
class Plan:
    """What a train run works with: records, settings, and the pairs as tokens."""

    name: str
    base: Checkpoint
    parent: Checkpoint
    snapshot: Snapshot
    model: ModelSettings
    training: TrainingSettings
    train: list[TokenizedPair]
    test: list[TokenizedPair]

    @property
    def kind(self) -> str:
        """Full weights or an adapter: once an adapter, always one."""
        return "lora" if self.model.tuning == "lora" or self.parent.kind == "lora" else "full"


def train_round(workspace: Workspace, run: Run, progress: RunProgress) -> None:
    """Carry out a train run. Raises RunError, ModelError, RunCancelled, LostRunError; what was done stays on disk."""
    started = time.monotonic()
    plan = _plan(workspace, run)
    log.info(
        "%s: %d pairs to train on, %d held out, from %s", plan.name, len(plan.train), len(plan.test), plan.parent.name
    )
    reference = _reference(workspace, plan, progress)
    figures = _train(workspace, plan, reference["train"], progress)
    checkpoint = workspace.folder / "checkpoints" / plan.name
    judged = _judge(workspace, plan, reference, progress)
    figures |= {"seconds": round(time.monotonic() - started, 1)}
    metrics = {"train": figures, "eval": summarize(judged["before"], judged["after"], beta=plan.training.beta)}
    with writing(workspace.engine) as session:
        _finish(session, workspace, run, plan, judged["after"], metrics, checkpoint)
    shutil.rmtree(progress.folder / "trainer", ignore_errors=True)


def _plan(workspace: Workspace, run: Run) -> Plan:
    settings = run.settings
    training = _within_context(workspace, TrainingSettings.model_validate(settings["training"]))
    with reading(workspace.engine) as session:
        parent = get_checkpoint(session=session, name=settings["parent"])
        base = base_checkpoint(session=session)
        snapshot = get_snapshot(session=session, name=settings["snapshot"])
        pairs = {
            split: snapshot_pairs(session=session, snapshot=snapshot, folder=workspace.folder, split=split)
            for split in ("train", "test")
        }
    tokenizer = load_tokenizer(workspace.checkpoint_path(parent))
    tokens = {split: tokenize_pairs(found, tokenizer, max_length=training.max_length) for split, found in pairs.items()}
    require_room(pairs["train"], tokens["train"], max_length=training.max_length)
    _warn_of_lost_tails(tokens["train"])
    model = ModelSettings.model_validate(settings["model"])
    return Plan(settings["name"], base, parent, snapshot, model, training, tokens["train"], tokens["test"])


def _within_context(workspace: Workspace, training: TrainingSettings) -> TrainingSettings:
    """No more tokens than the model has positions for."""
    with reading(workspace.engine) as session:
        base = workspace.checkpoint_path(base_checkpoint(session=session))
    room = context_length(load_config(base))
    if room is None or training.max_length <= room:
        return training
    log.warning("max_length = %d is more than the model has room for: %d is used.", training.max_length, room)
    return training.model_copy(update={"max_length": room})


def _warn_of_lost_tails(pairs: Sequence[TokenizedPair]) -> None:
    lost = [pair for pair in pairs if pair.prompt_tail_lost]
    if lost:
        log.warning(
            "The chat template renders the end of %d prompts differently once a completion follows (first: pair %d, "
            "%d tokens). The model is trained on a context it does not see when it writes.",
            len(lost),
            lost[0].pair_id,
            lost[0].prompt_tail_lost,
        )


def _reference(workspace: Workspace, plan: Plan, progress: RunProgress) -> dict[str, list[PairLogps]]:
    """Log-probs under the parent (both splits) and the base (held-out pairs), computed unless known."""
    both = checkpoint_logps(workspace, plan.parent, [*plan.train, *plan.test], plan.training, progress)
    base = checkpoint_logps(workspace, plan.base, plan.test, plan.training, progress)
    return {"train": both[: len(plan.train)], "test": both[len(plan.train) :], "base": base}


def _train(workspace: Workspace, plan: Plan, reference: Sequence[PairLogps], progress: RunProgress) -> dict[str, Any]:
    """Train and write the checkpoint, unless a run that was cut off later has written it already."""
    target = workspace.folder / "checkpoints" / plan.name
    lineage = target / "pairloop.json"
    if lineage.exists():
        record = json.loads(lineage.read_text(encoding="utf-8"))
        if record["run"] == progress.run_id:
            return dict(record["figures"])
    model, tokenizer = load_policy(workspace, plan.parent, trainable=True)
    folder = progress.folder / "trainer"
    trainer = PairTrainer(
        model,
        tokenizer,
        trainer_arguments(plan.training, folder),
        training_rows(plan.train, reference),
        on_log=lambda step, total, metrics: progress.report("train", step, total, metrics),
        peft_config=_adapter(plan),
        prefix_sharing=plan.training.prefix_sharing,
    )
    resumed = last_complete_checkpoint(folder)
    if resumed is not None:
        log.info("resuming from %s", resumed.name)
    outcome = trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    figures = {"pairs": len(plan.train), "steps": outcome.global_step, "loss": outcome.training_loss}
    _save(trainer, target, _lineage(plan, progress.run_id, figures), progress)
    return figures


def _adapter(plan: Plan) -> LoraConfig | None:
    if plan.kind != "lora" or plan.parent.kind == "lora":  # a parent's adapter is trained on, not stacked
        return None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=plan.model.lora_r,
        lora_alpha=plan.model.lora_alpha,
        target_modules=plan.model.lora_target_modules,
    )


def _lineage(plan: Plan, run_id: int, figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": plan.name,
        "kind": plan.kind,
        "parent": plan.parent.name,
        "base": plan.base.path,
        "snapshot": plan.snapshot.hash,
        "run": run_id,
        "training": plan.training.model_dump(),
        "model": plan.model.model_dump(),
        "figures": figures,
        "code": code_version(),
    }


def code_version() -> str:
    """The versions that decide what training does."""
    return " ".join(f"{name}=={version(name)}" for name in ("pairloop", "torch", "transformers", "trl", "peft"))


def _save(trainer: PairTrainer, target: Path, lineage: dict[str, Any], progress: RunProgress) -> None:
    """Weights, tokenizer and lineage, written aside and renamed: a checkpoint is there whole or not at all."""
    aside = target.with_name(f".{target.name}.{progress.attempt}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        trainer.model.save_pretrained(aside)
        trainer.processing_class.save_pretrained(aside)
        (aside / "pairloop.json").write_text(json.dumps(lineage, indent=2), encoding="utf-8")
        sync_folder(aside)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise RunError(
            f"The checkpoint could not be written to {target} ({error.strerror}). Training is kept up to its last "
            "saved step: mend this and retry the run."
        ) from error
    with writing(progress.workspace.engine) as session:  # no other attempt can be claimed until this is renamed
        check_run_held(session=session, run_id=progress.run_id, attempt=progress.attempt)
        shutil.rmtree(target, ignore_errors=True)  # left by a run that was given up: nothing refers to it
        aside.rename(target)
    sync_folder(target.parent)
    for left in target.parent.glob(f".{target.name}.*.part"):  # by attempts that were killed while writing
        shutil.rmtree(left, ignore_errors=True)


def _judge(
    workspace: Workspace, plan: Plan, reference: dict[str, list[PairLogps]], progress: RunProgress
) -> dict[str, list[Judged]]:
    """Held-out pairs under the parent and under the checkpoint as it is on disk, both against the base."""
    path = f"checkpoints/{plan.name}"
    trained = Checkpoint(name=plan.name, path=path, kind=plan.kind, parent_id=plan.parent.id)
    after = checkpoint_logps(workspace, trained, plan.test, plan.training, progress)
    return {
        "before": judge(plan.test, reference["test"], reference["base"]),
        "after": judge(plan.test, after, reference["base"]),
    }


def _finish(
    session: Session,
    workspace: Workspace,
    run: Run,
    plan: Plan,
    judged: Sequence[Judged],
    metrics: dict[str, Any],
    folder: Path,
) -> None:
    """Register the checkpoint, its rewards and the end of the run, all at once."""
    assert run.id is not None
    check_run_held(session=session, run_id=run.id, attempt=run.attempt)
    checkpoint = add_checkpoint(
        session=session,
        name=plan.name,
        path=str(folder.relative_to(workspace.folder)),
        kind=plan.kind,
        parent_id=plan.parent.id,
        snapshot_id=plan.snapshot.id,
        settings={"training": plan.training.model_dump(), "model": plan.model.model_dump()},
        metrics=metrics,
        code_version=code_version(),
    )
    assert checkpoint.id is not None
    beta = plan.training.beta
    save_rewards(session=session, run_id=run.id, checkpoint_id=checkpoint.id, judged=judged, split="test", beta=beta)
    if run.round_id is not None:
        current = session.get_one(Round, run.round_id)
        current.result_checkpoint_id = checkpoint.id
        current.status = RoundStatus.DECIDING
        session.add(current)
    finish_run(session=session, run_id=run.id, attempt=run.attempt, result=metrics, checkpoint_id=checkpoint.id)
