"""Several processes on one SQLite file, and processes that are killed: nothing doubled, lost or broken."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from store.comparisons import count_round
from store.database import reading

# Each says "ready" when its imports are done and waits for a line, so that all of them start at one moment.
PREAMBLE = """
import random, sys
from store.comparisons import record_comparison
from store.database import open_database, writing
from store.pairs import next_pair
url, number = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
engine = open_database(url)
"""
OPENS = PREAMBLE
RECORDS_ALL = (
    PREAMBLE
    + """
jobs = [(pair, person) for pair in range(1, 21) for person in (1, 2, 3)]
random.Random(number).shuffle(jobs)
for pair, person in jobs:
    with writing(engine) as session:
        record_comparison(session=session, pair_id=pair, annotator_id=person, choice="left")
"""
)
WORKS_THE_QUEUE = (
    PREAMBLE
    + """
while True:
    with writing(engine) as session:
        shown = next_pair(session=session, round_id=1, annotator_id=number)
    if shown is None:
        break
    print(shown.pair_id, flush=True)
    with writing(engine) as session:
        record_comparison(session=session, pair_id=shown.pair_id, annotator_id=number, choice="right")
"""
)
RECORDS_UNTIL_KILLED = (
    PREAMBLE
    + """
pair = 1
while True:
    with writing(engine) as session:
        said = record_comparison(session=session, pair_id=pair, annotator_id=number, choice="tie", replace=True)
    print(said.id, flush=True)
    pair = pair % 20 + 1
"""
)

IMPORTS = (
    PREAMBLE
    + """
from pathlib import Path
from store.importing import import_file
folder = Path(url.removeprefix("sqlite:///")).parent
for name in ("same.jsonl", f"own-{number}.jsonl"):
    report = import_file(engine=engine, path=folder / name, held_out_share=0.1)
    print(report.comparisons_added, report.prompts_added, report.rows)
"""
)


def start(program: str, path: Path, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, f"sqlite:///{path}", str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()


def run_together(program: str, path: Path, numbers: Sequence[int]) -> list[list[int]]:
    """Run the program once for each number, all at once; the numbers that each printed. None may fail."""
    processes = [start(program, path, number) for number in numbers]
    go(processes)
    ended = [process.communicate(timeout=120) for process in processes]
    assert [errors for _, errors in ended] == [""] * len(processes)
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [[int(line) for line in printed.split()] for printed, _ in ended]


def query(path: Path, statement: str) -> list[Any]:
    with sqlite3.connect(path) as connection:
        return connection.execute(statement).fetchall()


def test_processes_that_open_a_new_database_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    run_together(OPENS, path, range(4))
    assert query(path, "SELECT count(*) FROM alembic_version") == [(1,)]


def test_processes_that_record_the_same_pairs_at_once(
    engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path
) -> None:
    make_round(engine, pairs=20, wanted=3)
    run_together(RECORDS_ALL, tmp_path / "pairloop.db", range(4))
    with reading(engine) as session:
        assert count_round(session=session, round_id=1)["total"] == 60
    path = tmp_path / "pairloop.db"
    assert query(path, "SELECT count(*), count(DISTINCT pair_id * 10 + annotator_id) FROM comparison") == [(60, 60)]
    assert query(path, "SELECT sum(open_slots) FROM pair") == [(0,)]


def test_processes_that_work_one_queue_share_it_out(
    engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path
) -> None:
    _, pairs = make_round(engine, pairs=60)
    served = run_together(WORKS_THE_QUEUE, tmp_path / "pairloop.db", people)
    assert Counter(pair for mine in served for pair in mine) == Counter(pair.id for pair in pairs)
    rows = query(tmp_path / "pairloop.db", "SELECT pair_id, annotator_id FROM comparison")
    assert sorted(rows) == sorted((pair, who) for who, mine in zip(people, served, strict=True) for pair in mine)


def preferences(path: Path, numbers: Sequence[int]) -> None:
    rows = [{"prompt": f"q{number}", "chosen": f"good {number}", "rejected": f"bad {number}"} for number in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_processes_that_import_the_same_at_once_add_it_once(engine: sa.Engine, tmp_path: Path) -> None:
    preferences(tmp_path / "same.jsonl", range(300))
    for number in range(3):  # each has a hundred rows of its own and shares two hundred with its neighbour
        preferences(tmp_path / f"own-{number}.jsonl", range(200 + number * 100, 500 + number * 100))
    printed = run_together(IMPORTS, tmp_path / "pairloop.db", range(3))
    rows = [lines[start : start + 3] for lines in printed for start in (0, 3)]
    assert [sum(column) for column in zip(*rows, strict=True)] == [700, 700, 6 * 300]
    tables = ("prompt", "completion", "pair", "comparison", "import")
    counts = [query(tmp_path / "pairloop.db", f"SELECT count(*) FROM {table}")[0][0] for table in tables]
    assert counts == [700, 1400, 700, 700, 4]


def kill_after(process: subprocess.Popen[str], lines: int) -> list[int]:
    """The ids whose calls had returned, of a process that is killed somewhere after so many."""
    printed = [process.stdout.readline() for _ in range(lines)]
    process.kill()
    rest = process.stdout.read()  # not communicate(): it would pass over what readline has buffered
    process.wait(timeout=60)
    whole = [line for line in "".join([*printed, rest]).splitlines(keepends=True) if line.endswith("\n")]
    return [int(line) for line in whole]


def test_what_was_recorded_outlives_a_kill(
    engine: sa.Engine, make_round: Any, people: list[int], tmp_path: Path
) -> None:
    make_round(engine, pairs=20, wanted=3)
    engine.dispose()
    path, moments, returned = tmp_path / "pairloop.db", random.Random(20), []
    for _ in range(2):
        processes = [start(RECORDS_UNTIL_KILLED, path, person) for person in people[:2]]
        go(processes)
        for process in processes:
            returned += kill_after(process, moments.randint(1, 60))
    written = {row[0] for row in query(path, "SELECT id FROM comparison")}
    assert len(returned) == len(set(returned))
    assert set(returned) <= written
    assert len(written - set(returned)) <= 4  # a call that was killed between its commit and its return
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    assert query(path, "PRAGMA foreign_key_check") == []
    slots = (
        "SELECT max(0, wanted - (SELECT count(*) FROM comparison WHERE pair_id = pair.id AND superseded_at IS NULL))"
    )
    assert query(path, f"{slots} FROM pair") == query(path, "SELECT open_slots FROM pair")
