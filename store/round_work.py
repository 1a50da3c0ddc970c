"""How far a round is, and each annotator in it: counted as verdicts come and go, in the same transaction.

So that the head of every pair costs the same however many comparisons the round has by now. `judged` are standing
verdicts on pairs that the round asks for, `measured` those on gold pairs and repeats that were mixed in; skips,
practice, rewrites and decisions on pairs in doubt are neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col

from store.models import COUNTED, MEASURING, Annotator, Comparison, Purpose, Round, UtcDateTime, Verdict
from store.queue_tables import RoundWork


@dataclass(frozen=True)
class WorkDone:
    """Verdicts that stand: `judged` and `measured` by all who are not retracted, `mine` both by one annotator."""

    judged: int
    measured: int
    mine: int


def count_verdict(*, session: Session, said: Comparison, purpose: str, round_id: int | None, by: int) -> None:
    """Note that a verdict stands from now on (`by` 1), or no longer (-1), on a pair of this purpose and round."""
    if said.verdict == Verdict.SKIP or said.adjudicates or purpose not in (*COUNTED, *MEASURING):
        return
    connection = session.connection()
    if purpose == Purpose.GOLD:  # of no round: asked in the one that had been opened last
        round_id = connection.execute(_ROUND_OF_THAT_DAY, {"moment": said.created_at}).scalar()
    if round_id is None:
        return
    judged = by if purpose in COUNTED else 0
    given = {
        "round_id": round_id,
        "annotator_id": said.annotator_id,
        "judged": judged,
        "measured": by - judged,
    }
    connection.execute(_COUNT[connection.dialect.name], given)


def work_done(*, session: Session, round_id: int, annotator_id: int) -> WorkDone:
    """How far the round is."""
    row = session.connection().execute(_DONE, {"round_id": round_id, "annotator_id": annotator_id}).one()
    return WorkDone(judged=row[0], measured=row[1], mine=row[2])


def _counting(insert: Any) -> Any:
    added = insert(RoundWork).values(
        {name: sa.bindparam(name) for name in ("round_id", "annotator_id", "judged", "measured")}
    )
    more = {name: getattr(RoundWork, name) + added.excluded[name] for name in ("judged", "measured")}
    return added.on_conflict_do_update(index_elements=["round_id", "annotator_id"], set_=more)


_COUNT = {"sqlite": _counting(sqlite.insert), "postgresql": _counting(postgresql.insert)}
_ROUND_OF_THAT_DAY = sa.select(sa.func.max(col(Round.id))).where(
    col(Round.created_at) <= sa.bindparam("moment", type_=UtcDateTime())
)
_TRUSTED = col(Annotator.retracted_at).is_(None)
_DONE = (
    sa.select(
        *(
            sa.func.coalesce(sa.func.sum(counted).filter(whose), 0)
            for counted, whose in (
                (col(RoundWork.judged), _TRUSTED),
                (col(RoundWork.measured), _TRUSTED),
                (
                    col(RoundWork.judged) + col(RoundWork.measured),
                    col(RoundWork.annotator_id) == sa.bindparam("annotator_id"),
                ),
            )
        )
    )
    .join(Annotator, col(Annotator.id) == col(RoundWork.annotator_id))
    .where(col(RoundWork.round_id) == sa.bindparam("round_id"))
)
