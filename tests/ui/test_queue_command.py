"""`pairloop queue` and `pairloop import --gold`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpo_core.workspace import Workspace
from store.database import reading
from store.models import Pair
from store.pairs import get_pair
from tests.browser import seeding
from ui.cli import DONE, YOURS, run


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with a round of three pairs, and the current folder within it."""
    made = seeding.new_workspace(tmp_path / "helpful")
    seeding.open_round(made, seeding.plain_exchanges(3))
    monkeypatch.chdir(made.folder)
    return made


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What the command prints as JSON."""
    capsys.readouterr()
    assert run([*arguments, "--json"]) == DONE
    return json.loads(capsys.readouterr().out)


def test_the_queue_and_what_is_done_about_it(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    before = asked(capsys, "queue")
    assert before["queue"] == {"pairs": 3, "duels": 0, "open": 3, "slots": 3, "on_screen": 0}
    assert [prompt["messages"][0]["content"] for _, prompt in before["first"]] == [f"Question {n}?" for n in (1, 2, 3)]
    after = asked(capsys, "queue", "--first", "question 3", "--ask-again", "0.7", "--pause")
    assert after["changed"] == {"first": 1, "asked_again": 0}
    assert after["paused_at"] is not None
    assert [prompt["messages"][0]["content"] for _, prompt in after["first"]] == [f"Question {n}?" for n in (3, 1, 2)]
    assert asked(capsys, "queue", "--resume")["paused_at"] is None
    assert run(["queue", "--pause"]) == DONE
    assert "paused since" in capsys.readouterr().out
    assert run(["status"]) == DONE
    assert "1 (comparing, paused)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--first", "nowhere"], "No pair that is still to be compared has 'nowhere'"),
        (["--resume"], "not paused"),
        (["--ask-again", "7"], "between 0 and 1"),
        (["--pause", "--resume"], "do not go together"),
    ],
)
def test_what_cannot_be_done_is_said(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["queue", *arguments]) == YOURS
    assert words in " ".join(capsys.readouterr().err.split())


def test_without_an_open_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = seeding.new_workspace(tmp_path / "new")
    assert run(["queue", "--workspace", str(made.folder)]) == YOURS
    assert "No round is open" in capsys.readouterr().err


def test_gold_pairs_come_in_as_such(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    path = workspace.folder / "gold.jsonl"
    path.write_text(json.dumps({"prompt": "Tea?", "chosen": "Yes.", "rejected": "No.", "note": "Politeness."}) + "\n")
    [report] = asked(capsys, "import", str(path), "--gold")["imports"]
    assert (report["kind"], report["gold_added"], report["comparisons_added"]) == ("gold", 1, 0)
    with reading(workspace.engine) as session:
        gold: Pair = get_pair(session=session, pair_id=4)[0]
    assert (gold.purpose, gold.note, gold.open_slots, gold.round_id) == ("gold", "Politeness.", 0, None)
    assert run(["import", str(path), "--gold", "--kind", "prompts"]) == YOURS
