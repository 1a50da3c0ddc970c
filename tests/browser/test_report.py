"""The report in a real browser: from the file alone, on a phone, at night and on paper."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from dpo_core.workspace import Workspace
from store.comparisons import Choice
from tests.browser import seeding
from ui.report import write_report

LONG = "with-a-name-that-nobody-would-give-but-that-somebody-will" * 2


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Of two rounds, by people with long names."""
    workspace: Workspace = seeding.new_workspace(tmp_path / "workspace", target=4)
    for number in (1, 2):
        seeding.open_round(workspace, seeding.plain_exchanges(8 * number)[8 * number - 8 :])
        seeding.compare(workspace, LONG[:80], [Choice.LEFT] * 4)
        seeding.train(workspace, steps=1, of=1)
        seeding.duel(workspace, won=18, lost=2)
        seeding.promote(workspace)
    target = tmp_path / "report.html"
    target.write_text(write_report(workspace), encoding="utf-8")
    return target


@pytest.mark.parametrize("width", [390, 1100])
def test_nothing_sticks_out_and_nothing_is_asked_for(report: Path, page: Page, width: int) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert asked == [report.as_uri()]
    letters = page.locator("svg text").evaluate_all(
        "all => all.map(each => parseFloat(getComputedStyle(each).fontSize))"
    )
    assert min(letters) >= 12, "however narrow the figure is"
    wide = page.locator(".scroll").evaluate_all("all => all.filter(each => each.scrollWidth > each.clientWidth).length")
    assert wide == 0, "tables fit, or become lists"


def test_on_paper_it_is_dark_on_white_whatever_the_screen_has(report: Path, page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(report.as_uri())
    colours = "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    assert page.evaluate(colours) == ["rgb(238, 238, 238)", "rgb(25, 25, 24)"]
    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate(colours) == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
    letters = page.locator("svg text").evaluate_all("all => [...new Set(all.map(each => getComputedStyle(each).fill))]")
    assert set(letters) == {"rgb(0, 0, 0)", "rgb(68, 68, 68)"}
