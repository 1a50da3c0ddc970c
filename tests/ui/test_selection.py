"""What selecting pairs gained, as it is said on the Loop page and by `pairloop rounds` and `pairloop simulate`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlmodel import col, select

from dpo_core import simulate as simulation
from dpo_core.workspace import Workspace
from store.comparisons import Choice
from store.database import writing
from store.intervals import Estimate
from store.models import Pair, Run
from store.selected import Gain, Gains, Side
from tests.browser import seeding
from tests.ui.conftest import OpenApp, Pairloop, words
from ui.selection_words import as_record, gain_rows, gain_words
from ui.story import result_facts

NO_SIDE = Side(0, 0, Estimate(), Estimate(), Estimate())


def side(preferences: float, wrong: float | None, seconds: float | None, wide: float = 0.05) -> Side:
    """Forty verdicts with these figures, each with an interval so wide to either side."""

    def figure(value: float | None) -> Estimate:
        return Estimate() if value is None else Estimate(value, (value - wide, value + wide), 40)

    return Side(40, 40, figure(preferences), figure(seconds), figure(wrong))


def told(selected: Side, by_chance: Side) -> str:
    return gain_words(Gains({"near": 30, "slice": 10}, [], Gain(None, selected, by_chance)))


def test_the_yield_stands_with_its_figures_and_what_the_rule_does_beside_it() -> None:
    """Half-widths of 5 points make one of 7.07 for a difference."""
    assert told(side(0.8, 0.5, 6.0), side(0.6, 0.48, 7.0)) == (
        "80% of verdicts on selected pairs became preferences, and 60% of those on pairs left to chance (+13 to +27 "
        "percentage points: more); a verdict took 6.0 and 7.0 seconds (median; -1.1 to -0.9 seconds: less). That is "
        "what a label yields, not what was learned from it. The policy's own guess was wrong in 50% of the preferences "
        "on selected pairs and in 48% of the others: that is which pairs the rule takes, and nothing gained."
    )


def test_what_is_not_known_is_not_said() -> None:
    said = told(side(0.8, None, None), side(0.6, None, 3.0))
    assert said.endswith(
        "(+13 to +27 percentage points: more). That is what a label yields, not what was learned from it."
    )


def test_it_can_be_too_early_to_say() -> None:
    few = Side(19, 19, *[Estimate(0.5, (0.3, 0.7), 19)] * 3)
    said = told(side(0.8, 0.5, 6.0), few)
    assert said.startswith("Too early to say") and "on 40 prompts" in said and "on 19 left to chance" in said
    nothing = Gain(None, NO_SIDE, NO_SIDE)
    assert gain_words(Gains({}, [], nothing)) == ""
    assert gain_words(Gains({"random": 30, "slice": 10}, [], nothing)).startswith("No pair was selected by a rule yet")


def test_every_round_has_a_line_and_all_have_one_where_there_are_several() -> None:
    one, two = (Gain(number, side(0.8, 0.5, 6.0), side(0.6, 0.4, 7.0)) for number in (1, 2))
    pairs, every = {"near": 1}, Gain(None, one.selected, one.by_chance)
    assert [row[0] for row in gain_rows(Gains(pairs, [one], every))] == ["1"]
    rows = gain_rows(Gains(pairs, [one, two], every))
    assert [row[0] for row in rows] == ["2", "1", "all"]
    assert rows[0][1:] == (
        "40 and 40",
        "80% and 60% (+13 to +27)",
        "6.0 and 7.0 (-1.1 to -0.9)",
        "50% and 40%",  # no difference that could pass for a gain
    )
    record = json.loads(json.dumps(as_record(Gains(pairs, [one, two], every))))["all"]
    assert set(record["more"]) == {"preferences", "seconds"} and record["selected"]["guessed_wrong"]["value"] == 0.5


@pytest.fixture
def selected(workspace: Workspace) -> Workspace:
    """A round of 60 compared pairs: those selected all decided, of those left to chance every other one."""
    seeding.open_round(workspace, seeding.plain_exchanges(60))
    with writing(workspace.engine) as session:
        for index, pair in enumerate(session.exec(select(Pair).order_by(col(Pair.position))).all()):
            pair.selected_by, pair.selected_margin = ("slice", 1.0) if index % 2 else ("near", 0.1)
            session.add(pair)
    seeding.compare(workspace, "me", [Choice.LEFT, Choice.LEFT, Choice.LEFT, Choice.TIE] * 15)
    return workspace


def test_the_loop_page_says_what_selecting_gained(selected: Workspace, open_app: OpenApp) -> None:
    page = words(open_app("loop"))
    assert "100% of verdicts on selected pairs became preferences, and 50% of those on pairs left to chance" in page
    assert "<td>30 and 30</td><td>100% and 50% (+" in page


def test_the_data_page_says_how_a_pair_was_selected(selected: Workspace, open_app: OpenApp) -> None:
    app = open_app("data")
    for number, said in ((1, "near in reward; reward of a less that of b: +0.1"), (2, "left to chance; reward of a")):
        app.query_params["comparison"] = str(number)
        assert f"<td>Selected</td><td>{said}" in words(app.run())


def test_where_nothing_is_selected_the_page_says_nothing_of_it(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    page = words(open_app("loop"))
    assert "selected" not in page and "left to chance" not in page


def test_rounds_says_so_too(selected: Workspace, pairloop: Pairloop) -> None:
    code, out, _ = pairloop("rounds", "--json")
    found = json.loads(out)["selection"]
    assert code == 0 and found["pairs"] == {"near": 30, "slice": 30}
    assert found["all"]["told"] and found["all"]["selected"]["preferences"]["value"] == 1
    assert found["all"]["more"]["preferences"][0] > 0
    assert "became preferences" in pairloop("rounds")[1]


def test_a_runs_facts_name_the_ways_its_pairs_were_selected() -> None:
    result = {"pairs": 40, "skipped_identical": 0, "skipped_long": 0, "selected": {"near": 30, "slice": 10}}
    facts = result_facts(Run(kind="sample", status="done", settings={}, result=result))
    assert facts["Selected"] == "30 near in reward, 10 left to chance"


def test_simulate_selects_as_it_is_told(workspace: Workspace, pairloop: Pairloop, monkeypatch: Any) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(simulation, "simulate", lambda opened, **given: seen.append(opened.settings.selection) or [])
    here = ("simulate", "--workspace", str(workspace.folder), "--in-place", "--json")
    code, out, _ = pairloop(*here, "--select", "near", "--candidates", "6")
    found = json.loads(out)
    assert (code, found["select"], found["candidates"], found["random_share"]) == (0, "near", 6, 0.25)
    assert (seen[0].by, seen[0].candidates, found["seeds"]) == (
        "near",
        6,
        [{"seed": 0, "rounds": [], "selection": None}],
    )
    assert json.loads(pairloop(*here)[1])["candidates"] == 2  # as the workspace has it
    assert pairloop(*here, "--candidates", "6")[0] == 2  # from which nothing would be selected
    assert pairloop(*here, "--select", "nearest")[0] == 2
