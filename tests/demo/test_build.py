"""The build script, run as a person would, in its quick form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def built(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, str(demo / "build.py"), "--out", str(out), "--quick"], check=True, timeout=600)
    return out


def test_quick_build_writes_the_files_of_the_full_one(built: Path, demo: Path) -> None:
    assert {path.name for path in (built / "model").iterdir()} == {path.name for path in (demo / "model").iterdir()}
    assert (built / "prompts.jsonl").read_bytes() == (demo / "prompts.jsonl").read_bytes()


def test_quick_build_leaves_no_trace_of_the_machine(built: Path) -> None:
    for path in (built / "model").glob("*.json*"):
        assert str(built) not in path.read_text(encoding="utf-8")
