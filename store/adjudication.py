"""Adjudication: the pairs that need a second look, and the verdict that then decides for its pair.

Whoever decides sees what the others said, but not which checkpoint wrote what. What was said before stays as it is; the
decision alone makes the preference (preferences.py), and tells how reliable the others are (reliability.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from store.comparisons import Choice, current_comparison, record_comparison
from store.models import Annotator, Comparison, Pair, Purpose, Verdict
from store.pairs import left_side, lock_pair
from store.reliability import Reliability, mirrored, read_reliability

LOW_CONFIDENCE = 0.65  # below: the label says little more than a toss of a coin

# Why a pair is in the inbox.
WHY = {
    "disagreement": "annotators disagree",
    "flagged": "somebody flagged it",
    "low_confidence": "its label is in doubt",
}


@dataclass(frozen=True)
class SaidOnce:
    """One standing verdict on a pair, in the pair's own terms (also where it was given on a repeat of it).

    `flags`: what is wrong with "a" and with "b".
    """

    annotator: str
    verdict: str
    strength: int | None
    reason: str | None
    tags: list[str]
    flags: dict[str, list[str]]
    repeated: bool


@dataclass(frozen=True)
class DoubtfulPair:
    """A pair that needs a second look: why (keys of WHY), and who said what.

    `chance`: how likely the majority is right; a half where there is none.
    """

    pair_id: int
    why: tuple[str, ...]
    said: tuple[SaidOnce, ...]
    chance: float


def list_doubtful(*, session: Session) -> list[DoubtfulPair]:
    """The inbox: pairs that annotators disagree on, that somebody flagged, or whose label is in doubt.

    The most doubtful first, among equals the newest. Pairs asked for training alone; what was decided is not in it.
    """
    reliability = read_reliability(session=session)
    found = [_doubtful(pair_id, said, reliability) for pair_id, said in _undecided(session).items()]
    return sorted((pair for pair in found if pair.why), key=lambda pair: (pair.chance, -pair.pair_id))


def _undecided(session: Session) -> dict[int, list[SaidOnce]]:
    """What stands of trusted annotators on each pair asked for training that nobody decided."""
    asked = Pair.__table__.alias()  # type: ignore[attr-defined]
    query = (
        sa.select(
            asked.c.id,
            col(Comparison.adjudicates),
            col(Annotator.name),
            col(Comparison.verdict),
            col(Comparison.strength),
            col(Comparison.reason),
            col(Comparison.tags),
            col(Comparison.flags),
            col(Pair.repeats).is_not(None),
        )
        .select_from(Comparison)
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(asked, asked.c.id == sa.func.coalesce(col(Pair.repeats), col(Pair.id)))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .where(
            col(Comparison.superseded_at).is_(None),
            col(Annotator.retracted_at).is_(None),
            asked.c.purpose == Purpose.TRAIN,
        )
        .order_by(col(Comparison.id))
    )
    found: dict[int, list[SaidOnce]] = {}
    decided = set()
    for pair_id, adjudicates, *said in session.execute(query):
        found.setdefault(pair_id, []).append(_own_terms(SaidOnce(*said)))
        decided |= {pair_id} if adjudicates else set()
    return {pair_id: said for pair_id, said in found.items() if pair_id not in decided}


def _own_terms(said: SaidOnce) -> SaidOnce:
    """What was said on a repeat, as said of the pair: a repeat shows the completions the other way round."""
    if not said.repeated:
        return said
    flags = {mirrored(side): wrong for side, wrong in said.flags.items()}
    return SaidOnce(said.annotator, mirrored(said.verdict), said.strength, said.reason, said.tags, flags, True)


def _doubtful(pair_id: int, said: Sequence[SaidOnce], reliability: Reliability) -> DoubtfulPair:
    verdicts = {one.verdict for one in said} - {Verdict.SKIP.value}
    chance = _chance(pair_id, said, reliability)
    reasons = {
        "disagreement": len(verdicts) > 1,
        "flagged": any(one.tags or any(one.flags.values()) for one in said),
        "low_confidence": bool(verdicts & {Verdict.A.value, Verdict.B.value}) and chance < LOW_CONFIDENCE,
    }
    return DoubtfulPair(pair_id, tuple(reason for reason in WHY if reasons[reason]), tuple(said), chance)


def _chance(pair_id: int, said: Sequence[SaidOnce], reliability: Reliability) -> float:
    """How likely it is that the side with more votes is the better one. Repeats only tell of their annotator."""
    votes = Counter(one.verdict for one in said if not one.repeated)
    if votes[Verdict.A] == votes[Verdict.B]:
        return 0.5
    return reliability.chance(pair_id, first=votes[Verdict.A] > votes[Verdict.B])


def adjudicate(
    *, session: Session, pair_id: int, annotator_id: int, choice: Choice | str, reason: str | None = None
) -> Comparison:
    """Decide for a pair, whatever was said; the latest decision holds. Nothing else that was said is changed.

    An earlier verdict of the same annotator's on this pair is superseded, as by any change of mind; the same decision
    again (a second press) is returned as it is. Raises what `record_comparison` raises.
    """
    side_seed = lock_pair(session=session, pair_id=pair_id).side_seed
    standing = current_comparison(session=session, pair_id=pair_id, annotator_id=annotator_id)
    if standing is not None and standing.adjudicates and _is_choice(standing, choice, side_seed):
        return standing
    decided = record_comparison(
        session=session, pair_id=pair_id, annotator_id=annotator_id, choice=choice, reason=reason, replace=True
    )
    decided.adjudicates = True
    session.add(decided)
    session.flush()
    return decided


def _is_choice(said: Comparison, choice: Any, side_seed: int) -> bool:
    side = left_side(side_seed=side_seed, annotator_id=said.annotator_id)
    sides = {side: Choice.LEFT, "a" if side == "b" else "b": Choice.RIGHT}
    return str(sides.get(said.verdict, said.verdict)) == str(choice)
