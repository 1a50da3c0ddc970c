"""The commands about runs: options that exclude each other, exit codes, and what they say of a round on imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dpo_core.alarms import Alarm
from dpo_core.loop import start_round
from dpo_core.progress import RunProgress
from dpo_core.workspace import Workspace
from store.comparisons import Choice
from tests.browser import seeding
from tests.ui.conftest import Pairloop
from ui.cli import STOPPED, YOURS


@pytest.fixture
def queued(workspace: Workspace) -> Workspace:
    """A workspace whose first sample run waits for a worker."""
    seeding.add_prompts(workspace, seeding.plain_exchanges(3))
    start_round(workspace, by="lea")
    return workspace


@pytest.mark.parametrize(
    "options",
    [
        "runs 1 --cancel --retry",
        "runs 1 --follow --log",
        "runs 1 --cancel --follow",
        "runs 1 --retry --log",
        "runs 1 --follow --detach",
        "runs 1 --cancel --detach",
        "rounds --keep --reopen",
    ],
)
def test_options_that_exclude_each_other_are_both_named_and_nothing_is_done(
    options: str, pairloop: Pairloop, queued: Workspace
) -> None:
    code, out, err = pairloop(*options.split())
    assert (code, out) == (YOURS, "")
    assert all(option in err for option in options.split() if option.startswith("--"))
    assert json.loads(pairloop("runs", "1", "--json")[1])["run"]["status"] == "queued"


def test_an_action_without_a_run_asks_which(pairloop: Pairloop, queued: Workspace) -> None:
    code, _, err = pairloop("runs", "--cancel")
    assert (code, "Say which run" in err) == (YOURS, True)


def test_a_run_is_called_off_and_its_log_says_by_whom(
    pairloop: Pairloop, queued: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "max")
    assert json.loads(pairloop("runs", "1", "--cancel", "--json")[1])["run"]["status"] == "cancelled"
    assert pairloop("runs", "1", "--log") == (0, "max asked it to stop.\n", "")


@pytest.mark.parametrize("status", [0, 2])
def test_a_workers_exit_status_is_the_commands(
    status: int, pairloop: Pairloop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # the command sets it for its children: here, for this test alone
    monkeypatch.setattr("ui.commands.serve.carry_out_runs", lambda *_, once: status if once else 7)
    assert pairloop("worker", "--once")[0] == status


def test_a_round_on_imports_is_not_said_to_want_comparisons(
    pairloop: Pairloop, workspace: Workspace, tmp_path: Path
) -> None:
    rows = [{"prompt": f"What is {n}?", "chosen": f"{n} is fine.", "rejected": f"{n}!"} for n in range(12)]
    (tmp_path / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairloop("import", str(tmp_path / "given.jsonl"))
    assert "12 imported comparisons" in pairloop("status")[1]
    assert json.loads(pairloop("status", "--json")[1])["next"]["command"] == "pairloop sample (or pairloop train)"
    pairloop("train", "--detach")
    pairloop("runs", "1", "--cancel")
    assert pairloop("rounds", "--reopen")[0] == 0
    assert json.loads(pairloop("status", "--json")[1])["next"]["command"] == "pairloop train"
    assert "12 imported" in pairloop("status")[1]
    assert "12 imported" in pairloop("rounds")[1]
    assert pairloop("train", "--detach")[0] == 0


def test_status_counts_one_pair_and_what_came_after_the_cut(pairloop: Pairloop, workspace: Workspace) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(4))
    seeding.compare(workspace, "me", [Choice.LEFT] * 3)
    assert "3 of 4 done, 1 pair still to compare." in pairloop("status")[1]
    seeding.train(workspace, steps=1, of=4, finish=False)
    seeding.compare(workspace, "me", [Choice.LEFT])
    assert "4 of 4, 1 of them since training began" in pairloop("status")[1]


def test_status_asks_for_pairs_where_none_is_left(pairloop: Pairloop, workspace: Workspace) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    seeding.compare(workspace, "me", [Choice.LEFT] * 2)
    asked = json.loads(pairloop("status", "--json")[1])["next"]
    assert asked["text"] == "No pair is left to compare: 2 of 4 done."
    assert asked["command"] == "pairloop sample --more 2 (or pairloop train --early)"
    pairloop("sample", "--more", "2", "--detach")
    assert json.loads(pairloop("status", "--json")[1])["next"]["command"] == "pairloop runs 2 --follow"


def test_status_after_a_first_sample_run_that_was_given_up(pairloop: Pairloop, queued: Workspace) -> None:
    pairloop("runs", "1", "--cancel")
    pairloop("rounds", "--reopen")
    assert json.loads(pairloop("status", "--json")[1])["next"]["command"] == "pairloop sample --more 4"


def test_ctrl_c_says_that_the_run_waits_and_how_to_go_on(
    pairloop: Pairloop, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    seeding.add_prompts(workspace, seeding.plain_exchanges(3))
    monkeypatch.setattr("ui.commands.runs.carry_out_here", interrupt)
    code, _, err = pairloop("sample")
    assert code == STOPPED
    assert "Run 1 waits in the queue" in err and "pairloop worker --once" in err
    assert json.loads(pairloop("runs", "1", "--json")[1])["run"]["status"] == "queued"


def test_a_run_that_is_done_has_no_empty_rows_and_tells_warnings_first(
    pairloop: Pairloop, workspace: Workspace
) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(4))
    seeding.compare(workspace, "me", [Choice.LEFT] * 3)
    run_id = seeding.train(workspace, steps=4, of=4, finish=False).id or 0
    reports = RunProgress(workspace, run_id, 1)
    reports.report("train", 4, 4)
    reports.sound([Alarm("length-bias", "note", "Longer."), Alarm("missing-eos", "warning", "No end.")])
    shown = pairloop("runs", f"{run_id}")[1]
    assert "How far" in shown and "Error" not in shown
    assert shown.index("Warning: No end.") < shown.index("Note: Longer.")
    seeding.finish_training(workspace, run_id)
    assert "How far" not in pairloop("runs", f"{run_id}")[1]


@pytest.mark.parametrize(
    ("command", "words"), [("worker", ["[store] url"]), ("simulate", ["its [duels] has it", "[selection] has it"])]
)
def test_no_word_of_a_commands_help_is_taken_for_markup(pairloop: Pairloop, command: str, words: list[str]) -> None:
    shown = " ".join(pairloop(command, "--help")[1].replace("│", " ").split())
    assert all(each in shown for each in words)


def test_a_runs_alarms_are_printed_while_it_lasts(pairloop: Pairloop, workspace: Workspace) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(4))
    seeding.compare(workspace, "me", [Choice.LEFT] * 3)
    run_id = seeding.train(workspace, steps=1, of=4, finish=False).id or 0
    assert "Warning" not in pairloop("runs", f"{run_id}")[1]
    reports = RunProgress(workspace, run_id, 1)
    reports.report("train", 2, 4)
    reports.sound([Alarm("missing-eos", "warning", "No end [red].", (3, 5))])
    assert "Warning: No end [red]. Pairs concerned: 3, 5." in pairloop("runs", f"{run_id}")[1]
    [kept] = json.loads(pairloop("runs", f"{run_id}", "--json")[1])["run"]["progress"]["alarms"]
    assert (kept["name"], kept["level"], kept["text"]) == ("missing-eos", "warning", "No end [red].")
    assert kept["pairs"] == [3, 5]


def test_words_come_without_the_app() -> None:
    code = "import sys, ui.story, ui.commands.runs; sys.exit('streamlit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
