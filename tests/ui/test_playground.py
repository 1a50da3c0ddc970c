"""The Playground page, with the chat's process played by the test."""

from __future__ import annotations

import pytest
from sqlmodel import col, select
from streamlit.testing.v1 import AppTest

from dpo_core.editing_settings import change_section
from dpo_core.workspace import Workspace
from store.chat_tables import Exchange
from store.checkpoints import add_checkpoint, base_checkpoint
from store.database import reading, writing
from store.exchanges import read_exchange
from store.models import Pair
from store.pairs import NewCompletion
from store.priorities import first_in_queue
from store.workers import NO_CHATS, beat, own_name
from store.writing_exchanges import claim_exchange, end_exchange, finish_exchange, report_texts
from tests.browser import seeding
from tests.ui.conftest import OpenApp, button, labels, words
from ui.playground_words import pair_words

ME = own_name()


@pytest.fixture
def workspace(workspace: Workspace) -> Workspace:
    """With `round-1` beside the base, and a worker."""
    with writing(workspace.engine) as session:
        parent = base_checkpoint(session=session)
        add_checkpoint(session=session, name="round-1", path="checkpoints/round-1", parent_id=parent.id)
    seeding.worker_is_there(workspace)
    return workspace


def ask(app: AppTest, text: str) -> None:
    app.chat_input[0].set_value(text).run()
    assert not app.exception and not app.error


def latest(workspace: Workspace) -> Exchange:
    with reading(workspace.engine) as session:
        return session.exec(select(Exchange).order_by(col(Exchange.id).desc())).first() or Exchange()


def write(workspace: Workspace, first: str, second: str) -> None:
    """Claim the exchange that waits, and write these to the end."""
    texts = {"a": first, "b": second}
    written = {side: NewCompletion(text, seed=1, tokens=3, finish_reason="eos") for side, text in texts.items()}
    with writing(workspace.engine) as session:
        found = claim_exchange(session=session, owner=ME)
        assert found is not None and found.id is not None
        finish_exchange(session=session, exchange_id=found.id, owner=ME, written=written)


def test_an_exchange_is_asked_watched_and_made_a_pair(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(3))
    app = open_app("playground")
    assert "Chat with two checkpoints at once" in words(app)
    app.selectbox(key="chat_b").set_value("round-1")
    app.selectbox(key="chat_a").set_value("base")
    app.number_input(key="chat_temperature").set_value(0.5)
    app.number_input(key="chat_seed").set_value(11)
    ask(app, "Why is the sky blue?")
    asked = latest(workspace)
    assert (asked.seed, asked.settings["temperature"], asked.messages[0]["content"]) == (
        11,
        0.5,
        "Why is the sky blue?",
    )
    assert "Waiting for the worker's chat process" in words(app) and app.chat_input[0].disabled
    with writing(workspace.engine) as session:
        found = claim_exchange(session=session, owner=ME)
        assert found is not None
        report_texts(session=session, exchange_id=found.id or 0, owner=ME, texts={"a": "Dust <b>", "b": ""})
    app.run()
    assert "Dust &lt;b&gt;" in "".join(each.value for each in app.get("html")) and "Writing." in words(app)
    with writing(workspace.engine) as session:
        both = {"a": NewCompletion("Dust <b>.", tokens=3, names_maker=True), "b": NewCompletion("Light.", tokens=2)}
        finish_exchange(session=session, exchange_id=found.id or 0, owner=ME, written={**both})
    app.run()
    told = words(app)
    assert "3 tokens. It says who wrote it." in told and "Seed 11 · temperature 0.5" in told
    button(app, "Make this a pair to compare").click().run()
    assert "Nobody else could be asked, so you are asked yourself" in words(app)
    assert "Make this a pair to compare" not in labels(app)
    with reading(workspace.engine) as session:
        pair = session.get_one(Pair, latest(workspace).pair_id)
        first, _ = first_in_queue(session=session, round_id=pair.round_id or 0, limit=1)[0]
    assert (first.id, pair.purpose) == (pair.id, "train")


def test_the_next_message_goes_on_from_one_answer_for_both(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("playground")
    ask(app, "Why?")
    write(workspace, "Because.", "No idea.")
    app.run()
    choice = app.radio[0]
    assert choice.options == ["round\\-1", "base", "nothing\\: a new conversation"]
    choice.set_value("b").run()
    ask(app, "Really?")
    turns = [message["content"] for message in latest(workspace).messages]
    assert turns == ["Why?", "No idea.", "Really?"]
    write(workspace, "Yes.", "Yes.")
    app.run()
    assert app.radio[0].options[0] == "both answers\\, which are the same"
    assert "Both wrote the same, so there is nothing to compare" in words(app)
    assert "Make this a pair to compare" not in labels(app)
    button(app, "Ask again with a new seed").click().run()
    again = latest(workspace)
    assert [message["content"] for message in again.messages] == turns and again.seed != 0
    button(app, "Stop").click().run()
    assert latest(workspace).status == "stopped" and "this exchange is stopped" in words(app)
    button(app, "Clear").click().run()
    assert "Chat with two checkpoints at once" in words(app)
    button(app, "Why\\?").click().run()
    assert "No idea." in words(app), "an earlier one is opened again"


def test_an_exchange_that_is_opened_is_asked_again_as_it_was(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("playground")
    app.selectbox(key="chat_a").set_value("base")
    app.number_input(key="chat_temperature").set_value(0.5)
    app.number_input(key="chat_seed").set_value(11)
    ask(app, "Why?")
    write(workspace, "Because.", "No idea.")
    button(app.run(), "Clear").click().run()
    app.selectbox(key="chat_a").set_value("round-1")
    app.number_input(key="chat_temperature").set_value(1.5)
    ask(app, "How?")
    button(app, "Stop").click().run()
    button(app, "Why\\?").click().run()
    assert app.selectbox(key="chat_a").value == "base" and "Seed 11" in words(app)
    app.selectbox(key="chat_b").set_value("round-1").run()  # what is chosen now stays
    button(app, "Ask again with a new seed").click().run()
    again = latest(workspace)
    with reading(workspace.engine) as session:
        names = read_exchange(session=session, exchange_id=again.id or 0).names
    assert (names, again.settings["temperature"]) == ({"a": "base", "b": "round-1"}, 0.5) and again.seed != 11


def test_each_exchange_begins_with_a_seed_of_its_own(workspace: Workspace, open_app: OpenApp) -> None:
    """Two who ask the same of the same checkpoints would be told who wrote the other's pair."""
    seeds = []
    for app in (open_app("playground"), open_app("playground")):
        for _ in range(2):
            shown = app.number_input(key="chat_seed").value
            ask(app, "Why?")
            assert latest(workspace).seed == shown, "it can be told, and asked for again"
            write(workspace, "Because.", "No idea.")
            app.run()
            assert f"Seed {shown:.0f}" in words(app)
            seeds += [shown]
            app.radio[0].set_value("").run()
        button(app, "Clear").click().run()
        seeds += [app.number_input(key="chat_seed").value]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("number", ["99", "7" * 30, "7" * 5000, "x"])
def test_an_address_of_no_exchange_is_told_to_be_none(number: str, workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("playground")
    app.query_params["exchange"] = number
    app.run()
    assert "Chat with two checkpoints at once" in words(app) and "There is no exchange" in words(app)
    assert not app.exception and "exchange" not in app.query_params


def test_what_went_wrong_is_said(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("playground")
    ask(app, "Why?")
    with writing(workspace.engine) as session:
        found = claim_exchange(session=session, owner=ME)
        assert found is not None
        end_exchange(session=session, exchange_id=found.id or 0, owner=ME, error="The weights are *gone*.")
    app.run()
    assert "The weights are \\*gone\\*." in words(app)


def test_without_anybody_to_write_it_says_how_to_start_one(workspace: Workspace, open_app: OpenApp) -> None:
    with writing(workspace.engine) as session:
        session.connection().exec_driver_sql("DELETE FROM worker")
    app = open_app("playground")
    assert "No worker is running, and it is a worker that writes the answers" in words(app)
    ask(app, "Why?")
    assert "Start one with `pairloop worker`" in words(app)
    button(app, "Stop").click().run()
    button(app, "Clear").click().run()
    with writing(workspace.engine) as session:
        beat(session=session, name=seeding.WORKER, doing=f"run 1 (train), {NO_CHATS}")
    app.run()
    assert "A training has the graphics card to itself just now" in words(app)
    change_section(workspace, "worker", {"chat_minutes": 0})
    assert "`chat_minutes` is 0" in words(open_app("playground"))


def test_a_worker_that_dies_in_the_middle_is_missed(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("playground")
    ask(app, "Why?")
    with writing(workspace.engine) as session:
        found = claim_exchange(session=session, owner=ME)
        assert found is not None
        report_texts(session=session, exchange_id=found.id or 0, owner=ME, texts={"a": "Half", "b": ""})
    app.run()
    assert "Writing." in words(app) and "No worker is running" not in words(app)
    with writing(workspace.engine) as session:
        session.connection().exec_driver_sql("DELETE FROM worker")
    app.run()
    assert "No worker is running, and it is a worker that writes the answers" in words(app)
    assert "Writing." not in words(app) and "It is written from its start once a worker is there." in words(app)


def test_who_waits_for_others_is_told_how_many_are_before_them(workspace: Workspace, open_app: OpenApp) -> None:
    first, second, third = (open_app("playground") for _ in range(3))
    for app in (first, second, third):
        ask(app, "Why?")
    first.run()
    told = [words(app) for app in (first, second, third)]
    assert "Waiting for the worker's chat process" in told[0]
    assert "1 exchange is before this one." in told[1] and "2 exchanges are before this one." in told[2]
    write(workspace, "x", "y")
    third.run()
    assert "1 exchange is before this one." in words(third)


def test_who_made_a_pair_among_others_is_told_that_they_are_not_asked(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("playground")
    ask(app, "Why?")
    write(workspace, "x", "y")
    app.run()
    button(app, "Make this a pair to compare").click().run()
    assert "No round compares just now" in words(app)
    with writing(workspace.engine) as session:
        seeding.let_in(session, "Max")
    seeding.open_round(workspace, seeding.plain_exchanges(3))
    with reading(workspace.engine) as session:
        told = read_exchange(session=session, exchange_id=latest(workspace).id or 0)
    assert told.pair is not None and told.pair.kept
    assert "it is asked of others and not of you" in pair_words(told)
