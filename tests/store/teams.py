"""Teams of annotators and what they said, as rows: made quickly, for tests of agreement and reliability."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta

from sqlmodel import Session

from store.annotators import get_or_add_annotator
from store.checkpoints import add_checkpoint
from store.models import Comparison, Pair, Purpose, Role, now
from store.pairs import NewCompletion, add_completion, add_pair
from tests.store.asking import add_prompt

_numbers = itertools.count()


def ask(
    session: Session,
    said: dict[str, str | dict],
    *,
    purpose: Purpose = Purpose.TRAIN,
    texts: tuple[str, str] = ("short", "a longer text"),
    gold: str | None = None,
    prompt: str | None = None,
    repeats: Pair | None = None,
) -> Pair:
    """A pair and its comparisons: {"Ada": "a"}, or {"Ada": {"verdict": "a", "seconds": 3.0}}."""
    asked = add_prompt(session, prompt or f"question {next(_numbers)}")
    pair = _pair(session, asked.id, purpose, texts, repeats)
    pair.gold_verdict = gold
    for name, given in said.items():
        say(session, pair, name, **({"verdict": given} if isinstance(given, str) else given))
    return pair


def _pair(session: Session, prompt_id: int, purpose: Purpose, texts: tuple[str, str], repeats: Pair | None) -> Pair:
    if repeats is None:
        base = add_checkpoint(session=session, name=f"checkpoint-{next(_numbers)}", path="x")
        both = [
            add_completion(session=session, prompt_id=prompt_id, new=NewCompletion(text), checkpoint_id=base.id)
            for text in texts
        ]
        return add_pair(session=session, prompt_id=prompt_id, completions=both, purpose=purpose)
    pair = Pair(
        prompt_id=repeats.prompt_id,
        completion_a_id=repeats.completion_b_id,
        completion_b_id=repeats.completion_a_id,
        purpose=Purpose.REPEAT,
        repeats=repeats.id,
        side_seed=0,
        wanted=0,
        open_slots=0,
    )
    session.add(pair)
    session.flush()
    return pair


def ask_again(session: Session, pair: Pair, name: str, verdict: str) -> Pair:
    """The same pair asked of this annotator a second time, its completions the other way round."""
    repeat = _pair(session, pair.prompt_id, Purpose.REPEAT, ("", ""), pair)
    repeat.asked_of = get_or_add_annotator(session=session, name=name).id
    say(session, repeat, name, verdict=verdict)
    return repeat


def say(session: Session, pair: Pair, name: str, *, after: timedelta | None = None, **given: object) -> Comparison:
    """One comparison of this annotator's. `after`: when, counted from a fixed moment."""
    role = Role.SOURCE if name.startswith("import:") else Role.ANNOTATOR
    annotator = get_or_add_annotator(session=session, name=name, role=role)
    moment = now() if after is None else datetime.fromisoformat("2026-01-01T00:00:00+00:00") + after
    said = Comparison(**{"pair_id": pair.id, "annotator_id": annotator.id, "created_at": moment} | given)
    session.add(said)
    session.flush()
    return said
