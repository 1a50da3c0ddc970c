"""Calibration: a few gold pairs that newcomers judge first, and are told the answer of. Nothing else counts them.

A calibration pair is a row of its own beside its gold pair, so that what newcomers say while they learn is never taken
for how good they are; and who was told a gold pair's answer is not asked it any more (store/measuring.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from store.adding_once import add_unless_there
from store.hashing import text_hash
from store.measuring import is_gold
from store.models import Comparison, Pair, Purpose
from store.pairs import ShownPair, left_side, shown_pair


@dataclass(frozen=True)
class Practised:
    """A calibration pair that was judged: as it was shown, whether that was right, what is, and why.

    `expected` says it as the page does: "left", "right", "tie" or "both_bad".
    """

    shown: ShownPair
    right: bool
    expected: str
    note: str | None


@dataclass(frozen=True)
class Calibration:
    """How far somebody is with it: the pairs they judged, in order, and those still to come."""

    practised: list[Practised]
    to_come: list[ShownPair]

    @property
    def right(self) -> int:
        """How many were judged as they should be."""
        return sum(each.right for each in self.practised)


def prepare_calibration(*, session: Session, wanted: int) -> None:
    """See to it that there are so many calibration pairs, or as many as there are gold pairs to make them of."""
    missing = wanted - len(_calibration_pairs(session, wanted))
    if missing <= 0:
        return
    made: Any = aliased(Pair)
    known = select(made.repeats).where(made.gold_verdict.is_not(None), made.purpose == Purpose.CALIBRATION)
    gold = session.exec(select(Pair).where(*is_gold(), col(Pair.id).not_in(known))).all()
    for original in sorted(gold, key=lambda pair: text_hash(f"calibration:{pair.side_seed}:{pair.id}"))[:missing]:
        add_unless_there(session=session, row=_practice(original))  # another newcomer may be beginning just now


def _practice(gold: Pair) -> Pair:
    return Pair(
        prompt_id=gold.prompt_id,
        completion_a_id=gold.completion_a_id,
        completion_b_id=gold.completion_b_id,
        purpose=Purpose.CALIBRATION,
        side_seed=gold.side_seed,
        wanted=0,
        open_slots=0,
        gold_verdict=gold.gold_verdict,
        note=gold.note,
        repeats=gold.id,
    )


def _calibration_pairs(session: Session, wanted: int) -> Sequence[Pair]:
    known = col(Pair.gold_verdict).is_not(None), col(Pair.purpose) == Purpose.CALIBRATION
    return session.exec(select(Pair).where(*known).order_by(col(Pair.id)).limit(wanted)).all()


def read_calibration(*, session: Session, annotator_id: int, wanted: int) -> Calibration:
    """How far this annotator is with the first `wanted` calibration pairs."""
    said = {comparison.pair_id: comparison for comparison in _said(session, annotator_id)}
    pairs = [pair for pair in _calibration_pairs(session, wanted) if pair.id is not None]
    judged = sorted((pair for pair in pairs if pair.id in said), key=lambda pair: said[pair.id or 0].id or 0)
    to_come = [_shown(session, pair, annotator_id) for pair in pairs if pair.id not in said]
    return Calibration([_practised(session, pair, said[pair.id or 0]) for pair in judged], to_come)


def _said(session: Session, annotator_id: int) -> Sequence[Comparison]:
    return session.exec(
        select(Comparison)
        .join(Pair, col(Pair.id) == Comparison.pair_id)
        .where(
            col(Pair.gold_verdict).is_not(None),
            Pair.purpose == Purpose.CALIBRATION,
            Comparison.annotator_id == annotator_id,
            col(Comparison.superseded_at).is_(None),
        )
    ).all()


def _shown(session: Session, pair: Pair, annotator_id: int) -> ShownPair:
    assert pair.id is not None
    return shown_pair(session=session, pair_id=pair.id, annotator_id=annotator_id)


def _practised(session: Session, pair: Pair, said: Comparison) -> Practised:
    expected = pair.gold_verdict or ""
    if expected in ("a", "b"):
        left = left_side(side_seed=pair.side_seed, annotator_id=said.annotator_id)
        expected = "left" if expected == left else "right"
    return Practised(_shown(session, pair, said.annotator_id), said.verdict == pair.gold_verdict, expected, pair.note)
