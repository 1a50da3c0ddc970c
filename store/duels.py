"""Duels: pairs of which one completion is a new checkpoint's, the other its parent's or the base's.

They are asked on held-out prompts, blind, mixed into the queue among a round's other pairs; nothing is trained on them.
The new checkpoint's completion is the pair's `a`: the sides on which the two stand are drawn as for every pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select

from store.hashing import text_hash
from store.models import COUNTED, Annotator, Comparison, Completion, Pair, Prompt, Purpose, Round, RoundStatus, Verdict
from store.pairs import add_pair
from store.prompts import Message, is_asked
from store.queue_tables import QueueMark
from store.win_rate import Duel, Outcome

_NEW: Any = aliased(Completion)
_OLD: Any = aliased(Completion)
_OUTCOMES = {
    Verdict.A: Outcome.WON,
    Verdict.B: Outcome.LOST,
    Verdict.TIE: Outcome.TIE,
    Verdict.BOTH_BAD: Outcome.BOTH_BAD,
}


@dataclass(frozen=True)
class DuelCounts:
    """How many duels of two checkpoints were written, and how many of these still want an answer."""

    written: int
    open: int


def prompts_to_duel(
    *,
    session: Session,
    round_id: int,
    checkpoint_id: int,
    against_id: int,
    count: int,
    seed: int,
    taken: Collection[int] = (),
) -> list[Prompt]:
    """Up to `count` held-out prompts: those on which the two met least often, in an order drawn from `seed`.

    Among equals those come last that the round's own pairs ask as well. None of those whose ids are `taken`.
    """
    met = (
        select(Pair.prompt_id, func.count().label("times"))
        .where(*_between(checkpoint_id, against_id))
        .group_by(col(Pair.prompt_id))
        .subquery()
    )
    rows = session.exec(
        select(Prompt, func.coalesce(met.c.times, 0))
        .outerjoin(met, met.c.prompt_id == Prompt.id)
        .where(is_asked(), col(Prompt.held_out))
    ).all()
    shown = set(session.exec(select(Pair.prompt_id).where(Pair.round_id == round_id, col(Pair.purpose).in_(COUNTED))))

    def rank(prompt: Prompt, times: int) -> tuple[int, bool, str]:
        return times, prompt.id in shown, text_hash(f"duel:{seed}:{prompt.content_hash}")

    ranked = sorted(rows, key=lambda row: rank(*row))
    return [prompt for prompt, _ in ranked if prompt.id not in taken][:count]


def _between(checkpoint_id: int, *against_ids: int) -> tuple[Any, ...]:
    """Conditions on `Pair`: a duel of the first one with one of the others."""
    new = sa.select(col(Completion.id)).where(col(Completion.checkpoint_id) == checkpoint_id)
    old = sa.select(col(Completion.id)).where(col(Completion.checkpoint_id).in_(against_ids))
    return (
        col(Pair.purpose) == Purpose.DUEL,
        col(Pair.completion_a_id).in_(new),
        col(Pair.completion_b_id).in_(old),
    )


def add_duels(*, session: Session, round_id: int, duels: Sequence[tuple[Completion, Completion]], seed: int) -> int:
    """Ask each of these, the new checkpoint's completion first, among the pairs that the round still asks; how many.

    Their order is drawn from `seed`, so that no opponent comes before the other. Where both wrote the same there is
    nothing to compare: these are left out. A round that is done asks nobody; what is added to it waits for the next
    one (`move_open_duels`).
    """
    kept = [both for both in duels if both[0].text_hash != both[1].text_hash]
    Random(seed).shuffle(kept)
    for both, place in zip(kept, _places(session, round_id, len(kept), seed), strict=True):
        add_pair(
            session=session,
            prompt_id=both[0].prompt_id,
            completions=both,
            round_id=round_id,
            purpose=Purpose.DUEL,
            position=place,
        )
    _ask_more(session, {round_id: len(kept)})
    return len(kept)


def _places(session: Session, round_id: int, count: int, seed: int) -> list[int]:
    """Positions in the queue, drawn among those of the pairs that are still asked; after all others without any."""
    asked = select(Pair.position).where(Pair.round_id == round_id, Pair.open_slots > 0, Pair.purpose == Purpose.TRAIN)
    there = sorted(session.exec(asked))
    if there:
        draw = Random(seed)
        return [draw.choice(there) for _ in range(count)]
    # Not after second looks, which are mixed among the duels to come.
    counted = Pair.round_id == round_id, col(Pair.purpose).in_(COUNTED)
    last = session.exec(select(func.max(Pair.position)).where(*counted)).one()
    return list(range((last or 0) + 1, (last or 0) + 1 + count))


def _ask_more(session: Session, counts: Mapping[int, int]) -> None:
    """Let each of these rounds ask for so many duels more, and everybody look for them from the head of its queue."""
    for round_id, count in counts.items():
        found = session.get_one(Round, round_id)
        found.duels += count
        session.add(found)
    session.execute(sa.delete(QueueMark).where(col(QueueMark.round_id).in_(counts)))


def move_open_duels(
    *, session: Session, round_id: int, checkpoint_id: int, against_ids: Sequence[int], places: int, seed: int
) -> int:
    """Ask the new round what is still open of a checkpoint's duels with these, in rounds that are done; how many.

    They are spread over the first `places` positions, where the round's own pairs will be. One that somebody has
    answered already stays where it is.
    """
    answered = sa.select(col(Comparison.pair_id)).where(col(Comparison.superseded_at).is_(None))
    over = sa.select(col(Round.id)).where(col(Round.status) == RoundStatus.DONE)
    left = session.exec(
        select(Pair)
        .where(
            *_between(checkpoint_id, *against_ids),
            Pair.open_slots > 0,
            col(Pair.round_id).in_(over),
            col(Pair.id).not_in(answered),
        )
        .order_by(col(Pair.id))
    ).all()
    fewer = Counter(pair.round_id for pair in left if pair.round_id is not None)
    draw = Random(seed)
    for pair in left:
        pair.round_id, pair.position = round_id, draw.randrange(max(1, places))
        session.add(pair)
    _ask_more(session, {number: -count for number, count in fewer.items()} | {round_id: len(left)})
    return len(left)


def count_duels(*, session: Session, checkpoint_id: int, against_id: int) -> DuelCounts:
    """How many duels of these two there are."""
    query = select(func.count(), func.count().filter(col(Pair.open_slots) > 0)).select_from(Pair)
    return DuelCounts(*session.exec(query.where(*_between(checkpoint_id, against_id))).one())


def judged_duels(*, session: Session, checkpoint_id: int, against_id: int) -> list[Duel]:
    """What was said in the duels of these two, oldest first; lengths in characters.

    Skips and decisions of the inbox are not among them, nor what retracted annotators said.
    """
    longer_by = func.length(_NEW.text) - func.length(_OLD.text)
    rows = session.execute(
        _judged(col(Pair.prompt_id), col(Comparison.verdict), longer_by)
        .where(_NEW.checkpoint_id == checkpoint_id, _OLD.checkpoint_id == against_id)
        .order_by(col(Comparison.id))
    )
    return [Duel(prompt, _OUTCOMES[Verdict(verdict)], difference) for prompt, verdict, difference in rows]


def _judged(*columns: Any) -> Any:
    """A query for what tells of a duel: the comparison, its pair and both completions."""
    retracted = sa.select(col(Annotator.id)).where(col(Annotator.retracted_at).is_not(None))
    return (
        sa.select(*columns)
        .select_from(Comparison)
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(_NEW, _NEW.id == col(Pair.completion_a_id))
        .join(_OLD, _OLD.id == col(Pair.completion_b_id))
        .where(
            col(Pair.purpose) == Purpose.DUEL,
            col(Comparison.superseded_at).is_(None),
            ~col(Comparison.adjudicates),
            col(Comparison.verdict) != Verdict.SKIP,
            col(Comparison.annotator_id).not_in(retracted),
        )
    )


def answers_of_both(
    *, session: Session, checkpoint_id: int, against_id: int, count: int
) -> list[tuple[list[Message], str, str]]:
    """What two checkpoints answered to the same held-out prompts, for whatever duels: prompt and both texts.

    Nobody picks: the first `count` of these prompts by the hash of their content, and of several answers to one the
    earliest. A prompt on which any duel still wants an answer is left out: who judges it must not know who wrote what.
    """
    mine, theirs = (_earliest_answers(each) for each in (checkpoint_id, against_id))
    wanted = sa.select(col(Pair.prompt_id)).where(col(Pair.purpose) == Purpose.DUEL, col(Pair.open_slots) > 0)
    rows = session.execute(
        sa.select(col(Prompt.messages), _NEW.text, _OLD.text)
        .select_from(Prompt)
        .join(mine, mine.c.prompt_id == col(Prompt.id))
        .join(theirs, theirs.c.prompt_id == col(Prompt.id))
        .join(_NEW, _NEW.id == mine.c.first)
        .join(_OLD, _OLD.id == theirs.c.first)
        .where(col(Prompt.held_out), col(Prompt.id).not_in(wanted))
        .order_by(col(Prompt.content_hash))
        .limit(count)
    )
    return [(messages, new, old) for messages, new, old in rows]


def _earliest_answers(checkpoint_id: int) -> Any:
    """A checkpoint's completions that stand in duels, the first for each prompt."""
    sides = (col(Pair.completion_a_id), col(Pair.completion_b_id))
    duelled = sa.union(*(sa.select(side).where(col(Pair.purpose) == Purpose.DUEL) for side in sides))
    return (
        sa.select(col(Completion.prompt_id), func.min(Completion.id).label("first"))
        .where(col(Completion.checkpoint_id) == checkpoint_id, col(Completion.id).in_(duelled))
        .group_by(col(Completion.prompt_id))
        .subquery()
    )


def all_met(*, session: Session) -> list[tuple[int, int]]:
    """Every two checkpoints that met in a duel which was judged: the new one first."""
    rows = session.execute(_judged(_NEW.checkpoint_id, _OLD.checkpoint_id).distinct())
    return sorted((new, old) for new, old in rows)
