"""The Data page: prompts in, comparisons to look at, snapshots and exports out."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from dpo_core.workspace import Workspace
from store.comparisons import Choice
from store.database import reading, writing
from store.errors import ImportFileError
from store.preferences import SnapshotFilter
from store.prompts import count_prompts
from store.snapshots import cut_snapshot, list_snapshots
from tests.browser import seeding
from tests.ui.conftest import OpenApp, button, words
from ui.transfer import export_to_workspace, import_upload, zipped


@pytest.fixture
def compared(workspace: Workspace) -> Workspace:
    """A round of six pairs, all compared: four preferences, a tie and a skip."""
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    seeding.compare(workspace, "Lea", [Choice.LEFT, Choice.RIGHT, Choice.TIE, Choice.LEFT, Choice.SKIP, Choice.LEFT])
    return workspace


def test_an_empty_workspace_asks_for_prompts(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("data")
    assert [each.value for each in app.metric] == ["0", "0", "0"]
    assert "Begin here" in words(app)
    assert "Nothing compared yet" in words(app)


def test_a_file_of_prompts_is_imported(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("data")
    lines = "\n".join(json.dumps({"prompt": f"Why {number}?"}) for number in range(3))
    app.file_uploader[0].set_value([("asked.jsonl", lines.encode(), "application/json")]).run()
    button(app, "Import asked.jsonl").click().run()
    with reading(workspace.engine) as session:
        assert sum(count_prompts(session=session).values()) == 3
    assert "3 rows: 3 new prompts" in words(app)
    assert app.metric[0].value == "3"


def test_a_file_that_is_none_is_refused_in_words(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("data")
    app.file_uploader[0].set_value([("asked.jsonl", b"{not json", "application/json")]).run()
    button(app, "Import asked.jsonl").click().run()
    assert "Nothing was imported" in words(app)
    assert not app.exception


def test_an_upload_cannot_name_a_place_outside(workspace: Workspace) -> None:
    report = import_upload(workspace, name="../../../etc/asked.txt", content=b"Why?\n")
    assert (report.file_name, report.prompts_added) == ("asked.txt", 1)
    with pytest.raises(ImportFileError):
        import_upload(workspace, name="picture.png", content=b"x")


def test_preferences_are_told_from_prompts(workspace: Workspace) -> None:
    row = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    report = import_upload(workspace, name="chosen.jsonl", content=json.dumps(row).encode())
    assert (report.kind, report.comparisons_added) == ("preferences", 1)


def test_comparisons_are_listed_newest_first(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("data")
    page = words(app)
    assert app.metric[1].value == "5"  # a skip is no comparison, here as on the Loop page
    assert "by 1 annotator, 1 skip apart" in page
    assert page.index("Question 6?") < page.index("Question 1?")
    for told in ("<td>Lea</td>", "<td>tie</td>", "<td>left</td>", "<td>skipped</td>", "<td>6.5</td>"):
        assert told in page


def test_a_snapshot_is_cut_and_says_what_it_left_out(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("data")
    button(app, "Cut a snapshot now").click().run()
    with reading(compared.engine) as session:
        (snapshot,) = list_snapshots(session=session)
    page = words(app)
    assert "<td>Pairs to train on</td><td>4</td>" in page
    assert "<td>left out: ties</td><td>1</td>" in page
    assert app.selectbox(key="snapshot").options[0].startswith(snapshot.hash[:12])


def test_a_snapshot_that_keeps_ties_says_how_many(compared: Workspace, open_app: OpenApp) -> None:
    with writing(compared.engine) as session:
        cut_snapshot(session=session, folder=compared.folder, filter=SnapshotFilter(keep_ties=True))
    page = words(open_app("data"))
    assert "<td>Pairs to train on</td><td>4</td>" in page and "<td>Ties to train on</td><td>1</td>" in page
    assert "left out: ties" not in page


def test_a_snapshot_of_nothing_says_why_not(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("data")
    button(app, "Cut a snapshot now").click().run()
    assert "no comparisons to cut a snapshot from" in words(app)


def test_an_export_is_written_and_offered(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("data")
    button(app, "Cut a snapshot now").click().run()
    app.radio(key="style").set_value("plain").run()
    button(app, "Export").click().run()
    (folder,) = (compared.folder / "exports").iterdir()
    assert folder.name.endswith("-plain-jsonl")
    assert [each.proto.label for each in app.get("download_button")] == [f"Download {folder.name}.zip"]


def test_the_zip_holds_what_was_exported(compared: Workspace, open_app: OpenApp) -> None:
    button(open_app("data"), "Cut a snapshot now").click().run()
    with reading(compared.engine) as session:
        (snapshot,) = list_snapshots(session=session)
    wanted = {"snapshot": snapshot.hash, "style": "conversational", "file_format": "jsonl"}
    folder = export_to_workspace(compared, **wanted)
    assert export_to_workspace(compared, **wanted) == folder  # what is there already is left as it is
    with zipfile.ZipFile(io.BytesIO(zipped(folder))) as archive:
        names = archive.namelist()
        rows = archive.read(f"{folder.name}/data/train.jsonl").decode().splitlines()
    assert f"{folder.name}/README.md" in names
    assert len(rows) == 4
