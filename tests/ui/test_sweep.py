"""A sweep on the Runs page, on the Loop page and on the command line: compared, and one of it picked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dpo_core.deciding import pick_candidate
from dpo_core.loop import read_loop, round_stories, start_training
from dpo_core.progress import RunProgress
from dpo_core.workspace import Workspace
from store.checkpoints import add_checkpoint
from store.comparisons import Choice
from store.database import reading, writing
from store.decisions import list_decisions, serving_checkpoint
from store.errors import StateError
from store.models import Round, RoundStatus, Run
from store.runs import claim_run, finish_run
from tests.browser import seeding
from tests.ui.conftest import OpenApp, button, words
from ui.cli import YOURS, run
from ui.pages.loop import read, what_can_be_done

ACCURACIES = {0.1: 0.55, 0.3: 0.7}


def metrics(accuracy: float) -> dict[str, Any]:
    judged = {"pairs": 34, "accuracy_before": 0.5, "accuracy_after": accuracy, "interval_after": [0.4, 0.85]}
    lengths = {"samples": 16, "before": 60.0, "after": 100 * accuracy}
    return {"eval": judged | {"margin": 0.25}, "lengths": lengths, "kl": {"nats": 12.34, "samples": 16}}


@pytest.fixture
def swept(workspace: Workspace) -> Run:
    """A round whose sweep over two betas is done; the better one is the round's so far."""
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    seeding.compare(workspace, "me", [Choice.LEFT] * 4)
    queued = start_training(workspace, by="lea", early=True, sweep=["beta=0.1,0.3"])
    with writing(workspace.engine) as session:
        claimed = claim_run(session=session, owner="w", lease=seeding.LEASE)
        assert claimed is not None and claimed.id is not None
    reports = RunProgress(workspace, claimed.id, claimed.attempt)
    for beta in ACCURACIES:
        for step in (1, 2):
            reports.report(f"train beta {beta}", step, 2, {"loss": 0.7 - 0.1 * step})
    points = [
        {"checkpoint": f"round-1-beta-{beta}", "point": {"beta": beta}} | metrics(accuracy)
        for beta, accuracy in ACCURACIES.items()
    ]
    with writing(workspace.engine) as session:
        made = [
            add_checkpoint(session=session, name=point["checkpoint"], path=point["checkpoint"], metrics=point)
            for point in points
        ]
        current = session.get_one(Round, queued.round_id)
        current.result_checkpoint_id, current.status = made[1].id, RoundStatus.DECIDING
        session.add(current)
        finish_run(
            session=session,
            run_id=claimed.id,
            attempt=claimed.attempt,
            result=metrics(0.7) | {"sweep": points},
            checkpoint_id=made[1].id,
        )
    return queued


def result_of(workspace: Workspace) -> str:
    with reading(workspace.engine) as session:
        story = round_stories(session=session)[-1]
    assert story.result is not None
    return story.result.name


def test_the_runs_page_compares_the_points(swept: Run, open_app: OpenApp) -> None:
    app = open_app("runs")
    page = words(app)
    for told in ("round-1-beta-0.1", "beta 0.3", "70% (40% to 85%)", "12.3", "**KL to its parent**"):
        assert told in page, told
    assert app.selectbox(key="curves").options == ["train beta 0.1", "train beta 0.3"]
    charts = len(app.get("vega_lite_chart") or app.get("arrow_vega_lite_chart"))
    assert charts == 4 + 1, "four figures of the sweep and one curve"
    app.selectbox(key="curves").select("train beta 0.1").run()
    assert not app.exception


def test_one_is_picked_on_the_loop_page(swept: Run, workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("loop")
    assert app.selectbox(key="picked").value == "round-1-beta-0.3"
    app.selectbox(key="picked").select("round-1-beta-0.1").run()
    assert not app.exception
    assert result_of(workspace) == "round-1-beta-0.1"
    assert "Promote round-1-beta-0.1 and start round 2" in [each.label for each in app.button]


def test_the_command_line_does_all_of_it(
    swept: Run, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace.folder)
    monkeypatch.setenv("COLUMNS", "160")
    assert run(["runs", str(swept.id)]) == 0
    assert "70% (40% to 85%)" in capsys.readouterr().out
    assert run(["rounds", "--pick", "round-1-beta-9"]) == YOURS
    assert "round-1-beta-0.1, round-1-beta-0.3" in capsys.readouterr().err
    assert run(["rounds", "--pick", "round-1-beta-0.1", "--promote", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds"][0]["round"]["decision"] == "promote"
    assert result_of(workspace) == "round-1-beta-0.1"


def test_a_sweep_that_cannot_be_is_refused_before_anything_starts(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    seeding.compare(workspace, "me", [Choice.LEFT] * 4)
    monkeypatch.chdir(workspace.folder)
    assert run(["train", "--early", "--sweep", "betta=0.1,0.2"]) == YOURS
    assert "did you mean 'beta'" in capsys.readouterr().err
    with reading(workspace.engine) as session:
        assert read_loop(session=session).step == "train", "nothing was queued"


def test_nothing_is_decided_where_somebody_has_picked_another_since(
    swept: Run, workspace: Workspace, open_app: OpenApp
) -> None:
    app = open_app("loop")
    assert app.selectbox(key="picked").value == "round-1-beta-0.3"
    pick_candidate(workspace, checkpoint="round-1-beta-0.1", by="Bo")
    button(app, "Promote round-1-beta-0.3 and start round 2").click().run()
    assert "You were shown round-1-beta-0.3, but round 1 is about round-1-beta-0.1 by now" in words(app)
    with reading(workspace.engine) as session:
        assert (read_loop(session=session).step, list_decisions(session=session)) == ("decide", [])
    assert app.selectbox(key="picked").value == "round-1-beta-0.1", "the page is about the other by now"
    button(app, "Promote round-1-beta-0.1 and start round 2").click().run()
    with reading(workspace.engine) as session:
        assert serving_checkpoint(session=session).name == "round-1-beta-0.1"


def test_the_page_is_drawn_anew_where_another_is_picked(swept: Run, workspace: Workspace) -> None:
    before = read(workspace)
    assert what_can_be_done(before) == what_can_be_done(read(workspace))
    pick_candidate(workspace, checkpoint="round-1-beta-0.1", by="Bo")
    assert what_can_be_done(before) != what_can_be_done(read(workspace))


def test_the_command_line_decides_about_the_one_that_it_picked(
    swept: Run, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody picks another between the two."""

    def and_then_another(*given: Any, checkpoint: str, by: str) -> None:
        pick_candidate(*given, checkpoint=checkpoint, by=by)
        pick_candidate(*given, checkpoint="round-1-beta-0.3", by="Bo")

    monkeypatch.setattr("ui.commands.rounds.pick_candidate", and_then_another)
    monkeypatch.chdir(workspace.folder)
    assert run(["rounds", "--pick", "round-1-beta-0.1", "--promote", "--force"]) == YOURS
    assert "Nothing was decided" in capsys.readouterr().err
    with pytest.raises(StateError, match="Say your name first"):
        pick_candidate(workspace, checkpoint="round-1-beta-0.1", by="")
