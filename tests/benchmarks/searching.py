"""How long the Data page's queries take with 100,000 comparisons: `python -m tests.benchmarks.searching`.

A round of 100,000 pairs with texts of a few hundred characters, each compared once, by 20 annotators over 60 days.
Prints the median of five calls, in milliseconds.
"""

from __future__ import annotations

import io
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from store.annotators import get_or_add_annotator
from store.database import open_database, reading, writing
from store.models import Checkpoint, Comparison, Completion, Pair, Prompt, Round, now
from store.over_time import read_agreement, read_choices
from store.searching import Search, Sort, count_found, find_comparisons, read_pace, write_csv

WORDS = [f"word{number}" for number in range(2000)]


def text(draw: random.Random, length: int) -> str:
    return " ".join(draw.choices(WORDS, k=length))


def fill(engine: sa.Engine, count: int) -> None:
    """All rows, written past the store's functions: it is reading that is measured."""
    draw, start = random.Random(0), now() - timedelta(days=60)
    with writing(engine) as session:
        for number in range(20):
            get_or_add_annotator(session=session, name=f"annotator {number}")
        session.add(Checkpoint(id=1, name="base", path="x"))
        session.flush()
        session.add(Round(id=1, number=1, checkpoint_id=1, target=count))
        session.flush()
        run = session.connection().execute
        for first in range(1, count + 1, 5000):
            numbers = range(first, min(first + 5000, count + 1))
            moments = [start + timedelta(seconds=51.8 * number) for number in numbers]
            run(sa.insert(Prompt), [{
                "id": number, "content_hash": f"{number}", "source": "x", "held_out": False, "created_at": start,
                "messages": [{"role": "user", "content": f"{text(draw, 30)} question{number}"}],
            } for number in numbers])  # fmt: skip
            run(sa.insert(Completion), [{
                "id": 2 * number + side, "prompt_id": number, "checkpoint_id": 1, "text": text(draw, 60),
                "text_hash": f"{2 * number + side}", "settings": {}, "finish_reason": "stop", "names_maker": False,
                "source": "", "created_at": start,
            } for number in numbers for side in (0, 1)])  # fmt: skip
            run(sa.insert(Pair), [{
                "id": number, "prompt_id": number, "completion_a_id": 2 * number, "completion_b_id": 2 * number + 1,
                "round_id": 1, "purpose": "train", "side_seed": number, "position": number, "wanted": 1,
                "open_slots": 0, "created_at": start,
            } for number in numbers])  # fmt: skip
            run(sa.insert(Comparison), [{
                "pair_id": number, "annotator_id": draw.randint(1, 20), "left_side": "a", "created_at": moment,
                "verdict": draw.choice(["a", "b", "tie", "skip"]), "seconds": draw.expovariate(0.1),
                "tags": ["odd"] if number % 50 == 0 else [], "criteria": {}, "flags": {}, "adjudicates": False,
            } for number, moment in zip(numbers, moments, strict=True)])  # fmt: skip


def milliseconds(call: Callable[[], object], times: int = 5) -> float:
    taken = []
    for _ in range(times):
        before = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - before))
    return statistics.median(taken)


def main(count: int = 100_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = open_database(f"sqlite:///{Path(folder) / 'pairloop.db'}")
        fill(engine, count)
        size = (Path(folder) / "pairloop.db").stat().st_size / 1e6
        print(f"{count:,} comparisons, database {size:.0f} MB")
        print("| search | found | count ms | page ms |\n| --- | --- | --- | --- |")
        month = date.today() - timedelta(days=30)
        searches = {
            "everything, newest": Search(),
            "everything, slowest": Search(sort=Sort.SLOWEST),
            "everything, by annotator": Search(sort=Sort.ANNOTATOR),
            "one annotator, ties": Search(annotator_ids=(3,), verdicts=("tie",)),
            "train pairs of round 1": Search(purposes=("train",), round_id=1),
            "with tags": Search(marked=True),
            "since a month": Search(since=month),
            "a common word": Search(text="word77"),
            "a rare word": Search(text="question99999"),
            "a word that is nowhere": Search(text="nowhere"),
            "a word with an umlaut": Search(text="nirgendwö"),
            "a Cyrillic word": Search(text="нигде"),
        }
        with reading(engine) as session:
            for name, search in searches.items():
                found = count_found(session=session, search=search)
                page, last = partial(find_comparisons, session=session, search=search, limit=50), max(0, found - 50)
                counted = milliseconds(partial(count_found, session=session, search=search))
                first, deep = milliseconds(page), milliseconds(partial(page, offset=last))
                print(f"| {name} | {found:,} | {counted:.0f} | {first:.0f}, last page {deep:.0f} |")
            print(f"pace of everything: {milliseconds(lambda: read_pace(session=session, search=Search())):.0f} ms")
            for read in (read_choices, read_agreement):
                taken = milliseconds(lambda read=read: read(session=session, search=Search()), 3)
                print(f"{read.__name__} of everything: {taken:.0f} ms")
            csv = milliseconds(lambda: write_csv(session=session, search=Search(), stream=io.StringIO()), 1)
            print(f"CSV of everything: {csv / 1000:.1f} s")
        engine.dispose()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
