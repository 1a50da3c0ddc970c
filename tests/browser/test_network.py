"""A network that comes and goes: no verdict is lost unseen, doubled, or given to another pair."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Round
from tests.browser.test_ahead import wait_until_ready
from tests.browser.test_label import wait_for_question


class Cable:
    """What lies between the browser and the server: passes bytes on until it is cut, and again once it is mended."""

    def __init__(self, url: str) -> None:
        self.server = urlsplit(url).hostname, urlsplit(url).port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.whole = True
        self.sockets: set[socket.socket] = set()
        self.live = threading.Event()  # the page has its websocket
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.whole = False
        self.live.clear()
        for each in list(self.sockets):
            self._end(each)

    def mend(self) -> None:
        self.whole = True

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                browser, _ = self.listener.accept()
                if not self.whole:
                    browser.close()
                    continue
                server = socket.create_connection(self.server)
                self.sockets |= {browser, server}
                for ends in ((browser, server), (server, browser)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
                if b" 101 Switching Protocols" in data:
                    self.live.set()
        self._end(source)
        self._end(target)

    def _end(self, one: socket.socket) -> None:
        self.sockets.discard(one)
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


@pytest.fixture
def cable(long_round: Round) -> Iterator[Cable]:
    laid = Cable(long_round.url)
    with closing(laid.listener):
        yield laid
        laid.cut()


def agreed(page: Page, served: Round) -> int:
    """Wait until the page asks what the database says is next; which question that is."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        number = len(served.said()) + 1
        if f"Question {number}?" in page.get_by_role("region", name="Prompt").inner_text():
            return number
        page.wait_for_timeout(100)
    raise AssertionError("the page and the database never agreed")


@pytest.mark.parametrize("pressed", ["before", "while it is cut"])
def test_verdicts_survive_a_network_that_comes_and_goes(
    page: Page,
    long_round: Round,
    cable: Cable,
    pressed: str,
) -> None:
    page.goto(cable.url)
    wait_for_question(page, 1)
    page.keyboard.press("2")
    wait_until_ready(page, 2)
    if pressed == "before":
        page.keyboard.press("2")
    cable.cut()
    if pressed != "before":
        page.keyboard.press("2")
        expect(page.get_by_role("region", name="Prompt")).to_contain_text("Question 2?")  # it could not be written
        page.wait_for_timeout(1000)
    cable.mend()
    assert cable.live.wait(60), "the page never came back"
    number = agreed(page, long_round)
    for question in range(number, number + 3):
        wait_until_ready(page, question)
        page.keyboard.press("6")
        wait_until_ready(page, question + 1)
    said = long_round.said()
    assert [each.question for each in said] == list(range(1, number + 3))
    assert all(each.stands for each in said)
