"""From a key to the next pair on screen, in real Chromium: pairloop alone, while a training runs, and Label Studio.

    PYTHONPATH=. python tests/benchmarks/key_to_pair.py
    PYTHONPATH=. python tests/benchmarks/key_to_pair.py --training ../shared/data/hh-harmless-test.jsonl.gz
    PYTHONPATH=. python tests/benchmarks/key_to_pair.py --label-studio VENV/bin/label-studio

Milliseconds from the page's keydown event to the moment its text shows the next pair's, and to the moment that one can
be answered too (pairloop shows it while the server still writes), each label after a pause, the first few left out.
The training is one of pairloop's own, in the environment and at the priority that a worker gives it. Label Studio (in a
virtual environment of its own; it is not installed with pairloop) needs two actions for a label, choosing and
submitting: only the second is timed. Pressing goes on until `--labels` are counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from dpo_core.worker import run_environment
from tests.benchmarks.label_studio import label_studio_page
from tests.browser import seeding
from tests.browser.conftest import FLAGS

WARM_UP = 5
# Before any script of the page's own: what those do on a key is timed from the key.
CLOCK = """() => {
  if (window.pressed !== undefined) return;
  window.pressed = null;
  window.addEventListener("keydown", (event) => { window.pressed = [event.key, performance.now()]; }, true);
}"""
WATCH = """(key) => {
  window.times = []; window.answerable = [];
  const shown = () => (document.body.innerText.match(/answer to \\d+/g) || []).join("|");
  let last = shown();
  new MutationObserver(() => {
    if (window.pressed?.[0] !== key) return;
    const passed = performance.now() - window.pressed[1], now = shown();
    if (now && now !== last) { last = now; window.times.push(passed); }
    const done = window.times.length > window.answerable.length && !document.querySelector("[data-ahead]");
    if (done) { window.answerable.push(passed); window.pressed = null; }
  }).observe(document.body, { childList: true, subtree: true, characterData: true, attributeFilter: ["data-ahead"] });
}"""


def main() -> None:
    given = parse()
    print(f"| {'':30} | labels | p50 ms | p95 ms | answerable: p50 | p95 | actions a label |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        with pairloop_page(browser, Path(folder) / "alone", given.labels) as page:
            report("pairloop", press(page, "2", given.labels), actions=1)
        if given.training:
            with training(given.training), pairloop_page(browser, Path(folder) / "training", given.labels) as page:
                report("pairloop while a training runs", press(page, "2", given.labels), actions=1)
        if given.label_studio:
            with label_studio_page(browser, given.label_studio, Path(folder), given.labels) as page:
                report("Label Studio", press(page, "Enter", given.labels, before="1", chord="Control+"), actions=2)
        browser.close()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=60)
    parser.add_argument("--training", type=Path, help="preferences to train on meanwhile")
    parser.add_argument("--label-studio", type=Path, help="its command")
    return parser.parse_args()


def press(page: Page, key: str, labels: int, *, before: str = "", chord: str = "") -> list[list[float]]:
    """Times to the next pair in sight, and to when it can be answered."""
    page.evaluate(CLOCK)
    page.evaluate(WATCH, key)
    for number in range(labels):
        page.wait_for_timeout(600)
        if before:
            page.keyboard.press(before)
            page.wait_for_timeout(200)
        page.keyboard.press(f"{chord}{key}")
        page.wait_for_function("count => window.answerable.length > count", arg=number, timeout=60_000)
    return [sorted(page.evaluate(f"window.{name}")[WARM_UP:]) for name in ("times", "answerable")]


def report(name: str, times: list[list[float]], *, actions: int) -> None:
    figures = " | ".join(f"{each[len(each) // 2]:.0f} | {each[int(0.95 * len(each))]:.0f}" for each in times)
    print(f"| {name:30} | {len(times[0])} | {figures} | {actions} |", flush=True)


@contextmanager
def pairloop_page(browser: Browser, folder: Path, labels: int) -> Iterator[Page]:
    workspace = seeding.new_workspace(folder, target=2 * labels)
    seeding.open_round(workspace, seeding.plain_exchanges(labels + 30))
    command = [sys.executable, "-m", "ui.serve", "--workspace", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    try:
        page = context.new_page()
        page.add_init_script(f"({CLOCK})()")
        page.goto(server.stdout.readline().split()[-1])
        page.get_by_role("button", name="Left clearly").wait_for()
        yield page
    finally:
        context.close()
        server.terminate()
        server.wait()


@contextmanager
def training(file: Path) -> Iterator[None]:
    """One of our trainings, again and again, as a worker runs it."""
    script = Path(__file__).with_name("training.py")
    command = [sys.executable, str(script), str(file), "--pairs", "256", "--sizes", "small", "--tunings", "full"]
    command += ["--precisions", "fp32", "--arms", "pairloop"]
    running = subprocess.Popen(
        command,
        env=run_environment(os.cpu_count() or 1),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: os.nice(10) and None,  # noqa: PLW1509
    )
    try:
        yield
    finally:
        os.killpg(running.pid, 15)
        running.wait()


if __name__ == "__main__":
    main()
