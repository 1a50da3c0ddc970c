"""The app as a whole: what it says when it cannot work, what it never loads, and that it serves."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dpo_core.workspace import Workspace
from tests.browser import seeding
from tests.ui.conftest import APP, words
from ui.state import WORKSPACE_VARIABLE


def draw() -> AppTest:
    st.cache_resource.clear()
    app = AppTest.from_file(str(APP), default_timeout=60).run()
    assert not app.exception
    return app


def test_without_a_workspace_it_says_how_to_start() -> None:
    assert "`pairloop up`" in words(draw())


def test_a_folder_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(tmp_path / "nowhere"))
    assert "is not a workspace" in words(draw())


def test_settings_that_cannot_be_used_are_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(workspace.folder))
    (workspace.folder / "pairloop.toml").write_text("[training]\nbetta = 1\n", encoding="utf-8")
    assert "did you mean 'beta'" in words(draw())


def test_a_damaged_database_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(workspace.folder))
    workspace.engine.dispose()
    for left in workspace.folder.glob("pairloop.db*"):
        left.unlink()
    (workspace.folder / "pairloop.db").write_bytes(b"not a database at all, " * 300)
    assert "It is not a SQLite database" in words(draw())


def test_no_page_loads_a_model_library(workspace: Workspace) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    program = f"""
        import os, sys
        os.environ[{WORKSPACE_VARIABLE!r}] = {str(workspace.folder)!r}
        from streamlit.testing.v1 import AppTest
        import ui.serve
        app = AppTest.from_file({str(APP)!r}, default_timeout=60).run()
        for page in ("loop", "runs", "playground", "data", "team", "label"):
            app.switch_page(f"pages/{{page}}.py").run()
            assert not app.exception, page
        print([name for name in ("torch", "transformers", "trl", "datasets", "peft") if name in sys.modules])
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip().splitlines()[-1] == "[]"


def serve(workspace: Workspace, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ui.serve", "--workspace", str(workspace.folder), "--port", str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_server_says_when_it_is_ready_and_ends_in_good_order(workspace: Workspace, sent: signal.Signals) -> None:
    with serve(workspace, 0) as server:
        assert server.stdout is not None and server.stderr is not None
        ready = server.stdout.readline()
        url = ready.split()[-1]
        with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
            assert json.load(answer) == {"status": "ok"}
        server.send_signal(sent)
        assert server.wait(timeout=20) == 0
        assert ready.startswith("pairloop is ready: http://127.0.0.1:")
        assert (server.stdout.read(), server.stderr.read()) == ("", "")


def test_a_port_that_is_taken_is_said_before_anything_starts(workspace: Workspace) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serve(workspace, port) as server:
            out, problem = server.communicate(timeout=60)
    assert server.returncode == 2
    assert out == ""
    assert f"port {port}" in problem
    assert "Traceback" not in problem


def test_a_workspace_that_is_none_is_said_before_anything_starts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ui.serve", "--workspace", str(tmp_path / "nowhere"), "--port", "0"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 2
    assert "is not a workspace" in ran.stderr
