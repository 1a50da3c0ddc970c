"""The report: one file that needs nothing else, and says what the record says."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sqlmodel import select

from dpo_core.config import GateSettings
from dpo_core.deciding import decide, roll_back
from dpo_core.errors import RunError
from dpo_core.workspace import Workspace
from store.annotators import retract_annotator
from store.checkpoints import get_checkpoint
from store.comparisons import Choice
from store.database import writing
from store.importing import import_preferences
from store.models import Decision, Pair, Prompt
from tests.browser import seeding
from tests.ui.conftest import OpenApp, Pairloop
from ui.report import write_report

LEFT = Choice.LEFT


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


def told(workspace: Workspace, round_number: int | None = None) -> str:
    """What a reader reads, cells of tables with bars between them."""
    html = write_report(workspace, round_number=round_number).partition("</style>")[2]
    return " ".join(Reader(html.replace("</td>", " | </td>").replace("</dt>", ": </dt>")).text.split())


def go_round(
    workspace: Workspace, number: int, *, won: int = 9, lost: int = 1, decision: Decision = Decision.PROMOTE
) -> None:
    """A round of four comparisons by Max, its duels and what was decided, whatever the gate says."""
    seeding.open_round(workspace, seeding.plain_exchanges(8 * number)[8 * number - 8 :])
    seeding.compare(workspace, "Max", [LEFT] * 4)
    seeding.train(workspace, steps=1, of=1)
    if won + lost:
        seeding.duel(workspace, won=won, lost=lost)
    decide(workspace, decision=decision, by="lea", force=True)


def test_it_needs_nothing_else_and_says_what_the_record_says(reported: Workspace) -> None:
    html = write_report(reported)
    read = Reader(html)
    assert read.asked == [] and "url(" not in html and "@import" not in html
    for said in (
        "our <model>",
        "24: 4 on pairs to learn from, 20 on blind duels",
        "round-1 serves: promoted by lea",
        "Yes: people prefer round-1, which serves now, to the base, where we began; judged blind, it won 90% of 20",
        "Model: somewhere/tiny",
        "People prefer round-1.",
        "67% (51% to 81%)",
        "No pair was judged by two people",
    ):
        assert said in read.text, said


def test_one_round_alone(reported: Workspace) -> None:
    first, second = (told(reported, number) for number in (1, 2))
    assert "won 90%" in first and "24: 4 on pairs to learn from, 20 on blind duels" in first
    assert "No blind duel was judged yet" in second and "Labels: 0" in second
    assert "What comes next" in second and "What comes next" not in first, "a round that is over asks for nothing"
    with pytest.raises(RunError, match="There is no round 3; there are 2"):
        write_report(reported, round_number=3)


def test_a_round_says_who_serves_whatever_was_decided_in_it(workspace: Workspace) -> None:
    for number, decision in ((1, Decision.PROMOTE), (2, Decision.PROMOTE), (3, Decision.KEEP)):
        go_round(workspace, number, decision=decision, won=0, lost=0)
    third = told(workspace, 3)
    assert "round-2 serves: promoted by lea" in third and "nothing was promoted" not in third
    assert "round-3 was kept back by lea" in third
    assert "round-3 → round-2 | " in third and "round-2 → round-2 | " not in third, "decisions of this round alone"
    roll_back(workspace, by="Bo", to="round-1")
    assert "round-1 serves: rolled back to by Bo" in told(workspace, 3)
    assert "rolled back" in told(workspace, 2).partition("Decisions")[2], "which takes its checkpoint out of service"
    assert "rolled back" not in told(workspace, 3).partition("Decisions")[2]


def test_decisions_name_what_they_were_about_and_what_serves_then(tmp_path: Path) -> None:
    workspace = seeding.new_workspace(tmp_path / "gated", target=4, gate=GateSettings(held_out="ignore"))
    go_round(workspace, 1, won=30, lost=0)
    go_round(workspace, 2, won=0, lost=30, decision=Decision.KEEP)
    roll_back(workspace, by="Bo", to="base")
    rows = told(workspace).partition("Decisions")[2].partition("What to know")[0]
    assert "lea | promoted | round-1 → round-1 | nothing |" in rows
    assert "lea | kept back | round-2 → round-1 | Better than round-1 in blind duels: won 0% of 30" in rows
    assert "Bo | rolled back | round-1 → base | – |" in rows, "nobody asked a gate"


def test_figures_are_those_of_the_snapshots(workspace: Workspace) -> None:
    file = workspace.folder / "from elsewhere.jsonl"
    rows = [{"prompt": f"Imported {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."} for n in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_preferences(engine=workspace.engine, path=file, held_out_share=0)
    seeding.train(workspace, steps=1, of=1)  # a round on imports alone
    seeding.promote(workspace)
    seeding.open_round(workspace, seeding.plain_exchanges(8))
    with writing(workspace.engine) as session:
        first = session.exec(select(Prompt).join(Pair).where(Pair.round_id == 2, Pair.position == 0)).one()
        first.held_out = True
    seeding.compare(workspace, "Max", [LEFT, Choice.TIE, LEFT, Choice.SKIP, LEFT])
    seeding.train(workspace, steps=1, of=1)
    page = told(workspace)
    assert "round-1 | 3 of 3 | 3 | 3 pairs | 0 pairs | none |" in page
    assert "round-2 | 6 of 8 | 3 | 5 pairs | 1 pair | 1 skip, 1 tie |" in page
    assert "Labels: 4: 3 on pairs to learn from, 1 on held-out prompts, to judge by; 1 skip beside" in page
    assert "Imported: 3 comparisons from from elsewhere" in page


def test_who_was_retracted_is_told_and_so_is_what_they_did(workspace: Workspace) -> None:
    go_round(workspace, 1, won=0, lost=0)
    assert "retracted" not in told(workspace)
    with writing(workspace.engine) as session:
        retract_annotator(session=session, name="Max")
    page = told(workspace)
    assert "4: 4 on pairs to learn from" in page and "Max (retracted) | 4 |" in page
    assert "It was trained on 4 comparisons by annotators who were retracted since." in page
    assert "round-1 | 4 of 4 | 4 pairs" in page, "what it was trained on is what it was"


def test_settings_that_are_not_as_they_come_are_told_by_checkpoint(reported: Workspace) -> None:
    assert "Not as it comes" not in told(reported)
    with writing(reported.engine) as session:
        get_checkpoint(session=session, name="round-1").settings = {"training": {"beta": 0.3}, "model": {}}
    assert "beta 0.3 (not 0.1)" in told(reported)


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


@pytest.mark.parametrize("target", [".", "checkpoints", "told.html/report.html", "x" * 300])
def test_where_it_cannot_be_written_is_for_the_user_to_mend(
    reported: Workspace, pairloop: Pairloop, target: str
) -> None:
    (reported.folder / "told.html").write_text("a file")
    before = sorted(reported.folder.rglob("*"))
    code, _, said = pairloop("report", target)
    assert code == 2 and "not your fault" not in said
    assert any(told in said for told in ("Name a file", "no folder", "cannot be written")), said
    assert sorted(reported.folder.rglob("*")) == before


def test_the_loop_page_offers_it(reported: Workspace, open_app: OpenApp) -> None:
    app = open_app("loop")
    assert [each.proto.label for each in app.get("download_button")] == ["Report", "Report of round 2"]
    app.selectbox(key="report_of").set_value(1).run()
    assert [each.proto.label for each in app.get("download_button")] == ["Report", "Report of round 1"]


def test_of_one_round_there_is_one_report(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    assert [each.proto.label for each in open_app("loop").get("download_button")] == ["Report"]
