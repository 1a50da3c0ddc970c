"""The app in a real browser: a server of its own for each test, and Chromium."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from dpo_core.workspace import Workspace
from tests.browser import seeding

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 30_000  # ms; on a machine with other things to do
Serve = Callable[[Workspace], str]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests, with a home of its own; each test gets a fresh profile in it."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM} on this machine")
    home = str(tmp_path_factory.mktemp("chromium-home"))
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(FLAGS), env={**os.environ, "HOME": home, "XDG_CONFIG_HOME": home}
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A window of a laptop's size."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(workspace)`: the app's address, once it is ready. The server ends with the test."""
    servers: list[subprocess.Popen[str]] = []

    def start(workspace: Workspace) -> str:
        command = [sys.executable, "-m", "ui.serve", "--workspace", str(workspace.folder), "--port", "0"]
        servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stdout = servers[-1].stdout
        assert stdout is not None
        return stdout.readline().split()[-1]

    yield start
    for server in servers:
        server.terminate()
        assert server.wait(timeout=30) == 0
        assert server.stdout is not None
        server.stdout.close()


@dataclass(frozen=True)
class Said:
    """A verdict as it lies in the file, read past all of the app's own code."""

    question: int
    verdict: str
    left_side: str
    stands: bool


@dataclass(frozen=True)
class Round:
    """A round being compared, and what has been written of it."""

    workspace: Workspace
    url: str

    def said(self) -> list[Said]:
        """Every verdict in the database file, oldest first."""
        query = (
            "SELECT pair.position, verdict, left_side, superseded_at IS NULL FROM comparison "
            "JOIN pair ON pair.id = pair_id ORDER BY comparison.id"
        )
        return [Said(row[0] + 1, row[1], row[2], bool(row[3])) for row in self.query(query)]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """What lies in the file."""
        with closing(sqlite3.connect(self.workspace.folder / "pairloop.db")) as connection:
            return connection.execute(sql).fetchall()


@pytest.fixture
def comparing(tmp_path: Path, serve: Serve) -> Round:
    """A round of ten pairs, eight comparisons wanted, served."""
    workspace = seeding.new_workspace(tmp_path / "workspace", target=8)
    seeding.open_round(workspace, seeding.plain_exchanges(10))
    return Round(workspace, serve(workspace))


@pytest.fixture
def long_round(tmp_path: Path, serve: Serve) -> Round:
    """A round with so many pairs that the next one is known ahead."""
    workspace = seeding.new_workspace(tmp_path / "workspace", target=40)
    seeding.open_round(workspace, seeding.plain_exchanges(40))
    return Round(workspace, serve(workspace))
