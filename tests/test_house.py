"""The rules of the house: which way imports go, what stays light, and that the tools have nothing to say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("store", "dpo_core", "ui")
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
DUMPING_GROUNDS = {"utils", "util", "helpers", "common", "misc", "manager", "service"}
LONGEST = 450  # lines; a file that needs more has two subjects


def in_root(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


def assert_silent(*command: str) -> None:
    ran = in_root(*command)
    assert ran.returncode == 0, f"{' '.join(command[1:])}\n{ran.stdout}\n{ran.stderr}"


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def loaded_by(statement: str) -> set[str]:
    """The top-level packages that a fresh Python has loaded after the statement."""
    ran = in_root(sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)")
    assert ran.returncode == 0, ran.stderr
    return {name.partition(".")[0] for name in ran.stdout.splitlines()[-1].split()}


def test_imports_go_one_way() -> None:
    cli = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    assert_silent(sys.executable, "-c", cli, "--no-cache")


@pytest.mark.parametrize(
    ("module", "stays_out"),
    [
        ("store", (*HEAVY, "streamlit", "dpo_core", "ui")),
        ("dpo_core.config", (*HEAVY, "streamlit", "ui")),
        ("dpo_core.selection", (*HEAVY, "streamlit", "ui")),
        ("ui.app", HEAVY),
        ("ui.cli", (*HEAVY, "streamlit")),
    ],
)
def test_what_must_stay_light_does(module: str, stays_out: tuple[str, ...]) -> None:
    if not is_there(module):
        pytest.skip(f"{module} is not written yet")
    statement = f"import {module}"
    if module == "store":  # its modules, not only the empty package
        names = [f"store.{path.stem}" for path in (ROOT / "store").glob("*.py") if path.stem != "__init__"]
        statement = f"import {', '.join(names)}"
    loaded = loaded_by(statement)
    assert module.partition(".")[0] in loaded
    assert loaded & set(stays_out) == set()


def test_ruff_has_nothing_to_say() -> None:
    assert_silent(sys.executable, "-m", "ruff", "check", ".")


def test_everything_is_formatted() -> None:
    assert_silent(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_mypy_has_nothing_to_say() -> None:
    assert_silent(sys.executable, "-m", "mypy", "--cache-dir", ".mypy_cache")


def test_no_file_is_a_dumping_ground() -> None:
    assert [path for path in python_files(*PACKAGES, "data", "tests") if path.stem in DUMPING_GROUNDS] == []


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(*PACKAGES, "data")}
    assert {str(path): length for path, length in lengths.items() if length >= LONGEST} == {}


def test_there_is_a_changelog() -> None:
    assert (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").startswith("# ")


def test_the_readme_names_every_module() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("README.md is not written yet")
    text = readme.read_text(encoding="utf-8")
    modules = [path for path in python_files(*PACKAGES) if path.stem != "__init__" and "migrations" not in path.parts]
    assert [str(path.relative_to(ROOT)) for path in modules if path.name not in text] == []
