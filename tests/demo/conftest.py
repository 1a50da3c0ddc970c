"""The demo's scripts import each other as siblings; these fixtures let tests do the same and clean up after."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DEMO = Path(__file__).resolve().parents[2] / "data" / "demo"
SCRIPTS = ("build", "corpus", "measure", "phrases")


@pytest.fixture(scope="session")
def demo() -> Path:
    """The folder data/demo."""
    return DEMO


@pytest.fixture(scope="module")
def scripts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DEMO)
        yield
    for name in SCRIPTS:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def corpus(scripts: None) -> ModuleType:
    """data/demo/corpus.py."""
    return importlib.import_module("corpus")


@pytest.fixture(scope="module")
def measure(scripts: None) -> ModuleType:
    """data/demo/measure.py."""
    return importlib.import_module("measure")
