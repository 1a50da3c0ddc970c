"""Lineage, as its page, its commands and the People page tell it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from sqlmodel import select
from streamlit.testing.v1 import AppTest

from dpo_core.deciding import decide
from dpo_core.editing_settings import change_section
from dpo_core.lineage import read_record
from dpo_core.model_card import model_card
from dpo_core.workspace import Workspace, open_workspace
from store.ancestry import read_ancestry
from store.annotators import get_or_add_annotator, list_annotators
from store.comparisons import Choice
from store.database import reading, writing
from store.models import Checkpoint, Decision
from store.teaching import Touch, touched_by
from tests.browser import seeding
from tests.ui.conftest import OpenApp, Pairloop, button, labels, words
from ui.cli import YOURS
from ui.lineage_words import touched_serving_words, touched_words, tree_drawing

LEFT, RIGHT = Choice.LEFT, Choice.RIGHT


@pytest.fixture
def two_rounds(workspace: Workspace) -> Workspace:
    """round-1 on four of Lea's and two of Max's, promoted; round-2 from it, on Max's alone beside these, undecided."""
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    seeding.compare(workspace, "Lea", [LEFT] * 4)
    seeding.compare(workspace, "Max", [RIGHT] * 2)
    seeding.train(workspace, steps=2, of=2)
    seeding.promote(workspace)
    write_weights(workspace, "round-1")
    seeding.open_round(workspace, [(f"Other {n}?", f"Text {n}.", f"Another {n}.") for n in range(6)])
    seeding.compare(workspace, "Max", [LEFT] * 5)
    seeding.train(workspace, steps=2, of=2, after=0.6)
    return workspace


def write_weights(workspace: Workspace, name: str) -> None:
    """Something in the place of the weights."""
    folder = workspace.folder / "checkpoints" / name
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("what a library wrote")


def drawings(app: AppTest) -> list[str]:
    return [each.proto.spec for each in app.get("graphviz_chart")]


# The page


def test_the_newest_checkpoint_is_shown_with_all_that_is_on_record(two_rounds: Workspace, open_app: OpenApp) -> None:
    app = open_app("lineage")
    assert app.selectbox(key="lineage_of").value == "round-2"
    told = words(app)
    for said in ("Trained from", "11 pairs", "60% (44% to 74%) on 34 pairs", "Nothing was decided about it yet"):
        assert said in told, said
    rows = told.replace("</td><td>", " | ")
    assert "Max | 7 | 64% | 0 | annotator" in rows and "Lea | 4 | 36% | 0 | annotator" in rows
    assert "Nobody decided about it" in told, "its limits are on the page"
    tree, origin = drawings(app)
    assert '"base" -> "round-1" [label="round 1"];' in tree and '"round-1" -> "round-2" [label="round 2"];' in tree
    assert '"round-1" [label="round-1\\nserving"' in tree and 'URL="?checkpoint=round-1"' in tree
    assert '"base" [label="base",' in tree
    cut = snapshot_of(two_rounds, "round-2")
    assert f'"who 0" -> "snapshot {cut}" [label="7"];' in origin
    assert f'"snapshot {cut}" -> "round-2"' in tree and f'URL="data?snapshot={cut}"' in tree
    for place in ("?checkpoint=round-1", f"data?snapshot={cut}", "data?by=Max", "data?by=Lea"):
        assert f'URL="{place}"' in origin, place
    table = rows.replace("<tr><td>", "\n")
    assert "round-1 | base | 1 | 6 pairs" in table and "round-2 | round-1 | 2 | 11 pairs" in table


def test_one_goes_from_a_checkpoint_to_its_relatives(two_rounds: Workspace, open_app: OpenApp) -> None:
    app = open_app("lineage")
    button(app, "Parent: round-1").click().run()
    assert app.selectbox(key="lineage_of").value == "round-1"
    assert "Promoted by lea" in words(app) and "UTC. It has served since." in words(app)
    assert {"Parent: base", "Trained from it: round-2"} <= set(labels(app))
    button(app, "Parent: base").click().run()
    assert "It is where the loop began." in words(app)
    assert len(drawings(app)) == 1, "the base has no origin here"
    assert [each.proto.label for each in app.get("download_button")] == ["Model card"]


def snapshot_of(workspace: Workspace, name: str) -> str:
    """How the hash begins of what a checkpoint was trained on."""
    with reading(workspace.engine) as session:
        return next(each.snapshot.hash[:12] for each in read_ancestry(session=session) if each.name == name)  # type: ignore[union-attr]


def test_one_goes_from_a_checkpoint_to_what_it_learned_from(two_rounds: Workspace, open_app: OpenApp) -> None:
    """Its snapshot, its round and each annotator are links, and the Data page then shows these and no others."""
    app = open_app("lineage", name="Rae")
    cut = snapshot_of(two_rounds, "round-2")
    links = {each.proto.label: parse_qs(each.proto.query_string) for each in app.get("page_link")}
    wanted = {
        f"Snapshot {cut}": {"snapshot": [cut]},
        "Comparisons of round 2": {"round": ["2"]},
        "Comparisons by Lea": {"by": ["Lea"]},
        "Comparisons by Max": {"by": ["Max"]},
    }
    assert {label: links[label] for label in wanted} == {
        label: asked | {"as": ["Rae"]} for label, asked in wanted.items()
    }
    app = open_app("data")
    for asked, count in (({"by": "Lea"}, 4), ({"by": "Max"}, 7), ({"round": "2"}, 5), ({"by": "Max", "round": "1"}, 2)):
        app.query_params.clear()
        for name, value in asked.items():
            app.query_params[name] = value
        app.run()
        assert f"{count} verdicts" in words(app), asked
    app.multiselect(key="find_who").set_value([]).run()
    assert "6 verdicts" in words(app), "what the visitor changes stays as they have it"
    app.query_params.clear()
    for name in ("round-1", "round-2", "round-1"):
        app.query_params["snapshot"] = snapshot_of(two_rounds, name)
        app.run()
        assert str(app.selectbox(key="snapshot").value).startswith(snapshot_of(two_rounds, name))


def test_one_goes_to_the_comparisons_of_every_round_it_learned_from(workspace: Workspace, open_app: OpenApp) -> None:
    """Round 1 was kept back: where a training takes its parent's own texts, round 2 trains on the labels of both."""
    change_section(workspace, "training", {"comparisons": "round"})
    workspace = open_workspace(workspace.folder)
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    seeding.compare(workspace, "Lea", [LEFT] * 4)
    seeding.train(workspace, steps=2, of=2)
    decide(workspace, decision=Decision.KEEP, by="Lea")
    seeding.open_round(workspace, [(f"Other {n}?", f"Text {n}.", f"Another {n}.") for n in range(6)])
    seeding.compare(workspace, "Lea", [LEFT] * 5)
    seeding.train(workspace, steps=2, of=2, after=0.6)
    app = open_app("lineage")
    assert "9 pairs to train on and 0 held out, of rounds 1 and 2" in words(app)
    ways = [each.proto.label for each in app.get("page_link")]
    assert ways[:3] == ["Round 2", "Comparisons of round 1", "Comparisons of round 2"]
    assert "All it learned, 9 comparisons, is one annotator's view." in words(app)
    assert "to train on and 0 held out, of rounds 1 and 2, from 9 of 9 comparisons." in model_card(
        read_record(workspace, "round-2")
    )


def test_an_empty_workspace_has_its_base(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("lineage")
    assert not app.error and app.selectbox(key="lineage_of").options == ["base"]
    assert "tiny" in words(app)


def test_what_somebody_touched(two_rounds: Workspace, open_app: OpenApp) -> None:
    app = open_app("lineage")
    app.selectbox(key="touched_by").set_value("Lea").run()
    assert "Trained on Lea's comparisons: round-1 (4), round-2 (4)." in words(app)
    with writing(two_rounds.engine) as session:  # as if round-2 had been trained without a snapshot of its own
        made = session.exec(select(Checkpoint).where(Checkpoint.name == "round-2")).one()
        made.snapshot_id = None
        session.add(made)
    with reading(two_rounds.engine) as session:
        found = touched_by(session=session, folder=two_rounds.folder, name="Lea")
    assert found == [Touch("round-1", 4, ""), Touch("round-2", 0, "round-1")]
    assert touched_words("Lea", found) == ("Trained on Lea's comparisons: round-1 (4). Descended from these: round-2.")


def test_names_are_text_in_the_drawing() -> None:
    class Odd:
        name, standing, parent, round, decided = 'a"] evil [label="\\', "serving", None, None, None
        snapshot = None

    drawn = tree_drawing([Odd()], "")  # type: ignore[list-item]
    assert r'"a\"] evil [label=\"\\" [label="a\"] evil [label=\"\\\nserving"' in drawn


# Retracting


def test_retracting_says_which_checkpoints_are_touched(
    two_rounds: Workspace, open_app: OpenApp, pairloop: Pairloop
) -> None:
    app = open_app("people")
    app.selectbox(key="who").set_value("Lea").run()
    button(app, "Retract for good").click().run()
    assert "Trained on Lea's comparisons: round-1 (4), round-2 (4)." in words(app)
    code, out, _ = pairloop("annotators", "--retract", "Max")
    assert code == 0 and "Trained on Max's comparisons: round-1 (2), round-2 (7)." in out
    code, out, _ = pairloop("lineage", "round-1", "--json")
    assert json.loads(out)["checkpoint"]["retracted"] == {"Lea": 4, "Max": 2}


def test_it_is_said_first_if_the_checkpoint_that_serves_is_touched(
    two_rounds: Workspace, open_app: OpenApp, pairloop: Pairloop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """round-1 serves, and was trained on four of Lea's and two of Max's; of Zoe's it has nothing."""
    with writing(two_rounds.engine) as session:
        get_or_add_annotator(session=session, name="Zoe")
    app = open_app("people")
    for name, has in (("Lea", "round-1, which serves now, was trained on 4 comparisons of Lea's."), ("Zoe", "")):
        app.selectbox(key="who").set_value(name).run()
        assert (has in words(app)) and ("which serves now" in words(app)) == bool(has)
        assert button(app, "Retract for good")
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, _, err = pairloop("annotators", "--retract", "Max")
    assert code != 0 and "round-1, which serves now, was trained on 2 comparisons of Max's." in " ".join(err.split())
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert retracted(two_rounds) == []
    assert pairloop("annotators", "--retract", "Max")[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = pairloop("annotators", "--retract", "Lea")  # a script is told, and not asked
    assert code == 0 and "was trained on 4 comparisons of Lea's" in " ".join(err.split())
    assert "serves now" not in pairloop("annotators", "--retract", "Zoe")[2]
    assert retracted(two_rounds) == ["Lea", "Max", "Zoe"]


class Terminal(io.StringIO):
    """A person at a terminal, who answers like this."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def retracted(workspace: Workspace) -> list[str]:
    with reading(workspace.engine) as session:
        return sorted(who.name for who in list_annotators(session=session) if who.retracted_at is not None)


def test_an_heir_that_serves_is_told_by_what_it_descends_from() -> None:
    found = [Touch("round-1", 4, ""), Touch("round-2", 0, "round-1")]
    said = touched_serving_words("Lea", found, "round-2")
    assert said.startswith("round-2, which serves now, descends from round-1, which was trained on Lea's comparisons.")
    assert touched_serving_words("Lea", found, "base") == ""


# The commands


def test_the_command_tells_the_same(two_rounds: Workspace, pairloop: Pairloop, tmp_path: Path) -> None:
    code, out, _ = pairloop("lineage")
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["checkpoint", "base", "round-1", "round-2"]
    assert "serving" in pairloop("lineage", "round-1")[1]
    told: Any = json.loads(pairloop("lineage", "--touched-by", "Max", "--json")[1])
    assert [(each["checkpoint"], each["comparisons"]) for each in told["touched"]] == [("round-1", 2), ("round-2", 7)]
    checkpoints = json.loads(pairloop("lineage", "--json")[1])["checkpoints"]
    assert [each["parent"] for each in checkpoints] == [None, "base", "round-1"]
    code, out, _ = pairloop("lineage", "round-1", "--card")
    assert code == 0 and out.startswith("---\n") and "# round-1" in out
    code, out, _ = pairloop("lineage", "round-1", "--export", str(tmp_path / "mine"))
    assert code == 0 and sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "README.md",
        "model.safetensors",
    ]
    assert (tmp_path / "mine" / "README.md").read_text() == pairloop("lineage", "round-1", "--card")[1]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("lineage --card", "Say which checkpoint"),
        ("lineage round-1 --card --touched-by Lea", "do not go together"),
        ("lineage round-9", "There is no checkpoint called 'round-9'"),
        ("lineage --touched-by Nobody", "no annotator called"),
        ("reproduce 7", "no round 7"),
        ("reproduce base", "was not trained here"),
    ],
)
def test_what_is_the_users_to_mend(options: str, why: str, two_rounds: Workspace, pairloop: Pairloop) -> None:
    code, out, err = pairloop(*options.split())
    assert (code, out) == (YOURS, "")
    assert why in " ".join(err.replace("│", " ").split())
