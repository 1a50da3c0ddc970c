"""The Loop page in every state: `python -m tests.browser.loop_states FOLDER` from the repository's root.

A picture of each state in FOLDER, as wide as a laptop's window and as narrow as a phone's, and all of the wide ones on
one sheet, data/screenshots/loop-states.png. The states are made by the store's and the loop's own functions; only the
figures of a training are made up, since no model is at work here. For looking at, after a change to the page.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import sqlalchemy as sa
from PIL import Image, ImageChops, ImageDraw
from playwright.sync_api import Browser, expect, sync_playwright

from dpo_core.config import GateSettings
from dpo_core.deciding import roll_back
from dpo_core.editing_settings import change_section
from dpo_core.loop import start_round
from dpo_core.queueing import pause
from dpo_core.workspace import Workspace, open_workspace
from store.comparisons import Choice
from store.database import writing
from store.models import Pair
from store.runs import claim_run, fail_run
from tests.browser import seeding
from tests.browser.conftest import CHROMIUM, FLAGS

SHEET = Path(__file__).resolve().parents[2] / "data" / "screenshots" / "loop-states.png"
WIDTHS = (1120, 390)
COLUMNS = 2
SCALED, CAPTION, GAP, MENU = 700, 30, 8, 90  # pixels
GATE = GateSettings(alarms="ignore")
TARGET = 12


def nothing_yet(folder: Path) -> Workspace:
    return seeding.new_workspace(folder, target=TARGET, gate=GATE)


def prompts_there(folder: Path) -> Workspace:
    workspace = nothing_yet(folder)
    seeding.add_prompts(workspace, seeding.plain_exchanges(20))
    return workspace


def being_written(folder: Path) -> Workspace:
    workspace = prompts_there(folder)
    start_round(workspace, by="lea")
    return workspace


def could_not_be_written(folder: Path) -> Workspace:
    workspace = being_written(folder)
    with writing(workspace.engine) as session:
        run = claim_run(session=session, owner=seeding.WORKER, lease=seeding.LEASE)
        assert run is not None and run.id is not None
        fail_run(session=session, run_id=run.id, attempt=run.attempt, error="The model's folder is not there.")
    return workspace


def compared(folder: Path, *, done: int, pairs: int) -> Workspace:
    workspace = nothing_yet(folder)
    seeding.open_round(workspace, seeding.plain_exchanges(pairs))
    seeding.compare(workspace, "lea", [Choice.LEFT] * done)
    return workspace


def half_compared(folder: Path) -> Workspace:
    return compared(folder, done=7, pairs=16)


def paused(folder: Path) -> Workspace:
    workspace = half_compared(folder)
    pause(workspace)
    return workspace


def no_pair_left(folder: Path) -> Workspace:
    return compared(folder, done=9, pairs=9)


def all_compared(folder: Path) -> Workspace:
    workspace = half_compared(folder)
    seeding.compare(workspace, "lea", [Choice.LEFT] * 5)
    return workspace


def automatic(folder: Path) -> Workspace:
    workspace = half_compared(folder)
    change_section(workspace, "automatic", {"on": True})
    return open_workspace(workspace.folder)


def being_trained(folder: Path) -> Workspace:
    workspace = all_compared(folder)
    seeding.train(workspace, steps=9, of=24, finish=False)
    return workspace


def training_failed(folder: Path) -> Workspace:
    workspace = all_compared(folder)
    run = seeding.train(workspace, steps=9, of=24, finish=False)
    with writing(workspace.engine) as session:
        fail_run(session=session, run_id=run.id or 0, attempt=1, error="The loss is no number (NaN) at step 9.")
    return workspace


def trained(folder: Path) -> Workspace:
    """Nobody has judged a duel yet."""
    workspace = all_compared(folder)
    seeding.train(workspace, steps=24, of=24)
    with writing(workspace.engine) as session:
        session.execute(sa.update(Pair).values(open_slots=0))
    return workspace


def duels_to_judge(folder: Path) -> Workspace:
    workspace = trained(folder)
    seeding.duel(workspace, won=0, lost=0, left_open=40)
    return workspace


def undecided(folder: Path) -> Workspace:
    workspace = trained(folder)
    seeding.duel(workspace, won=21, lost=13, left_open=6)
    return workspace


def undecided_and_all_judged(folder: Path) -> Workspace:
    workspace = trained(folder)
    seeding.duel(workspace, won=24, lost=16)
    return workspace


def better(folder: Path) -> Workspace:
    workspace = trained(folder)
    seeding.duel(workspace, won=32, lost=8)
    return workspace


def worse(folder: Path) -> Workspace:
    workspace = trained(folder)
    seeding.duel(workspace, won=8, lost=32)
    return workspace


def promoted(folder: Path) -> Workspace:
    workspace = better(folder)
    seeding.promote(workspace)
    return workspace


def rolled_back(folder: Path) -> Workspace:
    workspace = promoted(folder)
    roll_back(workspace, by="lea")
    return workspace


STATES: dict[str, Callable[[Path], Workspace]] = {
    "No prompts yet": nothing_yet,
    "A round can start": prompts_there,
    "Pairs are being written": being_written,
    "They could not be written": could_not_be_written,
    "Comparing": half_compared,
    "Paused": paused,
    "Automatic rounds": automatic,
    "No pair left, more wanted": no_pair_left,
    "All compared": all_compared,
    "Training": being_trained,
    "The training failed": training_failed,
    "Duels to judge": duels_to_judge,
    "Undecided": undecided,
    "Undecided, all judged": undecided_and_all_judged,
    "The gate is open": better,
    "The parent is better": worse,
    "Promoted": promoted,
    "Rolled back": rolled_back,
}


def shoot(browser: Browser, workspace: Workspace, name: str, target: Path) -> Path:
    """The page in this state, in both widths; the path of the wide one."""
    seeding.worker_is_there(workspace)
    command = [sys.executable, "-m", "ui.serve", "--workspace", str(workspace.folder), "--port", "0"]
    paths = [target / f"{name.lower().replace(' ', '-').replace(',', '')}-{width}.png" for width in WIDTHS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        for width, path in zip(WIDTHS, paths, strict=True):
            page = browser.new_page(viewport={"width": width, "height": 1100 if width > 600 else 1500})
            page.goto(f"{url}/loop")
            page.get_by_role("heading", name="Loop").first.wait_for(timeout=60_000)
            page.locator('[data-test-script-state="notRunning"]').first.wait_for(timeout=60_000)
            page.wait_for_load_state("networkidle")
            expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=30_000)
            page.wait_for_timeout(1500)  # fonts and fades
            page.screenshot(path=path)
            page.close()
        server.terminate()
    return paths[0]


def sheet(pictures: dict[str, Path]) -> Image.Image:
    """All of them in rows of COLUMNS, each under its name."""
    scaled = [(name, _scaled(Image.open(path))) for name, path in pictures.items()]
    rows = [scaled[start : start + COLUMNS] for start in range(0, len(scaled), COLUMNS)]
    heights = [CAPTION + max(picture.height for _, picture in row) for row in rows]
    whole = Image.new("RGB", (COLUMNS * (SCALED + GAP), sum(heights)), "white")
    draw = ImageDraw.Draw(whole)
    for row, top in zip(rows, accumulate(heights, initial=0), strict=False):
        for place, (name, picture) in enumerate(row):
            draw.text((place * (SCALED + GAP) + 4, top + 8), name, fill="black", font_size=16)
            whole.paste(picture, (place * (SCALED + GAP), top + CAPTION))
    return whole.quantize(64)


def _scaled(picture: Image.Image) -> Image.Image:
    """Without the menu on top and the empty end."""
    shown = picture.convert("RGB")
    shown = shown.crop((0, MENU, *shown.size))
    empty = Image.new("RGB", shown.size, shown.getpixel((2, shown.height - 2)))
    bottom = (ImageChops.difference(shown, empty).getbbox() or (0, 0, 0, 1))[3]
    shown = shown.crop((0, 0, shown.width, min(shown.height, bottom + 16)))
    return shown.resize((SCALED, round(shown.height * SCALED / shown.width)), Image.Resampling.LANCZOS)


def main() -> int:
    """Write all of them into the folder that is named."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(FLAGS), env={**os.environ, "HOME": str(Path(folder) / "home")}
        )
        pictures = {
            name: shoot(browser, make(Path(folder) / make.__name__), name, target) for name, make in STATES.items()
        }
        browser.close()
    sheet(pictures).save(SHEET, optimize=True)
    sys.stdout.write(f"{SHEET}: {SHEET.stat().st_size // 1000} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
