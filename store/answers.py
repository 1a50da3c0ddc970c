"""What annotators said, as columns: one entry for each standing comparison that tells how well they compare.

Left out: what imports brought (nobody here gave it), adjudications (who decides has seen what the others said),
rewrites and calibration pairs (the answer is told at once), and what retracted annotators said, unless it is asked for.
Skips are in: they take time, but are no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlmodel import Session, col

from store.holds import is_second_look
from store.models import Annotator, Comparison, Completion, Pair, Purpose, Role, Verdict

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

A, B, TIE, BOTH_BAD, SKIP = range(5)  # verdicts as numbers, in the order of `Verdict`
VERDICTS = 4  # that say something: all but skip
NONE = -1
NOT_ASKED = (Purpose.REWRITE.value, Purpose.CALIBRATION.value)
_CODES = {verdict.value: code for code, verdict in enumerate(Verdict)}
_SWAPPED = np.array([B, A, TIE, BOTH_BAD, SKIP])


@dataclass(frozen=True)
class Answers:
    """Columns of one length, oldest first. -1 (NONE) stands for what is not there."""

    annotator: Ints
    pair: Ints
    prompt: Ints
    verdict: Ints
    left: Ints  # which completion stood left
    longer: Ints  # which completion has more characters
    characters: Ints  # of both completions together
    strength: Ints
    gold: Ints  # the known verdict
    repeats: Ints  # the pair that is asked a second time
    second_look: Ints  # 1 where a policy asked for that, not chance
    ranking: Ints  # what it came of
    seconds: Floats  # NaN where nobody measured
    moment: Floats  # when, in seconds since 1970

    def __len__(self) -> int:
        return len(self.pair)

    def where(self, kept: Flags) -> Answers:
        """Those entries alone."""
        return Answers(**{name: column[kept] for name, column in vars(self).items()})

    @property
    def said(self) -> Answers:
        """Without skips."""
        return self.where(self.verdict != SKIP)

    @property
    def first_time(self) -> Answers:
        """Without skips and repeats."""
        return self.where((self.verdict != SKIP) & (self.repeats == NONE))


def swapped(verdicts: Ints) -> Ints:
    """The same verdicts when the two completions change places."""
    return _SWAPPED[verdicts]


def read_answers(*, session: Session, with_retracted: bool = False, among: Any = None) -> Answers:
    """What annotators said that stands now; `among`: a statement that selects the comparisons' ids, all without it."""
    query = _query(with_retracted)
    query = query if among is None else query.where(col(Comparison.id).in_(among))
    found = list(zip(*session.execute(query), strict=True)) or [()] * 15
    annotator, pair, prompt, verdict, left, first, second, strength, gold, purpose, repeats, look, *rest = found
    ranking, seconds, moment = rest
    lengths = _ints(first), _ints(second)
    known = [answer if each == Purpose.GOLD else None for answer, each in zip(gold, purpose, strict=True)]
    return Answers(
        annotator=_ints(annotator),
        pair=_ints(pair),
        prompt=_ints(prompt),
        verdict=_codes(verdict),
        left=_codes(left),
        longer=np.where(lengths[0] == lengths[1], NONE, np.where(lengths[0] > lengths[1], A, B)),
        characters=lengths[0] + lengths[1],
        strength=_ints(strength),
        gold=_codes(known),
        repeats=_ints(repeats),
        second_look=_ints(look),
        ranking=_ints(ranking),
        seconds=np.array([np.nan if each is None else each for each in seconds], dtype=np.float64),
        moment=np.array([_timestamp(each) for each in moment], dtype=np.float64),
    )


def _query(with_retracted: bool) -> Any:
    a, b = Completion.__table__.alias(), Completion.__table__.alias()  # type: ignore[attr-defined]
    return (
        sa.select(
            col(Comparison.annotator_id),
            col(Comparison.pair_id),
            col(Pair.prompt_id),
            col(Comparison.verdict),
            col(Comparison.left_side),
            sa.func.length(a.c.text),
            sa.func.length(b.c.text),
            col(Comparison.strength),
            col(Pair.gold_verdict),
            col(Pair.purpose),
            col(Pair.repeats),
            is_second_look(Pair),
            col(Comparison.ranking_id),
            col(Comparison.seconds),
            col(Comparison.created_at),
        )
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .join(a, a.c.id == col(Pair.completion_a_id))
        .join(b, b.c.id == col(Pair.completion_b_id))
        .where(_counts(with_retracted))
        .order_by(col(Comparison.id))
    )


def _counts(with_retracted: bool) -> Any:
    """Which comparisons tell how well people compare."""
    return sa.and_(
        col(Comparison.superseded_at).is_(None),
        ~col(Comparison.adjudicates),
        col(Annotator.role) != Role.SOURCE,
        col(Pair.purpose).not_in(NOT_ASKED),
        sa.true() if with_retracted else col(Annotator.retracted_at).is_(None),
    )


def _ints(values: Sequence[int | None]) -> Ints:
    return np.array([NONE if each is None else each for each in values], dtype=np.int64)


def _codes(values: Sequence[str | None]) -> Ints:
    return np.array([NONE if each is None else _CODES[each] for each in values], dtype=np.int64)


def _timestamp(moment: datetime) -> float:
    return moment.timestamp()


def count_imported(*, session: Session) -> int:
    """How many standing comparisons came in with imports: they are kept apart."""
    query = (
        sa.select(sa.func.count())
        .select_from(Comparison)
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .where(col(Comparison.superseded_at).is_(None), col(Annotator.role) == Role.SOURCE)
    )
    return int(session.execute(query).scalar_one())


def answers_version(*, session: Session) -> tuple[str, ...]:
    """What changes whenever something is said, changed or retracted; cheap to read."""
    said = sa.select(
        sa.func.count(), sa.func.max(col(Comparison.id)), sa.func.max(col(Comparison.superseded_at))
    ).select_from(Comparison)
    people = sa.select(sa.func.count(col(Annotator.retracted_at)), sa.func.count()).select_from(Annotator)
    return tuple(str(value) for query in (said, people) for value in session.execute(query).one())
