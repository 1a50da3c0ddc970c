"""How far labels are believed: by their votes alone, or by how often those who gave them are right (dawid_skene.py).

Who is right is told from first verdicts on all that is asked: training pairs, duels, gold pairs. Left out are

- calibration pairs, whose answer is told at once, and rewrites, about which nobody was asked;
- repeats. Who errs in earnest errs the same way again, so being consistent is not being right: repeats are for the Team
  page's figure of consistency alone. (It bounds how often somebody is right only where sides sway them not at all.)
  Second looks, which are repeats, were moreover picked by a policy for being probably wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlmodel import Session, col

from store.dawid_skene import DIGITS, PRIOR, Reliability, fit_reliability
from store.models import Annotator, Comparison, Pair, Purpose, Verdict

UNTELLING = (Purpose.CALIBRATION, Purpose.REWRITE, Purpose.REPEAT)  # verdicts on these do not tell who is right


def chance_by_votes(named: int, against: int) -> float:
    """The chance that what `named` votes say and `against` deny is right, told from their numbers alone.

    It is (k + 1/3) / (n + 2/3): one vote is worth what an unknown annotator is (PRIOR: 0.8), three alike 0.91, two of
    three 0.64, and one against one a half.
    """
    right, wrong = PRIOR
    prior = wrong / (right - wrong)  # from (1 + a) / (1 + 2a) = right / (right + wrong)
    return round((named + prior) / (named + against + 2 * prior), DIGITS)


@dataclass(frozen=True)
class PairVote:
    """What an annotator said about a pair, or about a repeat of it, in the pair's own terms."""

    pair_id: int
    prompt_id: int
    annotator: str
    verdict: str
    adjudicates: bool
    purpose: str


def read_reliability(*, session: Session) -> Reliability:
    """The model of all that stands, retracted annotators left out. Items are pair ids, first is completion a."""
    said, gold = read_pair_votes(session=session)
    return reliability_of(said, gold)


def reliability_of(said: Sequence[PairVote], gold: Mapping[int, str]) -> Reliability:
    """The model of these votes, oldest first, and of the known answers."""
    sides = (Verdict.A, Verdict.B)
    told = [one for one in said if one.purpose not in UNTELLING]
    votes = [
        (one.pair_id, one.annotator, one.verdict == Verdict.A)
        for one in told
        if one.verdict in sides and not one.adjudicates
    ]
    known = {**gold, **{one.pair_id: one.verdict for one in told if one.adjudicates}}  # the latest decision holds
    return fit_reliability(
        votes,
        {pair: answer == Verdict.A for pair, answer in known.items() if answer in sides},
        {one.pair_id: one.prompt_id for one in told},
    )


def read_pair_votes(*, session: Session) -> tuple[list[PairVote], dict[int, str]]:
    """What stands of trusted annotators, oldest first, repeats as said of the pair itself; and the known answers."""
    query = (
        sa.select(
            col(Pair.id),
            col(Pair.repeats),
            col(Pair.prompt_id),
            col(Annotator.name),
            col(Comparison.verdict),
            col(Comparison.adjudicates),
            col(Pair.purpose),
            col(Pair.gold_verdict),
        )
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .where(
            col(Comparison.superseded_at).is_(None),
            col(Annotator.retracted_at).is_(None),
            col(Pair.purpose).not_in((Purpose.CALIBRATION, Purpose.REWRITE)),
        )
        .order_by(col(Comparison.created_at), col(Comparison.id))
    )
    rows = session.execute(query).all()
    said = [
        PairVote(repeats or pair_id, prompt, name, mirrored(verdict) if repeats else verdict, adjudicates, purpose)
        for pair_id, repeats, prompt, name, verdict, adjudicates, purpose, _ in rows
    ]
    return said, {row[0]: row[-1] for row in rows if row[-1] is not None}


def mirrored(verdict: str) -> str:
    """The same verdict when the completions change places: a repeat shows them the other way round."""
    return {Verdict.A.value: Verdict.B.value, Verdict.B.value: Verdict.A.value}.get(verdict, verdict)
