"""Holds: whose screen a pair is on. As many at once as the pair still wants, so that it never gets more than it asked.

A hold is a lease: one that has run out keeps nobody else out, and the pair is still the first that its annotator is
served, unless somebody else was quicker. Gold pairs and repeats want no number of answers, and are anybody's to hold;
second looks, which are repeats too, want one.

SQLite has one writer at a time. On PostgreSQL transactions run side by side, and each counts holds as they stood when
its statement began: so a pair's row is locked before its holds are counted, and taking a pair may fail.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from store.access_tables import Account
from store.chat_tables import Exchange
from store.errors import PairChangedError
from store.models import COUNTED, MEASURING, Annotator, Comparison, Pair, Purpose, UtcDateTime, Verdict, now
from store.queue_tables import Hold

HOLD = timedelta(minutes=3)  # how long a pair is kept for the annotator it was shown to, if nothing else is asked for


def answered_by(annotator_id: Any) -> Any:
    """Whether this annotator has a verdict standing on the pair, a skip included: a condition on `Pair`.

    A decision about it is none.
    """
    standing = sa.select(col(Comparison.id)).where(
        col(Comparison.pair_id) == col(Pair.id),
        col(Comparison.annotator_id) == annotator_id,
        col(Comparison.superseded_at).is_(None),
        ~col(Comparison.adjudicates),
    )
    return standing.correlate(Pair).exists()


def is_second_look(pair: Any) -> Any:
    """Whether a pair is a repeat that a policy asked for (second_looks.py); those drawn at random want no number."""
    return (col(pair.purpose) == Purpose.REPEAT) & (col(pair.wanted) > 0)


def is_for(annotator_id: Any) -> Any:
    """Whether a pair in the queue may go to this annotator: a condition on `Pair`.

    What is asked of somebody is theirs alone; a repeat that is asked of nobody is for who has not judged its original.
    A pair of the Playground is kept from whoever saw which checkpoint wrote what.
    """
    judged = sa.select(col(Comparison.id)).where(
        col(Comparison.pair_id) == col(Pair.repeats),
        col(Comparison.annotator_id) == annotator_id,
        col(Comparison.superseded_at).is_(None),
        ~col(Comparison.adjudicates),
    )
    anybodys = col(Pair.asked_of).is_(None) & (col(Pair.repeats).is_(None) | ~judged.correlate(Pair).exists())
    return ((col(Pair.asked_of) == annotator_id) | anybodys) & ~is_kept_from(annotator_id)


_SEEN: Any = aliased(Exchange)


def is_kept_from(annotator_id: Any) -> Any:
    """Whether this annotator saw in the Playground who wrote what of the pair, or of what it repeats: of `Pair`.

    It is kept from nobody while nobody else can answer it.
    """
    theirs = sa.select(col(Exchange.id)).where(
        col(Exchange.pair_id).in_((col(Pair.id), col(Pair.repeats))),
        col(Exchange.kept_from) == annotator_id,
        sees_blind().correlate(Pair).exists(),
    )
    return theirs.correlate(Pair).exists()


def sees_blind() -> Any:
    """Who comes here and has not seen in the Playground who wrote what of the pair, or of what it repeats.

    Somebody who was let in by e-mail comes once they were served a pair: an address alone answers nothing. Where nobody
    needs to log in there is no such person: one may well go by several names.
    """
    saw = sa.select(_SEEN.id).where(
        _SEEN.pair_id.in_((col(Pair.id), col(Pair.repeats))), _SEEN.kept_from == col(Account.annotator_id)
    )
    held = sa.select(col(Hold.pair_id)).where(col(Hold.annotator_id) == col(Account.annotator_id))
    said = sa.select(col(Comparison.id)).where(col(Comparison.annotator_id) == col(Account.annotator_id))
    came = col(Account.passcode_hash).is_not(None) | held.correlate(Account).exists() | said.correlate(Account).exists()
    return (
        sa.select(col(Account.annotator_id))
        .join(Annotator, col(Annotator.id) == col(Account.annotator_id))
        .where(col(Annotator.active), came, ~saw.correlate(Pair, Account).exists())
    )


def decided() -> Any:
    """Whether a decision stands on the pair, which then wants no more answers: a condition on `Pair`.

    A decision about one pair of a slate leaves the slate as open as it was: the others still want its ranking.
    """
    ruling = (
        sa.select(col(Comparison.id))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .where(
            col(Comparison.pair_id) == col(Pair.id),
            col(Comparison.adjudicates),
            col(Comparison.superseded_at).is_(None),
            col(Annotator.retracted_at).is_(None),
        )
    )
    return col(Pair.slate_id).is_(None) & ruling.exists()


def has_room_for(annotator_id: Any, moment: Any) -> Any:
    """Whether the pair wants more answers than others are giving it just now: a condition on `Pair`."""
    others = (
        sa.select(sa.func.count())
        .select_from(Hold)
        .where(col(Hold.pair_id) == col(Pair.id), col(Hold.annotator_id) != annotator_id, col(Hold.until) > moment)
    )
    return col(Pair.open_slots) > others.correlate(Pair).scalar_subquery()


# These are on the way of every pair that is shown: written out once, they take a third of the time.
ANNOTATOR, MOMENT = sa.bindparam("annotator_id", type_=sa.Integer()), sa.bindparam("moment", type_=UtcDateTime())
_UNNUMBERED = col(Pair.purpose).in_(MEASURING) & ~is_second_look(Pair)
_FREE_FOR_THEM = _UNNUMBERED | has_room_for(ANNOTATOR, MOMENT)
_HELD = (
    sa.select(col(Pair.id))
    .join(Hold, col(Hold.pair_id) == col(Pair.id))
    .where(
        col(Hold.annotator_id) == ANNOTATOR,
        (col(Pair.round_id) == sa.bindparam("round_id")) | (col(Pair.purpose) == Purpose.GOLD),
        ~answered_by(ANNOTATOR),
        ~is_kept_from(ANNOTATOR),
        _FREE_FOR_THEM,
        col(Pair.id) != sa.bindparam("besides"),
    )
    .order_by(col(Hold.until).desc())
    .limit(1)
)


def held_pair(*, session: Session, round_id: int, annotator_id: int, besides: int = 0) -> int | None:
    """The pair that this annotator was shown last and has not answered, if it is still theirs to answer.

    `besides`: a pair that is left out.
    """
    given = {"annotator_id": annotator_id, "round_id": round_id, "moment": now(), "besides": besides}
    found: int | None = session.scalar(_HELD, given)
    return found


def _taken(insert: Any) -> Any:
    until = sa.bindparam("until", type_=UtcDateTime())
    values = sa.select(col(Pair.id), ANNOTATOR, until).where(col(Pair.id) == sa.bindparam("pair_id"), _FREE_FOR_THEM)
    kept = insert(Hold).from_select(["pair_id", "annotator_id", "until"], values)
    kept = kept.on_conflict_do_update(index_elements=["pair_id", "annotator_id"], set_={"until": kept.excluded.until})
    return kept.execution_options(preserve_rowcount=True)  # of an INSERT it is not kept by itself on PostgreSQL


_TAKEN = {"sqlite": _taken(sqlite.insert), "postgresql": _taken(postgresql.insert)}


def take_hold(*, session: Session, pair_id: int, annotator_id: int, hold: timedelta = HOLD) -> bool:
    """Keep a pair for this annotator from now on; False where others have all of it that it still wants."""
    dialect = session.get_bind().dialect.name
    if dialect != "sqlite":
        session.execute(select(Pair.id).where(Pair.id == pair_id).with_for_update())
    moment = now()
    given = {"pair_id": pair_id, "annotator_id": annotator_id, "moment": moment, "until": moment + hold}
    return session.connection().execute(_TAKEN[dialect], given).rowcount > 0


_RELEASED = sa.delete(Hold).where(col(Hold.pair_id) == sa.bindparam("pair_id"), col(Hold.annotator_id) == ANNOTATOR)


def release_hold(*, session: Session, pair_id: int, annotator_id: int) -> None:
    """Let others have this pair, if it was this annotator who held it."""
    session.connection().execute(_RELEASED, {"pair_id": pair_id, "annotator_id": annotator_id})


def release_all(*, session: Session, annotator_id: int) -> None:
    """Let others have every pair that this annotator held."""
    session.execute(sa.delete(Hold).where(col(Hold.annotator_id) == annotator_id))


def require_room(*, session: Session, pair_id: int, annotator_id: int, answer: str, before: str | None) -> None:
    """Raise PairChangedError for an answer that comes after its hold ran out and somebody else took the pair over.

    It would be one more than the pair asked for. A skip is no answer, and a change of mind (`before`: what stood) is no
    further one. Whoever holds the pair still needs no more than that it wants an answer.

    For writers that have locked the pair's row: whoever else takes the pair or answers it comes before or after them.
    """
    if answer == Verdict.SKIP or before not in (None, Verdict.SKIP):
        return
    given = {"pair_id": pair_id, "annotator_id": annotator_id, "moment": now()}
    if session.execute(_FITS, given).first() is None:
        meanwhile = is_decided(session=session, pair_id=pair_id)
        raise PairChangedError(_DECIDED_MEANWHILE if meanwhile else _GONE)


def require_blind(*, session: Session, pair_id: int, annotator_id: int) -> None:
    """Raise PairChangedError for a pair that is kept from this annotator: they saw which checkpoint wrote what."""
    if session.execute(_KEPT_FROM, {"annotator_id": annotator_id, "pair_id": pair_id}).first() is not None:
        raise PairChangedError(_NOT_BLIND)


def is_decided(*, session: Session, pair_id: int) -> bool:
    """Whether the pair is asked no more since somebody decided about it."""
    return session.execute(_DECIDED, {"pair_id": pair_id}).first() is not None


_GONE = (
    "That pair was on screen for so long that it went to somebody else. This one verdict was not kept; all those "
    "before it are. Here is the next pair."
)
_NOT_BLIND = (
    "You saw in the Playground which checkpoint wrote what in this pair, so it is for others to judge. Nothing was "
    "written."
)
_DECIDED_MEANWHILE = (
    "A researcher decided about that pair while it was on screen, so it is asked no more. This one verdict was not "
    "kept; all those before it are. Here is the next pair."
)
_IS_HELD = (
    sa.select(col(Hold.pair_id))
    .where(col(Hold.pair_id) == col(Pair.id), col(Hold.annotator_id) == ANNOTATOR, col(Hold.until) > MOMENT)
    .exists()
)
_FITS = sa.select(col(Pair.id)).where(
    col(Pair.id) == sa.bindparam("pair_id"),
    (col(Pair.purpose).not_in(COUNTED) & ~is_second_look(Pair))
    | ((col(Pair.open_slots) > 0) & _IS_HELD)
    | has_room_for(ANNOTATOR, MOMENT),
)
_KEPT_FROM = sa.select(col(Pair.id)).where(col(Pair.id) == sa.bindparam("pair_id"), is_kept_from(ANNOTATOR))
_DECIDED = sa.select(col(Pair.id)).where(col(Pair.id) == sa.bindparam("pair_id"), decided())
