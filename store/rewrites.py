"""Rewrites: a text that an annotator wrote to better a completion, preferred over it."""

from __future__ import annotations

from sqlmodel import Session, col, select

from store.errors import StoreError
from store.hashing import text_hash
from store.models import Comparison, Completion, Pair, Purpose, Verdict, now
from store.pairs import draw_side_seed, get_pair, left_side

SOURCE = "rewrite"


def record_rewrite(*, session: Session, pair_id: int, annotator_id: int, side: str, text: str) -> Pair | None:
    """Keep `text` as this annotator's betterment of the completion on their "left" or "right" of a pair.

    It becomes a pair of its own, already decided in favour of the rewrite, and is trained on as any preference is.
    None where nothing was changed. Raises UnknownRecordError, StoreError for an empty text.
    """
    if not text.strip():
        raise StoreError("A rewrite needs some text. Nothing was written of it.")
    asked, _ = get_pair(session=session, pair_id=pair_id)
    is_a = (left_side(side_seed=asked.side_seed, annotator_id=annotator_id) == "a") == (side == "left")
    original = session.get_one(Completion, asked.completion_a_id if is_a else asked.completion_b_id)
    if text.strip() == original.text.strip():
        return None
    better = _completion(session, original, annotator_id, text)
    pair = _pair(session, better, original, asked.round_id)
    assert pair.id is not None
    session.add(Comparison(pair_id=pair.id, annotator_id=annotator_id, verdict=Verdict.A))
    session.flush()
    return pair


def _completion(session: Session, original: Completion, annotator_id: int, text: str) -> Completion:
    hashed = text_hash(text)
    known = select(Completion).where(
        Completion.prompt_id == original.prompt_id,
        Completion.text_hash == hashed,
        col(Completion.checkpoint_id).is_(None),
    )
    found = session.exec(known).first()  # written so before, by them or by somebody else
    if found is not None:
        return found
    better = Completion(
        prompt_id=original.prompt_id,
        text=text,
        text_hash=hashed,
        finish_reason=SOURCE,
        source=SOURCE,
        rewrite_of=original.id,
        annotator_id=annotator_id,
    )
    session.add(better)
    session.flush()
    return better


def _pair(session: Session, better: Completion, original: Completion, round_id: int | None) -> Pair:
    assert better.id is not None and original.id is not None
    known = select(Pair).where(
        Pair.completion_a_id == better.id, Pair.completion_b_id == original.id, Pair.purpose == Purpose.REWRITE
    )
    found = session.exec(known).first()
    if found is not None:
        return found
    pair = Pair(
        prompt_id=original.prompt_id,
        completion_a_id=better.id,
        completion_b_id=original.id,
        round_id=round_id,
        purpose=Purpose.REWRITE,
        side_seed=draw_side_seed(better.text_hash, original.text_hash, round_id),
        wanted=0,
        open_slots=0,
    )
    session.add(pair)
    session.flush()
    return pair


def withdraw_rewrites(*, session: Session, pair_id: int, annotator_id: int) -> None:
    """Supersede what this annotator's rewrites of a pair's completions said; the texts stay."""
    asked, _ = get_pair(session=session, pair_id=pair_id)
    mine = (
        select(Comparison)
        .join(Pair, col(Pair.id) == Comparison.pair_id)
        .where(
            Comparison.annotator_id == annotator_id,
            Pair.purpose == Purpose.REWRITE,
            col(Pair.completion_b_id).in_([asked.completion_a_id, asked.completion_b_id]),
            col(Comparison.superseded_at).is_(None),
        )
    )
    for said in session.exec(mine).all():
        said.superseded_at = now()
        session.add(said)
    session.flush()
