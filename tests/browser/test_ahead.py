"""The next pair is in sight the moment a verdict is pressed; the server still has the last word."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from dpo_core.config import LabelSettings
from dpo_core.editing_settings import change_section
from dpo_core.workspace import Workspace
from store.annotators import deactivate_annotator
from store.database import writing
from tests.browser import seeding
from tests.browser.conftest import Round, Serve
from tests.browser.test_label import pane, wait_for_question

DOUBLE_PRESS = """() => {
  const press = () => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "2", bubbles: true }));
  press();
  setTimeout(press, 50);
}"""

ONLY_THE_TEXTS = """() => {
  const pair = document.querySelector(".pl-pair");
  pair.dataset.pair = pair.dataset.ahead;
  delete pair.dataset.ahead;
}"""

PRESS_WHEN_DRAWN = """([key, delay]) => {
  const seen = window.pairloopSeen;
  window.pairloopSeen = (name) => {
    window.pairloopSeen = seen;
    seen(name);
    setTimeout(() => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })), delay);
  };
}"""
SECOND_PRESS = 60  # ms after the server has drawn the next pair: meant for the one before

LONG_IN_SIGHT = "performance.now() - (window.pairloopAttention?.shownAt ?? Infinity) > 420"


@contextmanager
def standing_still(workspace: Workspace) -> Iterator[None]:
    """The server neither answers nor ends."""
    folder = str(workspace.folder)
    (server,) = [child for child in psutil.Process().children() if folder in child.cmdline()]
    server.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.send_signal(signal.SIGCONT)


def wait_until_ready(page: Page, number: int) -> None:
    """Until the pair has been in sight for long enough, and the next one is known."""
    wait_for_question(page, number)
    expect(page.locator(".pl-ahead")).to_contain_text(f"answer to {number + 1}.")
    page.wait_for_function(LONG_IN_SIGHT)


def answer_the_first(page: Page) -> bool:
    """Judge the first pair, and have the second in sight while the server stands: is its first answer on the right?"""
    page.keyboard.press("2")
    expect(pane(page, "Left")).to_contain_text("answer to 2.")
    return "First" in pane(page, "Right").inner_text()


def questions_in_the_end(page: Page, comparing: Round) -> list[int]:
    """Which pairs were judged, once the second is there to be judged and nothing more comes of what was pressed."""
    wait_until_ready(page, 2)
    page.wait_for_timeout(500)
    return [each.question for each in comparing.said()]


@pytest.mark.parametrize("press", ["2", "ArrowRight", "b", "mouse"])
def test_the_next_pair_is_there_while_the_server_still_writes(page: Page, long_round: Round, press: str) -> None:
    page.goto(long_round.url)
    wait_until_ready(page, 1)
    with standing_still(long_round.workspace):
        if press == "mouse":
            page.get_by_role("button", name="Tie").click()
        else:
            page.keyboard.press(press)
        expect(page.get_by_role("region", name="Prompt")).to_contain_text("Question 2?")
        expect(pane(page, "Left")).to_contain_text("answer to 2.")
        first_is_right = "First" in pane(page, "Right").inner_text()
        page.wait_for_timeout(500)  # it is being read
        page.keyboard.press("6")
    wait_for_question(page, 3)
    assert [each.question for each in long_round.said()] == [1, 2]
    assert long_round.said()[1].verdict == ("a" if first_is_right else "b")


def test_a_verdict_between_the_texts_and_their_buttons_is_kept(page: Page, long_round: Round) -> None:
    """The server has sent the next pair's texts, and its buttons are still on their way."""
    page.goto(long_round.url)
    wait_until_ready(page, 1)
    with standing_still(long_round.workspace):
        first_is_right = answer_the_first(page)
        page.evaluate(ONLY_THE_TEXTS)
        page.wait_for_timeout(500)  # they are being read
        page.keyboard.press("6")
    wait_for_question(page, 3)
    assert [(each.question, each.verdict) for each in long_round.said()][1:] == [(2, "a" if first_is_right else "b")]


def test_a_verdict_the_moment_the_server_has_drawn_what_was_read_ahead_is_kept(page: Page, long_round: Round) -> None:
    page.goto(long_round.url)
    wait_until_ready(page, 1)
    page.evaluate(PRESS_WHEN_DRAWN, ["6", 0])
    with standing_still(long_round.workspace):
        first_is_right = answer_the_first(page)
        page.wait_for_timeout(500)  # it is being read
    wait_for_question(page, 3)
    assert [(each.question, each.verdict) for each in long_round.said()][1:] == [(2, "a" if first_is_right else "b")]


@pytest.mark.parametrize("still", [True, False])
def test_a_number_right_after_s_is_the_reason_and_never_a_verdict(page: Page, long_round: Round, still: bool) -> None:
    page.goto(long_round.url)
    wait_until_ready(page, 1)
    with standing_still(long_round.workspace) if still else nullcontext():
        page.keyboard.press("s")
        page.keyboard.press("2")
    wait_for_question(page, 2)
    [said] = long_round.said()
    assert (said.question, said.verdict) == (1, "skip")
    [(tags,)] = long_round.query("SELECT tags FROM comparison")
    assert json.loads(tags) == [LabelSettings().skip_reasons[1]]


def test_where_no_reason_is_asked_a_number_after_s_is_a_verdict(page: Page, tmp_path: Path, serve: Serve) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace", target=8)
    seeding.open_round(workspace, seeding.plain_exchanges(10))
    change_section(workspace, "label", {"skip_reasons": []})
    page.goto(serve(workspace))
    for question, key in enumerate("s2", start=1):
        wait_for_question(page, question)
        page.wait_for_function(LONG_IN_SIGHT)
        expect(page.locator('[class*="st-key-ask-"]')).to_have_count(0)  # or a number would be kept for a reason
        page.keyboard.press(key)
    expect(page.get_by_text("1 of 8")).to_be_visible()
    assert [each.verdict == "skip" for each in Round(workspace, "").said()] == [True, False]


def test_a_double_press_is_no_verdict_on_the_pair_that_was_ahead(page: Page, long_round: Round) -> None:
    page.goto(long_round.url)
    wait_until_ready(page, 1)
    with standing_still(long_round.workspace):
        page.evaluate(DOUBLE_PRESS)
        expect(pane(page, "Left")).to_contain_text("answer to 2.")
    expect(page.locator(".pl-ahead")).to_contain_text("answer to 3.")  # the server has drawn the second pair
    page.wait_for_timeout(1000)
    wait_for_question(page, 2)
    assert [each.question for each in long_round.said()] == [1]


def test_a_double_press_while_looking_back_is_no_verdict_on_the_pair_that_comes_back(
    page: Page, long_round: Round
) -> None:
    page.goto(long_round.url)
    wait_until_ready(page, 1)
    page.keyboard.press("2")
    wait_until_ready(page, 2)
    page.keyboard.press("p")
    wait_for_question(page, 1)
    expect(page.get_by_text("Looking back")).to_be_visible()
    page.wait_for_function(LONG_IN_SIGHT)
    page.evaluate(PRESS_WHEN_DRAWN, ["6", SECOND_PRESS])
    page.keyboard.press("6")
    assert questions_in_the_end(page, long_round) == [1, 1]


def test_a_double_press_of_a_reason_is_no_verdict_on_the_next_pair(page: Page, long_round: Round) -> None:
    page.goto(long_round.url)
    wait_until_ready(page, 1)
    page.keyboard.press("2")
    wait_until_ready(page, 2)
    page.keyboard.press("u")
    wait_until_ready(page, 1)
    page.keyboard.press("s")
    expect(page.get_by_text("Why skip this pair?")).to_be_visible()
    page.wait_for_function(LONG_IN_SIGHT)
    page.evaluate(PRESS_WHEN_DRAWN, ["1", SECOND_PRESS])
    page.keyboard.press("1")
    wait_until_ready(page, 2)
    page.wait_for_timeout(500)
    assert [(each.question, each.verdict == "skip") for each in long_round.said()] == [(1, False), (1, True)]


def test_a_press_as_the_server_wakes_is_no_verdict_on_the_pair_it_then_draws(page: Page, long_round: Round) -> None:
    """Pressed anew, as the notice asks, on the pair that was given back."""
    page.goto(long_round.url)
    wait_until_ready(page, 1)
    with standing_still(long_round.workspace):
        page.keyboard.press("2")
        expect(page.get_by_role("alert").filter(has_text="The server has not answered.")).to_be_visible()
        page.evaluate(PRESS_WHEN_DRAWN, ["6", SECOND_PRESS])
    assert questions_in_the_end(page, long_round) == [1]


def test_a_verdict_held_back_in_vain_is_asked_for_again(page: Page, long_round: Round) -> None:
    """The texts of the next pair came, and nothing after them."""
    page.goto(long_round.url)
    wait_until_ready(page, 1)
    with standing_still(long_round.workspace):
        answer_the_first(page)
        page.evaluate(ONLY_THE_TEXTS)
        page.wait_for_timeout(500)
        page.keyboard.press("6")
        expect(page.get_by_role("alert").filter(has_text="The server has not answered.")).to_be_visible()
    assert questions_in_the_end(page, long_round) == [1]


def test_what_the_server_refuses_comes_back(page: Page, long_round: Round) -> None:
    page.goto(f"{long_round.url}?as=Lea")
    wait_until_ready(page, 1)
    with writing(long_round.workspace.engine) as session:
        deactivate_annotator(session=session, name="Lea")
    page.keyboard.press("2")
    expect(page.get_by_text("not active any more")).to_be_visible()
    expect(page.get_by_text("answer to 2.")).to_have_count(0)
    assert long_round.said() == []


def test_a_server_that_says_nothing_gives_the_pair_back(page: Page, long_round: Round) -> None:
    page.goto(long_round.url)
    wait_until_ready(page, 1)
    with standing_still(long_round.workspace):
        page.keyboard.press("2")
        expect(pane(page, "Left")).to_contain_text("answer to 2.")
        expect(pane(page, "Left")).to_contain_text("answer to 1.")
        expect(page.get_by_role("alert").filter(has_text="The server has not answered.")).to_be_visible()
    wait_for_question(page, 2)
    expect(page.get_by_text("The server has not answered.")).to_have_count(0)
    assert [each.question for each in long_round.said()] == [1]


def test_a_day_of_quick_verdicts_goes_to_the_pairs_that_were_seen(page: Page, long_round: Round) -> None:
    page.goto(long_round.url)
    for number in range(1, 26):  # past the point from which nothing is known ahead any more
        wait_for_question(page, number)
        first = "First" in pane(page, "Left").inner_text()
        page.keyboard.press("1")
        expect(page.get_by_role("region", name="Prompt")).to_contain_text(f"Question {number + 1}?")
        wait_for_question(page, number + 1)
        last = long_round.said()[-1]
        assert (last.question, last.verdict) == (number, "a" if first else "b")
    assert len(long_round.said()) == 25
