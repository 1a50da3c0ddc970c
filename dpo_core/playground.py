"""The Playground: a researcher asks two checkpoints the same, and makes a pair of what they answer.

    ask         the exchange is put down; a worker's chat process (chat.py) writes both answers
    go_on       the messages of the next turn: both checkpoints go on from one answer, so that they always see the same
    make_pair   the messages become a prompt, the two answers a pair of the round that compares, or of the next one

Importable without torch.
"""

from __future__ import annotations

from random import SystemRandom
from typing import Any

from sqlmodel import Session

from dpo_core.config import SamplingSettings
from dpo_core.errors import SettingsError
from dpo_core.queueing import ask_kept
from dpo_core.workspace import Workspace
from store.chat_tables import Exchange
from store.checkpoints import get_checkpoint, list_checkpoints
from store.database import reading, writing
from store.decisions import serving_checkpoint
from store.exchanges import ReadExchange, add_exchange, read_exchange
from store.models import Round, RoundStatus
from store.playground_pairs import keep_prompt
from store.prompts import Message, is_held_out_conversation
from store.rounds import is_on_imports, latest_round

LARGEST_SEED = 2**31 - 1
LAW = ("temperature", "top_p", "max_new_tokens")


def ask(
    workspace: Workspace,
    *,
    by: int,
    messages: list[Message],
    checkpoints: tuple[str, str],
    seed: int,
    changes: dict[str, Any] | None = None,
) -> Exchange:
    """Ask two checkpoints the same; `changes`: temperature, top_p and max_new_tokens where not as in pairloop.toml.

    The same checkpoint twice draws two different answers of it, as sampling does for a round. Raises
    UnknownRecordError, StoreError for messages that are none, SettingsError, NotAllowedError.
    """
    law = _law(workspace.settings.sampling, changes or {})
    with writing(workspace.engine) as session:
        first, second = (get_checkpoint(session=session, name=name) for name in checkpoints)
        both = (first, second)
        return add_exchange(
            session=session, asked_by_id=by, messages=messages, checkpoints=both, seed=seed, settings=law
        )


def _law(sampling: SamplingSettings, changes: dict[str, Any]) -> dict[str, Any]:
    try:
        return SamplingSettings.model_validate(sampling.model_dump() | changes).model_dump()
    except ValueError as error:
        raise SettingsError(f"These sampling settings cannot be used: {error}") from error


def go_on(told: ReadExchange, side: str, text: str) -> list[Message]:
    """The messages of the next turn, after the answer that stands on this side, "a" or "b"."""
    answered = {"role": "assistant", "content": told.texts[side]}
    return [*told.exchange.messages, answered, {"role": "user", "content": text}]


def make_pair(workspace: Workspace, exchange_id: int) -> ReadExchange:
    """Make an exchange a prompt, and a pair of the open round if that compares; else the next round asks it first.

    Raises StateError where no pair can come of it, NotAllowedError.
    """
    with writing(workspace.engine) as session:
        keep_prompt(
            session=session,
            exchange_id=exchange_id,
            held_out_share=workspace.settings.round.held_out_share,
        )
        current = _comparing(session)
        if current is not None and current.id is not None:
            ask_kept(session, workspace.settings, current.id)
        return read_exchange(session=session, exchange_id=exchange_id)


def will_be_held_out(workspace: Workspace, told: ReadExchange) -> bool:
    """Whether a pair of this exchange is, or would be, on a held-out prompt."""
    share = workspace.settings.round.held_out_share
    with reading(workspace.engine) as session:
        return is_held_out_conversation(session=session, messages=told.exchange.messages, share=share)


def _comparing(session: Session) -> Round | None:
    """The round that can still be asked more; one that is trained already would learn nothing of it."""
    found = latest_round(session=session)
    comparing = found is not None and found.status in (RoundStatus.SAMPLING, RoundStatus.COMPARING)
    return found if found is not None and comparing and not is_on_imports(session=session, entry=found) else None


def first_choice(workspace: Workspace) -> tuple[list[str], tuple[str, str]]:
    """All checkpoints, the newest first, and the two to begin with: the newest, and what serves or else the base."""
    with reading(workspace.engine) as session:
        names = [each.name for each in reversed(list_checkpoints(session=session))]
        serving = serving_checkpoint(session=session).name
    against = serving if serving != names[0] else names[-1]
    return names, (names[0], against)


def new_seed() -> int:
    """A seed that nobody has thought of."""
    return SystemRandom().randrange(LARGEST_SEED)
