"""The Settings page: what is saved is in the file, and holds from the next pair on."""

from __future__ import annotations

from dpo_core.config import FILE_NAME, load_settings
from dpo_core.workspace import Workspace
from tests.browser import seeding
from tests.ui.conftest import OpenApp, button, words


def test_what_is_saved_is_asked_with_the_next_pair(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    app = open_app("settings")
    app.multiselect[0].set_value(["Cannot tell"])
    [criteria] = [each for each in app.multiselect if each.label.startswith("Criteria")]
    criteria.set_value(["helpful", "tone"])
    app.number_input[0].set_value(25)
    button(app, "Save").click().run()
    saved = load_settings(workspace.folder / FILE_NAME).label
    assert (saved.criteria, saved.skip_reasons, saved.daily_goal) == (["helpful", "tone"], ["Cannot tell"], 25)
    app.switch_page("pages/label.py").run()
    assert {each.label for each in app.segmented_control} >= {"helpful", "tone"}
    assert "0 of 25 today" in words(app)


def test_a_file_that_cannot_be_used_is_said_and_kept(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("settings")
    path = workspace.folder / FILE_NAME
    path.write_text(path.read_text() + "[label\n")
    button(app, "Save").click().run()
    assert "not valid TOML" in words(app)
    assert path.read_text().endswith("[label\n")
