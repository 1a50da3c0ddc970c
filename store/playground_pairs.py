"""Pairs of the Playground: an exchange made a prompt, and its two texts a pair that a round asks before its others.

A pair that nobody answered goes along into the next round, as duels and second looks do. Whoever saw who wrote what is
not asked: who made it, and everybody whose own exchange was the same, word for word (`holds.is_kept_from`).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from store.access_tables import Account
from store.adding_once import add_unless_there
from store.chat_tables import Exchange
from store.errors import StateError
from store.exchanges import SIDES, locked_exchange, require_own, why_no_pair
from store.hashing import content_hash
from store.holds import release_hold, sees_blind
from store.models import Annotator, Comparison, Completion, Pair, Prompt, Purpose, Round, RoundStatus, Verdict
from store.pairs import NewCompletion, add_completion, recount_open_slots
from store.prompts import Message, is_held_out_conversation
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
    held_out = is_held_out_conversation(session=session, messages=messages, share=held_out_share)
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

    None that somebody else is making a pair just now: their rows are locked until then. Raises NotAllowedError.
    """
    require_researcher(session=session, to="have the Playground's pairs asked")
    waiting = select(Exchange).where(col(Exchange.prompt_id).is_not(None), col(Exchange.pair_id).is_(None))
    return list(session.exec(waiting.order_by(col(Exchange.id)).with_for_update(skip_locked=True)))


def is_hand_picked() -> Any:
    """Whether a pair, or what it betters, was picked by hand to be asked about a held-out prompt: of `Pair`, `Prompt`.

    Neither is it trained on, nor does it judge: what judges is not selected.
    """
    made = sa.select(col(Exchange.id)).where(col(Exchange.pair_id).in_((col(Pair.id), col(Pair.repeats))))
    return col(Prompt.held_out) & made.correlate(Pair).exists()


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
    """Note which pair an exchange became, and so did all that asked and were answered the same.

    Who saw which checkpoint wrote what is not asked about it, unless nobody else is there to be asked.
    """
    for found in (kept, *_twins(session, kept)):
        found.prompt_id, found.pair_id, found.kept_from = kept.prompt_id, pair.id, found.asked_by_id
        session.add(found)
    session.flush()
    fit_to_team(session=session)


def note_pair(*, session: Session, ended: Exchange) -> None:
    """Where what was just asked and answered is a pair already, keep it from who asked: they see who wrote what."""
    made = next((twin for twin in _twins(session, ended) if twin.pair_id is not None), None)
    if made is None or made.pair_id is None:
        return
    ended.prompt_id, ended.pair_id, ended.kept_from = made.prompt_id, made.pair_id, ended.asked_by_id
    session.add(ended)
    session.flush()
    release_hold(session=session, pair_id=made.pair_id, annotator_id=ended.asked_by_id)
    fit_to_team(session=session)


def _twins(session: Session, found: Exchange) -> list[Exchange]:
    """All other exchanges of the same messages and the same two texts, on whichever sides."""
    texts = set(found.texts.values())
    same = col(Exchange.text_a).in_(texts), col(Exchange.text_b).in_(texts), Exchange.id != found.id
    others = session.exec(select(Exchange).where(*same).order_by(col(Exchange.id)))
    return [each for each in others if set(each.texts.values()) == texts and each.messages == found.messages]


def fit_to_team(*, session: Session) -> None:
    """Let open pairs of the Playground want no more answers than there are people to give them blind; at least one.

    To be called when one is made, and when fewer people are left. Where nobody logs in, who is there is not known.
    """
    if session.exec(select(Account.annotator_id).limit(1)).first() is None:
        return
    made = sa.select(col(Exchange.pair_id)).where(col(Exchange.pair_id).is_not(None))
    is_open = col(Pair.id).in_(made), Pair.open_slots > 0
    for pair_id, wanted in session.exec(select(Pair.id, Pair.wanted).where(*is_open)).all():
        assert pair_id is not None
        most = max(1, len(_who_can_answer(session, pair_id)))
        if most < wanted:
            session.execute(sa.update(Pair).where(col(Pair.id) == pair_id).values(wanted=most))
            recount_open_slots(session=session, pair_id=pair_id)


def _who_can_answer(session: Session, pair_id: int) -> set[int]:
    """Who has answered the pair, or could answer it blind."""
    answered = (
        select(Comparison.annotator_id)
        .join(Annotator, col(Annotator.id) == Comparison.annotator_id)
        .where(
            Comparison.pair_id == pair_id,
            Comparison.verdict != Verdict.SKIP,
            ~col(Comparison.adjudicates),
            col(Comparison.superseded_at).is_(None),
            col(Annotator.retracted_at).is_(None),
        )
    )
    blind = sees_blind().join(Pair, col(Pair.id) == pair_id)
    return {*session.exec(answered), *session.execute(blind).scalars()}
