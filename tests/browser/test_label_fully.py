"""Everything that can be said about a pair, by keyboard, and an audit of the page (axe-core, WCAG 2.2 AA)."""

from __future__ import annotations

import re
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from dpo_core.editing_settings import change_section
from dpo_core.workspace import Workspace
from tests.browser import seeding
from tests.browser.conftest import PATIENCE, Serve
from tests.browser.test_label import pane, wait_for_question

EVERYTHING = {
    "criteria": ["helpful", "honest"],
    "tags": ["clearer", "shorter"],
    "reason": True,
    "flags": ["unsafe", "broken"],
    "rewrite": True,
    "daily_goal": 20,
}
RICH = """## Watering

Use `pot.water()`:

```python
def water(pot: Pot) -> None:
    # gently
    pot.fill(0.5)
```

| day | ml |
| --- | --- |
| Monday | 200 |

The area is $\\pi r^2$, not **$5**.

> Light, and dry feet.

"""


@pytest.fixture
def asking(tmp_path: Path) -> Workspace:
    """A round that asks for everything there is, about completions with everything in them."""
    workspace = seeding.new_workspace(tmp_path / "workspace", target=8)
    change_section(workspace, "label", EVERYTHING)
    asked = [(f"Question {n}?", f"{RICH}First answer to {n}.", f"{RICH}Second answer to {n}.") for n in range(1, 6)]
    seeding.open_round(workspace, asked)
    return workspace


def written(workspace: Workspace) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(workspace.folder / "pairloop.db")
    try:
        return connection.execute(
            "SELECT verdict = left_side, strength, criteria, tags, reason, seconds FROM comparison ORDER BY id"
        ).fetchall()
    finally:
        connection.close()


def violations(page: Page) -> list[str]:
    """What breaks WCAG 2.0 to 2.2, A and AA, as far as axe-core can tell."""
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}}).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_label_page_passes_an_audit(
    chromium: Browser, asking: Workspace, serve: Serve, scheme: Any, width: int
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(serve(asking))
    wait_for_question(page, 1)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("d")
    expect(page.locator("mark").first).to_be_visible()
    assert violations(page) == []
    page.keyboard.press("s")
    expect(page.get_by_text("Why skip this pair?")).to_be_visible()
    assert violations(page) == []
    page.evaluate(
        "document.querySelector('.pl-prompt').insertAdjacentHTML('beforeend', '<img src=data:,><i>faint</i>')"
    )
    page.evaluate("document.querySelector('.pl-prompt i').style.color = '#808080'")
    assert len(violations(page)) == 2, "the audit sees what it should"
    context.close()


def test_a_day_by_keyboard_alone(page: Page, asking: Workspace, serve: Serve) -> None:
    page.goto(serve(asking))
    wait_for_question(page, 1)
    page.get_by_role("group", name="helpful").or_(page.get_by_role("radiogroup", name="helpful")).first.wait_for()
    page.get_by_role("radio", name="Left").first.focus()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelectorAll('[aria-checked=true]').length > 0")
    page.get_by_label("In your words").focus()
    page.keyboard.type("1 2 3 much better?")  # all of them keys elsewhere
    page.keyboard.press("Tab")
    page.keyboard.press("7")
    wait_for_question(page, 2)
    [(left, strength, criteria, _, reason, seconds)] = written(asking)
    assert (left, strength, reason) == (0, 3, "1 2 3 much better?")
    assert '"helpful": "' in criteria and 0 < seconds < 60


def test_nothing_on_the_page_is_named_by_the_pairs_number(page: Page, asking: Workspace, serve: Serve) -> None:
    """Gold pairs and repeats are made later than the rest: their numbers would give them away."""
    page.goto(serve(asking))
    wait_for_question(page, 1)
    names = page.evaluate("[...document.querySelectorAll('[class*=st-key-]')].flatMap((each) => [...each.classList])")
    assert any(name.startswith("st-key-remarks-") for name in names)
    assert [name for name in names if re.search(r"-\d{1,6}$", name) and "undo" not in name] == []


def test_the_question_mark_shows_every_key(page: Page, asking: Workspace, serve: Serve) -> None:
    page.goto(serve(asking))
    wait_for_question(page, 1)
    page.keyboard.press("?")
    expect(page.get_by_text("Left is much, clearly, slightly better")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Left is much, clearly, slightly better")).to_be_hidden()
    page.get_by_label("In your words").focus()
    page.keyboard.type("Why?")
    expect(page.get_by_text("Left is much, clearly, slightly better")).to_be_hidden()
    assert written(asking) == []


def test_looking_back_by_keyboard(page: Page, asking: Workspace, serve: Serve) -> None:
    page.goto(serve(asking))
    for number, key in ((1, "1"), (2, "4")):
        wait_for_question(page, number)
        page.keyboard.press(key)
    wait_for_question(page, 3)
    page.keyboard.press("p")
    wait_for_question(page, 2)
    page.keyboard.press("p")
    wait_for_question(page, 1)
    expect(page.get_by_text("You said: Left much.")).to_be_visible()
    page.keyboard.press("5")
    wait_for_question(page, 3)
    assert [(row[0], row[1]) for row in written(asking)] == [(1, 3), (0, None), (0, 1)]


def test_time_in_another_tab_is_no_time_on_the_pair(page: Page, asking: Workspace, serve: Serve) -> None:
    page.goto(serve(asking))
    wait_for_question(page, 1)
    with page.expect_response("**/attention?*is=away"):
        page.evaluate(HIDE, True)
    page.wait_for_timeout(2_000)
    with page.expect_response("**/attention?*is=here"):
        page.evaluate(HIDE, False)
    page.keyboard.press("4")
    wait_for_question(page, 2)
    assert written(asking)[0][5] < 1.9


HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_text_can_be_made_larger_and_stays_so(page: Page, asking: Workspace, serve: Serve) -> None:
    page.goto(serve(asking))
    wait_for_question(page, 1)
    size = "el => parseFloat(getComputedStyle(el).fontSize)"
    before = pane(page, "Left").get_by_text("First answer").or_(pane(page, "Left").get_by_text("Second answer"))
    normal = before.evaluate(size)
    page.get_by_role("button", name="Text size").click()
    page.get_by_role("radio", name="Larger").click()
    page.wait_for_url("**text=Larger**")
    page.reload()
    wait_for_question(page, 1)
    assert before.evaluate(size) > 1.3 * normal


def test_a_server_that_restarts_loses_and_doubles_nothing(page: Page, asking: Workspace) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ui.serve", "--workspace", str(asking.folder), "--port", str(port)]

    def start() -> subprocess.Popen[str]:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None and "ready" in server.stdout.readline()
        return server

    server = start()
    try:
        page.goto(f"http://127.0.0.1:{port}")
        wait_for_question(page, 1)
        page.keyboard.press("1")
        wait_for_question(page, 2)
        server.kill()
        server.wait()
        page.keyboard.press("2")  # into the void
        server = start()
        page.reload()
        wait_for_question(page, 2)
        assert len(written(asking)) == 1, "nobody was told that it counted: the pair is still there"
        page.keyboard.press("3")
        wait_for_question(page, 3)
    finally:
        server.terminate()
        server.wait()
    assert [(row[0], row[1]) for row in written(asking)] == [(1, 3), (1, 1)]
