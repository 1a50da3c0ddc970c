"""Teams of annotators and what they said, as rows: made quickly, for tests of agreement and reliability."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session, col, select

from store.annotators import get_or_add_annotator
from store.checkpoints import add_checkpoint
from store.comparisons import Choice, record_comparison
from store.holds import is_second_look
from store.models import Comparison, Pair, PairReward, Purpose, Role, Round, Run, RunKind, now
from store.pairs import NewCompletion, add_completion, add_pair, left_side
from store.second_looks import queue_second_looks
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


def keep_margins(session: Session, margins: dict[int, float], sides: dict[int, str] | None = None) -> Run:
    """A training that found these margins, by pair, of what was chosen: `a` where nothing else is said."""
    run = Run(kind=RunKind.TRAIN, status="done")
    session.add(run)
    session.flush()
    nothing = dict.fromkeys(("logps_chosen", "logps_rejected", "ref_logps_chosen", "ref_logps_rejected"), 0.0)
    rest: dict[str, Any] = nothing | {"reward_rejected": 0.0, "length_chosen": 1, "length_rejected": 1}
    for pair, margin in margins.items():
        named = {"pair_id": pair, "chosen_side": (sides or {}).get(pair, "a"), "split": "train", "checkpoint_id": 1}
        session.add(PairReward(run_id=run.id, **rest, **named, margin=margin, reward_chosen=margin))
    session.flush()
    return run


def send_back(
    session: Session, margins: dict[int, float], *, count: int = 5, sides: dict[int, str] | None = None
) -> list[Pair]:
    """The second looks, in the first round, that come of these margins; the first one asked for first."""
    run = keep_margins(session, margins, sides)
    before = set(session.exec(select(Pair.id)))
    round_id = session.exec(select(Round.id)).first()
    given = {"run_id": run.id, "checkpoint_id": 1, "round_id": round_id, "count": count, "spread": 6, "seed": 1}
    asked = queue_second_looks(session=session, **given)
    looks = session.exec(select(Pair).where(is_second_look(Pair)).order_by(col(Pair.id))).all()
    made = [pair for pair in looks if pair.id not in before]
    assert asked == len(made)
    return made


def give(session: Session, pair: Pair, verdict: str) -> Comparison:
    """Whom the pair is asked of says this of it, in terms of its completions."""
    side = left_side(side_seed=pair.side_seed, annotator_id=pair.asked_of)
    choice = Choice.LEFT if verdict == side else Choice.RIGHT
    return record_comparison(session=session, pair_id=pair.id, annotator_id=pair.asked_of, choice=choice)
