"""Annotators with planted faults, and what the quality figures make of them.

    PYTHONPATH=. python tests/benchmarks/planted.py [--seeds 20] [--pairs 300]

Each seed is a workspace's database of its own: seven annotators go through one round by the queue that the Label page
uses, three of them on each pair, a tenth gold pairs and a tenth repeats. Each presses left without looking with a
chance of their own, and otherwise says the opposite of the truth with another. The last errs in earnest: on the same
two texts the same way each time, so that being consistent says nothing of being right. For each figure: what was
planted, what was found on average, and in how many of all cases its 95% interval held what was planted.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from store.annotators import get_or_add_annotator
from store.checkpoints import add_checkpoint
from store.comparisons import Choice, record_comparison
from store.database import open_database, reading, writing
from store.intervals import Estimate
from store.models import Round
from store.pairs import NewCompletion, ShownPair, add_completion, add_pair, next_pair
from store.quality import AnnotatorQuality, read_quality
from store.queue_rules import QueueRules
from tests.store.asking import add_prompt
from tests.store.queueing import add_gold

RULES = QueueRules(gold=0.1, repeats=0.1, repeat_after=10)
TEAM = {  # chance to press left without looking, chance to be wrong otherwise
    "careful": (0.0, 0.05),
    "usual": (0.0, 0.2),
    "tired": (0.0, 0.35),
    "left-handed": (0.3, 0.1),
    "hasty": (0.6, 0.1),
    "guessing": (0.0, 0.5),
    "in earnest": (0.0, 0.35),
}
IN_EARNEST = {"in earnest"}  # whose errors are the same each time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=300)
    asked = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, Estimate]]] = defaultdict(list)
    for seed in range(asked.seeds):
        with tempfile.TemporaryDirectory() as folder:
            for each in judged(Path(folder), asked.pairs, seed):
                for figure, planted, estimate in figures(each):
                    found[each.name, figure].append((planted, estimate))
    print("| annotator | figure | planted | found | interval held it |\n| --- | --- | ---: | ---: | ---: |")
    for (name, figure), cases in found.items():
        planted, told = cases[0][0], [each for _, each in cases if each.value is not None and each.interval]
        mean = sum(each.value or 0 for each in told) / max(1, len(told))
        held = sum(low <= planted <= high for low, high in (each.interval or (0, 0) for each in told))
        print(f"| {name} | {figure} | {planted:.0%} | {mean:.0%} | {held} of {len(told)} |")


def figures(each: AnnotatorQuality) -> Iterator[tuple[str, float, Estimate]]:
    """What was planted for each figure, by arithmetic."""
    blind, wrong = TEAM[each.name]
    right = blind / 2 + (1 - blind) * (1 - wrong)
    # Twice the same completion: both times without looking it is the other one, as the sides are swapped.
    again = 1 if each.name in IN_EARNEST else wrong**2 + (1 - wrong) ** 2
    twice = (1 - blind) ** 2 * again + blind * (1 - blind)
    yield "reliability (model)", right, each.accuracy
    yield "left", blind + (1 - blind) / 2, each.habits.left
    yield "self-consistency", twice, each.habits.consistency
    yield "gold", right, each.habits.gold


def judged(folder: Path, pairs: int, seed: int) -> list[AnnotatorQuality]:
    """A round that the whole team went through, as the quality figures show it."""
    engine = open_database(f"sqlite:///{folder / 'pairloop.db'}")
    people = open_round(engine, pairs, seed)
    add_gold(engine, folder, pairs // 10)
    lots, working = random.Random(seed), list(people.items())
    while working:
        name, number = lots.choice(working)
        with writing(engine) as session:
            shown = next_pair(session=session, round_id=1, annotator_id=number, rules=RULES)
            if shown is None:
                working.remove((name, number))
                continue
            # Whether somebody errs in earnest hangs on the texts alone: it is drawn from their names.
            own = random.Random(f"{seed}:{name}:{shown.messages}") if name in IN_EARNEST else lots
            choice = verdict(shown, *TEAM[name], own)
            record_comparison(session=session, pair_id=shown.pair_id, annotator_id=number, choice=choice)
    with reading(engine) as session:
        quality = read_quality(session=session)
    engine.dispose()
    return [each for each in quality.annotators if each.name in TEAM]


def open_round(engine: sa.Engine, pairs: int, seed: int) -> dict[str, int]:
    with writing(engine) as session:
        base = add_checkpoint(session=session, name="base", path="base")
        session.add(Round(number=1, checkpoint_id=base.id, target=3 * pairs))
        session.flush()
        for number in range(pairs):
            prompt = add_prompt(session, f"question {number} of {seed}")
            both = [
                add_completion(session=session, prompt_id=prompt.id, new=NewCompletion(text), checkpoint_id=base.id)
                for text in random.Random(f"{seed}:{number}").sample(["right", "wrong"], 2)
            ]
            add_pair(session=session, prompt_id=prompt.id, completions=both, round_id=1, position=number, wanted=3)
        people = {name: get_or_add_annotator(session=session, name=name) for name in TEAM}
        return {name: person.id for name, person in people.items() if person.id is not None}


def verdict(shown: ShownPair, blind: float, wrong: float, lots: random.Random) -> Choice:
    truth = Choice.LEFT if shown.left.startswith("right") else Choice.RIGHT
    if lots.random() < blind:
        return Choice.LEFT
    other = Choice.RIGHT if truth == Choice.LEFT else Choice.LEFT
    return other if lots.random() < wrong else truth


if __name__ == "__main__":
    main()
