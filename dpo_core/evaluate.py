"""What checkpoints think of compared pairs: implicit rewards per pair, and accuracy on held-out prompts.

Everything is computed per pair and averaged over pairs, so that no figure depends on the batch size (TRL's `eval_*`
metrics average per-batch means). The implicit reward of a completion is `beta * (log p_policy - log p_reference)`
(Rafailov et al. 2023, equation 5 up to a constant). Here it is taken against the base model, so that a checkpoint
and its parent are judged by the same yardstick: the base itself rewards nothing, which counts as half right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, col

from dpo_core.alarms import alarms_canary, alarms_held_out
from dpo_core.canary import compare_canary, read_canary
from dpo_core.config import TrainingSettings
from dpo_core.errors import RunError
from dpo_core.logps import PairLogps, checkpoint_logps
from dpo_core.policies import load_tokenizer
from dpo_core.progress import RunProgress
from dpo_core.tokenization import TokenizedPair, require_room, tokenize_pairs
from dpo_core.training_plan import positions, within_context
from dpo_core.workspace import Workspace
from store.checkpoints import base_checkpoint, get_checkpoint
from store.database import reading, writing
from store.held_out import rightness
from store.intervals import mean_interval, share_interval
from store.models import PairReward, Run
from store.runs import check_run_held, finish_run
from store.snapshots import get_snapshot, snapshot_pairs

# For an interval of the change: where checkpoints are equally good, it lies below 0 in at most 6% of cases with so many
# (simulated), but in 26% with two prompts and 12% with three.
LEAST_PROMPTS = 8


@dataclass(frozen=True)
class Judged:
    """A pair as a policy and its reference see it."""

    pair: TokenizedPair
    policy: PairLogps
    reference: PairLogps

    def margin(self, beta: float) -> float:
        """Implicit reward of the chosen completion less that of the rejected one."""
        return beta * ((self.policy.chosen - self.reference.chosen) - (self.policy.rejected - self.reference.rejected))


def judge(pairs: Sequence[TokenizedPair], policy: Sequence[PairLogps], reference: Sequence[PairLogps]) -> list[Judged]:
    """Put a policy's log-probs beside its reference's."""
    return [Judged(*row) for row in zip(pairs, policy, reference, strict=True)]


def accuracy(margins: Sequence[float]) -> float:
    """The mean rightness."""
    return sum(map(rightness, margins)) / len(margins)


def summarize(before: Sequence[Judged], after: Sequence[Judged], *, beta: float) -> dict[str, Any]:
    """Figures for the record: `before` judges the parent, `after` the checkpoint, both against the base.

    `accuracy_*` is the share of pairs that the implicit reward orders as the annotators did; `ranking_*` the share
    whose chosen completion the model simply finds likelier (which favours short texts). Intervals are at 95% and count
    prompts that have several pairs for what they are worth; the margin's is None for a single prompt. `change` is how
    much more often the checkpoint is right than its parent on the very same pairs; its interval is None under
    LEAST_PROMPTS prompts. Empty without pairs.
    """
    if not after:
        return {"pairs": 0}
    margins, parents = [item.margin(beta) for item in after], [item.margin(beta) for item in before]
    changes = [rightness(new) - rightness(old) for new, old in zip(margins, parents, strict=True)]
    prompts = [tuple(item.pair.prompt_ids) for item in after]
    return {
        "pairs": len(after),
        "accuracy_before": accuracy(parents),
        "accuracy_after": accuracy(margins),
        "prompts": len(set(prompts)),
        "interval_after": list(share_interval([rightness(margin) for margin in margins], prompts)),
        "change": sum(changes) / len(changes),
        "change_interval": _finite(mean_interval(changes, prompts)) if len(set(prompts)) >= LEAST_PROMPTS else None,
        "margin": sum(margins) / len(margins),
        "margin_interval": _finite(mean_interval(margins, prompts)),
        "ranking_before": accuracy([item.policy.chosen - item.policy.rejected for item in before]),
        "ranking_after": accuracy([item.policy.chosen - item.policy.rejected for item in after]),
    }


def _finite(interval: tuple[float, float]) -> list[float] | None:
    return list(interval) if math.isfinite(interval[0]) else None  # JSON has no infinity


def save_rewards(
    *, session: Session, run_id: int, checkpoint_id: int, judged: Sequence[Judged], split: str, beta: float
) -> None:
    """Write what the checkpoint thinks of each pair, replacing what this run wrote before."""
    session.execute(
        delete(PairReward).where(
            col(PairReward.run_id) == run_id,
            col(PairReward.checkpoint_id) == checkpoint_id,
            col(PairReward.split) == split,
        )
    )
    session.add_all(_reward_row(run_id, checkpoint_id, item, split, beta) for item in judged)


def _reward_row(run_id: int, checkpoint_id: int, item: Judged, split: str, beta: float) -> PairReward:
    return PairReward(
        run_id=run_id,
        checkpoint_id=checkpoint_id,
        pair_id=item.pair.pair_id,
        split=split,
        chosen_side=item.pair.chosen_side,
        logps_chosen=item.policy.chosen,
        logps_rejected=item.policy.rejected,
        ref_logps_chosen=item.reference.chosen,
        ref_logps_rejected=item.reference.rejected,
        reward_chosen=beta * (item.policy.chosen - item.reference.chosen),
        reward_rejected=beta * (item.policy.rejected - item.reference.rejected),
        margin=item.margin(beta),
        length_chosen=len(item.pair.chosen_ids),
        length_rejected=len(item.pair.rejected_ids),
    )


def evaluate_run(workspace: Workspace, run: Run, progress: RunProgress) -> None:
    """Carry out an evaluate run: judge a checkpoint and its reference on a snapshot's held-out pairs, and the canary.

    Raises RunError where the snapshot holds no held-out pair, or the canary's text cannot be read.
    """
    canary = read_canary(workspace)
    training = within_context(workspace, TrainingSettings.model_validate(run.settings["training"]))
    with reading(workspace.engine) as session:
        checkpoint = get_checkpoint(session=session, name=run.settings["checkpoint"])
        parent = get_checkpoint(session=session, name=run.settings["reference"])
        base = base_checkpoint(session=session)
        snapshot = get_snapshot(session=session, name=run.settings["snapshot"])
        held_out = snapshot_pairs(session=session, snapshot=snapshot, folder=workspace.folder, split="test")
    if training.bf16 == "auto":  # as it was decided when the checkpoint was trained
        training = training.model_copy(update={"bf16": checkpoint.settings.get("training", {}).get("bf16") is True})
    if not held_out:
        raise RunError("This snapshot has no pair on a held-out prompt, so there is nothing to judge on.")
    tokenizer = load_tokenizer(workspace.checkpoint_path(checkpoint))
    pairs = tokenize_pairs(held_out, tokenizer, max_length=training.max_length)
    require_room(held_out, pairs, max_length=training.max_length)
    progress.sound(alarms_held_out(held_out, pairs, max_length=training.max_length, context=positions(workspace)))
    logps = {
        item.name: checkpoint_logps(workspace, item, pairs, training, progress)
        for item in {item.name: item for item in (base, parent, checkpoint)}.values()
    }
    before = judge(pairs, logps[parent.name], logps[base.name])
    after = judge(pairs, logps[checkpoint.name], logps[base.name])
    sung = compare_canary(workspace, canary, parent, checkpoint, bf16=training.in_bf16, progress=progress)
    progress.sound(alarms_canary(sung))
    figures = summarize(before, after, beta=training.beta) | {"canary": sung, "alarms": progress.alarms}
    assert run.id is not None and checkpoint.id is not None and parent.id is not None
    with writing(workspace.engine) as session:
        check_run_held(session=session, run_id=run.id, attempt=run.attempt)
        for number, judged in {parent.id: before, checkpoint.id: after}.items():  # one of them, where they are the same
            save_rewards(
                session=session, run_id=run.id, checkpoint_id=number, judged=judged, split="test", beta=training.beta
            )
        finish_run(session=session, run_id=run.id, attempt=run.attempt, result=figures, checkpoint_id=checkpoint.id)
