"""The Data page: prompts in, comparisons to look at, snapshots and exports out."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dpo_core.workspace import Workspace
from store.annotators import get_or_add_annotator
from store.comparisons import Choice, Remarks, record_comparison, undo_comparison
from store.database import reading, writing
from store.errors import ImportFileError
from store.models import Pair
from store.prompts import count_prompts
from store.snapshot_filter import SnapshotFilter
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


def listed(app: AppTest) -> list[list[Any]]:
    """The rows of the list of comparisons."""
    return app.dataframe[0].value.values.tolist()


def test_comparisons_are_listed_newest_first(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("data")
    page = words(app)
    assert app.metric[1].value == "5"  # a skip is no comparison, here as on the Loop page
    assert "by 1 annotator, 1 skip apart" in page
    rows = listed(app)
    assert [row[2] for row in rows] == [f"Question {number}?" for number in (6, 5, 4, 3, 2, 1)]
    assert [row[3] for row in rows] == ["left", "skipped", "left", "tie", "right", "left"]
    assert {(row[1], row[4], row[5]) for row in rows} == {("Lea", 6.5, "1 (train)")}


def test_comparisons_are_searched_and_filtered(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("data")
    app.text_input(key="find_text").set_value("answer to 4").run()
    assert [row[2] for row in listed(app)] == ["Question 4?"]
    app.text_input(key="find_text").set_value("").run()
    app.multiselect(key="find_verdict").set_value(["tie", "skip"]).run()
    assert [row[2] for row in listed(app)] == ["Question 5?", "Question 3?"]
    assert "2 verdicts" in words(app)
    app.selectbox(key="find_round").set_value(0).run()
    assert "Nothing found" in words(app)
    assert not app.exception


def test_one_comparison_is_opened_with_its_history_and_where_it_went(compared: Workspace, open_app: OpenApp) -> None:
    with writing(compared.engine) as session:
        undo_comparison(session=session, comparison_id=4, annotator_id=1)
        choose = {"session": session, "pair_id": 4, "annotator_id": 1, "choice": Choice.RIGHT}
        record_comparison(**choose, remarks=Remarks(reason="=clearer()"))
        cut_snapshot(session=session, folder=compared.folder)
    app = open_app("data")
    app.query_params["comparison"] = "7"
    page = words(app.run())
    assert "Comparison 7" in page and "Question 4?" in page and "First answer to 4." in page
    assert page.count("<td>stands</td>") == 1
    for told in ("=clearer()", "<td>1</td>", "base, run 1, seed 3, 4 tokens, ended by stop", "chosen, to train on"):
        assert told in page
    app.query_params["comparison"] = "4"
    assert "No snapshot that was cut while this verdict stood" in words(app.run())
    app.query_params["comparison"] = "99"
    assert "There is no comparison 99" in words(app.run())


def charts(app: AppTest) -> int:
    return len(app.get("vega_lite_chart") or app.get("arrow_vega_lite_chart"))


def test_pace_choices_and_agreement_are_drawn_over_time(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("data")
    drawn = {}
    for asked in ("Pace", "Choices", "Agreement"):
        app.segmented_control(key="over_time").set_value(asked).run()
        assert not app.exception
        drawn[asked] = charts(app)
    assert drawn == {"Pace": 1, "Choices": 2, "Agreement": 0}
    assert "Agreement needs pairs that two people judged: set comparisons_per_pair" in words(app)
    with writing(compared.engine) as session:
        ben = get_or_add_annotator(session=session, name="Ben")
        asked = session.get_one(Pair, 1)
        asked.wanted, asked.open_slots = 2, 1
        session.flush()
        record_comparison(session=session, pair_id=1, annotator_id=ben.id, choice=Choice.LEFT)
    assert charts(app.run()) == 1
    app.multiselect(key="find_who").set_value([1]).run()
    assert "take the annotator filter away" in words(app)


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
    assert [each.proto.label for each in app.get("download_button")][1:] == [f"Download {folder.name}.zip"]


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
