"""The command line: what it documents, its exit codes, its JSON, and the loop gone round with nothing else."""

from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import func, select

from dpo_core.config import FILE_NAME, ModelSettings, Settings
from dpo_core.loop import Step
from dpo_core.packaged import DEMO_MODEL
from dpo_core.workspace import create_workspace, open_workspace
from store.annotators import get_or_add_annotator
from store.checkpoints import add_checkpoint, base_checkpoint
from store.comparisons import record_comparison
from store.database import reading, writing
from store.invites import accept_invite
from store.models import Comparison, Decision, RoundStatus
from store.pairs import next_pair
from store.rounds import add_round, latest_round
from ui import cli
from ui.cli import COMMANDS, OURS, STOPPED, YOURS, run
from ui.commands.workspace import NEXT

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Said:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as the one JSON value it must be."""
        return json.loads(self.out)


Pairloop = Callable[..., Said]


@pytest.fixture
def pairloop(capsys: pytest.CaptureFixture[str]) -> Pairloop:
    """`pairloop("status", "--json")` in this process."""

    def call(*arguments: str | Path) -> Said:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace, and the current folder within it."""
    folder = tmp_path / "helpful"
    create_workspace(folder, Settings(model=ModelSettings(base="some/model"))).engine.dispose()
    monkeypatch.chdir(folder)
    return folder


def preferences(path: Path, count: int = 12) -> Path:
    rows = [{"prompt": f"What is {n}?", "chosen": f"{n} is fine.", "rejected": f"{n}!"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# What is documented


@pytest.mark.parametrize("name", COMMANDS)
def test_every_commands_help_has_an_example_of_itself(name: str, pairloop: Pairloop) -> None:
    said = pairloop(name, "--help")
    assert said.code == 0
    assert f"pairloop {name}" in said.out.partition("Example:")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme_with_what_its_help_says(name: str) -> None:
    rows = re.findall(r"^\| `pairloop (\S+).*?` \| (.+) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert dict(rows)[name] == COMMANDS[name][3]


def test_the_readmes_file_map_is_true() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The files")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^ +([\w/]+\.py) ", text, re.M))
    folders = ("store", "dpo_core", "ui", "ui/commands", "ui/pages", "data/demo")
    files = {f"{folder}/{path.name}" for folder in folders for path in (ROOT / folder).glob("*.py")}
    assert listed == {name for name in files if not name.endswith("__init__.py")}


def test_help_lists_every_command_without_importing_what_is_heavy() -> None:
    code = "import sys; from ui.cli import run; run(['--help']); print('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown, _, loaded = done.stdout.partition("LOADED")
    assert all(name in shown for name in COMMANDS)
    assert not {"torch", "transformers", "streamlit", "pandas", "sqlalchemy"} & set(loaded.split())


def test_every_step_of_the_loop_has_a_next_command() -> None:
    assert set(NEXT) == set(Step)
    for _, command in NEXT.values():
        assert command.split()[1] in COMMANDS


# Exit codes


@pytest.mark.parametrize("arguments", [["semple"], ["init"], ["runs", "three"], ["rounds", "--promote", "--keep"]])
def test_a_command_line_that_is_none_is_the_users_to_mend(arguments: list[str], pairloop: Pairloop) -> None:
    said = pairloop(*arguments)
    assert said.code == YOURS
    assert said.out == ""


def test_a_folder_that_is_no_workspace(pairloop: Pairloop) -> None:
    said = pairloop("status")
    assert said.code == YOURS
    assert "is not a workspace" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_of_ours(debug: bool, pairloop: Pairloop, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.commands.rounds.round_stories", lambda **_: 1 / 0)
    monkeypatch.setenv("PAIRLOOP_DEBUG", "1" if debug else "0")
    said = pairloop("rounds")
    assert said.code == OURS
    assert "not your fault" in said.err
    assert ("Traceback" in said.err) == debug


def test_a_full_disk_is_not_a_fault_of_ours(
    pairloop: Pairloop, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere/metrics.jsonl")

    monkeypatch.setattr("ui.commands.rounds.round_stories", full)
    said = pairloop("rounds")
    assert said.code == YOURS
    assert "The disk is full. Free some space and try again (somewhere/metrics.jsonl)" in said.err


def test_of_several_files_those_before_a_bad_one_are_named(pairloop: Pairloop, workspace: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.txt", tmp_path / "bad.jsonl"
    good.write_text("How do I keep basil alive?\n")
    bad.write_text('{"prompt": "x"}\nnot json\n')
    said = pairloop("import", good, bad)
    assert said.code == YOURS
    assert "bad.jsonl, line 2" in said.err
    assert "This is about bad.jsonl alone. Already imported: good.txt." in said.err


def test_no_workspace_is_made_where_its_prompts_cannot_be_read(pairloop: Pairloop, tmp_path: Path) -> None:
    said = pairloop("init", tmp_path / "new", "--model", DEMO_MODEL, "--prompts", tmp_path / "none.jsonl")
    assert (said.code, "no such file" in said.err) == (YOURS, True)
    assert not (tmp_path / "new").exists()


def test_ctrl_c(pairloop: Pairloop, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ui.commands.rounds.round_stories", interrupt)
    assert pairloop("rounds").code == STOPPED


def test_the_version(pairloop: Pairloop) -> None:
    assert pairloop("--version").out == f"pairloop {cli.installed_version()}\n"


# Workspaces


def test_the_workspace_may_be_named_by_option_or_environment(
    pairloop: Pairloop, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pairloop("status", "-w", workspace, "--json").json["workspace"] == str(workspace)
    monkeypatch.setenv("PAIRLOOP_WORKSPACE", str(workspace))
    assert pairloop("status", "--json").json["workspace"] == str(workspace)


@pytest.mark.parametrize("model", ["./nowhere", "no/such/model/here"])
def test_init_with_a_model_that_is_not_there_makes_nothing(model: str, pairloop: Pairloop, tmp_path: Path) -> None:
    said = pairloop("init", "new", "--model", model)
    assert said.code == YOURS
    assert model.removeprefix("./") in said.err
    assert not (tmp_path / "new" / FILE_NAME).exists()


def test_init_writes_settings_that_say_what_was_asked_for(pairloop: Pairloop, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("How do I boil an egg?\nWhy is the sky blue?\n")
    said = pairloop("init", "new", "--model", DEMO_MODEL, "--lora", "--prompts", prompts, "--json")
    assert said.code == 0
    assert said.json["imports"][0]["prompts_added"] == 2
    settings = open_workspace(tmp_path / "new").settings
    assert (settings.model.base, settings.model.tuning) == (DEMO_MODEL, "lora")
    again = pairloop("init", "new", "--model", DEMO_MODEL)
    assert (again.code, "already" in again.err) == (YOURS, True)


def test_init_asks_no_more_of_a_model_than_it_has_room_for_and_says_where_to_go_on(
    pairloop: Pairloop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Next: `cd new`, then `pairloop import prompts.jsonl`" in pairloop("init", "new", "-m", DEMO_MODEL).out
    assert open_workspace(tmp_path / "new").settings.training.max_length == 512
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "Next: `pairloop import prompts.jsonl`" in pairloop("init", "-m", DEMO_MODEL).out


def test_a_model_folder_is_kept_by_its_whole_path(pairloop: Pairloop, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(ROOT / "data" / "demo" / "model")
    assert pairloop("init", "new", "--model", "model").code == 0
    assert Path(open_workspace(tmp_path / "new").settings.model.base).is_absolute()


@pytest.mark.parametrize(
    ("text", "hint"), [("[training]\nbetta = 1\n", "did you mean 'beta'"), ("[training\n", "line 1")]
)
def test_a_malformed_pairloop_toml(text: str, hint: str, pairloop: Pairloop, workspace: Path) -> None:
    (workspace / FILE_NAME).write_text(text)
    said = pairloop("status")
    assert said.code == YOURS
    assert FILE_NAME in said.err
    assert hint in said.err


@pytest.mark.parametrize("target", ["copy", "copy.zip"])
def test_a_backup_is_the_workspace_itself(target: str, pairloop: Pairloop, workspace: Path, tmp_path: Path) -> None:
    pairloop("import", preferences(tmp_path / "given.jsonl"))
    pairloop("snapshot")
    assert pairloop("backup", tmp_path / target, "--json").json["backup"] == str(tmp_path / target)
    if target.endswith(".zip"):
        shutil.unpack_archive(tmp_path / target, tmp_path)
    copy = open_workspace(tmp_path / "copy")
    with reading(copy.engine) as session:
        assert session.exec(select(func.count()).select_from(Comparison)).one() == 12
    assert pairloop("export", "latest", tmp_path / "out", "-w", tmp_path / "copy").code == 0
    assert pairloop("backup", tmp_path / target).code == YOURS
    assert not list(tmp_path.glob(".backup-*"))


def test_a_backup_opens_its_own_database_wherever_the_first_one_lay(pairloop: Pairloop, tmp_path: Path) -> None:
    settings = Settings.model_validate({"store": {"url": f"sqlite:///{tmp_path / 'elsewhere.db'}"}})
    create_workspace(tmp_path / "first", settings).engine.dispose()
    assert pairloop("backup", tmp_path / "copy", "-w", tmp_path / "first").code == 0
    assert open_workspace(tmp_path / "copy").engine.url.database == str(tmp_path / "copy" / "pairloop.db")


def test_a_backup_holds_the_weights_to_go_on_with(pairloop: Pairloop, workspace: Path, tmp_path: Path) -> None:
    opened = open_workspace(workspace)
    with writing(opened.engine) as session:
        base = base_checkpoint(session=session)
        made = {}
        for name, parent, kind in [("round-1", base, "full"), ("old", base, "full"), ("round-2", None, "lora")]:
            above = parent or made["round-1"]
            path = f"checkpoints/{name}"
            made[name] = add_checkpoint(session=session, name=name, path=path, kind=kind, parent_id=above.id)
            (workspace / path).mkdir()
            (workspace / path / "weights").write_text(name)
        done = add_round(session=session, checkpoint_id=base.id, target=4)
        done.status, done.decision, done.result_checkpoint_id = RoundStatus.DONE, Decision.KEEP, made["old"].id
        deciding = add_round(session=session, checkpoint_id=base.id, target=4)
        deciding.status, deciding.result_checkpoint_id = RoundStatus.DECIDING, made["round-2"].id
    # An adapter that is still to be decided about, and the full weights that it sits on.
    for option, names in [
        ((), ["round-1", "round-2"]),
        (("--with-checkpoints",), ["old", "round-1", "round-2"]),
        (("--without-checkpoints",), []),
    ]:
        said = pairloop("backup", tmp_path / f"copy{len(names)}", *option, "--json")
        assert sorted(said.json["checkpoints"]) == names
        there = (tmp_path / f"copy{len(names)}" / "checkpoints").glob("*/weights")
        assert sorted(path.parent.name for path in there) == names
    assert "with the weights of round-1, round-2" in pairloop("backup", tmp_path / "said").out
    pairloop("rounds", "--promote")
    assert pairloop("backup", tmp_path / "later", "--json").json["checkpoints"] == ["round-1", "round-2"]


# Data in and out


def test_importing_twice_changes_nothing(pairloop: Pairloop, workspace: Path, tmp_path: Path) -> None:
    given = preferences(tmp_path / "given.jsonl")
    assert pairloop("import", given, "--json").json["imports"][0]["comparisons_added"] == 12
    again = pairloop("import", given, "--json").json["imports"][0]
    assert (again["comparisons_added"], again["duplicates"]) == (0, 12)


def test_a_bad_line_is_named_and_nothing_is_imported(pairloop: Pairloop, workspace: Path, tmp_path: Path) -> None:
    given = preferences(tmp_path / "given.jsonl", 3)
    given.write_text(given.read_text() + "{no json\n")
    said = pairloop("import", given)
    assert said.code == YOURS
    assert "given.jsonl, line 4" in said.err
    assert pairloop("status", "--json").json["state"]["prompts"] == {"train": 0, "held_out": 0}


def test_a_misspelled_column_is_named_and_nothing_is_imported(
    pairloop: Pairloop, workspace: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given.csv"
    given.write_text("promt\nHow do I keep basil alive?\n")
    said = pairloop("import", given)
    assert said.code == YOURS
    assert "given.csv, line 1: expected a column `prompt`, `messages` or `instruction`" in said.err
    assert "found `promt`. Is `promt` meant for `prompt`?" in said.err
    assert pairloop("status", "--json").json["state"]["prompts"] == {"train": 0, "held_out": 0}


def test_what_a_file_holds_is_told_by_its_columns_or_said(pairloop: Pairloop, workspace: Path, tmp_path: Path) -> None:
    given = preferences(tmp_path / "given.jsonl", 3)
    for kind, asked in (("prompts", ["--kind", "prompts"]), ("preferences", [])):
        report = pairloop("import", given, "--json", *asked).json["imports"][0]
        assert (report["kind"], report["comparisons_added"]) == (kind, 0 if asked else 3)


def test_from_import_to_export(pairloop: Pairloop, workspace: Path, tmp_path: Path) -> None:
    assert pairloop("snapshot").code == YOURS  # nothing to cut from
    assert "12" in pairloop("import", preferences(tmp_path / "given.jsonl")).out
    cut = pairloop("snapshot", "--json").json["snapshot"]
    assert cut["manifest"]["pairs"]["train"] + cut["manifest"]["pairs"]["test"] == 12
    assert pairloop("snapshot", "--list", "--json").json["snapshots"][0]["hash"] == cut["hash"]
    done = pairloop("export", cut["hash"][:8], "out", "--style", "plain", "--json")
    rows = [json.loads(line) for path in Path("out/data").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sum(done.json["export"]["rows"].values()) == len(rows) == 12
    assert all(row["chosen"].endswith("is fine.") and row["rejected"].endswith("!") for row in rows)
    assert pairloop("export", "latest", "out").code == YOURS  # it is there already
    assert pairloop("export", "ffff", "other").code == YOURS


def test_a_retracted_annotator_is_left_out_and_counted(pairloop: Pairloop, workspace: Path, tmp_path: Path) -> None:
    pairloop("import", preferences(tmp_path / "given.jsonl"))
    pairloop("import", preferences(tmp_path / "more.jsonl", 20))
    listed = pairloop("annotators", "--retract", "import:more", "--json").json["annotators"]
    assert [entry["name"] for entry in listed if entry["retracted_at"]] == ["import:more"]
    manifest = pairloop("snapshot", "--json").json["snapshot"]["manifest"]
    assert manifest["dropped"]["retracted"] == 8
    assert manifest["used"] == 12
    assert "8" in pairloop("snapshot").out
    assert pairloop("annotators", "--retract", "import:more").code == YOURS


# The loop


def compare(folder: Path, count: int) -> None:
    """Somebody who likes short answers compares `count` pairs."""
    opened = open_workspace(folder)
    with writing(opened.engine) as session:
        annotator = get_or_add_annotator(session=session, name="Ada")
        current = latest_round(session=session)
        for _ in range(count):
            shown = next_pair(session=session, round_id=current.id, annotator_id=annotator.id)
            choice = "left" if len(shown.left) < len(shown.right) else "right"
            record_comparison(session=session, pair_id=shown.pair_id, annotator_id=annotator.id, choice=choice)


@pytest.fixture
def small_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace for the demo model whose completions are short, with thirty prompts."""
    folder = tmp_path / "demo"
    sizes = {"sampling": {"max_new_tokens": 8}, "round": {"held_out_share": 0.4}, "training": {"max_length": 64}}
    create_workspace(folder, Settings.model_validate({"model": {"base": DEMO_MODEL}} | sizes)).engine.dispose()
    monkeypatch.chdir(folder)
    Path("prompts.txt").write_text("".join(f"How do I bake bread number {n}?\n" for n in range(30)))
    return folder


def test_once_round_from_the_command_line_alone(pairloop: Pairloop, small_demo: Path) -> None:
    pairloop("import", "prompts.txt")
    sampled = pairloop("sample", "--comparisons", "8", "--json")
    assert (sampled.code, sampled.json["run"]["status"]) == (0, "done")
    assert pairloop("sample", "--more", "2", "--json").json["run"]["result"]["pairs"] == 2
    assert pairloop("status", "--json").json["next"]["command"] == "pairloop up"
    compare(small_demo, 7)
    assert pairloop("train").code == YOURS  # one is missing
    assert pairloop("train", "--early", "--set", "betta=1").code == YOURS
    trained = pairloop("train", "--early", "--set", "beta=0.2", "--set", "learning_rate=1e-4", "--json")
    assert (trained.code, trained.json["run"]["settings"]["training"]["beta"]) == (0, 0.2)
    assert "INFO train" in pairloop("runs", "3", "--log").out
    waiting = pairloop("duels", "--json").json
    assert (waiting["matches"], waiting["gate"]["conditions"][0]["met"]) == ([], None)
    refused = pairloop("rounds", "--promote")
    assert refused.code == YOURS and "round-1 does not show yet" in refused.err
    promoted = pairloop("rounds", "--promote", "--force", "--json").json
    assert promoted["rounds"][0]["result"]["name"] == promoted["serving"]["name"] == "round-1"
    assert pairloop("rounds", "--roll-back", "base", "--json").json["serving"]["name"] == "base"
    assert "round-1 serves: rolled back to by" in pairloop("rounds", "--roll-back", "round-1").out
    assert pairloop("status", "--json").json["state"]["checkpoint"]["name"] == "round-1"
    evaluated = pairloop("evaluate", "round-1", "--json").json
    judged, made = evaluated["run"], trained.json["run"]["result"]
    assert judged["result"]["pairs"] == made["eval"]["pairs"]
    assert judged["result"]["canary"] == made["canary"]
    assert evaluated["held_out"] == trained.json["held_out"] == pairloop("runs", "3", "--json").json["held_out"]
    for when in ("before", "after"):
        assert evaluated["held_out"]["pairs"][when]["value"] == judged["result"][f"accuracy_{when}"]
    told = pairloop("evaluate", "base").out
    assert "all pairs" in told and "The ceiling, 63% to 77%, is from the literature" in told


def test_runs_wait_for_a_worker_if_asked_to_and_can_be_called_off(pairloop: Pairloop, small_demo: Path) -> None:
    pairloop("import", "prompts.txt")
    assert pairloop("sample", "--detach", "--json").json["run"]["status"] == "queued"
    assert pairloop("runs", "1", "--cancel", "--json").json["run"]["status"] == "cancelled"
    assert pairloop("runs", "1", "--cancel").code == YOURS
    assert pairloop("runs", "1", "--follow").code == YOURS
    assert pairloop("status", "--json").json["state"]["step"] == Step.MEND_RUN
    assert pairloop("runs", "1", "--retry", "--detach", "--json").json["run"]["status"] == "queued"
    assert [entry["id"] for entry in pairloop("runs", "--json").json["runs"]] == [1]
    assert pairloop("runs", "7").code == YOURS


# People


def test_an_invite_is_a_link_whose_secret_is_kept_nowhere(pairloop: Pairloop, workspace: Path) -> None:
    said = pairloop("invite", "--role", "researcher", "--name", "Lea", "--expires", "2", "--json").json
    url, _, token = said["link"].partition("/join#")
    assert (url, said["role"], said["name"]) == ("http://127.0.0.1:8501", "researcher", "Lea")
    opened = open_workspace(workspace)
    assert accept_invite(engine=opened.engine, token=token, name="", passcode="three small words")
    told = pairloop("invite")
    assert told.out.startswith("http://127.0.0.1:8501/join#") and "It lets one person in, once" in told.err
    assert pairloop("invite", "--name", "import:nobody", "--role", "source").code == YOURS


def test_somebody_is_let_in_by_their_address(pairloop: Pairloop, workspace: Path) -> None:
    assert "Lea (annotator) can log in" in pairloop("invite", "--email", "lea@example.org", "--name", "Lea").out
    assert pairloop("invite", "--email", "nonsense").code == YOURS


def test_people_are_let_go_and_let_in_again(pairloop: Pairloop, workspace: Path) -> None:
    with writing(open_workspace(workspace).engine) as session:
        get_or_add_annotator(session=session, name="Lea")
    for option, active in (("--deactivate", False), ("--reactivate", True), ("--log-out", True)):
        (entry,) = pairloop("annotators", option, "Lea", "--json").json["annotators"]
        assert (entry["name"], entry["active"]) == ("Lea", active)
    assert pairloop("annotators", "--reactivate", "Lea").code == YOURS
    assert pairloop("annotators", "--log-out", "Max").code == YOURS
    assert pairloop("annotators", "--log-out", "Lea", "--retract", "Lea").code == YOURS


def test_a_network_is_not_let_in_before_anybody_can_log_in(pairloop: Pairloop, workspace: Path) -> None:
    said = pairloop("up", "--address", "0.0.0.0", "--port", "0")
    assert said.code == YOURS
    assert f"pairloop invite --role researcher --workspace {workspace}" in said.err


@pytest.mark.parametrize("command", ["status", "rounds", "duels", "runs", "annotators", "snapshot --list"])
def test_tables_are_printed_for_people_too(command: str, pairloop: Pairloop, small_demo: Path) -> None:
    pairloop("import", "prompts.txt")
    pairloop("sample", "--detach")
    said = pairloop(*command.split())
    assert said.code == 0
    assert said.out.strip()
    assert "{" not in said.out
