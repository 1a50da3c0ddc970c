"""A round with gold pairs beside it, and annotators who go through it as the Label page lets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from store.comparisons import Choice, record_comparison
from store.database import reading, writing
from store.models import Comparison, Pair
from store.pairs import ShownPair, next_pair
from store.queue_rules import PLAIN_RULES, QueueRules
from tests.store.imported import gold_from, jsonl


def serve(engine: sa.Engine, round_id: int, person: int, rules: QueueRules = PLAIN_RULES) -> ShownPair | None:
    """What the Label page would show."""
    with writing(engine) as session:
        return next_pair(session=session, round_id=round_id, annotator_id=person, rules=rules)


def answer(
    engine: sa.Engine, pair_id: int, person: int, choice: str = Choice.LEFT, *, replace: bool = False
) -> Comparison:
    """As the Label page writes a verdict. Raises PairChangedError where the pair went to somebody else."""
    with writing(engine) as session:
        return record_comparison(session=session, pair_id=pair_id, annotator_id=person, choice=choice, replace=replace)


def go_through(engine: sa.Engine, round_id: int, person: int, rules: QueueRules, most: int = 10_000) -> list[Pair]:
    """Answer what is served until there is nothing left; the pairs in order."""
    served = []
    while len(served) < most and (shown := serve(engine, round_id, person, rules)) is not None:
        answer(engine, shown.pair_id, person)
        with reading(engine) as session:
            served.append(session.get_one(Pair, shown.pair_id))
    return served


def add_gold(engine: sa.Engine, folder: Path, count: int, **more: Any) -> None:
    """So many gold pairs; the right text of pair 3 is "right 3"."""
    rows = [{"prompt": f"gold {n}?", "chosen": f"right {n}", "rejected": f"wrong {n}"} | more for n in range(count)]
    gold_from(engine, jsonl(folder / "gold.jsonl", rows))
