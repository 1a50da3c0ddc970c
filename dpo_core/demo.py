"""The demo workspace: a small model and prompts that ship with pairloop, ready to be compared.

`pairloop demo` opens it, `pairloop simulate` makes throw-away ones. Importable without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpo_core.config import FILE_NAME, Settings
from dpo_core.errors import WorkspaceError
from dpo_core.loop import Step, read_loop, start_round
from dpo_core.packaged import DEMO_MODEL, packaged
from dpo_core.workspace import Workspace, create_workspace, open_workspace
from store.database import reading
from store.importing import import_prompts

# Where the demo differs from the defaults, which are meant for real language models: a small model takes, and needs, a
# far higher rate and more passes to show a taste after one round of 30 pairs. Chosen by simulation: twice the rate, or
# twice the passes, wins a few points in round 1 and has lost most of its grammar by round 3.
OVERRIDES: dict[str, dict[str, Any]] = {
    "model": {"base": DEMO_MODEL, "tuning": "full"},
    "sampling": {"max_new_tokens": 160, "batch_size": 16},
    "training": {
        "learning_rate": 5e-4,
        "num_train_epochs": 5,
        "warmup_steps": 0,
        "max_length": 512,
        "comparisons": "round",
    },
    "gate": {"alarms": "ignore"},  # forty pairs of one taste move lengths: the alarm is shown, people decide
}


def demo_settings() -> Settings:
    """The settings of a demo workspace."""
    return Settings.model_validate(OVERRIDES)


def open_demo(folder: Path) -> Workspace:
    """The demo workspace in this folder, made if there is none; its prompts are in. Raises WorkspaceError."""
    folder = folder.expanduser().resolve()
    if not (folder / FILE_NAME).exists():
        _check_new(folder)
        create_workspace(folder, demo_settings())
    workspace = open_workspace(folder)
    if workspace.settings.model.base == DEMO_MODEL:  # a workspace of one's own is opened as it is
        _import_demo_prompts(workspace)
    return workspace


def _check_new(folder: Path) -> None:
    if not packaged("demo/model").is_dir():
        raise WorkspaceError(f"The demo model is not there ({packaged('demo/model')}). Install pairloop again.")
    if folder.is_file():
        raise WorkspaceError(f"{folder} is a file. Name a folder for the demo.")


def _import_demo_prompts(workspace: Workspace) -> None:
    import_prompts(
        engine=workspace.engine,
        path=packaged("demo/prompts.jsonl"),
        held_out_share=workspace.settings.round.held_out_share,
        source="demo",
    )


def start_first_round(workspace: Workspace, *, by: str) -> None:
    """Start round 1 where nothing was started yet, so that there is something to compare at once."""
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
    if state.step == Step.START_ROUND and state.round is None:
        start_round(workspace, by=by)
