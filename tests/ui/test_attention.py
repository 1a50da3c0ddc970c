"""Seconds per comparison: the time that nobody looked is left out, and a request can do no harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from ui import attention
from ui.attention import Watch


class Clock:
    """A clock that stands still until it is told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> Watch:
    watch = Watch(clock)
    watch.shows(1)
    return watch


def test_time_away_is_left_out(watch: Watch, clock: Clock) -> None:
    clock.now += 5
    watch.goes()
    clock.now += 600
    assert watch.seconds() == 5, "a verdict that comes before the page said that somebody is back"
    watch.returns()
    clock.now += 2
    assert (watch.seconds(), watch.seconds_shown()) == (7, 607)


def test_going_twice_counts_from_the_first_time(watch: Watch, clock: Clock) -> None:
    for _ in range(2):
        watch.goes()
        clock.now += 10
    watch.returns()
    watch.returns()
    clock.now += 1
    assert watch.seconds() == 1


def test_another_pair_begins_anew_and_the_same_one_goes_on(watch: Watch, clock: Clock) -> None:
    clock.now += 5
    watch.shows(1)
    assert watch.seconds() == 5
    watch.shows(2)
    clock.now += 3
    assert (watch.pair_id, watch.seconds()) == (2, 3)


def test_a_pair_that_appears_while_nobody_is_there_is_looked_at_once_they_are_back(watch: Watch, clock: Clock) -> None:
    watch.goes()
    clock.now += 10
    watch.shows(2)
    clock.now += 600
    assert (watch.seconds(), watch.seconds_shown()) == (0, 600)
    watch.returns()
    clock.now += 5
    assert watch.seconds() == 5


def test_whoever_presses_is_there_whatever_the_page_said(
    watch: Watch, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "my_watch", lambda: watch)
    watch.goes()
    clock.now += 7
    assert attention.watch_of_press().seconds() == 0
    watch.shows(2)
    clock.now += 3
    assert watch.seconds() == 3


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, watch: Watch) -> Iterator[TestClient]:
    monkeypatch.setitem(attention._watches, "mine", watch)
    with TestClient(Starlette(routes=[attention.route])) as client:
        yield client


def test_the_page_says_when_it_is_left_alone(client: TestClient, watch: Watch, clock: Clock) -> None:
    assert client.post("/attention?token=mine&is=away").status_code == 204
    clock.now += 50
    assert client.post("/attention?token=mine&is=here").status_code == 204
    clock.now += 4
    assert watch.seconds() == 4


def test_a_token_that_is_nobodys_changes_nothing(client: TestClient, watch: Watch, clock: Clock) -> None:
    assert client.post("/attention?token=other&is=away").status_code == 204
    assert client.post("/attention").status_code == 204
    assert client.get("/attention?token=mine&is=away").status_code == 405
    clock.now += 4
    assert watch.seconds() == 4
