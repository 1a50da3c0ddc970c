"""Slates: several completions of one prompt, to be ranked together.

A slate of k completions is written with all its k(k-1)/2 pairs. The first of them stands in the queue for the slate,
so that whatever is true of a pair there (holds, overlap, quotas, what comes first, pauses) is true of the slate; the
others follow it and are asked by nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from sqlmodel import Session, col, select

from store.errors import StoreError, UnknownRecordError
from store.hashing import content_hash, text_hash
from store.models import Completion, Pair, Prompt
from store.pairs import add_pair
from store.ranking_tables import Outcome, Ranking, Slate, SlateItem

MOST = 6  # completions that an annotator can be asked to rank; imported rankings may be longer


def comparisons_in(size: int) -> int:
    """How many comparisons a ranking of so many completions comes to: k(k-1)/2."""
    return size * (size - 1) // 2


def slate_hash(prompt_hash: str, text_hashes: Iterable[str]) -> str:
    """What names a slate: its prompt and its texts, in whatever order."""
    return content_hash([prompt_hash, *sorted(text_hashes)])


def draw_order_seed(named: str, round_id: int | None) -> int:
    """The seed that screens' orders are drawn from: the same for the same slate in the same round."""
    return int(text_hash(f"{named}:{round_id}")[:12], 16)


def shown_order(*, order_seed: int, annotator_id: int, size: int) -> list[int]:
    """The slate's places in the order in which this annotator sees them: drawn once, the same after every reload."""
    return sorted(range(size), key=lambda place: text_hash(f"place:{order_seed}:{annotator_id}:{place}"))


def add_slate(
    *,
    session: Session,
    prompt_id: int,
    completions: Sequence[Completion],
    round_id: int | None,
    position: int = 0,
    wanted: int = 1,
) -> Slate:
    """Write a slate of a round and all its pairs. `wanted`: how many annotators are to rank it.

    Raises StoreError where two of the completions are the same text, where one belongs to another prompt, or for fewer
    than three: two completions are a pair.
    """
    if len(completions) < 3:
        raise StoreError("a slate has three completions or more; two are a pair")
    if len({each.text_hash for each in completions}) < len(completions):
        raise StoreError("two of the completions are the same text")
    if {each.prompt_id for each in completions} != {prompt_id}:
        raise StoreError("the completions answer different prompts")
    prompt = session.get_one(Prompt, prompt_id)
    named = slate_hash(prompt.content_hash, [each.text_hash for each in completions])
    seed = draw_order_seed(named, round_id)
    slate = Slate(prompt_id=prompt_id, round_id=round_id, content_hash=named, size=len(completions), order_seed=seed)
    session.add(slate)
    session.flush()
    assert slate.id is not None
    session.add_all(
        SlateItem(slate_id=slate.id, place=place, completion_id=each.id)
        for place, each in enumerate(completions)
        if each.id is not None
    )
    leader: int | None = None
    for both in combinations(completions, 2):
        pair = add_pair(
            session=session,
            prompt_id=prompt_id,
            completions=both,
            round_id=round_id,
            position=position,
            wanted=wanted if leader is None else 0,
            slate_id=slate.id,
            follows=leader,
        )
        leader = pair.id if leader is None else leader
    return slate


@dataclass(frozen=True)
class ShownSlate:
    """A slate as one annotator sees it, and nothing that says who wrote what.

    `texts` in the order of their screen. `said`: how they ranked it before, if they did, as tiers of positions on that
    screen, whether that stands or was taken back. `mark` names the slate for this annotator and tells nothing of it.
    """

    slate_id: int
    texts: list[str]
    said: list[list[int]]
    mark: str


def shown_slate(*, session: Session, slate_id: int, annotator_id: int) -> ShownSlate:
    """The slate as this annotator sees it. Raises UnknownRecordError."""
    slate = get_slate(session=session, slate_id=slate_id)
    shown = shown_order(order_seed=slate.order_seed, annotator_id=annotator_id, size=slate.size)
    texts = [each.text for each in slate_completions(session=session, slate_id=slate_id)]
    before = session.exec(
        select(Ranking)
        .where(Ranking.slate_id == slate_id, Ranking.annotator_id == annotator_id)
        .order_by(col(Ranking.id).desc())
        .limit(1)
    ).first()
    tiers = before.tiers if before is not None and before.outcome == Outcome.RANKED else []
    said = [sorted(shown.index(place) for place in tier) for tier in tiers]
    mark = text_hash(f"mark:{slate.order_seed}:{annotator_id}")[:16]
    return ShownSlate(slate_id, [texts[place] for place in shown], said, mark)


def get_slate(*, session: Session, slate_id: int) -> Slate:
    """A slate. Raises UnknownRecordError."""
    slate = session.get(Slate, slate_id)
    if slate is None:
        raise UnknownRecordError(f"There is no slate {slate_id}.")
    return slate


def slate_completions(*, session: Session, slate_id: int) -> list[Completion]:
    """A slate's completions, by their places."""
    query = select(Completion).join(SlateItem, col(SlateItem.completion_id) == Completion.id)
    return list(session.exec(query.where(SlateItem.slate_id == slate_id).order_by(col(SlateItem.place))))


def slate_pairs(*, session: Session, slate_id: int) -> list[Pair]:
    """A slate's pairs; the one that stands in the queue for it comes first."""
    return list(session.exec(select(Pair).where(Pair.slate_id == slate_id).order_by(col(Pair.id))))
