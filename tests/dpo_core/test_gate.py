"""What the gate makes of evidence, condition by condition, told by hand: no database, no model."""

from __future__ import annotations

from typing import Any

import pytest

from dpo_core.config import GateSettings
from dpo_core.duels import Match
from dpo_core.gate import Condition, conditions
from store.duels import DuelCounts
from store.win_rate import Duel, Outcome, length_controlled, win_rate

NOTHING = {"win_rate": "ignore", "held_out": "ignore", "alarms": "ignore", "canary": 0, "checks": "ignore"}


def match(*, left_open: int = 0, **counts: int) -> Match:
    """So many duels of each outcome, each on a prompt of its own, and some that are not judged."""
    outcomes = [Outcome(name) for name, count in counts.items() for _ in range(count)]
    duels = [Duel(number, outcome) for number, outcome in enumerate(outcomes)]
    written = DuelCounts(written=len(duels) + left_open, open=left_open)
    return Match("round-2", "round-1", written, win_rate(duels), length_controlled(duels))


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


@pytest.mark.parametrize(("counts", "met"), [({"tie": 30}, None), ({"won": 20}, True), ({"lost": 20}, False)])
def test_better_waits_for_the_verdict(counts: dict[str, int], met: bool | None) -> None:
    condition = found({"win_rate": "better"}, matches=(match(**counts),))
    assert (condition.name, condition.met) == ("Better than round-1 in blind duels", met)
