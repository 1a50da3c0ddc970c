"""What a report says first and what that rests on: in each state of an effort, with figures worked by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import select

from dpo_core.config import GateSettings
from dpo_core.deciding import decide, roll_back
from dpo_core.lineage import FEW_PAIRS
from dpo_core.workspace import Workspace
from store.comparisons import Choice
from store.database import writing
from store.intervals import Estimate
from store.models import Comparison, Decision, Pair, Round, Run
from tests.browser import seeding
from tests.store.asking import add_prompt
from tests.ui.test_report import LEFT, go_round, told
from tests.ui.test_selection import selected  # noqa: F401 - a fixture
from ui.report_answer import answer_words, cost_rows, more_words, next_lines
from ui.report_facts import Facts, read_facts


def answer(workspace: Workspace, number: int | None = None) -> str:
    return answer_words(read_facts(workspace, round_number=number))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Two people judge each pair, where there are two; the gate asks for duels that are won."""
    return seeding.new_workspace(tmp_path / "workspace", target=4, gate=GateSettings())


# Is it better?


def test_where_the_base_serves_it_is_said_why(workspace: Workspace) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(8))
    assert answer(workspace) == "Not known: no checkpoint was trained yet, so the base, where we began, serves."
    assert answer(workspace, 1) == "Not known: no checkpoint was trained in round 1 yet (comparing)."
    seeding.compare(workspace, "Max", [LEFT] * 4)
    seeding.train(workspace, steps=1, of=1)
    assert answer(workspace).endswith("nothing is decided about round-1, which was not judged in any blind duel.")
    seeding.duel(workspace, won=6, lost=4)
    decide(workspace, decision=Decision.KEEP, by="lea")
    assert answer(workspace) == (
        "No: the base, where we began, still serves, since round-1, the newest checkpoint, was kept back: it won 60% "
        "of 10 decided duels (22% to 91%) against the base."
    )


def test_yes_and_no_are_what_blind_duels_with_the_base_say(workspace: Workspace) -> None:
    go_round(workspace, 1, won=30, lost=0)
    yes = answer(workspace)
    assert yes.startswith(
        "Yes: people prefer round-1, which serves now, to the base, where we began; judged blind, it won"
    )
    assert yes.endswith("a verdict like this is wrong in 5% of cases at most.")
    assert more_words(read_facts(workspace)) == ""
    roll_back(workspace, by="Bo", to="base")
    assert answer(workspace) == ("No: the base, where we began, serves again, since Bo rolled back to it from round-1.")
    go_round(workspace, 2, won=0, lost=30)
    assert answer(workspace).startswith("No: people prefer the base, where we began, to round-2, which serves now,")


def test_all_duels_together_speak_where_its_own_settle_nothing(workspace: Workspace) -> None:
    for number in (1, 2):
        go_round(workspace, number, won=30, lost=0)
    found = read_facts(workspace)
    assert answer_words(found).startswith(
        "Probably: told from all blind duels together, round-2, which serves now, would"
    )
    assert "no blind duel of the two was judged" in answer_words(found)
    assert more_words(found) == "To be sure: round-2 and the base have to be compared in blind duels."
    # +100 points are 64% of duels; from -100 to +300 it may be either.
    unsure = replace(found, points=found.points | {"round-2": Estimate(100.0, (-100.0, 300.0), 9)})
    assert answer_words(unsure).startswith("Not known yet whether round-2, which serves now, is better than the base")
    sure = replace(found, points=found.points | {"round-2": Estimate(100.0, (50.0, 300.0), 9)})
    assert "would win 64% of its duels with the base, where we began (57% to 85%" in answer_words(sure)
    worse = replace(found, points=found.points | {"round-2": Estimate(-100.0, (-300.0, -50.0), 9)})
    assert answer_words(worse).startswith("Probably not: ")


def test_a_round_is_held_against_what_it_was_trained_from(workspace: Workspace) -> None:
    go_round(workspace, 1, won=30, lost=0)
    go_round(workspace, 2, won=6, lost=4)
    assert answer(workspace, 2) == (
        "Not known yet whether round-2, which round 2 came to, is better than round-1, which it was trained from: it "
        "won 60% of 10 decided duels (22% to 91%)."
    )
    assert answer(workspace, 1).startswith("Yes: people prefer round-1, which round 1 came to, to the base, where we")


# What it cost, and what comes next


def priced(workspace: Workspace, seconds: float) -> Facts:
    """The facts, had every verdict taken so long, over five days."""
    with writing(workspace.engine) as session:
        for said in session.exec(select(Comparison)):
            said.seconds = seconds
        opened = session.exec(select(Round)).first()
        assert opened is not None
        opened.created_at -= timedelta(days=4)
    return read_facts(workspace)


def test_what_it_cost(workspace: Workspace) -> None:
    go_round(workspace, 1, won=26, lost=0)
    costs = dict(cost_rows(priced(workspace, 60.0)))
    assert costs["Labels"] == "30: 4 on pairs to learn from, 26 on blind duels"
    assert costs["Time at the screen"] == "30 min by 2 annotators"
    assert costs["Trainings"] == "1, 48 s in all with judging"
    assert costs["From and to"].endswith(", 5 days") and costs["Rounds"] == "1"
    assert "Imported" not in costs
    one = dict(cost_rows(read_facts(workspace, round_number=1)))
    assert one["Labels"] == costs["Labels"] and "Rounds" not in one


def test_time_that_was_measured_in_part_says_so(workspace: Workspace) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(8))
    assert dict(cost_rows(read_facts(workspace))).keys() == {"Rounds", "Labels", "From and to"}
    seeding.compare(workspace, "Max", [LEFT] * 4)
    with writing(workspace.engine) as session:
        session.get_one(Comparison, 1).seconds = None
    assert dict(cost_rows(read_facts(workspace)))["Time at the screen"] == (
        "20 s by 1 annotator, measured on 3 of 4 answers"
    )


def test_every_training_of_a_sweep_is_counted(workspace: Workspace) -> None:
    go_round(workspace, 1, won=0, lost=0)
    points = [{"train": {"seconds": seconds, "machine": {"device": "cpu"}}} for seconds in (30.0, 50.0)]
    run = Run(kind="train", result=points[0] | {"sweep": points})
    costs = dict(cost_rows(replace(read_facts(workspace), trainings=[run])))
    assert costs["Trainings"] == "2, 80 s in all with judging, on cpu"


def test_the_next_round_has_its_price(workspace: Workspace) -> None:
    """4 comparisons, 60 duels with the parent and 10 with the base: 74 verdicts of a minute each."""
    go_round(workspace, 1, won=26, lost=0)
    assert list(next_lines(priced(workspace, 60.0))) == [
        "Round 2 can start. It asks for 4 comparisons and, to judge what comes of it, up to 70 blind duels: some 74 "
        "min at 60 s each. The last training took 48 s."
    ]
    assert list(next_lines(read_facts(workspace, round_number=1))) == []


def test_what_a_round_waits_for_has_its_price(workspace: Workspace) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(8))
    assert list(next_lines(read_facts(workspace))) == ["Round 1 asks for 4 more comparisons before it is trained."]
    seeding.compare(workspace, "Max", [LEFT])
    assert list(next_lines(priced(workspace, 120.0))) == [
        "Round 1 asks for 3 more comparisons before it is trained: some 6 min at 120 s each."
    ]
    seeding.compare(workspace, "Max", [LEFT] * 3)
    seeding.train(workspace, steps=1, of=1)
    seeding.duel(workspace, won=14, lost=6, left_open=3)
    with writing(workspace.engine) as session:
        for number in range(100):
            add_prompt(session, f"Held out too {number}?", held_out_share=1)
    found = priced(workspace, 30.0)
    more = found.matches[0].win_rate.duels_more
    assert more is not None
    decide_line, duels_line = next_lines(found)
    assert decide_line == "Decide about round-1, once more is known. 3 blind duels still to judge."
    assert (
        duels_line.startswith(f"About {more} more blind duels of round-1 and base would decide")
        and "30 s" in duels_line
    )


# What it rests on


def test_answers_stand_side_by_side_as_text(workspace: Workspace) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(8))
    seeding.compare(workspace, "Max", [LEFT] * 4)
    seeding.train(workspace, steps=1, of=1)
    seeding.duel(workspace, won=12, lost=0, left_open=1)
    with writing(workspace.engine) as session:
        for text in session.exec(select(Pair).where(Pair.purpose == "duel")):
            completion = session.get_one(seeding.Completion, text.completion_a_id)
            completion.text = "<b>word</b> " * 100
    page = told(workspace)
    shown = page.partition("In their own words: base and round-1")[2].partition("What comes next")[0]
    assert shown.count("Held out ") == 3 and shown.count("An old one.") == 3
    assert shown.count("<b>word</b>") == 3 * 66 and shown.count("[…]") == 3  # 66 of 12 letters are within 800
    assert "Held out 12?" not in shown, "that one is still judged, blind"


def test_rounds_judged_on_different_pairs_are_not_told_as_a_trend(workspace: Workspace) -> None:
    go_round(workspace, 1)
    assert "Each round was judged on the pairs" not in told(workspace)
    go_round(workspace, 2)
    page = told(workspace)
    assert "Each round was judged on the pairs" in page
    assert page.count("on 34 held-out pairs, a hint") == 2 and f"With fewer than {FEW_PAIRS} pairs" in page


def test_points_are_explained(workspace: Workspace) -> None:
    for number in (1, 2):
        go_round(workspace, number)
    page = told(workspace)
    assert "100 more means winning 64% of the duels. These are ordinary 95% intervals, for looking at once" in page
    assert "What the labels bought" in page and "round-1 | 4 | " in page and "round-2 | 18 | " in page


def test_what_selecting_gained_is_told_where_anything_was_selected(selected: Workspace) -> None:  # noqa: F811
    for number in (None, 1):
        page = told(selected, number)
        assert "100% of verdicts on selected pairs became preferences, and 50% of those on pairs left to chance" in page
        assert "1 | 30 and 30 | 100% and 50% (+" in page


def test_what_is_not_known_is_left_out(workspace: Workspace) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(8))
    seeding.compare(workspace, "Max", [LEFT, Choice.RIGHT])
    page = told(workspace)
    assert "selecting" not in page and "Gold |" not in page and "– | – |" not in page
    assert "No gold pair was asked" in page
