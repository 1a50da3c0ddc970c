"""A team in real browsers: come in by a link, stay in, and be shown only what one may do."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Page, expect

from store.annotators import log_out_annotator
from store.database import writing
from store.invites import accept_invite, add_invite
from store.models import Role
from tests.browser.conftest import Round
from ui.verdicts import DWELL_SECONDS

PASSCODE = "three small words"


def link(round_: Round, role: Role) -> str:
    with writing(round_.workspace.engine) as session:
        token, _ = add_invite(session=session, role=role)
    return f"{round_.url}/join#{token}"


def researcher(round_: Round, name: str) -> None:
    """Somebody who joined before, so that everybody must log in."""
    token = link(round_, Role.RESEARCHER).partition("#")[2]
    accept_invite(engine=round_.workspace.engine, token=token, name=name, passcode=PASSCODE)


def log_in(page: Page, name: str, passcode: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Passcode").fill(passcode)
    page.get_by_role("button", name="Log in").click()


def test_an_annotator_joins_by_a_link_compares_and_is_still_in_after_a_reload(page: Page, comparing: Round) -> None:
    researcher(comparing, "Ada")
    page.goto(link(comparing, Role.ANNOTATOR))
    page.get_by_label("Your name").fill("Lea")
    assert page.url == f"{comparing.url}/join"  # the link's secret has left the address
    page.get_by_label("A passcode").fill(PASSCODE)
    page.get_by_role("button", name="Join").click()
    expect(page.get_by_text("First answer to 1.")).to_be_visible()
    page.wait_for_timeout(1000 * DWELL_SECONDS + 100)  # what is pressed sooner was meant for the pair before
    page.get_by_role("button", name="Left clearly").click()
    expect(page.get_by_text("1 by Lea")).to_be_visible()
    assert len(comparing.said()) == 1
    page.reload()
    expect(page.get_by_text("1 by Lea")).to_be_visible()
    assert page.url == f"{comparing.url}/"
    assert page.evaluate("document.cookie").count("pairloop") == 0  # no script can read the login


def test_an_annotator_finds_the_label_page_alone(page: Page, comparing: Round) -> None:
    page.goto(link(comparing, Role.ANNOTATOR))
    page.get_by_label("Your name").fill("Lea")
    page.get_by_label("A passcode").fill(PASSCODE)
    page.get_by_role("button", name="Join").click()
    expect(page.get_by_text("First answer to 1.")).to_be_visible()
    expect(page.get_by_role("link", name="Loop")).to_have_count(0)
    for place in ("loop", "runs", "data", "people"):
        page.goto(f"{comparing.url}/{place}")
        expect(page.get_by_text("This page is for researchers.")).to_be_visible()
        expect(page.get_by_role("button", name=re.compile("Train|Make a link|Import|Cut"))).to_have_count(0)


def test_a_stranger_is_led_to_the_login_and_a_login_can_be_ended(
    page: Page, chromium: Browser, comparing: Round
) -> None:
    researcher(comparing, "Ada")
    page.goto(f"{comparing.url}/loop")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    assert page.url == f"{comparing.url}/login"
    log_in(page, "Ada", "a wrong passcode")
    expect(page.get_by_role("alert")).to_have_text("That name and that passcode do not go together.")
    log_in(page, "Ada", PASSCODE)
    expect(page.get_by_text("First answer to 1.")).to_be_visible()
    page.get_by_role("link", name="People").click()
    expect(page.get_by_role("cell", name="researcher")).to_be_visible()
    with writing(comparing.workspace.engine) as session:
        log_out_annotator(session=session, name="Ada")
    page.get_by_role("link", name="Label").click()  # in the page that is open already
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
