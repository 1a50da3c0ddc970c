"""Live pages: what changes elsewhere appears by itself."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from store.comparisons import Choice
from store.database import reading, writing
from store.runs import list_runs, report_progress
from tests.browser import seeding
from tests.browser.conftest import Round, Serve


def test_the_first_pair_appears_by_itself(page: Page, tmp_path: Path, serve: Serve) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace", target=2)
    seeding.add_prompts(workspace, seeding.plain_exchanges(3))
    page.goto(serve(workspace))
    page.get_by_role("button", name="Start round 1").click()
    expect(page.get_by_role("heading", name="Round 1 is being written")).to_be_visible()
    seeding.write_pairs(workspace, seeding.plain_exchanges(3))
    expect(page.get_by_text("First answer to 1.")).to_be_visible()


def test_the_loop_follows_a_run(page: Page, comparing: Round) -> None:
    workspace = comparing.workspace
    seeding.compare(workspace, "me", [Choice.LEFT] * 8)
    run = seeding.train(workspace, steps=4, of=40, finish=False)
    page.goto(f"{comparing.url}/loop")
    expect(page.get_by_text("Train: 4 of 40")).to_be_visible()
    with reading(workspace.engine) as session:
        attempt = list_runs(session=session)[0].attempt
    with writing(workspace.engine) as session:
        assert run.id is not None
        progress = {"phase": "train", "step": 31, "total": 40}
        report_progress(session=session, run_id=run.id, attempt=attempt, progress=progress)
    expect(page.get_by_text("Train: 31 of 40")).to_be_visible()
    seeding.finish_training(workspace, run.id)
    expect(page.get_by_role("button", name="Promote round-1 and start round 2")).to_be_visible()


def test_an_address_of_its_own_opens_each_page(page: Page, comparing: Round) -> None:
    for place, title in (("runs", "Runs"), ("loop", "Loop"), ("data", "Data")):  # before anybody has opened "/"
        page.goto(f"{comparing.url}/{place}")
        expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()
        expect(page.get_by_role("link", name="Label")).to_be_visible()


def test_one_button_leads_from_the_decision_to_the_next_round(page: Page, comparing: Round) -> None:
    seeding.compare(comparing.workspace, "me", [Choice.LEFT] * 8)
    seeding.train(comparing.workspace, steps=4, of=4)
    page.goto(f"{comparing.url}/loop")
    promote = page.get_by_role("button", name="Promote round-1 and start round 2")
    place, figures = promote.bounding_box(), page.get_by_text("Held-out accuracy before").first.bounding_box()
    assert place and figures and place["y"] < figures["y"], "what there is to do comes before what fills a screen"
    promote.click()
    expect(page.get_by_role("heading", name="Round 2: round-1 is writing pairs")).to_be_visible()
    expect(page.get_by_text("promoted round-1")).to_be_visible()
