"""`pairloop status`: paused rounds, and automatic rounds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dpo_core.deciding import decide
from dpo_core.editing_settings import change_section
from dpo_core.queueing import pause
from dpo_core.workspace import Workspace
from store.comparisons import Choice
from store.database import writing
from store.models import Decision
from store.refusals import keep_refusal
from tests.browser import seeding
from tests.ui.conftest import Pairloop

LEFT, RIGHT = Choice.LEFT, Choice.RIGHT


@pytest.fixture
def compared(workspace: Workspace) -> Workspace:
    """A round of six pairs with the four comparisons that it asks for."""
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    seeding.compare(workspace, "Ada", [LEFT, RIGHT] * 2)
    return workspace


def told(pairloop: Pairloop) -> Any:
    return json.loads(pairloop("status", "--json")[1])


def test_a_paused_round_is_resumed_next_and_one_that_is_done_is_not_paused(
    compared: Workspace, pairloop: Pairloop
) -> None:
    seeding.train(compared, steps=1, of=1)
    pause(compared)
    assert "1 (deciding, paused)" in pairloop("status")[1]
    assert told(pairloop)["next"]["command"] == "pairloop queue --resume"
    decide(compared, decision=Decision.KEEP, by="Ada")
    assert "1 (done)" in pairloop("status")[1]
    assert told(pairloop)["next"]["command"] == "pairloop sample"


def test_what_automatic_rounds_do_next_is_told_instead_of_a_command(compared: Workspace, pairloop: Pairloop) -> None:
    assert told(pairloop)["automatic"] == {"on": False, "plan": None}
    assert "Automatic rounds" not in pairloop("status")[1]
    change_section(compared, "automatic", {"on": True})
    assert told(pairloop)["next"]["command"] == "pairloop up", "nobody is there to do it"
    seeding.worker_is_there(compared)
    record = told(pairloop)
    why = "Every comparison is made: training starts."
    assert (record["automatic"]["on"], record["automatic"]["plan"]["act"]) == (True, "train")
    assert (record["automatic"]["plan"]["why"], record["next"]["command"]) == (why, "")
    page = pairloop("status")[1]
    assert f"on. Next: {why}" in page and "pairloop train" not in page


def test_why_automatic_rounds_stopped_is_told_beside_what_a_person_can_do(
    compared: Workspace, pairloop: Pairloop
) -> None:
    change_section(compared, "automatic", {"on": True})
    with writing(compared.engine) as session:
        keep_refusal(session=session, act="train", why="Too little memory.")
    page = pairloop("status")[1]
    assert "on. Stopped: Too little memory." in page and "pairloop train" in page
