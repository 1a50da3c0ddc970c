"""The whole story, as a newcomer lives it: open the demo, compare, train, compare what the new checkpoint writes."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dpo_core.packaged import packaged
from ui.verdicts import DWELL_SECONDS

TRAINING = 240_000  # ms; training and evaluating on a machine with other things to do
COMPARED = 12
ROUND_2 = "pair JOIN round ON round.id = round_id WHERE round.number = 2"
WRITERS = (
    "SELECT DISTINCT checkpoint.name FROM checkpoint JOIN completion ON completion.checkpoint_id = checkpoint.id "
    "JOIN pair ON completion.id IN (completion_a_id, completion_b_id) JOIN round ON round.id = round_id "
    "WHERE round.number = 2 AND purpose = 'train'"
)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[str]:
    """`pairloop demo` in a process of its own; its address. Ctrl-C ends it."""
    command = [sys.executable, "-m", "ui.cli", "demo", str(tmp_path / "demo"), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = next((line for line in process.stdout if "http://" in line), "")
    try:
        yield re.findall(r"http://\S+", line)[0]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        process.stdout.close()


def query(folder: Path, sql: str) -> list[tuple[object, ...]]:
    """What lies in the file, read past all of the app's own code."""
    connection = sqlite3.connect(f"file:{folder / 'pairloop.db'}?mode=ro", uri=True)
    try:
        return list(connection.execute(sql))
    finally:
        connection.close()


def compare_by_keyboard(page: Page, keys: str, done: int = 0) -> None:
    """One key for each pair, waiting for the count to go up each time."""
    for number, key in enumerate(keys, start=done + 1):
        expect(page.get_by_role("region", name="Right", exact=True)).to_be_visible()
        page.wait_for_timeout(1000 * DWELL_SECONDS + 100)
        page.keyboard.press({"l": "ArrowLeft", "r": "ArrowRight"}[key])
        expect(page.get_by_text(f"{number} of 40")).to_be_visible()


def answer(page: Page) -> None:
    """Say that the left one is better, of whatever is asked."""
    page.wait_for_timeout(1000 * DWELL_SECONDS + 100)
    page.keyboard.press("ArrowLeft")


@pytest.mark.timeout(900)
@pytest.mark.skipif(not packaged("demo/model").is_dir(), reason="the demo model is not here")
def test_compare_train_and_compare_what_the_new_checkpoint_writes(page: Page, demo: str, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    page.goto(demo)
    expect(page.get_by_role("button", name="Left clearly")).to_be_visible(timeout=90_000)
    compare_by_keyboard(page, "lrlrrlrllrlr")
    said = query(folder, "SELECT verdict FROM comparison WHERE superseded_at IS NULL")
    assert len(said) == COMPARED and {verdict for (verdict,) in said} <= {"a", "b"}

    page.get_by_role("link", name="Loop", exact=True).click()
    page.get_by_role("button", name=f"Train early, on {COMPARED} comparisons").click()
    page.get_by_role("button", name="Watch the run").click()
    expect(page.get_by_role("heading", name="Train · run 2")).to_be_visible()
    page.get_by_role("link", name="Label").click()
    compare_by_keyboard(page, "l", done=COMPARED)  # while the run trains

    page.get_by_role("link", name="Loop", exact=True).click()
    expect(page.get_by_text("round-1 against base, blind")).to_be_visible(timeout=TRAINING)
    expect(page.get_by_text("Better than base in blind duels")).to_be_visible()
    page.get_by_role("button", name="Compare").click()  # the duels are among what is left of the round
    expect(page.get_by_role("region", name="Right", exact=True)).to_be_visible()
    answer(page)
    expect(page.get_by_text(re.compile(r"14 of \d\d"))).to_be_visible()
    page.get_by_role("link", name="Loop", exact=True).click()
    page.get_by_role("button", name="More decisions").click()
    page.get_by_role("button", name="Promote round-1 and start round 2 all the same").click()
    expect(page.get_by_role("heading", name=re.compile("Round 2"))).to_be_visible()
    page.get_by_role("link", name="Label").click()
    expect(page.get_by_role("region", name="Left", exact=True)).to_be_visible(timeout=90_000)
    expect(page.get_by_text(re.compile(r"0 of \d\d"))).to_be_visible()
    answer(page)
    expect(page.get_by_text(re.compile(r"1 of \d\d"))).to_be_visible()

    assert query(folder, f"SELECT count(*) FROM {ROUND_2} AND purpose = 'duel'") != [(0,)], "they went along"
    deadline = time.monotonic() + 90
    while not (writers := query(folder, WRITERS)) and time.monotonic() < deadline:
        page.wait_for_timeout(300)
    assert writers == [("round-1",)]
