"""What the gate makes of evidence, condition by condition, told by hand: no database, no model."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest

from dpo_core.alarms import Alarm, alarms_canary
from dpo_core.automatic import Act, duels_to_write, plan_next
from dpo_core.config import AutomaticSettings, GateSettings
from dpo_core.duels import Match
from dpo_core.gate import Condition, Gate, conditions, won_words
from dpo_core.loop import LoopState, Step
from store.duels import DuelCounts
from store.models import Checkpoint
from store.win_rate import Duel, Outcome, length_controlled, win_rate
from ui.duel_words import verdict_words

NOTHING = {"win_rate": "ignore", "held_out": "ignore", "alarms": "ignore", "canary": 0, "checks": "ignore"}


def match(*, left_open: int = 0, held_out: int = 60, **counts: int) -> Match:
    """So many duels of each outcome, each on a prompt of its own, and some that are not judged."""
    outcomes = [Outcome(name) for name, count in counts.items() for _ in range(count)]
    duels = [Duel(number, outcome) for number, outcome in enumerate(outcomes)]
    written = DuelCounts(written=len(duels) + left_open, open=left_open)
    told = win_rate(duels, prompts_there=held_out)
    return Match("round-2", "round-1", written, held_out, told, 0.05, length_controlled(duels))


def found(
    asked: dict[str, Any], *, matches: tuple[Match, ...] = (), metrics: dict[str, Any] | None = None
) -> Condition:
    """The one condition that these settings ask for."""
    [condition] = conditions(GateSettings(**NOTHING | asked), matches, metrics or {})
    return condition


@pytest.mark.parametrize(
    ("counts", "met"),
    [
        ({"lost": 1, "left_open": 29}, None),
        ({"lost": 1}, None),
        ({"won": 5, "lost": 4}, None),
        ({"won": 5, "lost": 5}, True),
        ({"won": 5, "lost": 5, "left_open": 1}, None),
        ({"tie": 30}, True),
        ({"tie": 9, "both_bad": 1}, True),
        ({"won": 2, "lost": 20}, False),
        ({"won": 2, "lost": 20, "left_open": 8}, False),
        ({"won": 20, "left_open": 8}, True),
    ],
)
def test_not_worse_waits_until_people_could_have_found_it_worse(counts: dict[str, int], met: bool | None) -> None:
    """At least ten prompts, ties among them, and no duel open; one that is known to be better need not wait."""
    condition = found({"win_rate": "not worse"}, matches=(match(**counts),))
    assert (condition.name, condition.met) == ("Not shown to be worse than round-1 in blind duels", met)


def test_where_prompts_were_judged_again_it_is_said_what_is_counted() -> None:
    """One prompt at two of three, and one won: 5/6 on average, where 3 of 4 duels were won."""
    said = ["won", "won", "lost", "won"]
    again = win_rate([Duel(prompt, Outcome(each)) for prompt, each in zip("AAAB", said, strict=True)])
    assert won_words(again).startswith("won 83% on 2 prompts (4 decided duels), ")
    assert won_words(match(won=3, lost=1).win_rate).startswith("won 75% of 4 decided duels (")


def test_too_few_prompts_are_said_with_what_to_do() -> None:
    few = match(won=14, held_out=14)
    assert few.win_rate.duels_more is None
    said = "14 held-out prompts cannot decide it at this rate: import more prompts"
    assert found({"win_rate": "better"}, matches=(few,)).found.endswith(f"; {said}")
    assert verdict_words(few).startswith(f"Undecided: {said}.")
    early = match(won=1, left_open=7, held_out=8)
    assert "8 held-out prompts cannot decide it at any rate: import more prompts. 7 duels" in verdict_words(early)
    enough = match(won=14, held_out=15)
    assert "cannot decide" not in verdict_words(enough) + found({"win_rate": "better"}, matches=(enough,)).found


def test_no_more_duels_are_offered_than_there_are_prompts() -> None:
    for held_out, offered in ((14, 14), (60, 20)):
        few = match(won=8, lost=5, held_out=held_out)
        assert duels_to_write(Gate("round-2", (), (few,), GateSettings())) == offered


def planned(gate: Gate) -> tuple[Act, int, str]:
    """What automatic rounds do at such a gate."""
    state = LoopState(Step.DECIDE, None, Checkpoint(name="round-1", path="x"), {}, {}, {"held_out": 14}, None)
    plan = plan_next(state, gate, AutomaticSettings())
    return plan.act, plan.count, plan.why


def test_automatic_rounds_say_so_and_end_when_every_prompt_is_judged() -> None:
    def before(**counts: int) -> tuple[Act, int, str]:
        few = match(held_out=14, **counts)
        return planned(Gate("round-2", (found({"win_rate": "better"}, matches=(few,)),), (few,), GateSettings()))

    said = "14 held-out prompts cannot decide it at this rate: import more prompts"
    assert before(won=12) == (Act.WRITE_DUELS, 14, f"Undecided: {said}.")
    assert before(won=12, tie=2) == (Act.KEEP, 0, f"{said}. round-2 is kept back.")


@pytest.mark.parametrize(("counts", "met"), [({"tie": 30}, None), ({"won": 20}, True), ({"lost": 20}, False)])
def test_better_waits_for_the_verdict(counts: dict[str, int], met: bool | None) -> None:
    condition = found({"win_rate": "better"}, matches=(match(**counts),))
    assert (condition.name, condition.met) == ("Better than round-1 in blind duels", met)


def risen(rise: float) -> dict[str, Any]:
    """A record whose canary text is harder by so much, with the alarm that it gives rise to."""
    before, after = 20.0, 20.0 * (1 + rise)
    canary = {"before": math.log(before), "after": math.log(after), "vocabulary": 50_000, "text": "canary.txt"}
    canary |= {"perplexity_before": before, "perplexity_after": after}
    return {"canary": canary, "alarms": [asdict(alarm) for alarm in alarms_canary(canary)]}


def test_how_far_the_canary_may_rise_is_asked_by_itself() -> None:
    """The fixed alarm, from a tenth on, does not close a gate that allows more, or any."""
    metrics = risen(0.3)
    assert len(metrics["alarms"]) == 1
    assert found({"alarms": "none"}, metrics=metrics) == Condition("No alarm", True, "none")
    assert [found({"canary": most}, metrics=metrics).met for most in (0.1, 0.4)] == [False, True]
    other = asdict(Alarm("sample-length-drift", "warning", "Longer."))
    assert found({"alarms": "none"}, metrics={"alarms": [other, *metrics["alarms"]]}).found == "sample length drift"


@pytest.mark.parametrize(
    ("recorded", "met", "told"),
    [
        ({"a": True, "b": True}, True, "2 of 2 passed"),
        ({"a": True, "b": False}, False, "1 of 2 passed; failed: b"),
        ({}, None, "not run on this checkpoint: a, b"),
        ({"a": True}, None, "1 of 1 passed; not run on this checkpoint: b"),
        ({"a": False}, False, "0 of 1 passed; failed: a; not run on this checkpoint: b"),
    ],
)
def test_a_check_that_did_not_run_keeps_the_gate_shut(recorded: dict[str, bool], met: bool | None, told: str) -> None:
    checks = [{"command": command, "passed": passed} for command, passed in recorded.items()]
    [condition] = conditions(GateSettings(**NOTHING | {"checks": "all"}), (), {"checks": checks}, ["a", "b"])
    assert condition == Condition("Your own checks", met, told)


def test_without_checks_none_are_asked() -> None:
    assert conditions(GateSettings(**NOTHING | {"checks": "all"}), (), {}) == []


def test_no_duels_are_written_for_what_they_cannot_say() -> None:
    asked, won = GateSettings(**NOTHING | {"win_rate": "better", "checks": "all"}), match(won=20)
    gate = Gate("round-2", tuple(conditions(asked, (won,), {}, ["a"])), (won,), asked)
    assert planned(gate) == (Act.STOP, 0, "Your own checks: not run on this checkpoint: a. A person has to look.")


@pytest.mark.parametrize(
    ("interval", "met", "told"),
    [
        ([-0.3, -0.01], False, "-16 points (-30 to -1)"),
        ([-0.3, 0.1], True, "-16 points (-30 to +10)"),
        (None, True, "too few to tell a change from chance"),
    ],
)
def test_accuracy_is_worse_where_its_change_is(interval: list[float] | None, met: bool, told: str) -> None:
    """Whatever the interval of the accuracy itself, which is that of one checkpoint and not of two."""
    judged = {"pairs": 19, "accuracy_before": 0.74, "accuracy_after": 0.58, "interval_after": [0.36, 0.7]}
    judged |= {"change": -0.16, "change_interval": interval}
    condition = found({"held_out": "not worse"}, metrics={"eval": judged})
    assert (condition.met, condition.found) == (met, f"74% → 58% on 19 held-out pairs: {told}")
