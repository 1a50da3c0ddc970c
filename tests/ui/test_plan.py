"""What a training would need, on the Loop page and on the command line; what is too big is refused there in words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from safetensors.numpy import save_file

from dpo_core import run_plan
from dpo_core.config import ModelSettings, RoundSettings, Settings
from dpo_core.loop import Step, read_loop
from dpo_core.workspace import Workspace, create_workspace
from store.comparisons import Choice
from store.database import reading, writing
from store.models import Round, Run, RunKind
from store.runs import last_run, list_runs
from tests.browser import seeding
from tests.ui.conftest import OpenApp, button, labels, words
from ui.cli import YOURS, run
from ui.plan import planned_and_used

GIB = 2**30
CONFIG = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 500}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Files that say what a model is like, and nothing that could run."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file({"embed.weight": np.zeros((500, 64), np.float16)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def workspace(tmp_path: Path, model: Path) -> Workspace:
    """A round whose four comparisons are made."""
    st.cache_data.clear()
    asked = RoundSettings(comparisons=4, held_out_share=0.0)
    made = create_workspace(tmp_path / "workspace", Settings(model=ModelSettings(base=str(model)), round=asked))
    seeding.open_round(made, seeding.plain_exchanges(6))
    seeding.compare(made, "me", [Choice.LEFT] * 4)
    return made


def free(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(run_plan, "free_memory", lambda *_: available)


def queued(workspace: Workspace) -> Run | None:
    with reading(workspace.engine) as session:
        return last_run(session=session, round_id=1, kind=RunKind.TRAIN)


def expanders(app: Any) -> list[str]:
    return [each.label for each in app.expander]


def test_the_loop_page_says_in_one_line_what_training_needs(
    workspace: Workspace, open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 23 * GIB)
    app = open_app("loop")
    [line] = expanders(app)
    assert line.startswith("Needs about 7") and line.endswith(" MB of the 23 GB that are free.")
    assert "Optimizer" in words(app) and "4, " in words(app)
    assert "Train anyway" not in labels(app)
    button(app, "Train").click().run()
    started = queued(workspace)
    assert started is not None and started.settings["plan"]["free_mb"] == 23 * 1024


def test_what_is_too_big_is_refused_and_can_be_started_all_the_same(
    workspace: Workspace, open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, GIB // 4)
    app = open_app("loop")
    assert expanders(app)[0].endswith("of the 256 MB that are free: too little.")
    assert "Train anyway" not in labels(app)
    button(app, "Train").click().run()
    assert "Nothing was started" in words(app)
    assert queued(workspace) is None
    button(app, "Train anyway").click().run()
    assert queued(workspace) is not None
    with reading(workspace.engine) as session:
        assert read_loop(session=session).step == Step.WAIT_FOR_TRAINING


def test_an_early_training_is_refused_too(
    workspace: Workspace, open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, GIB // 4)
    with writing(workspace.engine) as session:
        session.get_one(Round, 1).target = 6
    app = open_app("loop")
    button(app, "Train early, on 4 comparisons").click().run()
    assert queued(workspace) is None
    button(app, "Train anyway").click().run()
    assert queued(workspace) is not None


def call(capsys: pytest.CaptureFixture[str], workspace: Workspace, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["train", *arguments, "--workspace", str(workspace.folder)])
    return code, *capsys.readouterr()


def test_the_command_line_prints_the_plan_and_starts_nothing(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 23 * GIB)
    code, out, _ = call(capsys, workspace, "--plan")
    assert code == 0 and "Needs about 7" in out and "Activations" in out and "not known before" in out
    code, out, _ = call(capsys, workspace, "--plan", "--json", "--set", "max_length=64")
    plan = json.loads(out)["plan"]
    assert (code, plan["fits"], plan["available"], plan["pairs"]) == (0, True, 23 * GIB, 4)
    assert plan["parts"]["optimizer"] == 8 * 500 * 64
    assert plan["training"]["max_length"] == 64
    assert queued(workspace) is None


def test_the_command_line_refuses_what_does_not_fit_unless_told(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, GIB // 4)
    assert "too little" in call(capsys, workspace, "--plan")[1]
    code, _, err = call(capsys, workspace, "--detach")
    assert code == YOURS and "--anyway" in err and "256 MB" in err
    assert queued(workspace) is None
    assert call(capsys, workspace, "--detach", "--anyway")[0] == 0
    assert queued(workspace) is not None
    assert call(capsys, workspace, "--plan", "--anyway")[0] == YOURS


def test_a_plan_that_cannot_be_drawn_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = seeding.new_workspace(tmp_path / "empty")
    code, out, _ = call(capsys, empty, "--plan")
    assert code == 0 and "cannot be told" in out
    assert json.loads(call(capsys, empty, "--plan", "--json")[1]) == {"plan": None}
    with reading(empty.engine) as session:
        assert list_runs(session=session) == []


def test_a_run_tells_what_was_planned_and_what_it_took() -> None:
    planned = {"plan": {"mb": 1229, "free_mb": 9000, "seconds": 40.0}}
    done = Run(kind="train", settings=planned, result={"train": {"peak_mb": 1127, "seconds": 43.2}})
    assert planned_and_used(done) == "planned 1.2 GB and 40 s, used 1.1 GB and 43 s"
    assert planned_and_used(Run(kind="train", settings=planned | {"plan": {"mb": 640}})) == "planned 640 MB"
    assert planned_and_used(Run(kind="train", settings={"plan": None})) == ""
    shared = Run(kind="train", settings={"plan": {"mb": 1229, "processes": 2}}, result=done.result)
    assert planned_and_used(shared) == "for 2 processes planned 1.2 GB, the first used 1.1 GB and 43 s"


def test_the_plan_says_how_many_processes_it_is_for(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 23 * GIB)
    assert "Processes" not in call(capsys, workspace, "--plan")[1]
    launch(workspace, "accelerate launch --config_file pairloop:ddp")
    out = " ".join(call(capsys, workspace, "--plan")[1].split())
    assert "2, each with the whole model; what follows is for each" in out and "send each other" in out
    assert "GB for 2 processes, of the 23 GB that are free" in out
    launch(workspace, "mpirun -n 2")
    assert "Planned for one process" in call(capsys, workspace, "--plan")[1]
    launch(workspace, "torchrun --nproc-per-node 3")
    free(monkeypatch, GIB)
    code, _, err = call(capsys, workspace, "--detach")
    assert code == YOURS and "for 3 processes; 1.0 GB are free" in err
    assert 'launcher = "", one process: about 7' in err and "which fits" in err


def launch(workspace: Workspace, launcher: str) -> None:
    path = workspace.folder / "pairloop.toml"
    text = re.sub(r"(?m)^launcher = .*$", f'launcher = "{launcher}"', path.read_text())
    assert launcher in text
    path.write_text(text)
