"""How pairs are handed out, as pairloop.toml says, and what a researcher does to the queue of the open round.

The rules themselves are the store's (store/queue_rules.py, pairs.py, holds.py, measuring.py, priorities.py).
Importable without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import Any

from sqlmodel import Session

from dpo_core.config import Settings
from dpo_core.errors import RunError
from dpo_core.workspace import Workspace
from store.chat_tables import Exchange
from store.database import reading, writing
from store.hashing import fraction, text_hash
from store.models import Completion, Pair, Prompt, Round, RoundStatus
from store.pairs import add_pair
from store.playground_pairs import completions_of, is_pair_of, kept_exchanges, move_open_pairs
from store.priorities import ask_again, count_queue, first_in_queue, open_pairs_about, put_first
from store.queue_rules import QueueRules, is_done_for_today
from store.round_work import WorkDone
from store.rounds import latest_round, pause_round, resume_round
from store.slates import comparisons_in

SHOWN = 10  # pairs at the head of the queue


def queue_rules(settings: Settings) -> QueueRules:
    """The rules that [queue] of pairloop.toml states."""
    queue = settings.queue
    return QueueRules(
        hold=timedelta(minutes=queue.hold_minutes),
        gold=queue.gold,
        repeats=queue.repeats,
        repeat_after=queue.repeat_after,
        calibration=queue.calibration,
        daily_quota=queue.daily_quota,
    )


def per_pair(settings: Settings) -> float:
    """How many comparisons a round's pairs ask for, on average."""
    return 1 + settings.queue.overlap * (settings.round.comparisons_per_pair - 1)


def prompts_wanted(settings: Settings, comparisons: int) -> int:
    """For how many prompts to write, so that a round comes to so many comparisons, with some to spare."""
    pairs = comparisons / per_pair(settings) * (1 + settings.round.spare_pairs)
    return max(1, round(pairs)) if settings.round.completions_per_prompt == 2 else prompts_for(settings, pairs)


def prompts_for(settings: Settings, pairs: float) -> int:
    """How many prompts have so many pairs, at least: each has one for each two of its completions."""
    return max(1, ceil(pairs / comparisons_in(settings.round.completions_per_prompt)))


def comparisons_wanted(run_settings: dict[str, Any], completions: Sequence[Completion]) -> int:
    """How many comparisons a new pair asks for: drawn by its prompt and texts, the same when a run is resumed.

    `run_settings` are the sample run's: `wanted` for a share `overlap` of the pairs, one for the others.
    """
    named = ["overlap", f"{completions[0].prompt_id}", *(completion.text_hash for completion in completions)]
    drawn = fraction(text_hash(":".join(named)))
    return int(run_settings["wanted"]) if drawn < run_settings.get("overlap", 1.0) else 1


def meter_figures(settings: Settings, target: int, work: WorkDone) -> tuple[int, int]:
    """How far the round is for whoever compares: comparisons made, and asked for.

    Where gold pairs, repeats or second looks are mixed in, those are counted in both: a count that stood still after a
    verdict would tell which they are. How many there will be is only expected, so a round that has what it asked for is
    full.
    """
    queue, done = settings.queue, work.judged
    if not queue.gold and not queue.repeats and not queue.second_looks:
        return done, target
    made, expected = done + work.measured, round(target / (1 - queue.gold - queue.repeats))
    return made, made if done >= target else max(expected, made + 1)


def done_for_today(workspace: Workspace, annotator_id: int) -> bool:
    """Whether this annotator has made their comparisons for today."""
    with reading(workspace.engine) as session:
        return is_done_for_today(session=session, annotator_id=annotator_id, rules=queue_rules(workspace.settings))


def pause(workspace: Workspace) -> Round:
    """Serve nobody a pair of the open round until it is resumed. Raises RunError without one, StateError if paused."""
    with writing(workspace.engine) as session:
        return pause_round(session=session, round_id=_open_round_id(session))


def resume(workspace: Workspace) -> Round:
    """Serve the open round's pairs again. Raises RunError without one, StateError where it is not paused."""
    with writing(workspace.engine) as session:
        return resume_round(session=session, round_id=_open_round_id(session))


def prioritise(workspace: Workspace, *, words: str) -> int:
    """Ask the open round's pairs whose prompts have these words first; how many. Raises RunError where none has."""
    with writing(workspace.engine) as session:
        round_id = _open_round_id(session)
        found = open_pairs_about(session=session, round_id=round_id, words=words)
        if not found:
            raise RunError(f"No pair that is still to be compared has {words!r} in its prompt. Nothing was changed.")
        put_first(session=session, round_id=round_id, pair_ids=found)
        return len(found)


def ask_doubtful_again(workspace: Workspace, *, below: float) -> int:
    """Ask one annotator more about pairs on which less than this share agree; how many. Raises RunError."""
    if not 0 < below <= 1:
        raise RunError(f"The share of annotators who agree lies between 0 and 1, not at {below:g}.")
    with writing(workspace.engine) as session:
        return len(ask_again(session=session, round_id=_open_round_id(session), below=below))


@dataclass(frozen=True)
class QueueState:
    """The open round's queue: figures as `store.priorities.count_queue` has them, and the pairs at its head."""

    round: Round
    counts: dict[str, int]
    first: list[tuple[Pair, Prompt]]


def read_queue(workspace: Workspace) -> QueueState:
    """The open round's queue as it is now. Raises RunError without an open round."""
    with reading(workspace.engine) as session:
        round_id = _open_round_id(session)
        return QueueState(
            round=session.get_one(Round, round_id),
            counts=count_queue(session=session, round_id=round_id),
            first=first_in_queue(session=session, round_id=round_id, limit=SHOWN),
        )


def ask_kept(session: Session, settings: Settings, round_id: int) -> None:
    """Ask the round, before its other pairs, those of the Playground that wait, or that earlier rounds left open."""
    asked = move_open_pairs(session=session, round_id=round_id)
    asked += [_ask(session, settings, round_id, kept) for kept in kept_exchanges(session=session)]
    if asked:
        put_first(session=session, round_id=round_id, pair_ids=asked)


def _ask(session: Session, settings: Settings, round_id: int, kept: Exchange) -> int:
    both = completions_of(session=session, kept=kept)
    rules = {"wanted": settings.round.comparisons_per_pair, "overlap": settings.queue.overlap}
    wanted = comparisons_wanted(rules, both)
    pair = add_pair(session=session, prompt_id=both[0].prompt_id, completions=both, round_id=round_id, wanted=wanted)
    is_pair_of(session=session, kept=kept, pair=pair)
    assert pair.id is not None
    return pair.id


def _open_round_id(session: Session) -> int:
    current = latest_round(session=session)
    if current is None or current.id is None or current.status == RoundStatus.DONE:
        raise RunError("No round is open. Start one first (`pairloop sample`).")
    return current.id
