"""pairloop.toml changed in place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpo_core.config import FILE_NAME, LabelSettings, Settings, load_settings
from dpo_core.editing_settings import change_section
from dpo_core.errors import SettingsError
from dpo_core.rendered_settings import render_settings
from dpo_core.workspace import Workspace, create_workspace
from store.annotators import get_or_add_annotator
from store.database import writing
from store.errors import NotAllowedError

HAND_WRITTEN = """# ours, do not touch
[round]
comparisons = 12   # a small team

[label]
criteria = ["helpful"]  # agreed in May
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = create_workspace(tmp_path / "workspace", Settings())
    (made.folder / FILE_NAME).write_text(HAND_WRITTEN, encoding="utf-8")
    return made


@pytest.fixture
def path(workspace: Workspace) -> Path:
    return workspace.folder / FILE_NAME


def test_only_a_researcher_changes_settings(workspace: Workspace, path: Path) -> None:
    with writing(workspace.engine) as session:
        lea = get_or_add_annotator(session=session, name="Lea")
    assert lea.id is not None
    with pytest.raises(NotAllowedError, match="Only a researcher may change settings"):
        change_section(workspace.acting_as(lea.id), "label", {"rewrite": True})
    assert path.read_text(encoding="utf-8") == HAND_WRITTEN


def test_what_is_not_changed_stays_as_it_was_written(workspace: Workspace, path: Path) -> None:
    changed = change_section(workspace, "label", {"rewrite": True})
    assert path.read_text(encoding="utf-8") == HAND_WRITTEN + "rewrite = true\n"
    assert (changed.label.rewrite, changed.label.criteria, changed.round.comparisons) == (True, ["helpful"], 12)


def test_a_section_that_is_not_there_is_added(workspace: Workspace, path: Path) -> None:
    change_section(workspace, "sampling", {"temperature": 0.7})
    assert load_settings(path).sampling.temperature == 0.7
    assert path.read_text(encoding="utf-8").startswith(HAND_WRITTEN)


def test_saving_what_is_there_already_writes_nothing(workspace: Workspace, path: Path) -> None:
    path.write_text(render_settings(Settings()), encoding="utf-8")
    before = path.read_text(encoding="utf-8")
    change_section(workspace, "label", LabelSettings().model_dump())
    assert path.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    "values",
    [
        {"criteria": ["helpful", "helpful"]},
        {"flags": [" "]},
        {"tags": ["x" * 41]},
        {"daily_goal": -1},
        {"color": "red"},
    ],
)
def test_what_cannot_be_used_is_refused_and_the_file_kept(
    workspace: Workspace, path: Path, values: dict[str, object]
) -> None:
    with pytest.raises(SettingsError, match=r"cannot be used"):
        change_section(workspace, "label", values)
    assert path.read_text(encoding="utf-8") == HAND_WRITTEN


def test_a_file_that_somebody_is_editing_is_left_alone(workspace: Workspace, path: Path) -> None:
    path.write_text("[label\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="not valid TOML"):
        change_section(workspace, "label", {"rewrite": True})
    assert path.read_text(encoding="utf-8") == "[label\n"


names = st.lists(st.text("ab \"'\\#é\n", min_size=1, max_size=8).filter(str.strip), max_size=9, unique=True)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tags=names, flags=names)
def test_whatever_was_typed_comes_back(workspace: Workspace, path: Path, tags: list[str], flags: list[str]) -> None:
    path.write_text(HAND_WRITTEN, encoding="utf-8")
    change_section(workspace, "label", {"tags": tags, "flags": flags})
    read = load_settings(path).label
    assert (read.tags, read.flags) == (tags, flags)
