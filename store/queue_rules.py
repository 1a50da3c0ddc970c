"""The rules by which pairs are handed out, and an annotator's day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta

from sqlmodel import Session, col, select

from store.holds import HOLD
from store.models import COUNTED, MEASURING, Comparison, Pair, Verdict, now


@dataclass(frozen=True)
class QueueRules:
    """How pairs are handed out; as they stand here: in the queue's order, and nothing mixed in.

    `gold` and `repeats` are shares of what each annotator is asked. A pair is repeated once its annotator has judged
    `repeat_after` others of the round since. `calibration`: how many gold pairs a newcomer is told the answer of.
    `daily_quota`: comparisons that one annotator makes in a day (UTC), skips left out, a ranking counted once; 0: as
    many as they like.
    """

    hold: timedelta = HOLD
    gold: float = 0.0
    repeats: float = 0.0
    repeat_after: int = 20
    calibration: int = 0
    daily_quota: int = 0


PLAIN_RULES = QueueRules()


def is_done_for_today(*, session: Session, annotator_id: int, rules: QueueRules) -> bool:
    """Whether this annotator has made their comparisons for today. One look into an index, as long as the quota."""
    if not rules.daily_quota:
        return False
    earliest = (
        select(Comparison.created_at)
        .join(Pair, col(Pair.id) == Comparison.pair_id)
        .where(
            col(Pair.purpose).in_((*COUNTED, *MEASURING)),  # practice is no work
            col(Pair.follows).is_(None),
            Comparison.annotator_id == annotator_id,
            Comparison.verdict != Verdict.SKIP,
            col(Comparison.superseded_at).is_(None),
            ~col(Comparison.adjudicates),
        )
        .order_by(col(Comparison.id).desc())
        .offset(rules.daily_quota - 1)
        .limit(1)
    )
    made = session.exec(earliest).first()
    return made is not None and made >= _midnight()


def _midnight() -> datetime:
    moment = now()
    return datetime.combine(moment.date(), time(), tzinfo=moment.tzinfo)
