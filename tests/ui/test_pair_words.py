"""What the rounds make of the Playground's pairs, and what its page says of them; nothing is written by a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpo_core.loop import start_round
from dpo_core.playground import make_pair, will_be_held_out
from dpo_core.workspace import Workspace
from store.annotators import get_or_add_annotator
from store.database import reading, writing
from store.exchanges import ReadExchange, read_exchange
from store.models import Comparison, Pair, Round, RoundStatus
from store.priorities import first_in_queue
from tests.browser import seeding
from tests.store import exchanging
from ui.playground_words import HELD_OUT, pair_words


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """With prompts to start rounds on."""
    made = seeding.new_workspace(tmp_path / "workspace", target=4, per_pair=2)
    seeding.add_prompts(made, seeding.plain_exchanges(6))
    return made


def told(workspace: Workspace, number: int) -> ReadExchange:
    with reading(workspace.engine) as session:
        return read_exchange(session=session, exchange_id=number)


def pair_of(workspace: Workspace, number: int) -> Pair:
    with reading(workspace.engine) as session:
        return session.get_one(Pair, told(workspace, number).exchange.pair_id)


def say(workspace: Workspace, number: int, name: str, verdict: str) -> None:
    with writing(workspace.engine) as session:
        who = get_or_add_annotator(session=session, name=name)
        session.add(Comparison(pair_id=pair_of(workspace, number).id, annotator_id=who.id, verdict=verdict))


def close(workspace: Workspace, opened: Round) -> None:
    with writing(workspace.engine) as session:
        session.get_one(Round, opened.id).status = RoundStatus.DONE


def test_what_nobody_answered_goes_along_and_the_page_says_where_it_is(workspace: Workspace) -> None:
    first = start_round(workspace, by="test")
    left, answered, skipped = (exchanging.ask(workspace.engine, ("x", text)) for text in ("y", "z", "w"))
    for number in (left, answered, skipped):
        make_pair(workspace, number)
    assert "Round 1 asks this pair before all others. Nobody else could be asked" in pair_words(told(workspace, left))
    say(workspace, answered, "Ada", "a")
    assert "before all others. So far 1 answer came." in pair_words(told(workspace, answered))
    say(workspace, skipped, "Ada", "skip")
    close(workspace, first)
    assert "Round 1 ended before anybody answered: the next one asks" in pair_words(told(workspace, left))
    waiting = exchanging.ask(workspace.engine, ("x", "v"))
    assert "It is kept." in pair_words(make_pair(workspace, waiting))
    second = start_round(workspace, by="test")
    assert [pair_of(workspace, each).round_id for each in (left, waiting)] == [second.id, second.id]
    assert [pair_of(workspace, each).round_id for each in (answered, skipped)] == [first.id, first.id]
    with reading(workspace.engine) as session:
        queue = first_in_queue(session=session, round_id=second.id or 0, limit=5)
    assert [pair.id for pair, _ in queue] == [pair_of(workspace, each).id for each in (left, waiting)]
    assert pair_words(told(workspace, left)).startswith("Round 2 asks this pair before all others. Nobody")
    assert "1 answer came. That round is over, so it is asked no more" in pair_words(told(workspace, answered))
    assert "0 answers came and 1 skip. That round is over" in pair_words(told(workspace, skipped))


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_what_becomes_of_a_pair_on_a_held_out_prompt_is_said_before_and_after(share: float, tmp_path: Path) -> None:
    workspace = seeding.new_workspace(tmp_path / "held out", held_out_share=share)
    number = exchanging.ask(workspace.engine, ("x", "y"))
    assert will_be_held_out(workspace, told(workspace, number)) == bool(share)
    assert (HELD_OUT in pair_words(make_pair(workspace, number))) == bool(share)
