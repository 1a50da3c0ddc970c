"""Completions and the pairs made of them: written by sampling, served one at a time to annotators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import case, func
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from store.adding_once import add_unless_there
from store.errors import StoreError, UnknownRecordError
from store.hashing import fraction, text_hash
from store.holds import ANNOTATOR, MOMENT, answered_by, decided, has_room_for, held_pair, is_for, take_hold
from store.measuring import due_pair
from store.models import COUNTED, Annotator, Comparison, Completion, Pair, Prompt, Purpose, Round, Verdict, now
from store.prompts import Message
from store.queue_rules import PLAIN_RULES, QueueRules, is_done_for_today
from store.queue_tables import Hold, QueueMark

FEW = 20  # pairs that are left: from then on nobody is given one ahead of time
MARK_EVERY = 16  # pairs that an annotator is on, before it is noted how far they are in the queue


@dataclass(frozen=True)
class NewCompletion:
    """What sampling hands over for each completion. `tokens` counts the generated tokens, EOS included."""

    text: str
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    finish_reason: str = "imported"
    names_maker: bool = False


@dataclass(frozen=True)
class ShownPair:
    """A pair as one annotator sees it: texts by side, and nothing that says who wrote them."""

    pair_id: int
    messages: list[Message]
    left: str
    right: str
    left_side: str  # which completion, "a" or "b", stands left for this annotator
    round_id: int | None
    slate_id: int | None = None  # where it stands for completions that are ranked together


def left_side(*, side_seed: int, annotator_id: int) -> str:
    """Which completion stands left for this annotator, "a" or "b": drawn once, the same after every reload."""
    return "a" if fraction(text_hash(f"side:{side_seed}:{annotator_id}")) < 0.5 else "b"


def draw_side_seed(prompt: int | str, first_hash: str, second_hash: str, round_id: int | None) -> int:
    """The seed a pair's sides are drawn from: the same for the same prompt and two texts in the same round.

    `prompt`, its number or hash: short answers ("yes", "no") come up under many, and shall not keep to their sides.
    """
    return int(text_hash(f"{prompt}:{first_hash}:{second_hash}:{round_id}")[:12], 16)


def add_completion(
    *,
    session: Session,
    prompt_id: int,
    new: NewCompletion,
    checkpoint_id: int,
    run_id: int | None = None,
) -> Completion:
    """Write one completion by a checkpoint. (Imported texts come in through `bulk_adding.py`.)"""
    completion = Completion(
        prompt_id=prompt_id,
        checkpoint_id=checkpoint_id,
        run_id=run_id,
        text=new.text,
        text_hash=text_hash(new.text),
        seed=new.seed,
        settings=new.settings,
        tokens=new.tokens,
        finish_reason=new.finish_reason,
        names_maker=new.names_maker,
    )
    session.add(completion)
    session.flush()
    return completion


def add_pair(
    *,
    session: Session,
    prompt_id: int,
    completions: Sequence[Completion],
    round_id: int | None = None,
    purpose: Purpose = Purpose.TRAIN,
    position: int = 0,
    wanted: int = 1,
    slate_id: int | None = None,
    follows: int | None = None,
    selected_by: str | None = None,
    selected_margin: float | None = None,
) -> Pair:
    """Write a pair of two completions, in the order given as `a` and `b`.

    `wanted` is how many comparisons it asks for (0: none, for pairs that came in with their verdicts, or that follow
    another of their slate). Slates are written by `slates.add_slate`.
    Raises StoreError where the two are the same text or belong to another prompt.
    """
    first, second = completions
    if first.text_hash == second.text_hash:
        raise StoreError("the two completions are the same text")
    if {first.prompt_id, second.prompt_id} != {prompt_id}:
        raise StoreError("the two completions answer different prompts")
    assert first.id is not None and second.id is not None
    seed = draw_side_seed(prompt_id, first.text_hash, second.text_hash, round_id)
    pair = Pair(
        prompt_id=prompt_id,
        completion_a_id=first.id,
        completion_b_id=second.id,
        round_id=round_id,
        purpose=purpose,
        side_seed=seed,
        position=position,
        wanted=wanted,
        open_slots=wanted,
        slate_id=slate_id,
        follows=follows,
        selected_by=selected_by,
        selected_margin=selected_margin,
    )
    session.add(pair)
    session.flush()
    return pair


def next_pair(
    *, session: Session, round_id: int, annotator_id: int, rules: QueueRules = PLAIN_RULES
) -> ShownPair | None:
    """The next pair of the round for this annotator, held for them; None when there is nothing for them now.

    The pair they hold already comes first (a reload, a second tab or an undo shows it again), then a gold pair or a
    repeat where the rules have one due, then the queue's order. None as well while the round is paused, for somebody
    who has made their comparisons for today, and for somebody who may not compare any more.
    """
    if session.execute(_ASKED, {"round_id": round_id, "annotator_id": annotator_id}).first() is None:
        return None
    while True:
        pair_id = held_pair(session=session, round_id=round_id, annotator_id=annotator_id)
        if pair_id is None:
            pair_id = _fresh_pair(session, round_id, annotator_id, rules)
        if pair_id is None:
            return None
        if take_hold(session=session, pair_id=pair_id, annotator_id=annotator_id, hold=rules.hold):
            shown = shown_pair(session=session, pair_id=pair_id, annotator_id=annotator_id)
            return replace(shown, round_id=round_id)  # a gold pair is of no round, which must not show


def pair_ahead(
    *, session: Session, round_id: int, annotator_id: int, shown: int, rules: QueueRules = PLAIN_RULES
) -> ShownPair | None:
    """The pair that comes after the one `shown`, held for this annotator as well, so that it can be ready beforehand.

    None where it is not known yet: few pairs are left, and others shall not be kept from them; or the one on screen is
    their last for today.
    """
    if rules.daily_quota == 1:
        return None
    pair_id = held_pair(session=session, round_id=round_id, annotator_id=annotator_id, besides=shown)
    if pair_id is None and _are_plenty(session, round_id):
        sooner = replace(rules, daily_quota=max(0, rules.daily_quota - 1))
        pair_id = _fresh_pair(session, round_id, annotator_id, sooner, besides=shown)
    # Held a little shorter than the pair on screen, which a reload is to show first.
    if pair_id is None or not take_hold(
        session=session, pair_id=pair_id, annotator_id=annotator_id, hold=0.9 * rules.hold
    ):
        return None
    return replace(shown_pair(session=session, pair_id=pair_id, annotator_id=annotator_id), round_id=round_id)


def _are_plenty(session: Session, round_id: int) -> bool:
    """Whether the queue has more pairs than all who are at work hold, and a few besides."""
    return session.execute(_PLENTY, {"round_id": round_id, "moment": now()}).first() is not None


def _fresh_pair(session: Session, round_id: int, annotator_id: int, rules: QueueRules, besides: int = 0) -> int | None:
    if is_done_for_today(session=session, annotator_id=annotator_id, rules=rules):
        return None
    due = due_pair(session=session, round_id=round_id, annotator_id=annotator_id, rules=rules, besides=besides)
    return _first_wanting(session, round_id, annotator_id, besides) if due is None else due


def _first_wanting(session: Session, round_id: int, annotator_id: int, besides: int) -> int | None:
    """The queue's first pair that this annotator can answer, looked for from their mark on, then from the start."""
    mark = session.get(QueueMark, (round_id, annotator_id))
    found = _search(session, round_id, annotator_id, mark.position if mark else _START, besides)
    if found is None and mark is not None:
        session.delete(mark)
        found = _search(session, round_id, annotator_id, _START, besides)
    elif found is not None and found[1] >= (mark.position if mark else 0) + MARK_EVERY:
        if mark is None:  # a second tab may be noting the same just now
            new = QueueMark(round_id=round_id, annotator_id=annotator_id, position=found[1])
            add_unless_there(session=session, row=new)
        else:
            mark.position = found[1]
            session.add(mark)
    return None if found is None else found[0]


_MAY_COMPARE = sa.select(col(Annotator.id)).where(col(Annotator.id) == ANNOTATOR, col(Annotator.active))
# Whether the round asks anybody now, and this annotator: two rows by their keys, in one statement.
_ASKED = sa.select(col(Round.id)).where(
    col(Round.id) == sa.bindparam("round_id"), col(Round.paused_at).is_(None), _MAY_COMPARE.exists()
)
# The first pair, and its position, from `since` on; by partial indexes. What it costs follows the pairs before that one
# which others are still to answer, not the comparisons made. (Written out once: next_pair is on everybody's way.)
_WANTING = (
    sa.select(col(Pair.id), col(Pair.position))
    .where(
        col(Pair.round_id) == sa.bindparam("round_id"),
        col(Pair.open_slots) > sa.literal_column("0"),  # spelled as the index is, or PostgreSQL passes it over
        col(Pair.position) >= sa.bindparam("since"),
        col(Pair.id) != sa.bindparam("besides"),
        ~answered_by(ANNOTATOR),
        is_for(ANNOTATOR),
        has_room_for(ANNOTATOR, MOMENT),
    )
    .order_by(col(Pair.position), col(Pair.id))
    .limit(1)
)
_ALL_HELD = sa.select(func.count()).select_from(Hold).where(col(Hold.until) > MOMENT).scalar_subquery()
_PLENTY = (
    sa.select(sa.literal(1))
    .select_from(Pair)
    .where(col(Pair.round_id) == sa.bindparam("round_id"), col(Pair.open_slots) > sa.literal_column("0"))
    .offset(_ALL_HELD + FEW)
    .limit(1)
)
_WANTING = _WANTING.with_for_update(skip_locked=True)  # PostgreSQL: two annotators' statements run side by side
_START = -(2**31)
_A, _B = aliased(Completion), aliased(Completion)
_SHOWN = (
    sa.select(
        *(col(Pair.side_seed), col(Pair.round_id), col(Pair.slate_id), col(Prompt.messages), col(_A.text), col(_B.text))
    )
    .join(Prompt, col(Prompt.id) == col(Pair.prompt_id))
    .join(_A, col(_A.id) == col(Pair.completion_a_id))
    .join(_B, col(_B.id) == col(Pair.completion_b_id))
    .where(col(Pair.id) == sa.bindparam("pair_id"))
)


def _search(session: Session, round_id: int, annotator_id: int, since: int, besides: int) -> tuple[int, int] | None:
    given = {
        "round_id": round_id,
        "annotator_id": annotator_id,
        "since": since,
        "moment": now(),
        "besides": besides,
    }
    row = session.execute(_WANTING, given).first()
    return None if row is None else (row[0], row[1])


def shown_pair(*, session: Session, pair_id: int, annotator_id: int) -> ShownPair:
    """The pair as this annotator sees it. Raises UnknownRecordError."""
    row = session.execute(_SHOWN, {"pair_id": pair_id}).first()
    if row is None:
        raise UnknownRecordError(f"There is no pair {pair_id}.")
    side_seed, round_id, slate_id, messages, *both = row
    side = left_side(side_seed=side_seed, annotator_id=annotator_id)
    left, right = both if side == "a" else reversed(both)
    return ShownPair(pair_id, messages, left, right, side, round_id, slate_id)


def get_pair(*, session: Session, pair_id: int) -> tuple[Pair, Prompt]:
    """A pair and its prompt. Raises UnknownRecordError."""
    pair = session.get(Pair, pair_id)
    if pair is None:
        raise UnknownRecordError(f"There is no pair {pair_id}.")
    return pair, session.get_one(Prompt, pair.prompt_id)


class LockedPair(NamedTuple):
    """What writing a verdict needs to know of its pair."""

    id: int
    side_seed: int
    purpose: str
    round_id: int | None
    follows: int | None


_LOCKED = (
    sa.select(*(col(Pair.id), col(Pair.side_seed), col(Pair.purpose), col(Pair.round_id), col(Pair.follows)))
    .where(col(Pair.id) == sa.bindparam("pair_id"))
    .with_for_update()
)


def lock_pair(*, session: Session, pair_id: int) -> LockedPair:
    """The pair, its row locked where the database has row locks: writers of its comparisons go one after another.

    Raises UnknownRecordError.
    """
    row = session.execute(_LOCKED, {"pair_id": pair_id}).first()
    if row is None:
        raise UnknownRecordError(f"There is no pair {pair_id}.")
    return LockedPair(*row)


_ANSWERED = (
    sa.select(func.count())
    .select_from(Comparison)
    .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
    .where(
        col(Comparison.pair_id) == col(Pair.id),
        col(Comparison.verdict) != Verdict.SKIP,
        ~col(Comparison.adjudicates),
        col(Comparison.superseded_at).is_(None),
        col(Annotator.retracted_at).is_(None),
    )
    .scalar_subquery()
)
_RECOUNT = (
    sa.update(Pair)
    .where(col(Pair.id) == sa.bindparam("this_pair"))
    .values(open_slots=case((decided(), 0), (col(Pair.wanted) > _ANSWERED, col(Pair.wanted) - _ANSWERED), else_=0))
)


def recount_open_slots(*, session: Session, pair_id: int) -> None:
    """Set `open_slots` to what the pair still wants.

    A skip is no answer, and neither is what a retracted annotator said: the pair stays open for others. One that was
    decided about wants nothing more, unless it stands for a slate.
    """
    session.connection().execute(_RECOUNT, {"this_pair": pair_id})


def count_pairs(*, session: Session, round_id: int | None) -> dict[str, int]:
    """How many pairs a round has, how many duels beside them, and how many of both still want a comparison.

    `{"pairs": n, "duels": d, "open": m}`. All pairs of a slate are among the first; of those that are open, only the
    one which stands in the queue for it. `round_id` None: those that were imported. Gold pairs, repeats and rewrites
    are not among them.
    """
    is_duel, is_open = col(Pair.purpose) == Purpose.DUEL, col(Pair.open_slots) > 0
    counts = (func.count().filter(~is_duel), func.count().filter(is_duel), func.count().filter(is_open))
    asked = Pair.round_id == round_id, col(Pair.purpose).in_(COUNTED)
    return dict(zip(("pairs", "duels", "open"), session.exec(select(*counts).where(*asked)).one(), strict=True))


def count_naming_makers(*, session: Session, round_id: int) -> int:
    """How many of a round's pairs hold a completion that names its maker: comparing those is not quite blind."""
    naming = select(col(Completion.id)).where(
        col(Completion.id).in_([col(Pair.completion_a_id), col(Pair.completion_b_id)]), col(Completion.names_maker)
    )
    asked = Pair.round_id == round_id, col(Pair.purpose).in_(COUNTED)
    return session.exec(select(func.count()).where(*asked, naming.exists())).one()
