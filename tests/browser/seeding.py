"""Workspaces for the app's tests and its screenshots, made through the store's own functions, without any model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from dpo_core.config import GateSettings, ModelSettings, RoundSettings, Settings
from dpo_core.deciding import decide
from dpo_core.loop import start_round, start_training
from dpo_core.progress import RunProgress
from dpo_core.workspace import Workspace, create_workspace
from store.annotators import get_or_add_annotator
from store.checkpoints import add_checkpoint
from store.comparisons import Choice, record_comparison
from store.database import writing
from store.duels import add_duels
from store.models import Completion, Decision, Pair, Purpose, Round, RoundStatus, Run
from store.pairs import NewCompletion, add_completion, add_pair, next_pair, shown_pair
from store.passcodes import get_or_add_account
from store.rounds import latest_round, set_round_status
from store.runs import claim_run, finish_run, get_run, report_progress
from store.slates import add_slate
from store.workers import beat
from tests.store.asking import add_prompt

LEASE = timedelta(hours=2)
WORKER = "worker-1"
Exchange = tuple[str | list[dict[str, str]], str, str]  # a prompt, and two texts for it


def plain_exchanges(count: int) -> list[Exchange]:
    """Short ones, each text different from all others."""
    return [(f"Question {n}?", f"First answer to {n}.", f"Second answer to {n}.") for n in range(1, count + 1)]


NO_GATE = GateSettings(win_rate="ignore", alarms="ignore", canary=0, checks="ignore")


def let_in(session: Session, name: str) -> int:
    """Somebody who came by an invite: their account has a passcode, which nobody knows."""
    annotator_id = get_or_add_annotator(session=session, name=name).id
    assert annotator_id is not None
    get_or_add_account(session=session, annotator_id=annotator_id).passcode_hash = "unknown"
    return annotator_id


def new_workspace(
    folder: Path, *, target: int = 40, per_pair: int = 1, held_out_share: float = 0.0, gate: GateSettings = NO_GATE
) -> Workspace:
    """An empty workspace whose base model is never looked for; what is trained in it may be promoted at once."""
    asked = RoundSettings(comparisons=target, comparisons_per_pair=per_pair, held_out_share=held_out_share)
    return create_workspace(folder, Settings(model=ModelSettings(base="somewhere/tiny"), round=asked, gate=gate))


def add_prompts(workspace: Workspace, exchanges: Iterable[Exchange]) -> list[int]:
    """The prompts of these exchanges."""
    with writing(workspace.engine) as session:
        share = workspace.settings.round.held_out_share
        return [_prompt(session, prompt, share) for prompt, _, _ in exchanges]


def _prompt(session: Session, prompt: str | list[dict[str, str]], share: float) -> int:
    found = add_prompt(session, prompt, source="demo", held_out_share=share)
    assert found.id is not None
    return found.id


def open_round(workspace: Workspace, exchanges: Sequence[Exchange]) -> Round:
    """A round with a pair for each exchange, all written."""
    add_prompts(workspace, exchanges)
    opened = start_round(workspace, by="lea")
    write_pairs(workspace, exchanges)
    return opened


def write_pairs(workspace: Workspace, exchanges: Sequence[Exchange]) -> None:
    """Carry out the sample run that waits, with these texts."""
    prompt_ids = add_prompts(workspace, exchanges)
    with writing(workspace.engine) as session:
        run = claim_run(session=session, owner=WORKER, lease=LEASE)
        opened = latest_round(session=session)
        assert run is not None and run.id is not None and opened is not None and opened.id is not None
        for position, (prompt_id, (_, first, second)) in enumerate(zip(prompt_ids, exchanges, strict=True)):
            _pair(session, opened, run, prompt_id, (first, second), position, workspace.settings)
        finish_run(session=session, run_id=run.id, attempt=run.attempt, result={"pairs": len(exchanges)})
        set_round_status(session=session, round_id=opened.id, status=RoundStatus.COMPARING)


def _pair(
    session: Session, opened: Round, run: Run, prompt_id: int, texts: tuple[str, str], position: int, settings: Settings
) -> None:
    completions = [_completion(session, opened, run, prompt_id, text, position) for text in texts]
    wanted = settings.round.comparisons_per_pair
    add_pair(
        session=session,
        prompt_id=prompt_id,
        completions=completions,
        round_id=opened.id,
        position=position,
        wanted=wanted,
    )


def _completion(session: Session, opened: Round, run: Run, prompt_id: int, text: str, position: int) -> Completion:
    return add_completion(
        session=session,
        prompt_id=prompt_id,
        new=NewCompletion(text, seed=position, tokens=len(text.split()), finish_reason="stop"),
        checkpoint_id=opened.checkpoint_id,
        run_id=run.id,
    )


def open_ranking_round(workspace: Workspace, asked: Sequence[tuple[str, Sequence[str]]], *, wanted: int = 1) -> Round:
    """A round with a slate for each prompt, all written."""
    add_prompts(workspace, [(prompt, "", "") for prompt, _ in asked])
    start_round(workspace, by="lea")
    with writing(workspace.engine) as session:
        run = claim_run(session=session, owner=WORKER, lease=LEASE)
        opened = latest_round(session=session)
        assert run is not None and run.id is not None and opened is not None and opened.id is not None
        for position, (prompt, texts) in enumerate(asked):
            prompt_id = _prompt(session, prompt, 0)
            written = [_completion(session, opened, run, prompt_id, text, position) for text in texts]
            add_slate(
                session=session,
                prompt_id=prompt_id,
                completions=written,
                round_id=opened.id,
                position=position,
                wanted=wanted,
            )
        finish_run(session=session, run_id=run.id, attempt=run.attempt, result={"pairs": len(asked)})
        set_round_status(session=session, round_id=opened.id, status=RoundStatus.COMPARING)
    return opened


def plain_slates(count: int, size: int = 4) -> list[tuple[str, list[str]]]:
    """Prompts with so many short texts each, all different."""
    return [(f"Question {n}?", [f"Text {each} for {n}." for each in range(1, size + 1)]) for n in range(1, count + 1)]


def compare(workspace: Workspace, name: str, choices: Iterable[Choice]) -> None:
    """Let this annotator go through the queue with these choices."""
    for choice in choices:
        with writing(workspace.engine) as session:
            annotator = get_or_add_annotator(session=session, name=name)
            current = latest_round(session=session)
            assert annotator.id is not None and current is not None and current.id is not None
            pair = next_pair(session=session, round_id=current.id, annotator_id=annotator.id)
            assert pair is not None, "the queue is empty"
            record_comparison(
                session=session, pair_id=pair.pair_id, annotator_id=annotator.id, choice=choice, seconds=6.5
            )


def worker_is_there(workspace: Workspace) -> None:
    """A worker that was heard of just now."""
    with writing(workspace.engine) as session:
        beat(session=session, name=WORKER, doing="waiting")


def train(
    workspace: Workspace, *, steps: int, of: int, finish: bool = True, before: float = 0.5, after: float = 0.67
) -> Run:
    """A train run that has reported this far, with metrics as a real one leaves them."""
    run = start_training(workspace, by="lea", early=True)
    with writing(workspace.engine) as session:
        claimed = claim_run(session=session, owner=WORKER, lease=LEASE)
        assert claimed is not None and claimed.id is not None
    progress = RunProgress(workspace, claimed.id, claimed.attempt)
    for step in range(1, steps + 1):
        progress.report("train", step, of, _metrics(step))
    latest = {
        "phase": "train",
        "step": steps,
        "total": of,
        "eta_seconds": 1.2 * (of - steps),
        "metrics": _metrics(steps),
    }
    with writing(workspace.engine) as session:
        report_progress(session=session, run_id=claimed.id, attempt=claimed.attempt, progress=latest)
    (progress.folder / "log.txt").write_text("Loading round-1's parent\nTraining on 26 pairs, 4 steps an epoch\n")
    if finish:
        finish_training(workspace, claimed.id, before, after)
    return run


def _metrics(step: int) -> dict[str, float]:
    wobble = 0.02 * math.sin(step * step)
    return {
        "loss": 0.693 - 0.16 * (1 - math.exp(-step / 14)) + wobble,
        "rewards/chosen": 0.012 * step,
        "rewards/rejected": -0.02 * step,
        "rewards/margins": 0.032 * step + 2 * wobble,
        "rewards/accuracies": min(0.95, 0.5 + 0.4 * (1 - math.exp(-step / 18)) + 2 * wobble),
        "logps/chosen": -84 - 0.08 * step + 20 * wobble,
        "logps/rejected": -91 - 0.31 * step + 16 * wobble,
        "learning_rate": 5e-6,
    }


def _judgement(before: float, after: float) -> dict[str, Any]:
    low, high = max(0.0, after - 0.16), min(1.0, after + 0.14)
    judged = {
        "pairs": 34,
        "accuracy_before": before,
        "accuracy_after": after,
        "interval_after": [low, high],
        "change": after - before,
        "change_interval": [after - before - 0.2, after - before + 0.2],
        "margin": 0.2,
    }
    return {"eval": judged, "train": {"pairs": 26, "steps": 40, "loss": 0.55, "seconds": 48.0}}


def finish_training(workspace: Workspace, run_id: int, before: float = 0.5, after: float = 0.67) -> None:
    """End a train run well: its checkpoint is there, and the round waits for the decision."""
    metrics = _judgement(before, after)
    with writing(workspace.engine) as session:
        current = latest_round(session=session)
        assert current is not None and current.id is not None
        made = add_checkpoint(
            session=session,
            name=f"round-{current.number}",
            path=f"checkpoints/round-{current.number}",
            parent_id=current.checkpoint_id,
            snapshot_id=current.snapshot_id,
            metrics=metrics,
        )
        current.result_checkpoint_id = made.id
        session.add(current)
        set_round_status(session=session, round_id=current.id, status=RoundStatus.DECIDING)
        attempt = get_run(session=session, run_id=run_id).attempt
        finish_run(session=session, run_id=run_id, attempt=attempt, result=metrics, checkpoint_id=made.id)


def promote(workspace: Workspace) -> None:
    """Close the open round in favour of its new checkpoint."""
    decide(workspace, decision=Decision.PROMOTE, by="lea")


def duel(workspace: Workspace, *, won: int, lost: int, left_open: int = 0) -> None:
    """Duels of the open round's new checkpoint with its parent: so many judged by "lea", and some still to judge."""
    with writing(workspace.engine) as session:
        current = latest_round(session=session)
        assert current is not None and current.id is not None and current.result_checkpoint_id is not None
        both = []
        for number in range(won + lost + left_open):
            prompt = add_prompt(session, f"Held out {number}?", held_out_share=1)
            texts = (
                (f"A new answer to {number}.", current.result_checkpoint_id),
                ("An old one.", current.checkpoint_id),
            )
            both.append(tuple(_text(session, prompt.id or 0, text, writer) for text, writer in texts))
        add_duels(session=session, round_id=current.id, duels=both, seed=0)
        lea = get_or_add_annotator(session=session, name="lea").id or 0
        mine = Pair.purpose == Purpose.DUEL, Pair.round_id == current.id
        added = session.exec(select(Pair).where(*mine).order_by(col(Pair.id))).all()
        for place, pair in enumerate(added[: won + lost]):
            shown = shown_pair(session=session, pair_id=pair.id or 0, annotator_id=lea)
            choice = Choice.LEFT if (shown.left_side == "a") == (place < won) else Choice.RIGHT
            record_comparison(session=session, pair_id=pair.id or 0, annotator_id=lea, choice=choice)


def _text(session: Session, prompt_id: int, text: str, checkpoint_id: int) -> Completion:
    new = NewCompletion(text=text)
    return add_completion(session=session, prompt_id=prompt_id, new=new, checkpoint_id=checkpoint_id)
