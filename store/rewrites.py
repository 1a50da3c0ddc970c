"""Rewrites: a text that an annotator wrote to better a completion, preferred over it."""

from __future__ import annotations

from collections.abc import Iterable

from sqlmodel import Session, col, select

from store.comparisons import require_comparing
from store.hashing import text_hash
from store.models import COUNTED, Comparison, Completion, Pair, Purpose, Verdict, now
from store.pairs import draw_side_seed, get_pair, left_side

SOURCE = "rewrite"
SIDES = ("left", "right")


def standing_rewrites(*, session: Session, pair_id: int, annotator_id: int) -> dict[str, str]:
    """What this annotator's rewrites on a pair say, by the side on which the original stands for them."""
    asked, _ = get_pair(session=session, pair_id=pair_id)
    sides = _completion_ids(asked, annotator_id)
    texts = {pair.completion_b_id: text for _, pair, text in _standing(session, pair_id, annotator_id)}
    return {side: texts[sides[side]] for side in SIDES if sides[side] in texts}


def replace_rewrites(*, session: Session, pair_id: int, annotator_id: int, texts: dict[str, str]) -> None:
    """Let this annotator's rewrites on a pair be these, by side; what is the same already stays as it is.

    Each becomes a pair of its own, already decided in favour of the rewrite, and is trained on as any preference is.
    A text that is empty, or equal to one of the two on screen, is none. On a pair that measures (gold, repeat), which
    nothing is trained on, only the text is kept. Raises UnknownRecordError, PairChangedError for an annotator who may
    not compare any more, NotAllowedError in somebody else's name.
    """
    require_comparing(session=session, annotator_id=annotator_id)
    asked, _ = get_pair(session=session, pair_id=pair_id)
    sides = _completion_ids(asked, annotator_id)
    shown = {number: session.get_one(Completion, number) for number in sides.values()}
    wanted = {sides[side]: text for side, text in texts.items() if _is_new(text, shown.values())}
    for said, pair, text in _standing(session, pair_id, annotator_id):
        if wanted.get(pair.completion_b_id) == text:
            del wanted[pair.completion_b_id]
        else:
            said.superseded_at = now()
            session.add(said)
    session.flush()
    for number, text in wanted.items():
        _write(session, asked, shown[number], annotator_id, text)


def _completion_ids(asked: Pair, annotator_id: int) -> dict[str, int]:
    a_is_left = left_side(side_seed=asked.side_seed, annotator_id=annotator_id) == "a"
    both = (asked.completion_a_id, asked.completion_b_id)
    return dict(zip(SIDES, both if a_is_left else both[::-1], strict=True))


def _is_new(text: str, shown: Iterable[Completion]) -> bool:
    return bool(text.strip()) and text.strip() not in {each.text.strip() for each in shown}


def _standing(session: Session, pair_id: int, annotator_id: int) -> list[tuple[Comparison, Pair, str]]:
    query = (
        select(Comparison, Pair, Completion.text)
        .join(Pair, col(Pair.id) == Comparison.pair_id)
        .join(Completion, col(Completion.id) == Pair.completion_a_id)
        .where(
            Comparison.annotator_id == annotator_id,
            Pair.purpose == Purpose.REWRITE,
            Pair.repeats == pair_id,
            col(Comparison.superseded_at).is_(None),
        )
    )
    return [(said, pair, text) for said, pair, text in session.exec(query)]


def _write(session: Session, asked: Pair, original: Completion, annotator_id: int, text: str) -> None:
    better = _completion(session, original, annotator_id, text)
    if asked.purpose in COUNTED:
        pair = _pair(session, better, original, asked)
        assert pair.id is not None
        session.add(Comparison(pair_id=pair.id, annotator_id=annotator_id, verdict=Verdict.A))
        session.flush()


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


def _pair(session: Session, better: Completion, original: Completion, asked: Pair) -> Pair:
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
        round_id=asked.round_id,
        purpose=Purpose.REWRITE,
        side_seed=draw_side_seed(asked.prompt_id, better.text_hash, original.text_hash, asked.round_id),
        wanted=0,
        open_slots=0,
        repeats=asked.id,
    )
    session.add(pair)
    session.flush()
    return pair
