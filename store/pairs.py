"""Completions and the pairs made of them: written by sampling, served one at a time to annotators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import case, func, literal_column, update
from sqlmodel import Session, col, select

from store.errors import StoreError, UnknownRecordError
from store.hashing import fraction, text_hash
from store.models import Annotator, Comparison, Completion, Pair, Prompt, Purpose, Verdict, now
from store.prompts import Message

HOLD = timedelta(minutes=3)  # how long a pair is kept for the annotator it was shown to


@dataclass(frozen=True)
class NewCompletion:
    """What sampling hands over for each completion. `tokens` counts the generated tokens, EOS included."""

    text: str
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    finish_reason: str = "imported"
    names_maker: bool = False


@dataclass(frozen=True)
class ShownPair:
    """A pair as one annotator sees it: texts by side, and nothing that says who wrote them."""

    pair_id: int
    messages: list[Message]
    left: str
    right: str
    left_side: str  # which completion, "a" or "b", stands left for this annotator
    round_id: int | None


def left_side(*, side_seed: int, annotator_id: int) -> str:
    """Which completion stands left for this annotator, "a" or "b": drawn once, the same after every reload."""
    return "a" if fraction(text_hash(f"side:{side_seed}:{annotator_id}")) < 0.5 else "b"


def draw_side_seed(first_hash: str, second_hash: str, round_id: int | None) -> int:
    """The seed a pair's sides are drawn from: the same for the same two texts in the same round."""
    return int(text_hash(f"{first_hash}:{second_hash}:{round_id}")[:12], 16)


def add_completion(
    *,
    session: Session,
    prompt_id: int,
    new: NewCompletion,
    checkpoint_id: int,
    run_id: int | None = None,
) -> Completion:
    """Write one completion by a checkpoint. (Imported texts come in through `bulk_adding.py`.)"""
    completion = Completion(
        prompt_id=prompt_id,
        checkpoint_id=checkpoint_id,
        run_id=run_id,
        text=new.text,
        text_hash=text_hash(new.text),
        seed=new.seed,
        settings=new.settings,
        tokens=new.tokens,
        finish_reason=new.finish_reason,
        names_maker=new.names_maker,
    )
    session.add(completion)
    session.flush()
    return completion


def add_pair(
    *,
    session: Session,
    prompt_id: int,
    completions: Sequence[Completion],
    round_id: int | None = None,
    purpose: Purpose = Purpose.TRAIN,
    position: int = 0,
    wanted: int = 1,
) -> Pair:
    """Write a pair of two completions, in the order given as `a` and `b`.

    `wanted` is how many comparisons it asks for (0: none, for pairs that came in with their verdicts).
    Raises StoreError where the two are the same text or belong to another prompt.
    """
    first, second = completions
    if first.text_hash == second.text_hash:
        raise StoreError("the two completions are the same text")
    if {first.prompt_id, second.prompt_id} != {prompt_id}:
        raise StoreError("the two completions answer different prompts")
    assert first.id is not None and second.id is not None
    seed = draw_side_seed(first.text_hash, second.text_hash, round_id)
    pair = Pair(
        prompt_id=prompt_id,
        completion_a_id=first.id,
        completion_b_id=second.id,
        round_id=round_id,
        purpose=purpose,
        side_seed=seed,
        position=position,
        wanted=wanted,
        open_slots=wanted,
    )
    session.add(pair)
    session.flush()
    return pair


def next_pair(*, session: Session, round_id: int, annotator_id: int) -> ShownPair | None:
    """The next pair of the round for this annotator, held for them; None when there is nothing left for them now.

    The pair they hold already comes first (a reload, a second tab or an undo shows it again), then the queue's order.
    One statement on two partial indexes: its cost follows the work that is left, not the comparisons made.
    """
    moment = now()
    wants = col(Pair.open_slots) > literal_column("0")  # spelled as the partial index is, or PostgreSQL passes it over
    answered = select(Comparison.id).where(
        Comparison.pair_id == Pair.id,
        Comparison.annotator_id == annotator_id,
        col(Comparison.superseded_at).is_(None),
    )
    # The lock is for PostgreSQL, where two annotators' statements run side by side; SQLite has one writer at a time.
    wanting = (
        select(Pair.id)
        .where(Pair.round_id == round_id, wants, ~answered.exists())
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    mine = wanting.where(col(Pair.held_by) == annotator_id).order_by(col(Pair.held_until).desc())
    free = wanting.where(col(Pair.held_by).is_(None) | (col(Pair.held_until) < moment)).order_by(
        col(Pair.position), col(Pair.id)
    )
    row = session.execute(
        update(Pair)
        .where(col(Pair.id) == func.coalesce(mine.scalar_subquery(), free.scalar_subquery()))
        .values(held_by=annotator_id, held_until=moment + HOLD)
        .returning(col(Pair.id))
        .execution_options(synchronize_session=False)
    ).first()
    return None if row is None else shown_pair(session=session, pair_id=row[0], annotator_id=annotator_id)


def shown_pair(*, session: Session, pair_id: int, annotator_id: int) -> ShownPair:
    """The pair as this annotator sees it. Raises UnknownRecordError."""
    pair, prompt = get_pair(session=session, pair_id=pair_id)
    side = left_side(side_seed=pair.side_seed, annotator_id=annotator_id)
    texts = {
        "a": session.get_one(Completion, pair.completion_a_id).text,
        "b": session.get_one(Completion, pair.completion_b_id).text,
    }
    other = "b" if side == "a" else "a"
    return ShownPair(pair_id, prompt.messages, texts[side], texts[other], side, pair.round_id)


def get_pair(*, session: Session, pair_id: int) -> tuple[Pair, Prompt]:
    """A pair and its prompt. Raises UnknownRecordError."""
    pair = session.get(Pair, pair_id)
    if pair is None:
        raise UnknownRecordError(f"There is no pair {pair_id}.")
    return pair, session.get_one(Prompt, pair.prompt_id)


def lock_pair(*, session: Session, pair_id: int) -> Pair:
    """The pair, its row locked where the database has row locks: writers of its comparisons go one after another.

    Raises UnknownRecordError.
    """
    pair = session.get(Pair, pair_id, with_for_update=True)
    if pair is None:
        raise UnknownRecordError(f"There is no pair {pair_id}.")
    return pair


def hold_pair(*, session: Session, pair_id: int, annotator_id: int) -> None:
    """Keep a pair for this annotator, unless it is being shown to somebody else."""
    moment = now()
    session.execute(
        update(Pair)
        .where(
            col(Pair.id) == pair_id,
            col(Pair.held_by).is_(None) | (col(Pair.held_by) == annotator_id) | (col(Pair.held_until) < moment),
        )
        .values(held_by=annotator_id, held_until=moment + HOLD)
        .execution_options(synchronize_session=False)
    )


def release_hold(*, session: Session, pair_id: int, annotator_id: int) -> None:
    """Let others have this pair, if it was this annotator who held it."""
    session.execute(
        update(Pair)
        .where(col(Pair.id) == pair_id, col(Pair.held_by) == annotator_id)
        .values(held_by=None, held_until=None)
        .execution_options(synchronize_session=False)
    )


def recount_open_slots(*, session: Session, pair_id: int) -> None:
    """Set `open_slots` to what the pair still wants.

    A skip is no answer, and neither is what a retracted annotator said: the pair stays open for others.
    """
    answered = (
        select(func.count())
        .select_from(Comparison)
        .join(Annotator, col(Annotator.id) == Comparison.annotator_id)
        .where(
            Comparison.pair_id == pair_id,
            Comparison.verdict != Verdict.SKIP,
            col(Comparison.superseded_at).is_(None),
            col(Annotator.retracted_at).is_(None),
        )
        .scalar_subquery()
    )
    session.execute(
        update(Pair)
        .where(col(Pair.id) == pair_id)
        .values(open_slots=case((col(Pair.wanted) > answered, col(Pair.wanted) - answered), else_=0))
        .execution_options(synchronize_session=False)
    )


def count_pairs(*, session: Session, round_id: int | None) -> dict[str, int]:
    """How many pairs a round has and how many of them still want a comparison: `{"pairs": n, "open": m}`.

    `round_id` None: those that were imported.
    """
    pairs, open_pairs = session.exec(
        select(func.count(), func.count().filter(col(Pair.open_slots) > 0)).where(Pair.round_id == round_id)
    ).one()
    return {"pairs": pairs, "open": open_pairs}


def count_naming_makers(*, session: Session, round_id: int) -> int:
    """How many of a round's pairs hold a completion that names its maker: comparing those is not quite blind."""
    naming = select(col(Completion.id)).where(
        col(Completion.id).in_([col(Pair.completion_a_id), col(Pair.completion_b_id)]), col(Completion.names_maker)
    )
    return session.exec(select(func.count()).where(Pair.round_id == round_id, naming.exists())).one()
