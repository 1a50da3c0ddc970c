"""`pairloop simulate` with several seeds: what it passes on, prints and refuses. The simulation itself is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpo_core import simulate as simulation
from dpo_core.workspace import Workspace
from tests.dpo_core.test_over_seeds import measured, report
from tests.ui.conftest import Pairloop

REPORTS = {
    4: [report(1, 60, 0.6, measured("undecided", 0.6)), report(2, 120, 0.85, measured("promote", 0.7))],
    5: [report(1, 70, 0.7, measured("promote", 0.5)), report(2, 140, 0.9, measured("undecided", 0.95))],
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the simulation was called with, each time."""
    seen: list[dict[str, Any]] = []

    def simulate(workspace: Workspace, *, seed: int, **given: Any) -> list[Any]:
        seen.append(given | {"seed": seed, "workspace": workspace})
        return REPORTS[seed]

    monkeypatch.setattr(simulation, "simulate", simulate)
    return seen


def test_several_seeds_are_told_one_by_one_and_together(pairloop: Pairloop, asked: list[dict[str, Any]]) -> None:
    code, out, err = pairloop("simulate", "--seed", "4", "--seeds", "2", "--duels", "12", "--follow-gate")
    assert code == 0, err
    assert [(each["seed"], each["follow_gate"], each["rounds"]) for each in asked] == [(4, True, 3), (5, True, 3)]
    assert [each["workspace"].settings.duels.against_parent for each in asked] == [12, 12]
    assert not any(each["workspace"].folder.exists() for each in asked), "thrown away"
    table = out.partition("Held out: ")[0].split()
    assert (table.count("held"), table.count("missed")) == (3, 1)
    assert "All 2 simulations" in out and "2 of 2 simulations came there" in out
    assert "4 new checkpoints" in out and "Promote: 2, 1 of them falsely" in out


def test_json_has_every_round_and_the_whole(pairloop: Pairloop, asked: list[dict[str, Any]]) -> None:
    found = json.loads(pairloop("simulate", "--seed", "4", "--seeds", "2", "--json")[1])
    assert [each["seed"] for each in found["seeds"]] == [4, 5]
    assert found["seeds"][1]["rounds"][1]["measured"]["covered"] is False
    assert found["whole"]["verdicts"]["falsely_promoted"] == 1
    assert found["whole"]["stages"][1]["win_rate"]["value"] == pytest.approx(0.875)
    assert [each["workspace"].settings.duels.against_parent for each in asked] == [60, 60], "as it comes"


def test_every_seed_has_a_workspace_of_its_own(pairloop: Pairloop, asked: list[dict[str, Any]], tmp_path: Path) -> None:
    assert pairloop("simulate", "--seed", "4", "--seeds", "2", "--keep", str(tmp_path / "kept"))[0] == 0
    assert sorted(each.name for each in (tmp_path / "kept").iterdir()) == ["seed-4", "seed-5"]
    code, _, err = pairloop("simulate", "--seeds", "2", "--workspace", ".", "--in-place")
    assert code == 2 and "begins anew" in err


def test_one_seed_has_no_summary(pairloop: Pairloop, asked: list[dict[str, Any]]) -> None:
    out = pairloop("simulate", "--seed", "4")[1]
    assert len(asked) == 1 and "simulations" not in out and "120" in out
