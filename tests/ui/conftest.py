"""The app without a browser: Streamlit's AppTest on a workspace of the test's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select
from streamlit.testing.v1 import AppTest

import ui.state
import ui.verdicts
from dpo_core.editing_settings import change_section
from dpo_core.loop import Step, read_loop
from dpo_core.workspace import Workspace, open_workspace
from store.comparisons import Choice
from store.database import reading
from store.models import Comparison
from tests.browser import seeding
from ui.cli import run

APP = Path(ui.state.__file__).with_name("app.py")
OpenApp = Callable[..., AppTest]
Pairloop = Callable[..., tuple[int, str, str]]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A new workspace that asks for four comparisons a round."""
    return seeding.new_workspace(tmp_path / "workspace", target=4)


@pytest.fixture
def compared(workspace: Workspace) -> Workspace:
    """A round of twelve pairs with its four comparisons made, and more."""
    seeding.open_round(workspace, seeding.plain_exchanges(12))
    seeding.compare(workspace, "me", [Choice.LEFT, Choice.RIGHT] * 5)
    return workspace


@pytest.fixture
def gated(compared: Workspace) -> Workspace:
    """A trained round, whose checkpoint must show in duels that it is better."""
    change_section(compared, "gate", {"win_rate": "better"})
    seeding.train(compared, steps=4, of=4)
    return open_workspace(compared.folder)


@pytest.fixture
def open_app(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> OpenApp:
    """`open_app("loop", name="Lea")`: the app on one of its pages, drawn once, with no wait before a verdict counts."""
    monkeypatch.setenv(ui.state.WORKSPACE_VARIABLE, str(workspace.folder))
    monkeypatch.setattr(ui.verdicts, "DWELL_SECONDS", 0.0)
    return _open_app


def _open_app(page: str = "label", name: str = "") -> AppTest:
    ui.state._served.clear()  # and with them the connections of tests that are over
    app = AppTest.from_file(str(APP), default_timeout=60)
    if name:
        app.query_params["as"] = name
    app.run()
    if page != "label":
        app.switch_page(f"pages/{page}.py").run()
    assert not app.exception
    return app


@pytest.fixture
def pairloop(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Pairloop:
    """`pairloop("runs")` in the test's workspace: exit code, stdout, stderr."""
    monkeypatch.chdir(workspace.folder)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(arguments))
        return code, *capsys.readouterr()

    return call


def said(workspace: Workspace) -> list[Comparison]:
    """Every comparison ever written, oldest first."""
    with reading(workspace.engine) as session:
        return list(session.exec(select(Comparison).order_by(Comparison.id)))  # type: ignore[arg-type]


def button(app: AppTest, label: str) -> Any:
    """The button of this label; fails where there is none or more than one."""
    found = [each for each in app.button if each.label == label]
    assert len(found) == 1, f"{label!r} among {[each.label for each in app.button]}"
    return found[0]


def primary(app: AppTest) -> list[str]:
    """What the buttons say that a page puts first."""
    return [each.label for each in app.button if each.proto.type == "primary"]


def step(workspace: Workspace) -> Step:
    """Where the loop stands."""
    with reading(workspace.engine) as session:
        return read_loop(session=session).step


def labels(app: AppTest) -> list[str]:
    """What the buttons say."""
    return [each.label for each in app.button]


def words(app: AppTest) -> str:
    """All that the page says."""
    kinds = ("html", "markdown", "caption", "title", "subheader", "error", "warning", "success")
    found = (str(getattr(each, "body", None) or each.value) for kind in kinds for each in getattr(app, kind))
    return unescape(re.sub("<style>.*?</style>", "", "\n".join(found), flags=re.DOTALL))
