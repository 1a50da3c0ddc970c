"""Comparing with the keyboard, as a person does it: nothing lost, nothing twice, nothing on the wrong pair."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import seeding
from tests.browser.conftest import Round, Serve
from ui.verdicts import DWELL_SECONDS


def pane(page: Page, side: str) -> Locator:
    return page.get_by_role("region", name=side, exact=True)


def wait_for_question(page: Page, number: int) -> None:
    """Until the pair is on screen, and has been long enough for a verdict to count."""
    expect(page.get_by_role("region", name="Prompt").get_by_text(f"Question {number}?", exact=True)).to_be_visible()
    expect(pane(page, "Right")).to_contain_text(f"to {number}.")
    expect(page.locator('[class*="st-key-verdicts-"]')).to_be_visible()  # the texts come first
    page.wait_for_timeout(1000 * DWELL_SECONDS + 100)


def test_a_row_of_pairs_by_keyboard(page: Page, comparing: Round) -> None:
    page.goto(comparing.url)
    presses = [
        ("ArrowLeft", "left"),
        ("ArrowRight", "right"),
        ("4", "tie"),
        ("b", "both_bad"),
        ("s", "skip"),
    ]  # the arrows: clearly
    for number, (key, meant) in enumerate(presses, start=1):
        wait_for_question(page, number)
        left_is_first = "First" in pane(page, "Left").inner_text()
        page.keyboard.press(key)
        if meant == "skip":
            expect(page.get_by_text("Why skip this pair?")).to_be_visible()
            page.keyboard.press("s")
        expect(page.get_by_text(f"Question {number + 1}?")).to_be_visible()
        said = comparing.said()  # in the file by the time the next pair is seen
        assert len(said) == number
        chosen = {"left": "a" if left_is_first else "b", "right": "b" if left_is_first else "a"}
        assert (said[-1].question, said[-1].verdict) == (number, chosen.get(meant, meant))
        assert said[-1].left_side == chosen["left"]
    expect(page.get_by_text("4 of 8")).to_be_visible()


@pytest.mark.parametrize("gap", [0, 20, 50])
def test_a_double_press_counts_once(page: Page, comparing: Round, gap: int) -> None:
    page.goto(comparing.url)
    for number in (1, 2, 3):
        wait_for_question(page, number)
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(gap)
        page.keyboard.press("ArrowLeft")
    wait_for_question(page, 4)
    assert [each.question for each in comparing.said()] == [1, 2, 3]


def test_a_key_held_down_counts_once(page: Page, comparing: Round) -> None:
    page.goto(comparing.url)
    wait_for_question(page, 1)
    for _ in range(40):  # Playwright reports every further `down` as a repeat, as the keyboard does
        page.keyboard.down("ArrowRight")
        page.wait_for_timeout(30)
    page.keyboard.up("ArrowRight")
    wait_for_question(page, 2)
    assert len(comparing.said()) == 1


def test_undo_brings_the_pair_back(page: Page, comparing: Round) -> None:
    page.goto(comparing.url)
    wait_for_question(page, 1)
    page.keyboard.press("ArrowLeft")
    wait_for_question(page, 2)
    page.keyboard.press("u")
    wait_for_question(page, 1)
    page.keyboard.press("4")
    wait_for_question(page, 2)
    assert [(each.question, each.verdict == "tie", each.stands) for each in comparing.said()] == [
        (1, False, False),
        (1, True, True),
    ]


def test_a_reload_keeps_the_pair_and_its_sides(page: Page, comparing: Round) -> None:
    page.goto(f"{comparing.url}/?as=Lea")
    for number in (1, 2, 3):
        wait_for_question(page, number)
        before = pane(page, "Left").inner_text()
        page.reload()
        wait_for_question(page, number)
        assert pane(page, "Left").inner_text() == before
        page.keyboard.press("ArrowLeft")
    wait_for_question(page, 4)
    expect(page.get_by_text("3 by Lea")).to_be_visible()


def test_a_name_typed_in_stays_in_the_address(page: Page, comparing: Round) -> None:
    page.goto(comparing.url)
    wait_for_question(page, 1)
    page.get_by_role("button", name="me").click()
    field = page.get_by_label("Your name")
    field.fill("Tibby")  # every letter of it is a verdict's key elsewhere
    field.press("Enter")
    expect(page.get_by_text("0 by Tibby")).to_be_visible()
    assert page.url.endswith("?as=Tibby")
    page.get_by_role("link", name="Loop").click()
    expect(page.get_by_role("heading", name="Loop")).to_be_visible()
    page.wait_for_url("**/loop?as=Tibby")
    assert comparing.said() == []


def test_two_windows_of_two_people_never_show_the_same_pair(page: Page, comparing: Round) -> None:
    page.goto(f"{comparing.url}/?as=Lea")
    wait_for_question(page, 1)
    assert page.context.browser is not None
    other = page.context.browser.new_context().new_page()
    other.goto(f"{comparing.url}/?as=Max")
    wait_for_question(other, 2)
    page.keyboard.press("ArrowLeft")
    wait_for_question(page, 3)
    other.context.close()


def test_long_texts_leave_verdicts_and_progress_in_sight(page: Page, tmp_path: Path, serve: Serve) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace", target=8)
    long = "\n\n".join(f"Paragraph {number}. {'word ' * 60}" for number in range(40))
    asked = [(f"Question {n}?", f"{long} First answer to {n}.", f"{long} Second answer to {n}.") for n in (1, 2)]
    seeding.open_round(workspace, asked)
    page.goto(serve(workspace))
    wait_for_question(page, 1)
    pane(page, "Left").get_by_text("Paragraph 39").scroll_into_view_if_needed()
    expect(page.get_by_role("button", name="Left clearly")).to_be_in_viewport(ratio=1)
    expect(page.get_by_text("0 of 8")).to_be_in_viewport(ratio=1)
    page.keyboard.press("ArrowLeft")
    wait_for_question(page, 2)
    expect(page.get_by_text("Question 2?")).to_be_in_viewport(ratio=1)  # read from its beginning


def test_a_narrow_window_is_enough(page: Page, comparing: Round) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(comparing.url)
    wait_for_question(page, 1)
    left, right = pane(page, "Left").bounding_box(), pane(page, "Right").bounding_box()
    assert left is not None and right is not None
    assert left["y"] + left["height"] <= right["y"]  # one above the other
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for label in ("Left much", "Left slightly", "Right clearly", "Right much", "Tie", "Both bad", "Skip", "Undo"):
        expect(page.get_by_role("button", name=label)).to_be_in_viewport(ratio=1)
    page.get_by_role("button", name="Right slightly").click()
    wait_for_question(page, 2)
    assert [each.question for each in comparing.said()] == [1]


def test_nothing_is_fetched_from_elsewhere(page: Page, comparing: Round) -> None:
    elsewhere: list[str] = []
    page.on("request", lambda request: elsewhere.append(request.url) if comparing.url not in request.url else None)
    for place in ("/", "/loop", "/runs", "/data"):
        page.goto(f"{comparing.url}{place}")
        expect(page.get_by_test_id("stMainBlockContainer")).to_be_visible()
        page.wait_for_load_state("networkidle")
    assert [url for url in elsewhere if not url.startswith(("data:", "blob:", "ws:"))] == []
