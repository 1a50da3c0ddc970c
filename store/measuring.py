"""Gold pairs and repeats: when one is due in the place of a new pair, and which. They measure; nothing learns of them.

What is due follows from the annotator's last verdict, by a hash: a reload draws the same, and nobody can count up to
the next one. Nothing here costs more as comparisons pile up: gold pairs have an index of their own, and repeats are
looked for among an annotator's latest comparisons.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from store.adding_once import add_unless_there
from store.hashing import fraction, text_hash
from store.holds import answered_by, is_kept_from
from store.models import COUNTED, Comparison, Pair, Purpose, Round, Verdict
from store.queue_rules import QueueRules

_TOLD: Any = aliased(Pair)  # made once: an alias takes longer to make than to ask for
_AGAIN: Any = aliased(Pair)
REPEAT_WINDOW = 20  # comparisons, just beyond `repeat_after`, out of which one is drawn to be repeated


def due_pair(*, session: Session, round_id: int, annotator_id: int, rules: QueueRules, besides: int = 0) -> int | None:
    """The gold pair or the repeat to show this annotator now; None where a new pair is due, or there is neither.

    A repeat is made when it is due. `besides`: the pair on their screen, where what comes after it is asked for.
    """
    if not rules.gold and not rules.repeats:
        return None
    drawn = f"{round_id}:{annotator_id}:{_last_verdict(session, annotator_id)}:{besides}"
    purpose = due_purpose(drawn, rules)
    if purpose == Purpose.GOLD:
        return _gold_pair(session, annotator_id, drawn, besides)
    return _repeat(session, round_id, annotator_id, rules, drawn) if purpose == Purpose.REPEAT else None


def due_purpose(drawn: str, rules: QueueRules) -> Purpose:
    """What is due: gold and repeats each with their share, over many draws."""
    place = fraction(text_hash(f"due:{drawn}"))
    if place < rules.gold:
        return Purpose.GOLD
    return Purpose.REPEAT if place < rules.gold + rules.repeats else Purpose.TRAIN


def _last_verdict(session: Session, annotator_id: int) -> int:
    standing = select(Comparison.id).where(
        Comparison.annotator_id == annotator_id, col(Comparison.superseded_at).is_(None), ~col(Comparison.adjudicates)
    )
    return session.exec(standing.order_by(col(Comparison.id).desc()).limit(1)).first() or 0


def _gold_pair(session: Session, annotator_id: int, drawn: str, besides: int) -> int | None:
    """One of the gold pairs that this annotator was never asked, nor told the answer of."""
    calibrated = (
        sa.select(col(Comparison.id))
        .join(_TOLD, _TOLD.id == col(Comparison.pair_id))
        .where(
            _TOLD.gold_verdict.is_not(None),
            _TOLD.purpose == Purpose.CALIBRATION,
            _TOLD.repeats == col(Pair.id),
            col(Comparison.annotator_id) == annotator_id,
            col(Comparison.superseded_at).is_(None),
        )
    )
    unasked = select(Pair.id).where(*is_gold(), ~answered_by(annotator_id), ~calibrated.correlate(Pair).exists())
    return _draw(list(session.exec(unasked.where(Pair.id != besides))), drawn)


def is_gold() -> tuple[Any, ...]:
    """Conditions on `Pair`, spelled as the partial index is."""
    return col(Pair.gold_verdict).is_not(None), col(Pair.purpose) == Purpose.GOLD


def opened_at(round_id: Any) -> Any:
    """The moment at which a round was opened, for a statement."""
    return sa.select(col(Round.created_at)).where(col(Round.id) == round_id).scalar_subquery()


def _draw(pair_ids: list[int | None], drawn: str) -> int | None:
    return min(pair_ids, key=lambda pair_id: text_hash(f"which:{drawn}:{pair_id}"), default=None)


def _repeat(session: Session, round_id: int, annotator_id: int, rules: QueueRules, drawn: str) -> int | None:
    original = _draw(_long_ago(session, round_id, annotator_id, rules.repeat_after), drawn)
    return None if original is None else _add_repeat(session, session.get_one(Pair, original), annotator_id)


def _long_ago(session: Session, round_id: int, annotator_id: int, after: int) -> list[int | None]:
    """Pairs of the round that this annotator judged before the latest `after` others, and was not asked again.

    Not those of rankings: two of several texts, without the others, would be another question. Nor those of which they
    saw meanwhile who wrote what.
    """
    repeated = sa.select(_AGAIN.id).where(_AGAIN.repeats == col(Pair.id), _AGAIN.asked_of == annotator_id)
    latest = (
        sa.select(col(Comparison.pair_id))
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .where(
            col(Comparison.annotator_id) == annotator_id,
            col(Comparison.superseded_at).is_(None),
            col(Comparison.verdict) != Verdict.SKIP,
            ~col(Comparison.adjudicates),
            col(Pair.purpose).in_(COUNTED),
            col(Pair.slate_id).is_(None),
        )
        .order_by(col(Comparison.id).desc())
        .offset(after)
        .limit(REPEAT_WINDOW)
        .subquery()
    )
    return list(
        session.exec(
            select(Pair.id).where(
                col(Pair.id).in_(sa.select(latest.c.pair_id)),
                Pair.round_id == round_id,
                ~repeated.correlate(Pair).exists(),
                ~is_kept_from(annotator_id),
            )
        )
    )


def _add_repeat(session: Session, original: Pair, annotator_id: int) -> int:
    """The same two texts, for this annotator alone, each on the side where it did not stand the first time."""
    repeat = Pair(
        prompt_id=original.prompt_id,
        completion_a_id=original.completion_b_id,
        completion_b_id=original.completion_a_id,
        round_id=original.round_id,
        purpose=Purpose.REPEAT,
        side_seed=original.side_seed,
        position=original.position,
        wanted=0,
        open_slots=0,
        repeats=original.id,
        asked_of=annotator_id,
    )
    add_unless_there(session=session, row=repeat)  # a second tab may be asking just now
    again = select(Pair.id).where(Pair.repeats == original.id, Pair.asked_of == annotator_id)
    number = session.exec(again).one()
    assert number is not None
    return number
