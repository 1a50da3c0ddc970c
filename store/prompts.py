"""Prompts: what a model is asked. A prompt is known by its content; held-out prompts are chosen by its hash."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import func
from sqlmodel import Session, col, select

from store.database import chunks
from store.errors import StoreError
from store.hashing import content_hash, fraction, text_hash
from store.models import COUNTED, Pair, Prompt

Message = dict[str, str]
ROLES = ("system", "user", "assistant")


def check_messages(messages: Sequence[object]) -> list[Message]:
    """The messages, cleaned. Raises StoreError, in words, unless they are chat messages that end with a user turn."""
    cleaned: list[Message] = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise StoreError('a message must be {"role": ..., "content": "text"}')
        if message.get("role") not in ROLES:
            raise StoreError(f"a message's role must be one of {', '.join(ROLES)}, not {message.get('role')!r}")
        cleaned.append({"role": message["role"], "content": message["content"].strip()})
    if not cleaned or cleaned[-1]["role"] != "user" or not cleaned[-1]["content"]:
        raise StoreError("a prompt must end with a user message that says something")
    return cleaned


def is_held_out(hashed: str, *, share: float) -> bool:
    """Whether a prompt of this content hash is held out: the same answer on every machine and at every import."""
    return fraction(text_hash(f"held-out:{hashed}")) < share


def is_held_out_conversation(*, session: Session, messages: Sequence[Message], share: float) -> bool:
    """Whether a conversation is held out: as the prompt that it is already, else with any question that it begins with.

    Otherwise what follows on a held-out question could be trained on, with that question in it.
    """
    begun = [messages[: place + 1] for place, message in enumerate(messages) if message["role"] == "user"]
    hashes = [content_hash(list(each)) for each in begun]
    query = select(Prompt.content_hash, Prompt.held_out).where(col(Prompt.content_hash).in_(hashes))
    known = dict(session.exec(query).all())
    if hashes[-1] in known:
        return known[hashes[-1]]
    return any(known.get(hashed, is_held_out(hashed, share=share)) for hashed in hashes)


def count_prompts(*, session: Session) -> dict[str, int]:
    """How many prompts there are to ask: `{"train": n, "held_out": m}`."""
    rows = session.exec(select(Prompt.held_out, func.count()).where(is_asked()).group_by(col(Prompt.held_out))).all()
    counts = {bool(held_out): count for held_out, count in rows}
    return {"train": counts.get(False, 0), "held_out": counts.get(True, 0)}


def is_asked() -> Any:
    """Whether a model is asked the prompt: not those of gold pairs, which are kept for measuring."""
    gold = select(Pair.prompt_id).where(col(Pair.gold_verdict).is_not(None))
    return col(Prompt.id).not_in(gold)


def prompts_to_ask(
    *, session: Session, count: int, held_out_share: float, seed: int, also_asked: Collection[int | None] = ()
) -> list[Prompt]:
    """`count` prompts for a round: those asked least often first, then in an order drawn from `seed`.

    Held-out prompts get their share of the round, so that every round can be judged on prompts never trained on.
    Where there are fewer prompts than `count`, all of them, once. `also_asked`: ids of prompts that the round asks in
    another way, each as if it had been asked once more.
    """
    asked = (
        select(Pair.prompt_id, func.count().label("times"))
        .where(col(Pair.round_id).is_not(None), col(Pair.purpose).in_(COUNTED))
        .group_by(col(Pair.prompt_id))
        .subquery()
    )
    rows = session.exec(
        select(Prompt, func.coalesce(asked.c.times, 0))
        .outerjoin(asked, asked.c.prompt_id == Prompt.id)
        .where(is_asked())
    ).all()
    turns = [(prompt, times + (prompt.id in also_asked)) for prompt, times in rows]
    ranked = sorted(turns, key=lambda row: (row[1], text_hash(f"{seed}:{row[0].content_hash}")))
    held_out = [prompt for prompt, _ in ranked if prompt.held_out]
    trained = [prompt for prompt, _ in ranked if not prompt.held_out]
    kept = min(max(round(count * held_out_share), count - len(trained)), len(held_out))
    chosen = trained[: count - kept] + held_out[:kept]
    return sorted(chosen, key=lambda prompt: text_hash(f"order:{seed}:{prompt.content_hash}"))


def prompts_by_id(*, session: Session, ids: Sequence[int]) -> dict[int, Prompt]:
    """The prompts with these ids, however many; an id that there is none of is left out."""
    found: dict[int, Prompt] = {}
    for chunk in chunks(ids):
        for prompt in session.exec(select(Prompt).where(col(Prompt.id).in_(chunk))):
            assert prompt.id is not None
            found[prompt.id] = prompt
    return found


def all_prompts(*, session: Session) -> list[Prompt]:
    """Every prompt, oldest first."""
    return list(session.exec(select(Prompt).order_by(col(Prompt.id))))
