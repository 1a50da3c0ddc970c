"""The Lineage page's drawings, which the browser lays out by itself."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, Route, expect

from store.comparisons import Choice
from tests.browser import seeding
from tests.browser.conftest import Serve


def test_checkpoints_are_drawn_without_a_network(page: Page, tmp_path: Path, serve: Serve) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace", target=4)
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    seeding.compare(workspace, "Lea", [Choice.LEFT] * 4)
    seeding.train(workspace, steps=2, of=2)
    seeding.promote(workspace)
    address = serve(workspace)
    asked_elsewhere: list[str] = []

    def only_here(route: Route) -> None:
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            asked_elsewhere.append(route.request.url)
            route.abort()

    page.route("**/*", only_here)
    page.goto(f"{address}/lineage?as=Rae")
    tree, origin = page.locator("svg", has_text="round 1").first, page.locator("svg", has_text="settings").first
    expect(tree.locator("text", has_text="round-1")).to_be_visible()
    expect(origin.locator("text", has_text="Lea")).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 1800})
    tree.locator("a", has_text="base").click()
    expect(page.get_by_text("It is where the loop began.")).to_be_visible()
    expect(page.get_by_role("button", name="Rae")).to_be_visible()
    page.go_back()
    snapshot = page.locator("svg a", has_text="4 pairs").first
    expect(snapshot).to_be_visible()
    snapshot.click()
    expect(page.get_by_role("tab", name="Snapshots and export", selected=True)).to_be_visible()
    page.go_back()
    page.get_by_role("link", name="Comparisons by Lea").click()
    expect(page.get_by_text("4 verdicts")).to_be_visible()
    assert asked_elsewhere == []
