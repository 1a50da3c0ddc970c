"""Rankings: how annotators order the completions of a slate, and the comparisons that come of it.

A ranking is written once, superseded when its annotator changes their mind, and never deleted, as comparisons are; and
so are the comparisons of its pairs, in the same transaction. They say what the ranking says and nothing more: of two
completions the one in the better tier is chosen, two in one tier are a tie.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from store.comparisons import require_comparing, supersede_ranking
from store.errors import StoreError
from store.guidelines import guidelines_id_in_force
from store.holds import release_hold, require_room
from store.models import Comparison, Pair, Verdict
from store.pairs import lock_pair, recount_open_slots
from store.ranking_tables import Outcome, Ranking, Slate, SlateItem
from store.round_work import count_verdict
from store.slates import get_slate, shown_order, slate_pairs

Tiers = Sequence[Sequence[int]]


def record_ranking(
    *,
    session: Session,
    slate_id: int,
    annotator_id: int,
    outcome: Outcome | str = Outcome.RANKED,
    tiers: Tiers = (),
    seconds: float | None = None,
    tags: Sequence[str] = (),
    replace: bool = False,
) -> Ranking:
    """Write a ranking and the comparisons of its pairs, in the session's one transaction.

    `tiers`: positions on this annotator's screen, from 0 on, the best first; none unless the outcome is `ranked`.
    `tags`: why it was skipped. A ranking that stands already is returned as it is (a second press, a second tab),
    unless `replace` asks for a change of mind, which supersedes it. What this annotator decided about one of the pairs
    stands beside it. Raises UnknownRecordError for a slate that is not there, PairChangedError for one who may not
    compare any more and for a ranking that comes too late (`require_room`), NotAllowedError in somebody else's name,
    StoreError for tiers that do not name each completion once.
    """
    require_comparing(session=session, annotator_id=annotator_id)
    slate = get_slate(session=session, slate_id=slate_id)
    pairs = slate_pairs(session=session, slate_id=slate_id)
    asked = pairs[0].id
    assert asked is not None
    lock_pair(session=session, pair_id=asked)
    shown = shown_order(order_seed=slate.order_seed, annotator_id=annotator_id, size=slate.size)
    ranking = Ranking(
        slate_id=slate_id,
        annotator_id=annotator_id,
        outcome=_known(outcome),
        tiers=_by_place(tiers, shown) if outcome == Outcome.RANKED else [],
        shown=shown,
        tags=list(tags),
        seconds=seconds,
        guidelines_id=guidelines_id_in_force(session=session),
    )
    standing = current_ranking(session=session, slate_id=slate_id, annotator_id=annotator_id)
    if standing is not None and not replace:
        return standing
    before = None if standing is None else standing.outcome
    require_room(session=session, pair_id=asked, annotator_id=annotator_id, answer=ranking.outcome, before=before)
    if standing is not None:
        assert standing.id is not None
        supersede_ranking(session=session, ranking_id=standing.id)
    session.add(ranking)
    session.flush()
    _write_comparisons(session, slate, ranking, pairs)
    recount_open_slots(session=session, pair_id=asked)  # the others want none
    release_hold(session=session, pair_id=asked, annotator_id=annotator_id)
    return ranking


def _known(outcome: Outcome | str) -> Outcome:
    try:
        return Outcome(outcome)
    except ValueError:
        raise StoreError(f"An outcome is one of {', '.join(Outcome)}, not {outcome!r}.") from None


def _by_place(tiers: Tiers, shown: Sequence[int]) -> list[list[int]]:
    """Tiers of positions on a screen as tiers of the slate's places. Raises StoreError."""
    named = [position for tier in tiers for position in tier]
    if sorted(named) != list(range(len(shown))) or not all(tiers):
        raise StoreError(f"A ranking names each of the {len(shown)} completions once. Nothing was written.")
    return [sorted(shown[position] for position in tier) for tier in tiers]


def verdict_between(tiers: Tiers, first: int, second: int) -> Verdict:
    """What a ranking says of two places: of `first` as completion `a` and `second` as `b`."""
    tier_of = {place: number for number, tier in enumerate(tiers) for place in tier}
    if tier_of[first] == tier_of[second]:
        return Verdict.TIE
    return Verdict.A if tier_of[first] < tier_of[second] else Verdict.B


def _write_comparisons(session: Session, slate: Slate, ranking: Ranking, pairs: Sequence[Pair]) -> None:
    places = _places(session, slate)
    said_alone = set(
        session.exec(
            select(Comparison.pair_id).where(
                col(Comparison.pair_id).in_([pair.id for pair in pairs]),
                Comparison.annotator_id == ranking.annotator_id,
                col(Comparison.superseded_at).is_(None),
                ~col(Comparison.adjudicates),
            )
        )
    )
    written = [
        (
            pair,
            Comparison(
                pair_id=number,
                annotator_id=ranking.annotator_id,
                verdict=_verdict(ranking, places[pair.completion_a_id], places[pair.completion_b_id]),
                tags=ranking.tags,
                guidelines_id=ranking.guidelines_id,
                ranking_id=ranking.id,
                created_at=ranking.created_at,
            ),
        )
        for pair in pairs
        if (number := pair.id) is not None and number not in said_alone
    ]
    session.add_all(said for _, said in written)
    session.flush()
    for pair, said in written:
        count_verdict(session=session, said=said, purpose=pair.purpose, round_id=pair.round_id, by=1)


def _verdict(ranking: Ranking, first: int, second: int) -> Verdict:
    whole = {Outcome.ALL_BAD: Verdict.BOTH_BAD, Outcome.SKIP: Verdict.SKIP}
    return whole.get(Outcome(ranking.outcome)) or verdict_between(ranking.tiers, first, second)


def _places(session: Session, slate: Slate) -> dict[int, int]:
    query = select(SlateItem.completion_id, SlateItem.place).where(SlateItem.slate_id == slate.id)
    return dict(session.exec(query).all())


def current_ranking(*, session: Session, slate_id: int, annotator_id: int) -> Ranking | None:
    """This annotator's standing ranking of the slate, if any."""
    return session.exec(
        select(Ranking).where(
            Ranking.slate_id == slate_id,
            Ranking.annotator_id == annotator_id,
            col(Ranking.superseded_at).is_(None),
        )
    ).first()


def positions_of(ranking: Ranking) -> list[list[int]]:
    """A ranking as its annotator gave it: tiers of positions on their screen. (An import has no screen.)"""
    return [sorted(ranking.shown.index(place) for place in tier) for tier in ranking.tiers]
