"""The README's screenshots: `python -m tests.browser.screenshots` from the repository's root writes data/screenshots/.

Nothing in them is made up: the demo model writes the pairs, a simulated annotator of a known taste compares them, and
the checkpoints are trained. Takes a few minutes on 2 cores.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from dpo_core.carry_out import carry_out_here
from dpo_core.deciding import go_on
from dpo_core.demo import open_demo, start_first_round
from dpo_core.gate import gate_to_pass
from dpo_core.loop import read_loop, start_training
from dpo_core.simulate import Persona
from dpo_core.tastes import load_taste
from dpo_core.workspace import Workspace
from store.annotators import get_or_add_annotator
from store.comparisons import record_comparison
from store.database import reading, writing
from store.models import Decision
from store.pairs import next_pair
from store.workers import beat, own_name
from tests.browser.conftest import CHROMIUM, FLAGS

TARGET = Path(__file__).resolve().parents[2] / "data" / "screenshots"
PERSONA = Persona(load_taste("structured"), noise=0.1)
LARGEST = 200_000  # bytes


def compare(workspace: Workspace, count: int) -> None:
    """Let the simulated annotator judge some pairs of the open round."""
    draw = random.Random(count)
    for _ in range(count):
        with writing(workspace.engine) as session:
            state = read_loop(session=session)
            someone = get_or_add_annotator(session=session, name="me")
            assert state.round is not None and state.round.id is not None and someone.id is not None
            shown = next_pair(session=session, round_id=state.round.id, annotator_id=someone.id)
            assert shown is not None
            choice = PERSONA.choose(shown, draw)
            record_comparison(
                session=session, pair_id=shown.pair_id, annotator_id=someone.id, choice=choice, seconds=6.5
            )


def carry_out(workspace: Workspace) -> None:
    """Carry out the run that waits."""
    with reading(workspace.engine) as session:
        run = read_loop(session=session).run
    assert run is not None and run.id is not None
    ended = carry_out_here(workspace, run.id)
    assert ended.error is None, ended.error


def a_round(workspace: Workspace) -> None:
    """Sample, compare, train, judge the duels: up to the decision."""
    carry_out(workspace)
    compare(workspace, workspace.settings.round.comparisons)
    start_training(workspace, by="me")
    carry_out(workspace)
    carry_out(workspace)  # the duels
    while waiting_duels(workspace):
        compare(workspace, 1)


def waiting_duels(workspace: Workspace) -> int:
    """How many duels of the new checkpoint want an answer."""
    with reading(workspace.engine) as session:
        gate = gate_to_pass(session, workspace)
    return gate.open_duels if gate is not None else 0


def shoot(browser: Browser, workspace: Workspace, name: str, height: int) -> Path:
    """One page of the app as it stands now."""
    with writing(workspace.engine) as session:
        beat(session=session, name=own_name(), doing="waiting")  # this process is the worker
    command = [sys.executable, "-m", "ui.serve", "--workspace", str(workspace.folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        page = browser.new_page(viewport={"width": 1120, "height": height})
        page.goto(server.stdout.readline().split()[-1] + ("/" if name == "label" else f"/{name}"))
        settle(page, name)
        path = TARGET / f"{name}.png"
        page.screenshot(path=path)
        page.close()
        server.terminate()
    return path


def settle(page: Page, name: str) -> None:
    """Wait until everything is drawn."""
    page.wait_for_load_state("networkidle")
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=30_000)
    if name == "runs":  # the newest wrote duels: what there is to see is the training before it
        page.get_by_text("Train ·").first.click()
        page.get_by_role("heading", name="Train ·").wait_for()
        expect(page.locator("canvas, svg.marks").first).to_be_visible(timeout=30_000)
        page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1000)  # fonts and fades


def shoot_all(browser: Browser, folder: Path) -> list[Path]:
    """Two rounds and the beginning of a third, with a picture of each page on the way."""
    workspace = open_demo(folder)
    start_first_round(workspace, by="me")
    a_round(workspace)
    go_on(workspace, decision=Decision.PROMOTE, by="me", force=True)
    a_round(workspace)
    paths = [shoot(browser, workspace, "loop", 860), shoot(browser, workspace, "runs", 920)]
    go_on(workspace, decision=Decision.PROMOTE, by="me", force=True)
    carry_out(workspace)
    compare(workspace, 14)
    return [*paths, shoot(browser, workspace, "label", 640)]


def main() -> int:
    """Write all of them. Returns 1 where one has grown too large for a README."""
    TARGET.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(FLAGS), env={**os.environ, "HOME": str(home)}
        )
        paths = shoot_all(browser, Path(folder) / "demo")
        browser.close()
    too_large = [path for path in paths if path.stat().st_size > LARGEST]
    sys.stdout.write("".join(f"{path}: {path.stat().st_size // 1000} kB\n" for path in paths))
    return 1 if too_large else 0


if __name__ == "__main__":
    sys.exit(main())
