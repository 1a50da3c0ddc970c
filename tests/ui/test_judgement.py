"""What a checkpoint was found to be worth, on the Loop and Runs pages and on the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from dpo_core.workspace import Workspace
from store.checkpoints import get_checkpoint
from store.comparisons import Choice
from store.database import reading, writing
from store.held_out import LITERATURE, Ceiling, HeldOut, judging_run, read_held_out
from store.models import Comparison, Pair, PairReward, Prompt, Run, RunKind
from store.runs import claim_run, finish_run, queue_run
from tests.browser import seeding
from tests.ui.conftest import OpenApp, Pairloop, words
from ui.charts import held_out_frame
from ui.judged_words import beside_rows, best_of, ceiling_words, kl_words, labelled_slices, length_words
from ui.report import write_report
from ui.story import result_facts, trust_words

CANARY = {
    "before": math.log(18.2),
    "after": math.log(20.9),
    "perplexity_before": 18.2,
    "perplexity_after": 20.9,
    "tokens": 812,
    "vocabulary": 50_000,
    "text": "canary.txt",
}
CHECKS = [
    {"command": "python arithmetic.py {checkpoint}", "passed": True, "said": "41 of 50 <right>", "seconds": 12.3},
    {"command": "missing", "passed": False, "said": "It could not be started: no such file.", "seconds": 0.0},
]
BESIDE = {
    "lengths": {"samples": 16, "before": 40.0, "after": 52.0},
    "kl": {"nats": 1.31, "samples": 16, "low": 0.14, "high": 2.5},
    "canary": CANARY,
    "checks": CHECKS,
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Every pair is judged by two."""
    return seeding.new_workspace(tmp_path / "workspace", target=24, per_pair=2)


@pytest.fixture
def judged(workspace: Workspace) -> Workspace:
    """Twelve pairs that Lea and Max compared, trained on, and judged: Max departs from Lea on three."""
    seeding.open_round(workspace, seeding.plain_exchanges(12))
    with reading(workspace.engine) as session:
        pairs = list(session.exec(select(Pair).order_by(Pair.position)))
    for name in ("Lea", "Max"):
        seeding.compare(workspace, name, [Choice.LEFT] * len(pairs))
    with writing(workspace.engine) as session:
        for number, said in enumerate(session.exec(select(Comparison).order_by(Comparison.id))):
            position, mine = number % 12, number < 12
            said.verdict = "a" if mine or position > 2 else "b"
            said.strength, said.criteria = 1 + position % 3, {"tone": "b"} if mine else {}
    trained(workspace, pairs)
    return workspace


def trained(workspace: Workspace, pairs: list[Pair]) -> None:
    """A train run that is done, with its rewards and with what stands beside the accuracy."""
    run = seeding.train(workspace, steps=4, of=4, after=0.75)
    with writing(workspace.engine) as session:
        checkpoint = get_checkpoint(session=session, name="round-1")
        checkpoint.metrics = checkpoint.metrics | BESIDE
        done = session.get_one(Run, run.id)
        done.result = done.result | BESIDE
        for prompt in session.exec(select(Prompt)):
            prompt.held_out = True  # only now: the snapshot wants something to train on
        for pair in pairs[3:]:  # those on which they agree came to a preference
            for judge, margin in ((checkpoint.parent_id, 0.0), (checkpoint.id, -1.0 if pair.position < 6 else 1.0)):
                session.add(reward(done.id, pair.id, judge, margin))


def reward(run: int | None, pair: int | None, judge: int | None, margin: float) -> PairReward:
    logps = ("logps_chosen", "logps_rejected", "ref_logps_chosen", "ref_logps_rejected", "reward_rejected")
    given = dict.fromkeys(logps, 0.0) | {"length_chosen": 1, "length_rejected": 1, "chosen_side": "a", "split": "test"}
    return PairReward(run_id=run, pair_id=pair, checkpoint_id=judge, reward_chosen=margin, margin=margin, **given)


def found(workspace: Workspace) -> HeldOut:
    with reading(workspace.engine) as session:
        run = judging_run(session=session, checkpoint_id=get_checkpoint(session=session, name="round-1").id or 0)
        assert run is not None
        held_out = read_held_out(session=session, run=run)
    assert held_out is not None
    return held_out


def charts(app: Any) -> int:
    return len(app.get("vega_lite_chart") or app.get("arrow_vega_lite_chart"))


def test_the_decision_shows_slices_ceiling_drift_canary_and_checks(judged: Workspace, open_app: OpenApp) -> None:
    app = open_app("loop")
    page = words(app)
    assert [each.value for each in app.metric] == ["50%", "75%", "34"]
    assert app.metric[1].delta == "+25 points (+5 to +45)"
    assert charts(app) == 1
    assert "The ceiling is how often two of your annotators agree: on 75% (47% to 91%) of 12 held-out pairs." in page
    assert "<td>all pairs</td><td>50% (23% to 77%)</td><td>67% (35% to 88%)</td><td>9</td>" in page
    for told in ("called much better", "chosen by Lea", "better in tone"):
        assert f"<td>{told}</td>" in page
    assert "prompts of" not in page  # all of one source: it would say nothing new
    assert "<td>Tokens an answer</td><td>40 → 52</td><td>30% longer: much, unless people asked for it." in page
    assert "<td>1.3 nats an answer (0.1 to 2.5)</td><td>Moderate: as far as picking the best of some" in page
    assert "<td>18.2 → 20.9</td><td>15% more: much. It may have lost some of what it could do.</td>" in page
    assert "<td>passed in 12 s</td><td>41 of 50 &lt;right&gt;</td>" in "\n".join(str(each.body) for each in app.html)
    assert "<td>Check: missing</td><td>failed in 1 s</td><td>It could not be started: no such file.</td>" in page


def test_the_report_draws_before_and_after_below_the_annotators_own_agreement(judged: Workspace) -> None:
    html = write_report(judged)
    assert "The ceiling is how often two of your annotators agree: on 75% (47% to 91%) of 12 held-out pairs." in html
    assert "50% → 75% (59% to 89%)" in html and '<rect x="46.77%" width="44.34%"' in html
    assert "from the literature" not in html


def test_the_runs_page_shows_them_too(judged: Workspace, open_app: OpenApp) -> None:
    app = open_app("runs")
    page = words(app)
    assert "+25 points (+5 to +45)" in page
    assert charts(app) == 1 + 4
    assert "**Held-out accuracy, before and after**" in page
    assert "<td>Perplexity on canary.txt</td><td>18.2 → 20.9</td>" in page
    assert "<td>Check: python arithmetic.py {checkpoint}</td><td>passed in 12 s: 41 of 50 <right></td>" in page
    app.radio(key="run").set_value(1).run()
    assert not app.exception and charts(app) == 0


def test_the_command_line_says_and_counts_them(
    judged: Workspace, pairloop: Pairloop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = pairloop("runs", "2")
    assert code == 0
    for told in ("chosen by Lea", "67% (35% to 88%)", "on 75% (47% to 91%) of 12 held-out pairs", "15% more: much."):
        assert told in out, told
    assert "41 of 50 <right>" in out
    code, out, _ = pairloop("runs", "2", "--json")
    told = json.loads(out)
    assert told["run"]["result"]["canary"] == CANARY
    assert told["run"]["result"]["checks"] == CHECKS
    held_out = told["held_out"]
    assert held_out["ceiling"]["told_from"] == "held_out" and held_out["ceiling"]["pairs"] == 12
    assert [each["name"] for each in held_out["by"]["annotator"]] == ["Lea", "Max"]
    assert held_out["pairs"]["after"]["value"] == pytest.approx(2 / 3)
    code, out, _ = pairloop("runs", "1", "--json")
    assert "held_out" not in json.loads(out)


def test_an_evaluation_is_told_as_well(judged: Workspace, pairloop: Pairloop, open_app: OpenApp) -> None:
    with writing(judged.engine) as session:
        train = session.get_one(Run, 2)
        settings = {"checkpoint": "round-1", "snapshot": train.settings["snapshot"]}
        queue_run(session=session, kind=RunKind.EVALUATE, settings=settings, requested_by="lea")
        run = claim_run(session=session, owner="test", lease=seeding.LEASE)
        assert run is not None and run.id is not None
        session.add(reward(run.id, 9, 2, 1.0))
        result = dict(train.result["eval"]) | {"canary": CANARY}
        finish_run(session=session, run_id=run.id, attempt=run.attempt, result=result, checkpoint_id=2)
    code, out, _ = pairloop("runs", "3")
    assert code == 0 and "all pairs" in out and "15% more: much." in out
    app = open_app("runs")
    assert charts(app) == 1
    assert "<td>Perplexity on canary.txt</td><td>18.2 → 20.9</td>" in words(app)


def test_the_chart_has_a_point_before_and_one_after_for_each_slice(judged: Workspace) -> None:
    held_out = found(judged)
    frame = held_out_frame(held_out)
    labels = [label for label, _ in labelled_slices(held_out)]
    assert labels[0] == "all pairs" and len(labels) == 1 + 3 + 2 + 1
    assert frame["slice"].tolist() == [label for label in labels for _ in range(2)]
    assert frame["when"].tolist() == ["before", "after"] * len(labels)
    assert (frame["low"] <= frame["share"]).all() and (frame["share"] <= frame["high"]).all()
    whole = frame[frame["slice"] == "all pairs"]
    assert whole["share"].tolist() == pytest.approx([0.5, 2 / 3]) and whole["of"].tolist() == [9, 9]


def test_where_the_ceiling_comes_from_is_said() -> None:
    literature = Ceiling(*LITERATURE, value=None, pairs=0, told_from="literature")
    assert "63% to 77%, is from the literature" in ceiling_words(literature)
    own = Ceiling(0.6, 0.8, value=0.7, pairs=31, told_from="round")
    assert "on 70% (60% to 80%) of 31 pairs of the round (too few held-out pairs" in ceiling_words(own)
    judged = {"pairs": 40, "accuracy_after": 0.72, "interval_after": [0.56, 0.84]}
    assert "People agree with each other on 63–77% of such pairs; expect no more." in trust_words(judged)
    assert trust_words(judged, literature) == trust_words(judged)
    assert "Your annotators agree with each other on 70% of the round's pairs, 60% to 80%; expect" in trust_words(
        judged, own
    )
    better = judged | {"accuracy_after": 0.82}
    assert "higher than your annotators agree with each other (70% of the round's pairs" in trust_words(better, own)


def test_whether_something_is_much() -> None:
    assert length_words({"before": 40, "after": 41}) == "Hardly changed."
    assert length_words({"before": 40, "after": 34}) == "15% shorter: not much."
    assert kl_words(0.3).startswith("Little") and kl_words(-0.2).startswith("Little")
    assert kl_words(30.0).startswith("Much")
    for n in (6, 20, 97, 3000):
        nats = math.log(n) - (n - 1) / n  # Stiennon et al. 2020
        assert best_of(nats) == pytest.approx(n, rel=0.05)
    assert beside_rows({}) == [] and beside_rows({"canary": {}, "kl": {}, "lengths": {}, "checks": []}) == []
    (row,) = beside_rows({"canary": CANARY | {"vocabulary": 10}})
    assert row[2].startswith("Tells nothing")
    same = CANARY | {"after": CANARY["before"]}
    assert beside_rows({"canary": same})[0][2] == "+0%: it predicts ordinary text as well as its parent."


def test_a_run_without_canary_or_checks_says_nothing_of_them() -> None:
    run = Run(kind="evaluate", status="done", settings={"checkpoint": "base"}, result={"pairs": 0})
    assert set(result_facts(run)) == {"Checkpoint", "Held-out accuracy", "Judged on"}
