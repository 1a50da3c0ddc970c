"""`pairloop quality`: tables for people, JSON for scripts, CSV files for whoever computes with them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.models import Pair
from store.quality import read_quality
from tests.browser import seeding
from tests.store.teams import ask, give, say, send_back
from tests.ui.conftest import Pairloop
from ui.cli import YOURS
from ui.commands.printing import print_json
from ui.quality_words import right_cell


@pytest.fixture
def compared(workspace: Workspace) -> Workspace:
    """Twelve pairs that Ada and Ben compared; they agree on all but one."""
    with writing(workspace.engine) as session:
        for number in range(12):
            ask(session, {"Ada": "a", "Ben": "a" if number else "b"})
    return workspace


def test_nobody_has_compared(pairloop: Pairloop) -> None:
    code, out, _ = pairloop("quality")
    assert code == 0
    assert "Nobody has compared anything here yet." in out


def test_people_get_tables(pairloop: Pairloop, compared: Workspace) -> None:
    code, out, _ = pairloop("quality")
    assert code == 0
    for word in ("Alpha", "92%", "Ada", "Ben", "Repeats"):
        assert word in out


def test_scripts_get_json_and_files(pairloop: Pairloop, compared: Workspace) -> None:
    _, out, _ = pairloop("quality", "--json", "--csv", "out")
    said = json.loads(out)
    agreement = next(row for row in said["quality"]["overall"] if row["figure"] == "agreement")
    assert agreement["value"] == pytest.approx(11 / 12) and agreement["count"] == 12
    assert [row["annotator"] for row in said["quality"]["annotators"]] == ["Ada", "Ben"]
    assert [Path(name).name for name in said["files"]] == ["overall.csv", "annotators.csv", "couples.csv"]
    with Path("out/annotators.csv").open(newline="", encoding="utf-8") as stream:
        assert [row["comparisons"] for row in csv.DictReader(stream)] == ["12", "12"]


def no_number(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_two_whom_nothing_tells_apart_have_no_interval(pairloop: Pairloop, workspace: Workspace) -> None:
    with writing(workspace.engine) as session:
        for number in range(40):
            ask(session, {"Ada": "a", "Ben": "abb"[number % 3]})
    _, out, _ = pairloop("quality", "--json")
    for row in json.loads(out, parse_constant=no_number)["quality"]["annotators"]:
        assert 0.5 < row["accuracy"] < 0.8
        assert row["accuracy_low"] is row["accuracy_high"] is None
    with reading(workspace.engine) as session:
        shown = {right_cell(each) for each in read_quality(session=session).annotators}
    assert shown == {"64% (too little to tell who is right)"}  # 0.37 * (0.82 + 0.47) + 0.26 * 0.63


def test_what_is_no_number_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"loss": float("nan"), "interval": (float("-inf"), 1.5), "where": Path("a")})
    assert json.loads(capsys.readouterr().out, parse_constant=no_number) == {
        "loss": None,
        "interval": [None, 1.5],
        "where": "a",
    }


def test_a_folder_that_is_a_file_is_the_users_to_mend(pairloop: Pairloop, compared: Workspace) -> None:
    Path("out").write_text("")
    code, _, problem = pairloop("quality", "--csv", "out")
    assert code == YOURS
    assert "could not be written" in problem


def test_a_snapshot_with_confidence_where_it_is_asked_for(pairloop: Pairloop, compared: Workspace) -> None:
    plain, believing = (
        json.loads(pairloop("snapshot", "--json", *told)[1])["snapshot"] for told in ((), ("--confidence",))
    )
    assert believing["manifest"]["confidence"]["annotators"] == 2
    assert "confidence" not in plain["manifest"]


def test_what_second_looks_came_to(pairloop: Pairloop, workspace: Workspace) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(4))
    assert "Second looks" not in pairloop("quality")[1]
    with writing(workspace.engine) as session:
        for number in range(1, 5):
            say(session, session.get_one(Pair, number), "Ada", verdict="a", left_side="a")
        asked = send_back(session, {1: -2.5, 2: -0.5, 3: -0.1, 4: 1.0})
        give(session, asked[0], "a")  # of the repeat: the other text
        give(session, asked[1], "b")
    _, out, _ = pairloop("quality")
    assert "3 comparisons went back into the queue: those that a checkpoint found most unlikely" in out
    assert "2 were answered: 1 confirmed, 1 overturned." in out
    assert "-2.50" in out and "Question 1?" in out and "Question 3?" not in out
    found = json.loads(pairloop("quality", "--json")[1])["second_looks"]
    assert (found["asked"], found["answered"], found["confirmed"], found["overturned"]) == (3, 2, 1, 1)
    assert found["share"]["value"] == 0.5 and found["at_random"]["count"] == 0 and found["more"] is None
    assert [(each["pair"], each["first"], each["second"], each["margin"]) for each in found["looks"]] == [
        (1, "a", "b", -2.5),
        (2, "a", "a", -0.5),
    ]
