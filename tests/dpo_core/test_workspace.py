"""The model that pairloop.toml names is the one the workspace works with, or the workspace does not open."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dpo_core.config import FILE_NAME
from dpo_core.errors import WorkspaceError
from dpo_core.loop import start_round
from dpo_core.workspace import Workspace, open_workspace, write_atomically
from store.checkpoints import base_checkpoint
from store.database import reading

Make = Callable[..., Workspace]


def name_model(workspace: Workspace, base: str) -> Workspace:
    """The workspace, opened again after somebody edited its settings."""
    path = workspace.folder / FILE_NAME
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(workspace.settings.model.base, base), encoding="utf-8")
    return open_workspace(workspace.folder)


def base_path(workspace: Workspace) -> str:
    with reading(workspace.engine) as session:
        return base_checkpoint(session=session).path


@pytest.fixture
def other_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The same architecture and the same file sizes, one number apart: what a fine-tuned model looks like."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    first = sorted(weights)[0]
    weights[first].view(-1)[0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_another_model_may_be_named_until_one_has_written_something(make_workspace: Make, other_model: Path) -> None:
    workspace = name_model(make_workspace(), str(other_model))
    assert base_path(workspace) == str(other_model)


def test_another_model_is_refused_once_pairs_rest_on_the_first(
    make_workspace: Make, other_model: Path, tiny_model: Path
) -> None:
    workspace = make_workspace()
    start_round(workspace, by="test")
    with pytest.raises(WorkspaceError) as caught:
        _ = name_model(workspace, str(other_model)).engine
    assert str(other_model) in str(caught.value) and f'base = "{tiny_model}"' in str(caught.value)
    assert base_path(name_model(open_workspace(workspace.folder), str(tiny_model))) == str(tiny_model)


def test_a_model_that_was_moved_is_followed(make_workspace: Make, tiny_model: Path, tmp_path: Path) -> None:
    workspace = make_workspace()
    start_round(workspace, by="test")
    moved = tmp_path / "moved"
    shutil.copytree(tiny_model, moved)
    again = name_model(workspace, str(moved))
    assert base_path(again) == str(moved)
    with reading(again.engine) as session:
        assert again.checkpoint_path(base_checkpoint(session=session)) == str(moved)


def test_a_name_that_leads_nowhere_is_refused_like_another_model(make_workspace: Make) -> None:
    workspace = make_workspace()
    start_round(workspace, by="test")
    with pytest.raises(WorkspaceError, match="somebody/else"):
        _ = name_model(workspace, "somebody/else").engine


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder" / "in it").mkdir(parents=True)
    with pytest.raises(OSError):
        write_atomically(tmp_path / "folder", "text")
    with pytest.raises(OSError):
        write_atomically(tmp_path / ("x" * 300), "text")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "in it"]
    write_atomically(tmp_path / "file", "text")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file"]
