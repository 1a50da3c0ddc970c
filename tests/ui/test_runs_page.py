"""The Runs page: what it tells of a run, and what can be done about one."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dpo_core.alarms import Alarm
from dpo_core.progress import RunProgress
from dpo_core.workspace import Workspace
from store.comparisons import Choice
from store.database import reading, writing
from store.models import Run
from store.runs import fail_run, get_run
from tests.browser import seeding
from tests.ui.conftest import OpenApp, button, labels, words
from ui.charts import metric_frame
from ui.story import result_facts

NO_WORKER = "No worker is running, so runs wait. Start one with `pairloop worker`; `pairloop up` starts one by itself."


@pytest.fixture
def training(workspace: Workspace) -> Run:
    """A train run at step 10 of 40."""
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    seeding.compare(workspace, "me", [Choice.LEFT] * 4)
    return seeding.train(workspace, steps=10, of=40, finish=False)


def fresh(workspace: Workspace, run: Run) -> Run:
    assert run.id is not None
    with reading(workspace.engine) as session:
        return get_run(session=session, run_id=run.id)


def test_without_runs_it_leads_to_the_loop(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("runs")
    assert "No runs yet" in words(app)
    assert labels(app) == ["Go to the loop"]


def test_the_newest_run_is_shown_first(training: Run, open_app: OpenApp) -> None:
    app = open_app("runs")
    assert app.radio(key="run").options == ["Train · run 2", "Write pairs · run 1"]
    assert app.radio(key="run").value == 2
    page = words(app)
    assert "asked for by lea" in page
    assert "**rewards/margins**" in page
    assert [each.proto.text for each in app.get("progress")] == ["Train: 10 of 40 · about 36 s left"]
    assert [each.label for each in app.metric] == ["loss", "rewards/margins", "rewards/accuracies"]
    assert len(app.get("vega_lite_chart") or app.get("arrow_vega_lite_chart")) == 4
    assert any("Training on 26 pairs" in each.value for each in app.code)


def test_alarms_are_told_in_words_warnings_first(training: Run, workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("runs")
    assert [each.value for each in (*app.warning, *app.info)] == [NO_WORKER]
    reports = RunProgress(workspace, training.id or 0, 1)
    reports.report("train", 11, 40)
    reports.sound([Alarm("length-bias", "note", "Chosen texts are longer: <b>loss_type</b> = [*x*](y).", (4, 7))])
    reports.sound([Alarm("missing-eos", "warning", "No end in 3 of 26 pairs.", tuple(range(20)))])
    app = open_app("runs")
    plain = [re.sub(r"\\(.)", r"\1", each.value) for each in (*app.warning, *app.info)]
    assert plain == [
        NO_WORKER,
        "**Missing eos.** No end in 3 of 26 pairs. Pairs concerned: " + ", ".join(map(str, range(20))) + " and more.",
        "**Length bias.** Chosen texts are longer: <b>loss_type</b> = [*x*](y). Pairs concerned: 4, 7.",
    ]
    assert r"\<b\>loss\_type" in app.info[0].value and r"\[\*x\*\]\(y\)" in app.info[0].value
    seeding.finish_training(workspace, training.id or 0)
    assert len(open_app("runs").warning) == 1  # the row still has them once the run is over


def test_another_run_can_be_looked_at(training: Run, open_app: OpenApp) -> None:
    app = open_app("runs")
    app.radio(key="run").set_value(1).run()
    assert [each.value for each in app.subheader] == ["Write pairs · run 1"]
    assert len(app.get("progress")) == 0


def test_a_run_is_cancelled_after_asking(training: Run, workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("runs")
    button(app, "Cancel this run").click().run()
    assert fresh(workspace, training).cancel_requested
    assert any("me asked it to stop." in each.value for each in app.code)
    assert "running, stopping" in words(app)
    assert labels(app) == []


def test_a_failed_run_says_why_and_can_be_tried_again(training: Run, workspace: Workspace, open_app: OpenApp) -> None:
    with writing(workspace.engine) as session:
        assert training.id is not None
        fail_run(session=session, run_id=training.id, attempt=1, error="The disk is full.")
    app = open_app("runs")
    assert "The disk is full." in words(app)
    button(app, "Try again").click().run()
    assert fresh(workspace, training).status == "queued"
    assert "No worker is running" in words(app)


def test_a_chart_holds_only_its_own_figures() -> None:
    metrics = [
        {"phase": "train", "step": 1, "total": 2, "loss": 0.7, "logps/chosen": -3},
        {"phase": "train", "step": 2, "total": 2, "loss": 0.5},
        {"phase": "judge", "step": 1, "total": 1, "loss": 9.0},
    ]
    frame = metric_frame(metrics, ("loss",))
    assert frame.to_dict("list") == {"step": [1, 2], "metric": ["loss", "loss"], "value": [0.7, 0.5]}
    assert metric_frame(metrics, ("rewards/margins",)).empty


def done(kind: str, result: dict[str, Any]) -> Run:
    return Run(kind=kind, status="done", settings={"name": "round-1", "checkpoint": "round-1"}, result=result)


def test_a_training_that_is_done_says_what_it_came_to(training: Run, workspace: Workspace, open_app: OpenApp) -> None:
    seeding.finish_training(workspace, training.id or 0)
    app = open_app("runs")
    assert "<td>Checkpoint</td><td>round-1</td>" in words(app)
    assert "<td>Pairs trained on</td><td>26</td>" in words(app)
    assert "<td>Held-out accuracy</td><td>50% → 67% (51% to 81%)</td>" in words(app)
    assert list(app.metric) == []
    app.radio(key="run").set_value(1).run()
    assert "<td>Pairs written</td><td>6</td>" in words(app)


def test_what_a_run_came_to_in_words() -> None:
    judged = {"pairs": 10, "accuracy_before": 0.5, "accuracy_after": 0.8, "interval_after": [0.49, 0.94]}
    figures = {"train": {"pairs": 26}, "eval": judged, "kl": {"nats": 4.21}, "lengths": {"before": 31.4, "after": 40}}
    facts = result_facts(done("train", figures))
    assert facts["Held-out accuracy"] == "50% → 80% (49% to 94%)"
    assert (facts["KL to its parent"], facts["Tokens an answer"]) == ("4.2 nats an answer", "31 → 40")
    assert facts["Pairs trained on"] == "26"
    tied = result_facts(done("train", figures | {"train": {"pairs": 26, "ties": 1}}))
    assert tied["Pairs trained on"] == "26 and 1 tie"
    worse = figures | {"eval": judged | {"accuracy_after": 0.6}}
    assert facts["Checkpoint"] == "round-1"
    assert result_facts(done("train", worse | {"checkpoint": "round-1-beta-0.1"}))["Checkpoint"] == "round-1-beta-0.1"
    assert result_facts(done("evaluate", judged)) == {
        "Checkpoint": "round-1",
        "Held-out accuracy": "50% → 80% (49% to 94%)",
        "Judged on": "10 held-out pairs",
    }
    assert result_facts(done("train", {"eval": {"pairs": 0}}))["Held-out accuracy"] == "–"
    written = result_facts(done("sample", {"pairs": 38, "skipped_identical": 2, "skipped_long": 0}))
    assert written == {"Pairs written": "38", "Prompts skipped": "2 (both texts the same)"}
    assert result_facts(Run(kind="train", status="running", settings={})) == {}
