"""The report: one file that needs nothing else, and says what the record says."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dpo_core.errors import RunError
from dpo_core.workspace import Workspace
from store.comparisons import Choice
from tests.browser import seeding
from tests.ui.conftest import OpenApp, Pairloop
from ui.report import interval_figure, write_report


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A new one whose name has to be escaped."""
    return seeding.new_workspace(tmp_path / "our <model>", target=4)


@pytest.fixture
def reported(workspace: Workspace) -> Workspace:
    """Two rounds: one promoted after duels that were won, one that is open."""
    seeding.open_round(workspace, seeding.plain_exchanges(12))
    seeding.compare(workspace, "me", [Choice.LEFT] * 4)
    seeding.train(workspace, steps=1, of=1)
    seeding.duel(workspace, won=18, lost=2, left_open=3)
    seeding.promote(workspace)
    seeding.open_round(workspace, seeding.plain_exchanges(20)[12:])
    return workspace


class Reader(HTMLParser):
    """What a browser would ask for beyond the file itself, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asked += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        self.asked += [tag] if tag in ("script", "link", "img", "iframe") else []

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_it_needs_nothing_else_and_says_what_the_record_says(reported: Workspace) -> None:
    html = write_report(reported)
    read = Reader(html)
    assert read.asked == [] and "url(" not in html and "@import" not in html
    for told in (
        "our <model>",
        "2 rounds: 4 comparisons to learn from, 20 verdicts on blind duels.",
        "round-1 serves: promoted by lea",
        "round-1 against base: won 90% of 20 decided duels",
        "People prefer round-1.",
        "67% (51% to 81%)",
        "No pair was judged by two people",
    ):
        assert told in read.text, told


def test_one_round_alone(reported: Workspace) -> None:
    first, second = (Reader(write_report(reported, round_number=number)).text for number in (1, 2))
    assert "won 90%" in first and "1 round: 4 comparisons" in first
    assert "No blind duel was judged yet" in second and "1 round: 0 comparisons" in second
    with pytest.raises(RunError, match="There is no round 3; there are 2"):
        write_report(reported, round_number=3)


def test_before_there_is_anything_it_says_so(workspace: Workspace) -> None:
    with pytest.raises(RunError, match="nothing to report yet"):
        write_report(workspace)


def test_the_command_writes_it_whole_or_not_at_all(reported: Workspace, pairloop: Pairloop) -> None:
    assert pairloop("report", "told.html")[0] == 0
    written = (reported.folder / "told.html").read_text()
    assert "won 90% of 20" in written and written.endswith("</html>\n")
    code, _, said = pairloop("report", "nowhere/told.html")
    assert code == 2 and "no folder nowhere" in said
    assert pairloop("report", "told.html", "--round", "9")[0] == 2
    assert (reported.folder / "told.html").read_text() == written


def test_a_figure_draws_each_interval_where_it_lies() -> None:
    svg = re.search(r"<svg.*</svg>", interval_figure([("a & b", 0.5, 0.25, 1.0)], middle=0.5, title="T"))
    assert svg is not None
    drawn = ElementTree.fromstring(svg.group())
    whisker = next(line for line in drawn.iter("line") if line.get("class") == "whisker")
    middle = next(line for line in drawn.iter("line") if line.get("class") == "middle")
    low, high, half = (float(each or 0) for each in (whisker.get("x1"), whisker.get("x2"), middle.get("x1")))
    assert (half - low) / (high - low) == pytest.approx(1 / 3)
    assert drawn.find("circle") is not None and float(drawn.find("circle").get("cx") or 0) == pytest.approx(half)  # type: ignore[union-attr]
    assert "a & b: 50% (25% to 100%)" in (drawn.get("aria-label") or "")


def test_the_loop_page_offers_it(reported: Workspace, open_app: OpenApp) -> None:
    app = open_app("loop")
    assert [each.proto.label for each in app.get("download_button")] == ["Report"]
