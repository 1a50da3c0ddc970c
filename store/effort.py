"""What an effort took of people: verdicts of each kind, whose, and how long they looked; what imports brought is apart.

Counted is what stands. Whoever was retracted worked as well: theirs is counted, and marked. A skip takes time, but is
no label; a bettered text is neither. What came of a ranking has no seconds of its own: the ranking has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from store.models import Annotator, Comparison, Pair, Prompt, Purpose, Role, Verdict
from store.ranking_tables import Ranking, Slate
from store.roles import require_researcher

# What a verdict was for, in the order in which it is told.
KINDS = {
    "train": "on pairs to learn from",
    "held_out": "on held-out prompts, to judge by",
    "duel": "on blind duels",
    "measuring": "to measure annotators: gold pairs, practice, repeats",
    "decision": "decisions on pairs in doubt",
}


@dataclass
class Work:
    """What somebody did: verdicts by KINDS, skips, bettered texts.

    `seconds` are those of `timed` verdicts and skips on pairs, out of `pieces`; a ranking is one piece of its own.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    skips: int = 0
    rewrites: int = 0
    pieces: int = 0
    timed: int = 0
    seconds: float = 0.0

    @property
    def labels(self) -> int:
        """All verdicts, whatever they were for."""
        return self.kinds.total()

    def add(self, other: Work) -> None:
        """Count the other's work as well."""
        self.kinds += other.kinds
        self.skips += other.skips
        self.rewrites += other.rewrites
        self.pieces += other.pieces
        self.timed += other.timed
        self.seconds += other.seconds


@dataclass(frozen=True)
class Contributor:
    """An annotator and their work."""

    name: str
    role: str
    retracted: bool
    work: Work


@dataclass(frozen=True)
class Effort:
    """Who did what, most labels first, and what that comes to; `imported`: verdicts by the source they came from.

    `pace`: seconds a piece of work took in the mean, where any was timed. `last`: when the latest was given.
    """

    by: list[Contributor]
    all: Work
    imported: dict[str, int]
    last: datetime | None

    @property
    def pace(self) -> float | None:
        """How long a verdict took in the mean; None where nobody measured."""
        return self.all.seconds / self.all.timed if self.all.timed else None


def read_effort(*, session: Session, round_ids: Sequence[int] | None = None) -> Effort:
    """What all of it took, or these rounds (gold pairs and imports are of no round). Raises NotAllowedError."""
    require_researcher(session=session, to="see what an effort took")
    people = {person.id: person for person in session.scalars(sa.select(Annotator))}
    done: dict[int, Work] = {}
    for number, work in [*_compared(session, round_ids), *_ranked(session, round_ids)]:
        done.setdefault(number, Work()).add(work)
    imported = {number: work for number, work in done.items() if people[number].role == Role.SOURCE}
    whole = Work()
    by = []
    for number, work in done.items():
        if number not in imported:
            whole.add(work)
            who = people[number]
            by.append(Contributor(who.name, who.role, who.retracted_at is not None, work))
    return Effort(
        by=sorted(by, key=lambda one: (-one.work.labels, one.name.casefold())),
        all=whole,
        imported={people[number].name: work.labels for number, work in imported.items()},
        last=_last(session, round_ids),
    )


def _compared(session: Session, round_ids: Sequence[int] | None) -> list[tuple[int, Work]]:
    skipped, alone = col(Comparison.verdict) == Verdict.SKIP, col(Comparison.ranking_id).is_(None)
    kind = (col(Comparison.annotator_id), col(Pair.purpose), col(Prompt.held_out), col(Comparison.adjudicates), skipped)
    rows = session.execute(
        sa.select(
            *kind,
            sa.func.count(),
            sa.func.count().filter(alone),
            sa.func.count(col(Comparison.seconds)).filter(alone),
            sa.func.coalesce(sa.func.sum(Comparison.seconds).filter(alone), 0.0),
        )
        .select_from(Comparison)
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(Prompt, col(Prompt.id) == col(Pair.prompt_id))
        .where(col(Comparison.superseded_at).is_(None), _of_rounds(Pair.round_id, round_ids))
        .group_by(*kind)
    )
    return [(who, _work(*rest)) for who, *rest in rows]


def _work(
    purpose: str, held_out: bool, decides: bool, skipped: bool, count: int, pieces: int, timed: int, seconds: float
) -> Work:
    if purpose == Purpose.REWRITE:
        return Work(rewrites=count)
    work = Work(pieces=pieces, timed=timed, seconds=seconds)
    if skipped and not decides:
        work.skips = count
    else:
        work.kinds[_kind(purpose, held_out, decides)] = count
    return work


def _kind(purpose: str, held_out: bool, decides: bool) -> str:
    if decides:
        return "decision"
    if purpose == Purpose.DUEL:
        return "duel"
    if purpose != Purpose.TRAIN:
        return "measuring"
    return "held_out" if held_out else "train"


def _ranked(session: Session, round_ids: Sequence[int] | None) -> list[tuple[int, Work]]:
    """Rankings, as pieces of work: their verdicts are counted with all others."""
    rows = session.execute(
        sa.select(
            col(Ranking.annotator_id),
            sa.func.count(),
            sa.func.count(col(Ranking.seconds)),
            sa.func.coalesce(sa.func.sum(Ranking.seconds), 0.0),
        )
        .join(Slate, col(Slate.id) == col(Ranking.slate_id))
        .where(col(Ranking.superseded_at).is_(None), _of_rounds(Slate.round_id, round_ids))
        .group_by(col(Ranking.annotator_id))
    )
    return [(who, Work(pieces=pieces, timed=timed, seconds=seconds)) for who, pieces, timed, seconds in rows]


def _of_rounds(column: Any, round_ids: Sequence[int] | None) -> Any:
    return sa.true() if round_ids is None else col(column).in_(round_ids)


def _last(session: Session, round_ids: Sequence[int] | None) -> datetime | None:
    query = sa.select(sa.func.max(Comparison.created_at)).join(Pair, col(Pair.id) == col(Comparison.pair_id))
    return session.scalar(query.where(_of_rounds(Pair.round_id, round_ids)))


def count_labels(*, session: Session, until: datetime) -> int:
    """How many labels people had given by a moment, whatever they were for: of those that stand, no skips, no imports.

    Raises NotAllowedError.
    """
    require_researcher(session=session, to="see what an effort took")
    skipped = (col(Comparison.verdict) == Verdict.SKIP) & ~col(Comparison.adjudicates)
    found = session.scalar(
        sa.select(sa.func.count())
        .select_from(Comparison)
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .where(
            col(Comparison.superseded_at).is_(None),
            col(Comparison.created_at) <= until,
            col(Annotator.role) != Role.SOURCE,
            col(Pair.purpose) != Purpose.REWRITE,
            ~skipped,
        )
    )
    return found or 0
