"""What every test gets: a world of its own. No test can reach a real workspace, a real home folder or the network."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from hypothesis import settings

from store.annotators import get_or_add_annotator
from store.checkpoints import add_checkpoint
from store.database import open_database, writing
from store.models import Pair, Round
from store.pairs import NewCompletion, add_completion, add_pair
from store.rounds import latest_round
from tests.store.asking import add_prompt

ROOT = Path(__file__).resolve().parent.parent
_CACHE = tempfile.TemporaryDirectory(prefix="pairloop-tests-")
MOST_WORKERS = 4  # beyond that, tests wait for each other's disk and memory rather than for a core
WORKER_MEMORY = 3 * 2**30  # bytes: a test process with torch in it, and a browser or a training that it started
THREADS = max(1, min(4, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))

# Read once, when the libraries are imported: so they are set here, before any test module is.
os.environ |= {
    "HF_HOME": _CACHE.name,
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait slow every other process down
    "OMP_NUM_THREADS": str(THREADS),  # what a test starts shares the cores with what other tests start
}

# pytest loads readline, which sets these for the processes that it starts: what is printed would be cut at 80 columns.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# The same examples in each run, so that a run that fails tells of the change, and not of the day.
settings.register_profile("pairloop", deadline=None, database=None, derandomize=True)
settings.load_profile("pairloop")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes `-n auto` shares the tests between: as many as this machine has cores and memory for."""
    memory = psutil.virtual_memory().available // WORKER_MEMORY
    return int(max(1, min(MOST_WORKERS, os.cpu_count() or 1, memory)))


@pytest.fixture(autouse=True)
def own_world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Home, configuration, working folder and settings of this test alone; subprocesses still find our packages."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("PAIRLOOP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PAIRLOOP_ADDRESS", "127.0.0.1")  # as if the app were served for this machine alone
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for name in ("CONFIG", "CACHE", "DATA", "STATE", "RUNTIME"):
        monkeypatch.setenv(f"XDG_{name}_{'DIR' if name == 'RUNTIME' else 'HOME'}", str(home / name.lower()))
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """Where a test module has imported torch: no more threads than this process has cores to itself."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def quick_collections() -> None:
    """What was imported is no garbage: a collection need not look through it, which takes a third of a second.

    Trainings collect several times each, and Streamlit does after every rerun.
    """
    if len(sys.modules) > _frozen["modules"]:
        _frozen["modules"] = len(sys.modules)
        gc.collect()
        gc.freeze()


_frozen = {"modules": 0}


@pytest.fixture(scope="session")
def blank_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database file, to be copied: a copy is quicker than a migration."""
    path = tmp_path_factory.mktemp("blank") / "blank.db"
    open_database(f"sqlite:///{path}").dispose()  # the last connection to close folds the WAL into the file
    return path


@pytest.fixture
def engine(blank_database: Path, tmp_path: Path) -> Iterator[sa.Engine]:
    """An empty database, `pairloop.db` in the test's own folder."""
    path = tmp_path / "pairloop.db"
    shutil.copy(blank_database, path)
    engine = open_database(f"sqlite:///{path}")
    yield engine
    engine.dispose()


MakeRound = Callable[..., tuple[Round, list[Pair]]]


@pytest.fixture
def make_round() -> MakeRound:
    """`make_round(engine, pairs=3, wanted=1)`: a round with that many pairs to compare, in the queue's order."""
    return _make_round


def _make_round(engine: sa.Engine, *, pairs: int = 3, wanted: int = 1) -> tuple[Round, list[Pair]]:
    with writing(engine) as session:
        base = add_checkpoint(session=session, name="base", path="checkpoints/base")
        before = latest_round(session=session)
        number = 1 if before is None else before.number + 1
        opened = Round(number=number, checkpoint_id=base.id, target=max(1, pairs * wanted), status="comparing")
        session.add(opened)
        session.flush()
        made = []
        for position in range(pairs):
            prompt = add_prompt(session, f"question {number}.{position}")
            both = [
                add_completion(
                    session=session,
                    prompt_id=prompt.id,
                    new=NewCompletion(text=f"answer {number}.{position}{side}"),
                    checkpoint_id=base.id,
                )
                for side in "ab"
            ]
            made.append(
                add_pair(
                    session=session,
                    prompt_id=prompt.id,
                    completions=both,
                    round_id=opened.id,
                    position=position,
                    wanted=wanted,
                )
            )
    return opened, made


@pytest.fixture
def people(engine: sa.Engine) -> list[int]:
    """The ids of three annotators."""
    with writing(engine) as session:
        added = [get_or_add_annotator(session=session, name=name) for name in ("Ada", "Ben", "Cleo")]
    return [annotator.id for annotator in added]
