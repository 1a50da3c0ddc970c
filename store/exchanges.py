"""Exchanges of the Playground: asked by a researcher, and read by nobody else.

They are written by a chat's process (writing_exchanges.py), and made into pairs (playground_pairs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, func, select

from store.chat_tables import Exchange, ExchangeStatus
from store.errors import NotAllowedError, UnknownRecordError
from store.holds import is_kept_from
from store.models import Annotator, Checkpoint, Comparison, Pair, Prompt, Round, RoundStatus, Verdict
from store.prompts import Message, check_messages
from store.roles import person_of, require_researcher

OPEN = (ExchangeStatus.WAITING, ExchangeStatus.WRITING)
SIDES = ("a", "b")


@dataclass(frozen=True)
class AskedPair:
    """Where the pair of an exchange stands: the number of the round that asks it, and how many answers it has.

    `is_over`: that round is done. `wants`: how many answers more it asks for. `skips` are no answers. `kept`: it is not
    asked of who asked the exchange.
    """

    round: int
    is_over: bool
    answers: int
    skips: int
    wants: int
    kept: bool

    @property
    def goes_on(self) -> bool:
        """Whether the next round asks it, as nobody said anything of it in this one."""
        return self.is_over and self.wants > 0 and not self.answers and not self.skips


@dataclass(frozen=True)
class ReadExchange:
    """An exchange with the names of its checkpoints, and what became of its pair: None before a round asks one.

    `before`: how many that are to be written were asked earlier.
    """

    exchange: Exchange
    names: dict[str, str]
    held_out: bool
    pair: AskedPair | None
    before: int

    @property
    def texts(self) -> dict[str, str]:
        """What was written so far, by side."""
        return self.exchange.texts

    @property
    def is_open(self) -> bool:
        """Whether it is still to be written to its end."""
        return self.exchange.status in OPEN

    @property
    def why_no_pair(self) -> str:
        """Why no pair can come of it; empty where one can."""
        return why_no_pair(self.exchange)


def add_exchange(
    *,
    session: Session,
    asked_by_id: int,
    messages: Sequence[Message],
    checkpoints: tuple[Checkpoint, Checkpoint],
    seed: int,
    settings: dict[str, Any],
) -> Exchange:
    """Ask two checkpoints the same. Raises StoreError for messages that are none, NotAllowedError."""
    require_researcher(session=session, to="chat with checkpoints")
    if person_of(session) not in (None, asked_by_id):
        raise NotAllowedError("Nobody asks in somebody else's name. Nothing was written.")
    first, second = checkpoints
    assert first.id is not None and second.id is not None
    asked = Exchange(
        asked_by_id=asked_by_id,
        messages=check_messages(messages),
        checkpoint_a_id=first.id,
        checkpoint_b_id=second.id,
        seed=seed,
        settings=settings,
    )
    session.add(asked)
    session.flush()
    return asked


def read_exchange(*, session: Session, exchange_id: int) -> ReadExchange:
    """An exchange for who asked it. Raises UnknownRecordError, NotAllowedError for anybody else."""
    require_researcher(session=session, to="chat with checkpoints")
    found = session.get(Exchange, exchange_id)
    if found is None:
        raise UnknownRecordError(f"There is no exchange {exchange_id}.")
    require_own(session, found)
    names = {side: session.get_one(Checkpoint, number).name for side, number in found.checkpoint_ids.items()}
    prompt = session.get(Prompt, found.prompt_id) if found.prompt_id else None
    held_out = prompt is not None and prompt.held_out
    return ReadExchange(found, names, held_out, _asked_pair(session, found), _count_before(session, found))


def _count_before(session: Session, found: Exchange) -> int:
    if found.status not in OPEN or found.id is None:
        return 0
    earlier = col(Exchange.status).in_(OPEN), col(Exchange.id) < found.id
    return session.exec(select(func.count()).select_from(Exchange).where(*earlier)).one()


def _asked_pair(session: Session, found: Exchange) -> AskedPair | None:
    kept = is_kept_from(found.asked_by_id)
    where = select(Round.number, Round.status, Pair.open_slots, kept).join(Pair, col(Pair.round_id) == Round.id)
    row = session.exec(where.where(Pair.id == found.pair_id)).first()
    if row is None:
        return None
    number, status, wants, is_kept = row
    said = session.exec(
        select(Comparison.verdict)
        .join(Annotator, col(Annotator.id) == Comparison.annotator_id)
        .where(
            Comparison.pair_id == found.pair_id,
            col(Comparison.superseded_at).is_(None),
            col(Annotator.retracted_at).is_(None),
        )
    ).all()
    skips = said.count(Verdict.SKIP)
    return AskedPair(number, status == RoundStatus.DONE, len(said) - skips, skips, wants, is_kept)


def require_own(session: Session, found: Exchange) -> None:
    """Refuse whoever did not ask it: they would see who wrote what, and could not compare its pair blind."""
    if person_of(session) not in (None, found.asked_by_id):
        who = session.get_one(Annotator, found.asked_by_id).name
        raise NotAllowedError(
            f"This exchange is {who}'s. It says which checkpoint wrote what, so a pair made of it would not be blind "
            f"for you any more. Ask {who} to make it a pair, and compare that. Nothing was changed."
        )


def latest_exchanges(*, session: Session, asked_by_id: int, limit: int) -> list[Exchange]:
    """What somebody asked last, the latest first. Raises NotAllowedError for anybody else."""
    require_researcher(session=session, to="see what was asked in the Playground")
    if person_of(session) not in (None, asked_by_id):
        raise NotAllowedError("What somebody asked in the Playground is shown to them alone: it says who wrote what.")
    asked = select(Exchange).where(Exchange.asked_by_id == asked_by_id).order_by(col(Exchange.id).desc())
    return list(session.exec(asked.limit(limit)))


def locked_exchange(session: Session, exchange_id: int) -> Exchange:
    """The exchange, its row locked where the database has row locks."""
    found = session.get(Exchange, exchange_id, with_for_update=True)
    if found is None:
        raise UnknownRecordError(f"There is no exchange {exchange_id}.")
    return found


def why_no_pair(found: Exchange) -> str:
    """Why no pair can come of it; empty where one can."""
    if found.status != ExchangeStatus.DONE:
        return f"Only whole answers become a pair, and this exchange is {found.status}. Ask again."
    if not found.text_a or not found.text_b:
        return "One of the two wrote nothing, so there is no pair to compare. Ask again with a new seed."
    if found.text_a == found.text_b:
        return "Both wrote the same, so there is nothing to compare. Ask again with a new seed."
    return ""
