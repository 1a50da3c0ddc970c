"""Pairs of the Playground: an exchange made a prompt, and its two texts a pair that a round asks before its others.

A pair that nobody answered goes along into the next round, as duels and second looks do.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlmodel import Session, col, select

from store.access_tables import Account
from store.adding_once import add_unless_there
from store.chat_tables import Exchange
from store.errors import StateError
from store.exchanges import SIDES, locked_exchange, require_own, why_no_pair
from store.hashing import content_hash
from store.models import Annotator, Comparison, Completion, Pair, Prompt, Purpose, Round, RoundStatus
from store.pairs import NewCompletion, add_completion
from store.prompts import Message, is_held_out
from store.roles import require_researcher

SOURCE = "playground"


def keep_prompt(*, session: Session, exchange_id: int, held_out_share: float) -> Exchange:
    """Make its messages a prompt, where they are none yet, for a pair of its two texts.

    Raises StateError where no pair can come of it, NotAllowedError.
    """
    require_researcher(session=session, to="make a pair")
    found = locked_exchange(session, exchange_id)
    require_own(session, found)
    if found.prompt_id is not None:
        raise StateError("This exchange was made a pair already.")
    why_not = why_no_pair(found)
    if why_not:
        raise StateError(why_not)
    found.prompt_id = _get_or_add_prompt(session, found.messages, held_out_share)
    _refuse_twin(session, found)
    session.add(found)
    session.flush()
    return found


def _get_or_add_prompt(session: Session, messages: list[Message], held_out_share: float) -> int:
    """The prompt's number; its row is locked, so that of two pairs made of it at once the second finds the first."""
    hashed = content_hash(messages)
    held_out = is_held_out(hashed, share=held_out_share)
    new = Prompt(content_hash=hashed, messages=messages, source=SOURCE, held_out=held_out)
    add_unless_there(session=session, row=new)
    prompt = session.exec(select(Prompt).where(Prompt.content_hash == hashed).with_for_update(key_share=True)).one()
    assert prompt.id is not None
    return prompt.id


def _refuse_twin(session: Session, found: Exchange) -> None:
    """Raise StateError where the same two texts wait as another exchange's pair, or are one that is trained on."""
    texts = set(found.texts.values())
    others = select(Exchange).where(Exchange.prompt_id == found.prompt_id, Exchange.id != found.id)
    waiting = [set(other.texts.values()) for other in session.exec(others)]
    written = select(Completion.id, Completion.text).where(Completion.prompt_id == found.prompt_id)
    texts_by_id = dict(session.exec(written).all())
    pairs = session.exec(select(Pair).where(Pair.prompt_id == found.prompt_id, Pair.purpose == Purpose.TRAIN))
    asked = [{texts_by_id[pair.completion_a_id], texts_by_id[pair.completion_b_id]} for pair in pairs]
    if texts in [*waiting, *asked]:
        raise StateError("These two answers are a pair already.")


def kept_exchanges(*, session: Session) -> list[Exchange]:
    """Those that were made a prompt and wait for a round to ask their pair, oldest first.

    None that somebody else is making a pair just now: their rows are locked until then.
    """
    waiting = select(Exchange).where(col(Exchange.prompt_id).is_not(None), col(Exchange.pair_id).is_(None))
    return list(session.exec(waiting.order_by(col(Exchange.id)).with_for_update(skip_locked=True)))


def move_open_pairs(*, session: Session, round_id: int) -> list[int]:
    """Have the new round ask what nobody answered of these pairs in rounds that are done, in the order they had there.

    One that somebody has answered already, or skipped, stays where it is. Returns the pairs.
    """
    made = sa.select(col(Exchange.pair_id)).where(col(Exchange.pair_id).is_not(None))
    said = sa.select(col(Comparison.pair_id)).where(col(Comparison.superseded_at).is_(None))
    over = sa.select(col(Round.id)).where(col(Round.status) == RoundStatus.DONE)
    is_left = Pair.open_slots > 0, col(Pair.round_id).in_(over), col(Pair.id).not_in(said)
    in_order = col(Pair.round_id), col(Pair.position), col(Pair.id)
    left = session.exec(select(Pair).where(col(Pair.id).in_(made), *is_left).order_by(*in_order)).all()
    for pair in left:
        pair.round_id = round_id
        session.add(pair)
    session.flush()
    return [pair.id for pair in left if pair.id is not None]


def completions_of(*, session: Session, kept: Exchange) -> tuple[Completion, Completion]:
    """Both texts of an exchange that was made a prompt, written down as completions."""
    assert kept.prompt_id is not None
    first, second = (
        add_completion(
            session=session,
            prompt_id=kept.prompt_id,
            new=NewCompletion(text=kept.texts[side], **kept.made[side]),
            checkpoint_id=kept.checkpoint_ids[side],
        )
        for side in SIDES
    )
    return first, second


def is_pair_of(*, session: Session, kept: Exchange, pair: Pair) -> None:
    """Note which pair an exchange became.

    Who saw which checkpoint wrote what is not asked about it, unless nobody else is there to be asked.
    """
    kept.pair_id = pair.id
    kept.kept_from = kept.asked_by_id if _has_company(session, kept.asked_by_id) else None
    session.add(kept)
    session.flush()


def _has_company(session: Session, annotator_id: int) -> bool:
    """Whether somebody else can log in. Where nobody needs to, one person may well go by several names."""
    others = (
        select(Account)
        .join(Annotator, col(Annotator.id) == Account.annotator_id)
        .where(Account.annotator_id != annotator_id, col(Annotator.active))
    )
    return session.exec(others.limit(1)).first() is not None
