"""How long an annotator waits for the database: `next_pair` and `record_comparison` as comparisons pile up.

    python tests/benchmarks/next_pair.py [--comparisons 1000000] [--repeats 500]

Each size is a file of its own: three annotators, rounds of 500 pairs that all three answered, and one open round of
400 pairs. Times are of a whole transaction, from BEGIN IMMEDIATE to the commit's return, in one process. What it
leaves out on purpose: the screen, and other writers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, SQLModel

from store.annotators import get_or_add_annotator
from store.checkpoints import add_checkpoint
from store.comparisons import count_round, record_comparison
from store.database import open_database, writing
from store.models import Comparison, Completion, Pair, Prompt, Round, now
from store.pairs import next_pair
from store.round_work import work_done
from tests.store.undoing import undo_last

ANNOTATORS, ROUND, OPEN = 3, 500, 400
TEXT = "An answer of a usual length, some three hundred characters long. " * 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1_000_000, help="size of the largest file")
    parser.add_argument("--repeats", type=int, default=300, help="times each call is measured")
    asked = parser.parse_args()
    sizes = [size for size in (1_000, 100_000) if size < asked.comparisons] + [asked.comparisons]
    print("| comparisons | file MB | call | median ms | p99 ms |")
    print("| ---: | ---: | --- | ---: | ---: |")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            measure_size(Path(folder) / "pairloop.db", size, asked.repeats)


def measure_size(path: Path, size: int, repeats: int) -> None:
    engine = open_database(f"sqlite:///{path}")
    open_round = build(engine, size)
    megabytes = path.stat().st_size / 1e6
    for name, times in measure(engine, open_round, repeats).items():
        p99 = statistics.quantiles(times, n=100)[98]
        print(f"| {size:,} | {megabytes:,.0f} | {name} | {statistics.median(times):.2f} | {p99:.2f} |", flush=True)
    engine.dispose()


def build(engine: sa.Engine, size: int) -> int:
    """Fill the file and return the open round's id."""
    done = -(-size // ANNOTATORS)  # pairs that everybody answered
    rounds = -(-done // ROUND)
    with writing(engine) as session:
        base = add_checkpoint(session=session, name="base", path="base")
        for number in range(ANNOTATORS):
            get_or_add_annotator(session=session, name=f"annotator {number}")
        session.add_all([Round(number=number + 1, checkpoint_id=base.id, target=ROUND) for number in range(rounds + 1)])
    insert(engine, Prompt, (prompt_row(number) for number in range(1, done + OPEN + 1)))
    insert(engine, Completion, (row for number in range(1, done + OPEN + 1) for row in completion_rows(number)))
    insert(engine, Pair, (pair_row(number, done, rounds) for number in range(1, done + OPEN + 1)))
    insert(engine, Comparison, (comparison_row(number) for number in range(size)))
    engine.dispose()  # the last connection to close folds the write-ahead log into the file
    return rounds + 1


def prompt_row(number: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"question {number}"}]
    return {"content_hash": f"{number:064x}", "messages": messages, "source": "benchmark", "held_out": False}


def completion_rows(number: int) -> list[dict[str, Any]]:
    return [
        {"prompt_id": number, "checkpoint_id": 1, "text": f"{side} {TEXT}", "text_hash": f"{side}{number:063x}"}
        for side in "ab"
    ]


def pair_row(number: int, done: int, rounds: int) -> dict[str, Any]:
    is_open = number > done
    return {
        "prompt_id": number,
        "completion_a_id": 2 * number - 1,
        "completion_b_id": 2 * number,
        "round_id": rounds + 1 if is_open else (number - 1) // ROUND + 1,
        "side_seed": number,
        "position": number,
        "wanted": ANNOTATORS,
        "open_slots": ANNOTATORS if is_open else 0,
    }


def comparison_row(number: int) -> dict[str, Any]:
    return {
        "pair_id": number // ANNOTATORS + 1,
        "annotator_id": number % ANNOTATORS + 1,
        "verdict": "ab"[number % 2],
        "left_side": "a",
    }


def insert(engine: sa.Engine, table: type[SQLModel], rows: Iterator[dict[str, Any]]) -> None:
    """Write rows in bulk. All of one table share a moment: a default of its own for each would take minutes."""
    moment = now()
    statement = sa.insert(table.__table__)  # type: ignore[attr-defined]
    with engine.execution_options(immediate=True).begin() as connection:
        while chunk := [row | {"created_at": moment} for row in islice(rows, 20_000)]:
            connection.execute(statement, chunk)


def measure(engine: sa.Engine, round_id: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each call; annotators take turns, as they would."""
    times: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[Session], Any]) -> Any:
        start = time.perf_counter()
        with writing(engine) as session:
            result = call(session)
        times.setdefault(name, []).append(1000 * (time.perf_counter() - start))
        return result

    for turn in range(repeats):
        who = {"annotator_id": turn % ANNOTATORS + 1}
        shown = timed("next_pair", lambda session, who=who: next_pair(session=session, round_id=round_id, **who))
        said = {"pair_id": shown.pair_id, "choice": "left"} | who
        timed("record_comparison", lambda session, said=said: record_comparison(session=session, **said))
        timed("count_round", lambda session: count_round(session=session, round_id=round_id))
        timed("work_done", lambda session, who=who: work_done(session=session, round_id=round_id, **who))
        if turn % 10 == 9:
            undo = {"round_id": round_id} | who
            timed("undo", lambda session, undo=undo: undo_last(session=session, **undo))
    return times


if __name__ == "__main__":
    main()
