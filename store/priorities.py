"""What is asked first, and what is asked again: a round's queue in a researcher's hands.

The queue goes by `Pair.position`, the lowest first; a pair asks for as many comparisons as `Pair.wanted` says.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from store.database import chunks
from store.models import COUNTED, Annotator, Comparison, Pair, Prompt, Verdict, now
from store.pairs import count_pairs, recount_open_slots
from store.queue_tables import Hold, QueueMark
from store.ranking_tables import Slate
from store.roles import require_researcher


def open_pairs_about(*, session: Session, round_id: int, words: str) -> list[int]:
    """The round's pairs that still want a comparison and whose prompt has these words, in the queue's order."""
    wanted = " ".join(words.split()).casefold()
    asked = select(Pair.id, Prompt.messages).join(Prompt, col(Prompt.id) == Pair.prompt_id)
    rows = session.exec(asked.where(*_in_queue(round_id)).order_by(col(Pair.position), col(Pair.id)))
    texts = ((pair_id, " ".join(turn["content"] for turn in messages)) for pair_id, messages in rows)
    return [pair_id for pair_id, text in texts if pair_id and wanted in " ".join(text.split()).casefold()]


def _in_queue(round_id: int) -> tuple[Any, ...]:
    """Conditions on `Pair`: what the round asks for. Second looks are not told of: who looks may be asked them."""
    return Pair.round_id == round_id, col(Pair.open_slots) > 0, col(Pair.purpose).in_(COUNTED)


def put_first(*, session: Session, round_id: int, pair_ids: Sequence[int]) -> None:
    """Have these pairs of the round asked before all others, in this order."""
    require_researcher(session=session, to="change the queue")
    session.execute(sa.delete(QueueMark).where(col(QueueMark.round_id) == round_id))  # all look from the start again
    first = session.exec(select(sa.func.min(Pair.position)).where(Pair.round_id == round_id)).one() or 0
    for place, pair_id in enumerate(pair_ids):
        session.execute(
            sa.update(Pair)
            .where(col(Pair.id) == pair_id, col(Pair.round_id) == round_id)
            .values(position=first - len(pair_ids) + place)
        )


def ask_again(*, session: Session, round_id: int, below: float) -> list[int]:
    """Ask one annotator more about each pair of the round on which too few agree, and before all others.

    That is: a pair that has all its answers, two at least, of which less than the share `below` say the same. Those
    agreed on least come first. For pairs of a slate the one that stands for them is asked: it is ranked again as a
    whole. Returns the pairs.
    """
    require_researcher(session=session, to="change the queue")
    answers, decided = _answers(session, round_id), _decided(session, round_id)
    often = {pair_id: said for pair_id, said in answers.items() if said.total() > 1 and pair_id not in decided}
    shares = {pair_id: max(said.values()) / said.total() for pair_id, said in often.items()}
    doubtful = sorted((pair_id for pair_id in shares if shares[pair_id] < below), key=lambda each: (shares[each], each))
    doubtful = [pair_id for pair_id in _asked_for(session, doubtful) if pair_id in answers]
    for pair_id in doubtful:
        session.execute(sa.update(Pair).where(col(Pair.id) == pair_id).values(wanted=answers[pair_id].total() + 1))
        recount_open_slots(session=session, pair_id=pair_id)
    put_first(session=session, round_id=round_id, pair_ids=doubtful)
    return doubtful


def _asked_for(session: Session, pair_ids: Sequence[int]) -> list[int]:
    """The pairs that stand in the queue for these, each once."""
    following = select(Pair.id, Pair.follows).where(col(Pair.follows).is_not(None))
    leaders: dict[int | None, int | None] = {}
    for chunk in chunks(pair_ids):
        leaders |= dict(session.exec(following.where(col(Pair.id).in_(chunk))).all())
    return list(dict.fromkeys(leaders.get(pair_id) or pair_id for pair_id in pair_ids))


def _answers(session: Session, round_id: int) -> dict[int, Counter[str]]:
    """What was said about each of the round's pairs that want no more."""
    said = (
        select(Comparison.pair_id, Comparison.verdict)
        .join(Pair, col(Pair.id) == Comparison.pair_id)
        .join(Annotator, col(Annotator.id) == Comparison.annotator_id)
        .where(
            Pair.round_id == round_id,
            Pair.open_slots == 0,
            col(Pair.purpose).in_(COUNTED),
            Comparison.verdict != Verdict.SKIP,
            ~col(Comparison.adjudicates),
            col(Comparison.superseded_at).is_(None),
            col(Annotator.retracted_at).is_(None),
        )
    )
    found: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for pair_id, verdict in session.exec(said):
        found[pair_id][verdict] += 1
    return found


def _decided(session: Session, round_id: int) -> set[int]:
    """The round's pairs about which somebody decided: how far people agree on these is no question any more."""
    in_round = sa.select(col(Pair.id)).where(col(Pair.round_id) == round_id)
    stands = col(Comparison.adjudicates), col(Comparison.superseded_at).is_(None)
    return set(session.exec(select(Comparison.pair_id).where(*stands, col(Comparison.pair_id).in_(in_round))))


def first_in_queue(*, session: Session, round_id: int, limit: int) -> list[tuple[Pair, Prompt]]:
    """The pairs that are asked next, and their prompts."""
    asked = select(Pair, Prompt).join(Prompt, col(Prompt.id) == Pair.prompt_id)
    queued = asked.where(*_in_queue(round_id))
    in_order = queued.order_by(col(Pair.position), col(Pair.id)).limit(limit)
    return [(pair, prompt) for pair, prompt in session.exec(in_order)]


def count_queue(*, session: Session, round_id: int) -> dict[str, int]:
    """What the round's queue holds.

    `pairs` and `open` as `count_pairs`; `slots`: the comparisons that those still want, a ranking being one for each
    two of its completions; `on_screen`: the pairs that are being looked at.
    """
    each = sa.func.coalesce(col(Slate.size) * (col(Slate.size) - 1) / sa.literal_column("2"), 1)
    wanting = select(sa.func.sum(Pair.open_slots * each)).outerjoin(Slate, col(Slate.id) == Pair.slate_id)
    slots = int(session.exec(wanting.where(*_in_queue(round_id))).one() or 0)
    held = select(sa.func.count(sa.distinct(col(Hold.pair_id)))).join(Pair, col(Pair.id) == Hold.pair_id)
    on_screen = session.exec(held.where(Pair.round_id == round_id, Hold.until > now())).one()
    return count_pairs(session=session, round_id=round_id) | {"slots": slots, "on_screen": on_screen}
