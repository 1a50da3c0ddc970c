"""A duel run: a new checkpoint and its opponents each write one completion for the same held-out prompts.

One model is in memory at a time. What a checkpoint wrote is kept at once, so that a run which is killed goes on with
the next one; the duels are queued when all is written, and then it is drawn where in the queue they stand.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, select

from dpo_core.config import SamplingSettings
from dpo_core.errors import RunError
from dpo_core.policies import encode_prompt
from dpo_core.progress import RunProgress
from dpo_core.sampling import prompt_room, sample_completions
from dpo_core.workspace import Workspace
from dpo_core.writers import load_writer
from store.checkpoints import get_checkpoint
from store.database import reading, writing
from store.decisions import serving_checkpoint
from store.duels import add_duels
from store.models import Checkpoint, Completion, Prompt, Round, RoundStatus, Run
from store.pairs import add_completion
from store.prompts import prompts_by_id
from store.rounds import latest_round
from store.runs import check_run_held, finish_run

log = logging.getLogger("pairloop")
PHASE = "write duels"


def write_duels(workspace: Workspace, run: Run, progress: RunProgress) -> None:
    """Carry out a duel run. Raises RunError where no duel can be made, ModelError, RunCancelled, LostRunError."""
    started = time.monotonic()
    writers = _writers(run)
    total = sum(map(len, writers.values()))
    done = 0
    progress.report(PHASE, done, total)
    for name, prompt_ids in writers.items():
        _write(workspace, run, progress, name, prompt_ids, (done, total))
        done += len(prompt_ids)
        progress.report(PHASE, done, total)
    _finish(workspace, run, round(time.monotonic() - started, 1))


def _writers(run: Run) -> dict[str, list[int]]:
    """Who writes for which prompts: the new checkpoint for all of them, once."""
    against: dict[str, list[int]] = run.settings["against"]
    everything = list(dict.fromkeys(prompt_id for prompt_ids in against.values() for prompt_id in prompt_ids))
    return {run.settings["checkpoint"]: everything} | against


def _write(
    workspace: Workspace,
    run: Run,
    progress: RunProgress,
    name: str,
    prompt_ids: Sequence[int],
    reached: tuple[int, int],
) -> None:
    """Have one checkpoint write what it has not written yet."""
    with reading(workspace.engine) as session:
        checkpoint = get_checkpoint(session=session, name=name)
        there = _written(session, run, checkpoint)
        missing = [prompt_id for prompt_id in prompt_ids if prompt_id not in there]
        prompts = list(prompts_by_id(session=session, ids=missing).values())
    if not prompts:
        return
    settings = SamplingSettings.model_validate(run.settings["sampling"])
    model, tokenizer = load_writer(workspace, checkpoint)
    room = prompt_room(model, settings)
    fitting = [each for each in prompts if room is None or len(encode_prompt(tokenizer, each.messages)) <= room]
    written = sample_completions(
        model,
        tokenizer,
        [prompt.messages for prompt in fitting],
        settings,
        per_prompt=1,
        seed=settings.seed + 7919 * (checkpoint.id or 0),  # each its own draw: else two that are alike write the same
        on_step=lambda _: progress.report(PHASE, *reached),
    )
    with writing(workspace.engine) as session:
        assert run.id is not None and checkpoint.id is not None
        check_run_held(session=session, run_id=run.id, attempt=run.attempt)
        for prompt, completions in zip(fitting, written, strict=True):
            for new in completions:
                add_completion(
                    session=session, prompt_id=_id(prompt), new=new, checkpoint_id=checkpoint.id, run_id=run.id
                )


def _written(session: Session, run: Run, checkpoint: Checkpoint) -> dict[int, Completion]:
    """What a checkpoint has written in this run, by prompt."""
    found = select(Completion).where(Completion.run_id == run.id, Completion.checkpoint_id == checkpoint.id)
    return {completion.prompt_id: completion for completion in session.exec(found.order_by(col(Completion.id)))}


def _finish(workspace: Workspace, run: Run, seconds: float) -> None:
    """Queue the duels and end the run, in one transaction."""
    assert run.id is not None
    with writing(workspace.engine) as session:
        check_run_held(session=session, run_id=run.id, attempt=run.attempt)
        result = _queue(session, run) | {"seconds": seconds}
        finish_run(session=session, run_id=run.id, attempt=run.attempt, result=result)
    log.info("duels: %s", result)


def _queue(session: Session, run: Run) -> dict[str, Any]:
    """Ask what was written; how many duels came of it, and of how many prompts none did. Raises RunError for none."""
    checkpoint = get_checkpoint(session=session, name=run.settings["checkpoint"])
    round_id = _round_id(session, run, checkpoint)
    if round_id is None:
        return {"duels": 0, "skipped": 0}
    new = _written(session, run, checkpoint)
    duels, asked = [], 0
    for name, prompt_ids in run.settings["against"].items():
        old = _written(session, run, get_checkpoint(session=session, name=name))
        asked += len(prompt_ids)
        duels += [(new[each], old[each]) for each in prompt_ids if each in new and each in old]
    added = add_duels(session=session, round_id=round_id, duels=duels, seed=run.id or 0)
    if not added:
        raise RunError(_no_duels(asked))
    return {"duels": added, "skipped": asked - added}


def _round_id(session: Session, run: Run, checkpoint: Checkpoint) -> int | None:
    """The round that is asked: the one open by now, where the run's own was decided before the duels were written.

    None where nobody wants to know any more: the checkpoint was kept back, or another of its sweep was picked.
    """
    latest = latest_round(session=session)
    asked = session.get_one(Round, run.round_id) if latest is None or latest.status == RoundStatus.DONE else latest
    to_decide = asked.status == RoundStatus.DECIDING and asked.result_checkpoint_id == checkpoint.id
    return asked.id if to_decide or serving_checkpoint(session=session).id == checkpoint.id else None


def _no_duels(asked: int) -> str:
    return (
        f"No duel could be made of {asked} prompts: both checkpoints wrote the same, nothing, or had no room. Raise "
        "sampling.temperature in pairloop.toml, or train for longer, and write duels again."
    )


def _id(prompt: Prompt) -> int:
    assert prompt.id is not None
    return prompt.id
