"""Ranking with the keyboard, the mouse and a finger, as a person does it; and an audit of the screen (axe-core)."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from dpo_core.workspace import Workspace
from tests.browser import seeding
from tests.browser.conftest import PATIENCE, Serve
from tests.browser.test_ahead import standing_still
from tests.browser.test_label_fully import RICH, violations
from ui.verdicts import DWELL_SECONDS

LETTERS = "ABCD"


@pytest.fixture
def slates(tmp_path: Path) -> Workspace:
    """A round with four slates of four, 24 comparisons wanted."""
    workspace = seeding.new_workspace(tmp_path / "workspace", target=24)
    seeding.open_ranking_round(workspace, seeding.plain_slates(4))
    return workspace


def wait_for_slate(page: Page, number: int) -> None:
    """Until the slate is on screen, and has been long enough for a ranking to count."""
    expect(page.get_by_role("region", name="Prompt").get_by_text(f"Question {number}?", exact=True)).to_be_visible()
    expect(page.get_by_role("region", name="Completion D")).to_contain_text(f"for {number}.")
    expect(chips(page, "Still to be ranked")).to_have_count(4)
    page.wait_for_timeout(1000 * DWELL_SECONDS + 100)


def chips(page: Page, where: str) -> Locator:
    role = "group" if where == "Still to be ranked" else "list"
    return page.get_by_role(role, name=where).get_by_role("button")


def ranked(page: Page) -> Locator:
    return page.get_by_role("list", name="Ranked so far, best first")


def expect_order(page: Page, words: str) -> None:
    """What stands on the board: "B=A C" for a tie of two, then one."""
    expect(ranked(page)).to_have_text(re.compile(r"\s*".join(re.escape(mark) for mark in words.replace(" ", ""))))
    expect(chips(page, "Ranked so far, best first")).to_have_count(sum(letter in LETTERS for letter in words))


def texts(page: Page) -> dict[str, str]:
    """The text on each card."""
    return {
        letter: re.search(r"Text \d for \d\.", page.get_by_role("region", name=f"Completion {letter}").inner_text())[0]  # type: ignore[index]
        for letter in LETTERS
    }


def written(workspace: Workspace, sql: str) -> list[tuple[Any, ...]]:
    """Read past all of the app's own code."""
    connection = sqlite3.connect(workspace.folder / "pairloop.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def standing(workspace: Workspace) -> list[list[list[str]]]:
    """Every standing ranking as tiers of texts."""
    query = "SELECT slate_id, tiers FROM ranking WHERE superseded_at IS NULL AND outcome = 'ranked' ORDER BY id"
    found = []
    for slate_id, tiers in written(workspace, query):
        items = dict(
            written(
                workspace,
                "SELECT place, text FROM slate_item JOIN completion ON completion.id = completion_id "
                f"WHERE slate_id = {slate_id}",
            )
        )
        found.append([sorted(items[place] for place in tier) for tier in json.loads(tiers)])
    return found


def comparisons(workspace: Workspace) -> int:
    return int(written(workspace, "SELECT count(*) FROM comparison WHERE superseded_at IS NULL")[0][0])


def drag(page: Page, what: Locator, x: float, y: float) -> None:
    box = what.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(x, y, steps=8)
    page.mouse.up()


def middle(what: Locator, *, share: float = 0.5) -> tuple[float, float]:
    box = what.bounding_box()
    assert box is not None
    return box["x"] + share * box["width"], box["y"] + box["height"] / 2


def test_a_row_of_slates_by_keyboard(page: Page, slates: Workspace, serve: Serve) -> None:
    page.goto(serve(slates))
    wait_for_slate(page, 1)
    first = texts(page)
    for key in ("3", "1", "t", "4", "2"):
        page.keyboard.press(key)
    expect_order(page, "C=A D B")
    expect(page.get_by_role("region", name="Completion B")).to_contain_text("4th")
    expect(page.get_by_role("region", name="Completion A")).to_contain_text("1st =")
    page.keyboard.press("Enter")
    wait_for_slate(page, 2)
    assert standing(slates) == [[sorted([first["C"], first["A"]]), [first["D"]], [first["B"]]]]
    assert comparisons(slates) == 6
    expect(page.get_by_text("6 of 24")).to_be_visible()
    [(seconds,)] = written(slates, "SELECT seconds FROM ranking")
    assert DWELL_SECONDS < seconds < 60
    second = texts(page)
    for key in ("2", "4", "1", "Backspace", "3"):
        page.keyboard.press(key)
    expect(page.get_by_role("status")).to_contain_text("A is left: it goes last. Enter saves.")
    page.keyboard.press("Enter")
    wait_for_slate(page, 3)
    assert standing(slates)[1] == [[second[letter]] for letter in "BDCA"]
    page.keyboard.press("b")
    wait_for_slate(page, 4)
    page.keyboard.press("s")
    expect(page.get_by_text("Why skip all of these?")).to_be_visible()
    page.keyboard.press("1")
    expect(page.get_by_text("Why skip all of these?")).to_be_hidden()
    expect(page.get_by_text("18 of 24")).to_be_visible()
    outcomes = written(slates, "SELECT outcome, tags FROM ranking ORDER BY id")
    assert outcomes == [("ranked", "[]"), ("ranked", "[]"), ("all_bad", "[]"), ("skip", '["Cannot tell"]')]
    assert comparisons(slates) == 24
    expect(page.get_by_text("You made 3 rankings today")).to_be_visible()


def test_too_few_are_not_saved_and_keys_do_what_they_can(page: Page, slates: Workspace, serve: Serve) -> None:
    page.goto(serve(slates))
    wait_for_slate(page, 1)
    page.keyboard.press("t")
    page.keyboard.press("Backspace")
    page.keyboard.press("2")
    page.keyboard.press("t")
    expect(page.get_by_role("status")).to_contain_text("B is first: there is none before it to tie with.")
    page.keyboard.press("2")
    expect(page.get_by_role("status")).to_contain_text("B has its place already.")
    page.keyboard.press("Enter")
    page.keyboard.press("1")
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    assert comparisons(slates) == 0
    expect_order(page, "B A")


@pytest.mark.parametrize("gap", [0, 30])
def test_enter_pressed_twice_saves_once_and_only_this_slate(
    page: Page, slates: Workspace, serve: Serve, gap: int
) -> None:
    page.goto(serve(slates))
    for number in (1, 2):
        wait_for_slate(page, number)
        for key in ("1", "2", "3", "Enter"):
            page.keyboard.press(key)
        page.wait_for_timeout(gap)
        page.keyboard.press("Enter")
    wait_for_slate(page, 3)
    assert written(slates, "SELECT slate_id FROM ranking ORDER BY id") == [(1,), (2,)]
    assert comparisons(slates) == 12


def test_dragging_letters_and_cards(page: Page, slates: Workspace, serve: Serve) -> None:
    page.goto(serve(slates))
    wait_for_slate(page, 1)
    shown = texts(page)
    board = page.get_by_role("group", name="Your ranking")
    for letter in "AB":  # from the tray into the order, one after the other
        slot = ranked(page).get_by_label("The next place")
        drag(page, board.get_by_role("button", name=f"{letter}: place it next"), *middle(slot))
    expect_order(page, "A B")
    grip = page.get_by_role("region", name="Completion C").get_by_role("button")
    grip.scroll_into_view_if_needed()
    drag(page, grip, *middle(board.get_by_role("button", name=re.compile("^A, 1st")), share=0.1))
    expect_order(page, "C A B")
    drag(
        page,
        board.get_by_role("button", name="D: place it next"),
        *middle(board.get_by_role("button", name=re.compile("^A, 2nd"))),
    )
    expect_order(page, "C A=D B")
    drag(page, board.get_by_role("button", name=re.compile("^B, 4th")), 640, 200)  # let go somewhere else: as it was
    expect_order(page, "C A=D B")
    board.get_by_role("button", name="Save").click()
    wait_for_slate(page, 2)
    assert standing(slates) == [[[shown["C"]], sorted([shown["A"], shown["D"]]), [shown["B"]]]]


def test_a_finger_taps_and_drags(chromium: Browser, slates: Workspace, serve: Serve) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(serve(slates))
    wait_for_slate(page, 1)
    shown = texts(page)
    board = page.get_by_role("group", name="Your ranking")
    expect(page.get_by_role("status")).to_contain_text("Tap")
    for letter in "BA":
        board.get_by_role("button", name=f"{letter}: place it next").tap()
    expect_order(page, "B A")
    start = middle(board.get_by_role("button", name="D: place it next"))
    end = middle(board.get_by_role("button", name=re.compile("^B, 1st")), share=0.1)
    touch = context.new_cdp_session(page)
    for kind, (x, y) in (("touchStart", start), ("touchMove", (start[0] - 20, start[1] - 10)), ("touchMove", end)):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect_order(page, "D B A")
    board.get_by_role("button", name=re.compile("^B, 2nd")).tap()  # out again
    expect_order(page, "D A")
    board.get_by_role("button", name="B: place it next").tap()
    board.get_by_role("button", name="Save").tap()
    wait_for_slate(page, 2)
    assert standing(slates) == [[[shown[letter]] for letter in "DABC"]]
    context.close()


def test_undo_brings_the_slate_back_as_it_was_ranked(page: Page, slates: Workspace, serve: Serve) -> None:
    page.goto(serve(slates))
    wait_for_slate(page, 1)
    shown = texts(page)
    for key in ("4", "3", "2", "Enter"):
        page.keyboard.press(key)
    wait_for_slate(page, 2)
    page.keyboard.press("u")
    expect(page.get_by_role("region", name="Completion D")).to_contain_text("for 1.")
    expect(page.get_by_role("status")).to_contain_text("As you ranked it before.")
    expect_order(page, "D C B A")
    assert texts(page) == shown and comparisons(slates) == 0
    page.wait_for_timeout(1000 * DWELL_SECONDS + 100)
    page.keyboard.press("t")
    page.keyboard.press("Enter")
    wait_for_slate(page, 2)
    assert standing(slates) == [[[shown["D"]], [shown["C"]], sorted([shown["B"], shown["A"]])]]
    assert len(written(slates, "SELECT id FROM comparison")) == 12


def test_a_change_of_mind_on_looking_back(page: Page, slates: Workspace, serve: Serve) -> None:
    page.goto(serve(slates))
    wait_for_slate(page, 1)
    shown = texts(page)
    for key in ("1", "2", "3", "Enter"):
        page.keyboard.press(key)
    wait_for_slate(page, 2)
    page.keyboard.press("p")
    expect(page.get_by_text("You said: A, then B, then C, then D.")).to_be_visible()
    expect_order(page, "A B C D")
    page.wait_for_timeout(1000 * DWELL_SECONDS + 100)
    for key in ("Backspace", "Backspace", "4", "Enter"):
        page.keyboard.press(key)
    wait_for_slate(page, 2)
    assert standing(slates) == [[[shown[letter]] for letter in "ABDC"]]
    assert len(written(slates, "SELECT id FROM ranking")) == 2


def test_a_reload_in_the_middle_keeps_what_was_begun(page: Page, slates: Workspace, serve: Serve) -> None:
    page.goto(serve(slates))
    wait_for_slate(page, 1)
    shown = texts(page)
    for key in ("2", "3", "t"):
        page.keyboard.press(key)
    page.reload()
    expect(page.get_by_role("status")).to_contain_text("Press 1 or 4.")
    assert texts(page) == shown
    expect_order(page, "B=C")
    page.keyboard.press("Backspace")  # what was placed last is known as well
    expect_order(page, "B")
    page.wait_for_timeout(1000 * DWELL_SECONDS + 100)
    for key in ("1", "4", "Enter"):
        page.keyboard.press(key)
    wait_for_slate(page, 2)
    expect(ranked(page)).to_have_text("")  # the next slate begins with nothing
    assert standing(slates) == [[[shown[letter]] for letter in "BADC"]]


def test_a_server_that_says_nothing_leaves_the_ranking_where_it_is(page: Page, slates: Workspace, serve: Serve) -> None:
    page.goto(serve(slates))
    wait_for_slate(page, 1)
    for key in ("3", "1", "4"):
        page.keyboard.press(key)
    with standing_still(slates):
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("The server has not answered. Your ranking is still here")
        assert page.evaluate("sessionStorage.getItem('pairloop-ranking')")
    wait_for_slate(page, 2)
    assert len(standing(slates)) == 1
    assert not page.evaluate("sessionStorage.getItem('pairloop-ranking')")


def test_two_tabs_write_one_ranking(page: Page, slates: Workspace, serve: Serve) -> None:
    url = serve(slates)
    page.goto(url)
    other = page.context.new_page()
    other.goto(url)
    for tab in (page, other):
        wait_for_slate(tab, 1)
    for tab, order in ((page, "123"), (other, "321")):
        tab.bring_to_front()
        for key in order:
            tab.keyboard.press(key)
        tab.keyboard.press("Enter")
        wait_for_slate(tab, 2)
    assert len(written(slates, "SELECT id FROM ranking")) == 1 and comparisons(slates) == 6


def test_no_key_does_anything_while_somebody_types(page: Page, slates: Workspace, serve: Serve) -> None:
    page.goto(serve(slates))
    wait_for_slate(page, 1)
    page.get_by_role("button", name="me", exact=True).click()
    page.get_by_label("Your name").fill("")
    page.get_by_label("Your name").press_sequentially("t1 2b3")
    expect(ranked(page)).to_have_text("")
    page.keyboard.press("Escape")
    page.get_by_role("region", name="Prompt").click()
    page.keyboard.press("?")
    expect(page.get_by_text("The last one placed ties with the one before it")).to_be_visible()
    assert comparisons(slates) == 0


def test_by_keyboard_focus_alone(page: Page, slates: Workspace, serve: Serve) -> None:
    """With Tab, Space and the arrows, as a screen reader's user does it."""
    page.goto(serve(slates))
    wait_for_slate(page, 1)
    board = page.get_by_role("group", name="Your ranking")
    for letter in "CA":
        board.get_by_role("button", name=f"{letter}: place it next").focus()
        page.keyboard.press("Space")
    expect_order(page, "C A")
    expect(board.get_by_role("button", name="A, 2nd place: take it out")).to_be_focused()
    page.keyboard.press("ArrowLeft")  # half a step: a tie
    expect_order(page, "C=A")
    expect(board.get_by_role("button", name="A, 1st place, tied: take it out")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect_order(page, "A C")
    page.keyboard.press("Space")
    expect_order(page, "C")


def test_nothing_tells_slates_apart_by_their_numbers_nor_who_wrote_what(
    page: Page, slates: Workspace, serve: Serve
) -> None:
    page.goto(serve(slates))
    wait_for_slate(page, 1)
    content = page.content()
    names = page.evaluate("[...document.querySelectorAll('[class*=st-key-]')].flatMap((each) => [...each.classList])")
    assert any(name.startswith("st-key-board-") for name in names)
    assert [name for name in names if re.search(r"-\d{1,6}$", name) and "undo" not in name] == []
    for told in ("somewhere/tiny", "slate_id", 'data-mark="1"'):
        assert told not in content


def test_model_text_is_shown_as_text(page: Page, tmp_path: Path, serve: Serve) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace", target=3)
    evil = [
        "<img src=x onerror=\"document.title='owned'\">",
        "<script>document.title='owned'</script>",
        "</section><b>x</b>",
    ]
    seeding.open_ranking_round(workspace, [("Question 1?", evil)])
    page.goto(serve(workspace))
    expect(page.get_by_role("region", name="Completion C")).to_be_visible()
    for text in evil:
        expect(page.get_by_text(text)).to_be_visible()
    assert page.title() != "owned" and page.locator(".pl-card img, .pl-card b").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_ranking_screen_passes_an_audit(
    chromium: Browser, tmp_path: Path, serve: Serve, scheme: Any, width: int
) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace", target=30)
    asked = [(f"Question {n}?", [f"{RICH}Text {each} for {n}." for each in range(1, 6)]) for n in range(1, 3)]
    seeding.open_ranking_round(workspace, asked)
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(serve(workspace))
    expect(chips(page, "Still to be ranked")).to_have_count(5)
    page.wait_for_timeout(600)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for key in ("2", "1", "t", "3"):
        page.keyboard.press(key)
    assert violations(page) == []
    page.get_by_role("button", name="C, 3rd place: take it out").focus()
    for key in ("4", "5"):
        page.keyboard.press(key)
    assert violations(page) == []
    faint = "#a0a0a0" if scheme == "light" else "#505050"
    page.evaluate(f"document.querySelector('.pl-board p').style.color = '{faint}'")
    assert len(violations(page)) == 1, "the audit sees what it should"
    context.close()
