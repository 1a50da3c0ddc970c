"""One train run, top to bottom: snapshot -> tokens -> reference log-probs -> DPO -> checkpoint on disk -> evaluation.

What a researcher should know of it (alarms.py) goes into the log, the run's row while it lasts, and its result.

Everything is a function of the run's settings, so a run that was killed does the same again, skipping what it finds
done: log-probs in the workspace's `logps/`, the trainer's own checkpoints in the run's `trainer/`. The policy is always
built from the PARENT and then moved to where the trainer had come: a half-way point must not become its own reference.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from peft import LoraConfig
from sqlmodel import Session

from dpo_core import ranks
from dpo_core.alarms import TrainingWatch, alarms_after, alarms_canary, diverged
from dpo_core.canary import Canary, compare_canary, read_canary
from dpo_core.checks import run_checks
from dpo_core.drift import Answers, Asked, answer_prompts, compare_answers, divergence, prompts_to_answer
from dpo_core.duels import queue_duels
from dpo_core.errors import DivergedError, RunError
from dpo_core.evaluate import Judged, judge, save_rewards, summarize
from dpo_core.logps import PairLogps, checkpoint_logps
from dpo_core.policies import load_policy, load_tokenizer, weights_hash
from dpo_core.precision import settle_precision
from dpo_core.progress import RunProgress, read_metrics
from dpo_core.provenance import code_version, machine_facts
from dpo_core.second_looks import ask_again, examine_trained
from dpo_core.sweep import best_point
from dpo_core.tokenization import tokenize_pairs
from dpo_core.trainer import (
    PairTrainer,
    forget_after,
    last_complete_checkpoint,
    step_of,
    sync_folder,
    trainer_arguments,
    training_rows,
)
from dpo_core.training_plan import Plan, alarms_in, make_plan
from dpo_core.workspace import Workspace
from store.checkpoints import add_checkpoint
from store.database import writing
from store.models import Checkpoint, Round, RoundStatus, Run
from store.reliability import chance_by_votes
from store.runs import check_run_held, finish_run
from store.snapshots import PreferencePair
from store.wording import counted

log = logging.getLogger("pairloop")


@dataclass(frozen=True)
class Trained:
    """What a training came to: its record, and what checkpoint (`judged`) and parent think of the held-out pairs.

    The record's `alarms` are those of the pairs and its own, not those of a sweep's other points.
    """

    plan: Plan
    metrics: dict[str, Any]
    judged: list[Judged]
    before: list[Judged]


def train_round(workspace: Workspace, run: Run, progress: RunProgress) -> None:
    """Carry out a train run. Raises RunError, ModelError, RunCancelled, LostRunError; what was done stays on disk."""
    canary = read_canary(workspace)  # before the training: nobody should wait for hours to hear that it is not there
    plan = make_plan(workspace, run, progress)
    progress.sound(alarms_in(workspace, plan))
    plan = settle_precision(workspace, plan, _adapter(plan), progress)
    of_pairs = list(progress.alarms)
    _free_memory()
    log.info("%s: %s to train on, %d held out, from %s", plan.name, _amount(plan), len(plan.test), plan.parent.name)
    if not ranks.is_leader():
        _take_part(workspace, plan, progress)
        return
    reference = _reference(workspace, plan, progress)
    parent_answers = cache(partial(_answers, workspace, plan, plan.parent, progress))  # once for all points of a sweep
    found = []
    for point in plan.points:
        said = len(progress.alarms)
        trained = _train_point(workspace, point, reference, parent_answers, canary, progress)
        alarms = {"alarms": of_pairs + progress.alarms[said:]}
        found.append(replace(trained, metrics=trained.metrics | alarms))
    best = best_point([trained.metrics for trained in found])
    doubted = examine_trained(workspace, found[best].plan, reference["train"], progress)
    with writing(workspace.engine) as session:
        _finish(session, workspace, run, found, best, doubted)
    shutil.rmtree(progress.folder / "trainer", ignore_errors=True)


def _amount(plan: Plan) -> str:
    pairs = counted(len(plan.train), "pair")
    return pairs if plan.training.ties == "ignore" else f"{pairs} and {counted(len(plan.ties), 'tie')}"


def _take_part(workspace: Workspace, plan: Plan, progress: RunProgress) -> None:
    """Train along beside the leader, which computes what comes before and does what comes after each training."""
    for point in plan.points:
        ranks.wait_at(_mark(point, progress))
        _train(workspace, point, _reference(workspace, plan, progress)["train"], progress)


def _mark(plan: Plan, progress: RunProgress) -> Path:
    """Where the leader says that it is about to train."""
    return progress.folder / "trainer" / f"{plan.name}.{progress.attempt}.ready"


def _train_point(
    workspace: Workspace,
    plan: Plan,
    reference: dict[str, list[PairLogps]],
    parent_answers: Callable[[], Asked],
    canary: Canary,
    progress: RunProgress,
) -> Trained:
    """Train, write and judge one checkpoint: the only one, or one of a sweep's."""
    started = time.monotonic()
    weights = {each.name: weights_hash(workspace, each) for each in (plan.base, plan.parent)}
    ranks.leave_mark(_mark(plan, progress))
    figures = _train(workspace, plan, reference["train"], progress)
    _free_memory()
    judged = _judge(workspace, plan, reference, progress)
    answers = compare_answers(parent_answers(), _answers(workspace, plan, plan.trained, progress))
    progress.sound(alarms_after(*answers.tokens, max_new_tokens=plan.sampling.max_new_tokens))
    kl = _divergence(workspace, plan, answers, progress)
    bf16 = plan.training.in_bf16
    sung = compare_canary(workspace, canary, plan.parent, plan.trained, bf16=bf16, progress=progress)
    progress.sound(alarms_canary(sung))
    figures |= {"seconds": round(time.monotonic() - started, 1), "peak_mb": peak_mb()}
    figures |= {"precision": plan.precision, "weights": weights}  # the latter: what it started from
    metrics = {
        "train": figures,
        "eval": summarize(judged["before"], judged["after"], beta=plan.training.beta),
        "lengths": answers.lengths,
        "kl": kl,
        "canary": sung,
        "checks": run_checks(workspace, plan.trained, progress),
    }
    return Trained(plan, metrics, judged["after"], judged["before"])


def _free_memory() -> None:
    """Give back what the training held before the next model is loaded.

    A trainer and its parts refer to each other, and glibc keeps what is freed: 1.7 of 2.3 GB with a LoRA adapter on 63
    million parameters.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # musl has none
        trim(0)


def _reference(workspace: Workspace, plan: Plan, progress: RunProgress) -> dict[str, list[PairLogps]]:
    """Log-probs under the parent (what is trained on, held-out pairs) and the base (these), computed unless known."""
    trained = plan.train_and_ties
    both = checkpoint_logps(workspace, plan.parent, [*trained, *plan.test], plan.training, progress)
    base = checkpoint_logps(workspace, plan.base, plan.test, plan.training, progress)
    return {"train": both[: len(trained)], "test": both[len(trained) :], "base": base}


def _train(workspace: Workspace, plan: Plan, reference: Sequence[PairLogps], progress: RunProgress) -> dict[str, Any]:
    """Train and write the checkpoint, unless a run that was cut off later has written it already."""
    target = workspace.folder / "checkpoints" / plan.name
    lineage = target / "pairloop.json"
    if lineage.exists():
        record = json.loads(lineage.read_text(encoding="utf-8"))
        if record["run"] == progress.run_id:
            _watch(plan, progress, record["figures"]["steps"])
            return dict(record["figures"])
    trainer, resumed = make_trainer(workspace, plan, reference, progress)
    outcome = _run_trainer(trainer, resumed, progress)
    figures = {"pairs": len(plan.train), "steps": outcome.global_step, "loss": outcome.training_loss}
    figures |= {"machine": machine_facts()}
    if plan.training.ties != "ignore":
        figures["ties"] = len(plan.ties)
    weights = trainer.gathered_weights()
    if ranks.is_leader():
        _save(trainer, weights, target, _lineage(plan, progress.run_id, figures), progress)
    return figures


def make_trainer(
    workspace: Workspace,
    plan: Plan,
    reference: Sequence[PairLogps],
    progress: RunProgress,
    of: Callable[..., PairTrainer] = PairTrainer,
) -> tuple[PairTrainer, Path | None]:
    """The trainer of a plan, built from the parent, and the point that an earlier attempt came to, if any."""
    model, tokenizer = load_policy(workspace, plan.parent, trainable=True)
    folder = progress.folder / "trainer" / plan.name
    resumed = last_complete_checkpoint(folder)
    watch = _watch(plan, progress, step_of(resumed) if resumed else 0)

    def hear(step: int, total: int, metrics: dict[str, float]) -> None:
        progress.report(plan.phase, step, total, metrics)
        progress.sound(watch.hear(step, total, metrics))

    trainer = of(
        model,
        tokenizer,
        trainer_arguments(plan.training, folder),
        training_rows(plan.train_and_ties, reference, _confidence(plan), _tie_flags(plan)),
        on_log=hear,
        peft_config=_adapter(plan),
        prefix_sharing=plan.training.prefix_sharing,
        pass_tokens=plan.training.pass_tokens if plan.training.in_passes else None,
        ties=plan.training.ties,
    )
    return trainer, resumed


def _confidence(plan: Plan) -> list[float] | None:
    """The chance that each pair's label is right, from its votes or its annotators; None where that is not to count."""
    if plan.training.confidence == "ignore":
        return None
    found = {pair.pair_id: label_chance(pair, plan.training.confidence) for pair in plan.found["train"]}
    return [found[pair.pair_id] for pair in plan.train]


def label_chance(pair: PreferencePair, confidence: str) -> float:
    """The chance that a pair's label is right. Raises RunError for a snapshot that does not say."""
    if confidence == "agreement" and pair.adjudicated:
        return 1.0  # who decided has seen the votes
    if confidence == "agreement" and pair.votes_for is not None and pair.votes_against is not None:
        return chance_by_votes(pair.votes_for, pair.votes_against)
    if confidence == "agreement" or pair.confidence is None:
        raise RunError(
            f'This snapshot was cut without confidence. Start the training anew with confidence = "{confidence}".'
        )
    return pair.confidence


def _tie_flags(plan: Plan) -> list[bool] | None:
    """Which of what is trained on are ties; None where none may be."""
    if plan.training.ties == "ignore":
        return None
    return [False] * len(plan.train) + [True] * len(plan.ties)


def _run_trainer(trainer: PairTrainer, resumed: Path | None, progress: RunProgress) -> Any:
    """Train to the end. Raises DivergedError, after an alarm, with the trainer's last good checkpoint kept."""
    if resumed is not None:
        log.info("resuming from %s", resumed.name)
    try:
        return trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    except DivergedError as error:
        if ranks.is_leader():
            kept = forget_after(Path(trainer.args.output_dir), error.last_good)
            progress.sound([diverged(error, kept.name if kept else None)])
        raise


def _watch(plan: Plan, progress: RunProgress, done: int) -> TrainingWatch:
    """A watch that has heard the `done` steps of earlier attempts, and said what they gave rise to."""
    training = plan.training
    rows_per_step = training.batch_size * training.gradient_accumulation_steps * ranks.count()
    rows = len(plan.train_and_ties)
    watch = TrainingWatch(
        beta=training.beta,
        chosen_tokens=fmean(len(pair.chosen_ids) for pair in plan.train),
        pairs_per_step=min(rows_per_step, rows) * len(plan.train) / rows,  # ties are not among the figures heard
        epochs=training.num_train_epochs,
    )
    for entry in read_metrics(progress.folder):
        if entry["phase"] == plan.phase and entry["step"] <= done:
            progress.sound(watch.hear(entry["step"], entry["total"], entry))
    return watch


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


def peak_mb() -> int:
    """The most memory that this process has held, in MiB (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def _save(
    trainer: PairTrainer,
    weights: dict[str, Any] | None,
    target: Path,
    lineage: dict[str, Any],
    progress: RunProgress,
) -> None:
    """Weights, tokenizer and lineage, written aside and renamed: a checkpoint is there whole or not at all.

    `weights` where the model itself holds only a part of them.
    """
    aside = target.with_name(f".{target.name}.{progress.attempt}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        trainer.model.save_pretrained(aside, state_dict=weights)
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
    after = checkpoint_logps(workspace, plan.trained, plan.test, plan.training, progress)
    return {
        "before": judge(plan.test, reference["test"], reference["base"]),
        "after": judge(plan.test, after, reference["base"]),
    }


def _answers(workspace: Workspace, plan: Plan, checkpoint: Checkpoint, progress: RunProgress) -> Asked:
    """What a checkpoint answers to the prompts that parent and checkpoint are compared on."""
    return answer_prompts(
        workspace,
        checkpoint,
        prompts=prompts_to_answer(plan.found["test"], plan.found["train"]),
        count=plan.training.drift_samples,
        sampling=plan.sampling,
        progress=progress,
    )


def _divergence(workspace: Workspace, plan: Plan, answers: Answers, progress: RunProgress) -> dict[str, float]:
    """How far the checkpoint is from its parent, on its own answers."""
    tokenizer = load_tokenizer(workspace.checkpoint_path(plan.parent))
    tokens = tokenize_pairs(answers.pairs, tokenizer, max_length=plan.training.max_length)
    policy = checkpoint_logps(workspace, plan.trained, tokens, plan.training, progress)
    return divergence(policy, checkpoint_logps(workspace, plan.parent, tokens, plan.training, progress))


def _finish(
    session: Session,
    workspace: Workspace,
    run: Run,
    found: Sequence[Trained],
    best: int,
    doubted: Sequence[Judged],
) -> None:
    """Register the checkpoints, their rewards and the end of the run, all at once.

    The best goes on as the round's: its duels are asked for, and comparisons that it doubts are asked again.
    """
    assert run.id is not None
    check_run_held(session=session, run_id=run.id, attempt=run.attempt)
    ids = [_register(session, run.id, trained) for trained in found]
    _save_parents(session, run.id, found[best])
    if run.round_id is not None:
        current = session.get_one(Round, run.round_id)
        current.result_checkpoint_id = ids[best]
        current.status = RoundStatus.DECIDING
        session.add(current)
        new = session.get_one(Checkpoint, ids[best])
        queue_duels(session, workspace, current=current, checkpoint=new, by=run.requested_by)
        beta = found[best].plan.training.beta
        ask_again(session, workspace, run_id=run.id, current=current, judged=doubted, beta=beta)
    result = found[best].metrics | {"checkpoint": found[best].plan.name}
    if len(found) > 1:
        result["sweep"] = [
            {"checkpoint": trained.plan.name, "point": trained.plan.point} | trained.metrics for trained in found
        ]
    finish_run(session=session, run_id=run.id, attempt=run.attempt, result=result, checkpoint_id=ids[best])


def _save_parents(session: Session, run_id: int, trained: Trained) -> None:
    """The parent's rewards beside the checkpoint's: once for a sweep, whose points may differ in beta alone."""
    parent, beta = trained.plan.parent.id, trained.plan.training.beta
    assert parent is not None
    save_rewards(session=session, run_id=run_id, checkpoint_id=parent, judged=trained.before, split="test", beta=beta)


def _register(session: Session, run_id: int, trained: Trained) -> int:
    plan = trained.plan
    checkpoint = add_checkpoint(
        session=session,
        name=plan.name,
        path=plan.trained.path,
        kind=plan.kind,
        parent_id=plan.parent.id,
        snapshot_id=plan.snapshot.id,
        settings={"training": plan.training.model_dump(), "model": plan.model.model_dump()},
        metrics=trained.metrics,
        code_version=code_version(),
    )
    assert checkpoint.id is not None
    save_rewards(
        session=session,
        run_id=run_id,
        checkpoint_id=checkpoint.id,
        judged=trained.judged,
        split="test",
        beta=plan.training.beta,
    )
    return checkpoint.id
