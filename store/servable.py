"""Pairs that somebody may still be served, told from those that are open and nobody's.

A pair stays open when it is skipped, or when it asks for more answers than there are annotators. Once every active
annotator has answered or skipped it, or may not be asked, it waits in vain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from store.holds import answered_by, is_for
from store.models import COUNTED, Annotator, Pair, Purpose, Role
from store.pairs import count_pairs

MANY = 500  # servable pairs: from then on it does not matter which of the rest are nobody's, and none is looked at
_PERSON: Any = aliased(Annotator, name="person")
# Spelled out: what it stands in correlates with `Pair` alone.
_THEIRS: Any = sa.literal_column("person.id")
_MAY_COMPARE = (_PERSON.active, _PERSON.role != Role.SOURCE)


def count_servable(*, session: Session, round_id: int) -> dict[str, int]:
    """How many pairs and duels a round has, and how many of both somebody may still be served.

    `{"pairs": n, "duels": d, "open": m, "open_duels": k}`: as `count_pairs`, but only what an active annotator may
    still answer is open, now or once it is on nobody else's screen. Where nobody compares yet, all of it; of more than
    MANY, those that are nobody's are among them, so that it costs the same however many pairs there are.
    """
    found = count_pairs(session=session, round_id=round_id)
    is_open = _at_most(session, round_id, COUNTED, found["open"])
    duels = _at_most(session, round_id, (Purpose.DUEL,), is_open) if found["duels"] else 0
    return found | {"open": is_open, "open_duels": duels}


def _at_most(session: Session, round_id: int, purposes: Sequence[Purpose], most: int) -> int:
    """How many open pairs of these purposes somebody may still be served, where `most` are open in all."""
    if not most:
        return 0
    somebodys = sa.select(_PERSON.id).where(*_MAY_COMPARE, ~answered_by(_THEIRS), is_for(_THEIRS))
    nobody_yet = ~sa.select(_PERSON.id).where(*_MAY_COMPARE).exists()
    found = (
        sa.select(sa.literal(1))
        .select_from(Pair)
        .where(
            col(Pair.round_id) == round_id,
            col(Pair.open_slots) > sa.literal_column("0"),  # spelled as the index is
            col(Pair.purpose).in_(purposes),
            nobody_yet | somebodys.correlate(Pair).exists(),
        )
        .limit(MANY)
        .subquery()
    )
    count: int = session.execute(sa.select(sa.func.count()).select_from(found)).scalar_one()
    return count if count < MANY else most
