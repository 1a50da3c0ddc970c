"""Duels of a new checkpoint: asked for after its training, written by a run, judged in the queue, and read here.

    queue_duels     the run that writes them (writing_duels.py), with its parent and with the base
    ask_on          what is not judged when the next round starts goes along into it
    read_matches    what was said in them so far: a win rate that may be watched, for each opponent

Importable without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from dpo_core.config import DuelSettings
from dpo_core.errors import RunError
from dpo_core.workspace import Workspace
from store.checkpoints import base_checkpoint
from store.database import writing
from store.duels import DuelCounts, all_met, count_duels, judged_duels, move_open_duels, prompts_to_duel
from store.intervals import Estimate
from store.models import Checkpoint, Round, RoundStatus, Run, RunKind
from store.prompts import count_prompts
from store.rounds import latest_round
from store.runs import list_runs, queue_run
from store.win_rate import DuelVerdict, WinRate, length_controlled, win_rate

BASE_PART = 5  # one in so many held-out prompts: what decides is the match with the parent


@dataclass(frozen=True)
class Match:
    """What a checkpoint's duels with one opponent came to so far."""

    checkpoint: str
    against: str
    counts: DuelCounts
    held_out: int  # prompts there are by now to hold duels on
    win_rate: WinRate
    alpha: float  # that its verdict was told with
    at_equal_length: Estimate

    def as_record(self) -> dict[str, Any]:
        """For the record of a decision: plain figures."""
        found, equal = self.win_rate, self.at_equal_length
        return {
            "against": self.against,
            "won": found.won,
            "lost": found.lost,
            "ties": found.ties,
            "both_bad": found.both_bad,
            "prompts": found.prompts,
            "rate": found.rate,
            "interval": list(found.interval),
            "alpha": self.alpha,
            "verdict": found.verdict.value,
            "at_equal_length": equal.value,
            "at_equal_length_interval": list(equal.interval) if equal.interval is not None else None,
        }


def opponents(session: Session, checkpoint: Checkpoint) -> list[Checkpoint]:
    """What a checkpoint has to be better than: its parent, and the base where that is another one."""
    if checkpoint.parent_id is None:
        return []
    parent, base = session.get_one(Checkpoint, checkpoint.parent_id), base_checkpoint(session=session)
    return [parent] if parent.id == base.id else [parent, base]


def queue_duels(
    session: Session,
    workspace: Workspace,
    *,
    current: Round,
    checkpoint: Checkpoint,
    by: str,
    against_parent: int | None = None,
) -> Run | None:
    """Ask for a run that writes a checkpoint's duels; `against_parent`: only so many with its parent.

    None where pairloop.toml asks for none, no prompt is held out, or it has no parent. Raises StateError while duels
    are being written.
    """
    settings = workspace.settings
    seed = _seed(session, current, settings.sampling.seed)
    counts = _counts(session, checkpoint, settings.duels, against_parent)
    asked = _prompts(session, current, checkpoint, counts, seed)
    if not asked:
        return None
    details = {
        "checkpoint": checkpoint.name,
        "against": asked,
        "sampling": settings.sampling.model_dump() | {"seed": seed},
    }
    return queue_run(session=session, kind=RunKind.DUEL, settings=details, requested_by=by, round_id=current.id)


def _counts(
    session: Session, checkpoint: Checkpoint, asked: DuelSettings, against_parent: int | None
) -> list[tuple[Checkpoint, int]]:
    """How many duels with each opponent: the base gets one in BASE_PART of the prompts at most, to leave others."""
    met, with_parent = opponents(session, checkpoint), asked.against_parent
    if against_parent is not None:
        met, with_parent = met[:1], against_parent
    if len(met) < 2:
        return [(parent, with_parent) for parent in met]
    there = count_prompts(session=session)["held_out"]
    with_base = min(asked.against_base, there // BASE_PART)
    return [(met[0], min(with_parent, there - with_base)), (met[1], with_base)]


def _prompts(
    session: Session, current: Round, checkpoint: Checkpoint, counts: list[tuple[Checkpoint, int]], seed: int
) -> dict[str, list[int]]:
    """The prompts of the duels with each opponent, by its name: no prompt with two of them.

    The new checkpoint writes once for each prompt, and whoever saw its text twice would know whose it is.
    """
    asked: dict[str, list[int]] = {}
    for against, count in counts:
        found = prompts_to_duel(
            session=session,
            round_id=_id(current),
            checkpoint_id=_id(checkpoint),
            against_id=_id(against),
            count=count,
            seed=seed,
            taken=[each for prompts in asked.values() for each in prompts],
        )
        asked[against.name] = [prompt.id for prompt in found if prompt.id is not None]
    return {name: prompts for name, prompts in asked.items() if prompts}


def _seed(session: Session, current: Round, seed: int) -> int:
    """Other texts each time, and other than those of the round's pairs."""
    before = sum(run.kind == RunKind.DUEL for run in list_runs(session=session, round_id=current.id))
    return seed + 1000 * current.number + 500 + before


def more_duels(workspace: Workspace, *, pairs: int, by: str) -> Run:
    """Queue more duels of the open round's new checkpoint with its parent. Raises RunError where there is none."""
    with writing(workspace.engine) as session:
        current = latest_round(session=session)
        if current is None or current.status != RoundStatus.DECIDING or current.result_checkpoint_id is None:
            raise RunError("There is no new checkpoint to decide about, so there is nothing to write duels for.")
        checkpoint = session.get_one(Checkpoint, current.result_checkpoint_id)
        run = queue_duels(session, workspace, current=current, checkpoint=checkpoint, by=by, against_parent=pairs)
        if run is None:
            raise RunError(
                "No prompt is held out, so there is nothing to hold duels on. `pairloop import` brings some."
            )
        return run


def ask_on(session: Session, workspace: Workspace, *, opened: Round, checkpoint: Checkpoint, places: int) -> int:
    """Let a new round ask what is open of its checkpoint's duels, in its first `places` places; how many.

    Only those of matches that are undecided: no more is asked of people than it takes to know.
    """
    alpha, seed = workspace.settings.duels.alpha, workspace.settings.sampling.seed + opened.number
    undecided = [
        _id(against)
        for against in opponents(session, checkpoint)
        if read_match(session, checkpoint, against, alpha=alpha).win_rate.verdict == DuelVerdict.UNDECIDED
    ]
    return move_open_duels(
        session=session,
        round_id=_id(opened),
        checkpoint_id=_id(checkpoint),
        against_ids=undecided,
        places=places,
        seed=seed,
    )


def read_matches(session: Session, checkpoint: Checkpoint, *, alpha: float) -> list[Match]:
    """What was said in a checkpoint's duels, its parent first; none for the base."""
    return [read_match(session, checkpoint, entry, alpha=alpha) for entry in opponents(session, checkpoint)]


def read_match(session: Session, checkpoint: Checkpoint, against: Checkpoint, *, alpha: float) -> Match:
    """What was said in the duels of these two."""
    both = {"checkpoint_id": _id(checkpoint), "against_id": _id(against)}
    said = judged_duels(session=session, **both)
    held_out = count_prompts(session=session)["held_out"]
    return Match(
        checkpoint=checkpoint.name,
        against=against.name,
        counts=count_duels(session=session, **both),
        held_out=held_out,
        win_rate=win_rate(said, alpha=alpha, prompts_there=held_out),
        alpha=alpha,
        at_equal_length=length_controlled(said),
    )


def all_matches(session: Session, *, alpha: float) -> list[Match]:
    """Every two checkpoints that ever met in a judged duel."""
    return [
        read_match(session, session.get_one(Checkpoint, new), session.get_one(Checkpoint, old), alpha=alpha)
        for new, old in all_met(session=session)
    ]


def _id(row: Checkpoint | Round) -> int:
    assert row.id is not None
    return row.id
