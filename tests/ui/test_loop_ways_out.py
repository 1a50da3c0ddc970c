"""The Loop page's ways out: pausing at any point, duels that nobody can judge, and automatic rounds."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from dpo_core.automatic import BY, take_step
from dpo_core.duels import more_duels
from dpo_core.editing_settings import change_section
from dpo_core.loop import LoopState, Step, return_to_comparing
from dpo_core.queueing import pause
from dpo_core.workspace import Workspace, open_workspace
from store.comparisons import Choice
from store.database import reading, writing
from store.models import Checkpoint, Pair
from store.refusals import keep_refusal
from store.runs import claim_run, fail_run, list_runs, report_progress
from tests.browser import seeding
from tests.store.asking import add_prompt
from tests.ui.conftest import OpenApp, button, labels, primary, step, words
from ui.pages.loop import refresh_seconds

LEFT, RIGHT = Choice.LEFT, Choice.RIGHT


@pytest.fixture
def is_automatic(workspace: Workspace) -> Workspace:
    """As `compared`, in automatic rounds."""
    change_section(workspace, "automatic", {"on": True})
    opened = open_workspace(workspace.folder)
    seeding.open_round(opened, seeding.plain_exchanges(12))
    return opened


def test_a_round_can_be_paused_and_resumed_at_any_point(compared: Workspace, open_app: OpenApp) -> None:
    for name in ("train", "wait_for_training", "mend_run", "decide"):
        if name == "wait_for_training":
            run = seeding.train(compared, steps=1, of=4, finish=False)
        elif name == "mend_run":
            with writing(compared.engine) as session:
                fail_run(session=session, run_id=run.id or 0, attempt=1, error="No.")
        elif name == "decide":
            return_to_comparing(compared, by="me")
            seeding.train(compared, steps=4, of=4)
        assert step(compared) == name
        app = open_app("loop")
        button(app, "Pause").click().run()
        assert "Compare" not in labels(app) and "It is paused" in words(app)
        button(app, "Resume").click().run()
        assert "It is paused" not in words(app) and "Pause" in labels(app)


def test_a_paused_round_that_waits_for_its_duels_is_resumed_first(gated: Workspace, open_app: OpenApp) -> None:
    seeding.duel(gated, won=0, lost=0, left_open=4)
    pause(gated)
    assert primary(open_app("loop")) == ["Resume"]
    assert "Round 1 is paused" in words(open_app())
    button(open_app("loop"), "Keep only").click().run()
    assert primary(open_app("loop")) == ["Start round 2"]


def test_a_duel_that_everybody_skipped_leads_to_more_of_them(gated: Workspace, open_app: OpenApp) -> None:
    with writing(gated.engine) as session:
        session.execute(sa.update(Pair).values(open_slots=0))
    seeding.duel(gated, won=0, lost=0, left_open=1)
    app = open_app("loop")
    assert primary(app) == ["Compare"] and "Write 1 more duel" in labels(app)
    for name in ("me", "lea"):
        seeding.compare(gated, name, [Choice.SKIP])
    assert primary(open_app("loop")) == ["Write 1 more duel"]


def test_without_held_out_prompts_one_is_led_to_importing(gated: Workspace, open_app: OpenApp) -> None:
    with writing(gated.engine) as session:
        session.execute(sa.update(Pair).values(open_slots=0))
    app = open_app("loop")
    assert primary(app) == ["Import prompts"]
    assert "No prompt is held out" in words(app)


@pytest.mark.parametrize(
    ("written", "offered"), [(4, "Write 1 more duel"), (2, "Write the duels again")], ids=["in vain", "cut off"]
)
def test_duels_that_came_to_nothing_are_not_written_from_the_same_texts_again(
    gated: Workspace, open_app: OpenApp, written: int, offered: str
) -> None:
    with writing(gated.engine) as session:
        session.execute(sa.update(Pair).values(open_slots=0))
        add_prompt(session, "Held out?", held_out_share=1)
    run = more_duels(gated, pairs=4, by="me")
    with writing(gated.engine) as session:
        claimed = claim_run(session=session, owner="test", lease=seeding.LEASE)
        assert claimed is not None and claimed.id == run.id
        whose = {"session": session, "run_id": claimed.id, "attempt": claimed.attempt}
        report_progress(**whose, progress={"phase": "write duels", "step": written, "total": 4})
        fail_run(**whose, error="No duel could be made of 4 prompts: both checkpoints wrote the same.")
    app = open_app("loop")
    assert primary(app) == [offered]
    assert "both checkpoints wrote the same" in words(app)
    button(app, offered).click().run()
    with reading(gated.engine) as session:
        duels = [entry.id for entry in list_runs(session=session) if entry.kind == "duel"]
    assert duels == ([run.id] if offered == "Write the duels again" else [(run.id or 0) + 1, run.id])


def test_a_round_of_ties_is_not_offered_to_train(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(4))
    seeding.compare(workspace, "me", [Choice.TIE] * 4)
    app = open_app("loop")
    assert primary(app) == ["Write 10 more pairs"]
    train = button(app, "Train")
    assert train.disabled and "no preference to train on" in train.help


def test_automatic_rounds_say_why_they_stopped(is_automatic: Workspace, open_app: OpenApp) -> None:
    seeding.compare(is_automatic, "me", [LEFT] * 4)
    assert "Next: Every comparison is made: training starts." in words(open_app("loop"))
    with writing(is_automatic.engine) as session:
        keep_refusal(session=session, act="train", why="Too little memory: choose smaller batches.")
    assert "Stopped: Too little memory: choose smaller batches." in words(open_app("loop"))


def test_what_automatic_rounds_did_is_listed_with_when(is_automatic: Workspace, open_app: OpenApp) -> None:
    seeding.compare(is_automatic, "me", [LEFT, RIGHT] * 2)
    assert "What automatic rounds did" not in [each.label for each in open_app("loop").expander]
    take_step(is_automatic)
    with reading(is_automatic.engine) as session:
        [run] = [run for run in list_runs(session=session) if run.requested_by == BY]
    app = open_app("loop")
    assert "What automatic rounds did" in [each.label for each in app.expander]
    assert f"<td>{run.created_at:%Y-%m-%d %H:%M}</td><td>Training of round 1 started</td>" in words(app)


def test_without_a_worker_automatic_rounds_do_nothing_which_is_said(is_automatic: Workspace, open_app: OpenApp) -> None:
    assert "No worker is running, so automatic rounds do nothing." in words(open_app("loop"))
    seeding.worker_is_there(is_automatic)
    assert "No worker is running" not in words(open_app("loop"))


@pytest.mark.parametrize("at", [Step.START_ROUND, Step.TRAIN, Step.MEND_RUN])
def test_the_page_looks_again_wherever_automatic_rounds_may_change_it(at: Step) -> None:
    state = LoopState(at, None, Checkpoint(name="base", path="", kind="full"), {}, {}, {}, None)
    assert (refresh_seconds(state, automatic=False), refresh_seconds(state, automatic=True)) == (None, 5)
