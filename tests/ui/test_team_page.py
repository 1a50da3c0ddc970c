"""The Team page: what the figures say and what they need, and pairs in doubt that are decided."""

from __future__ import annotations

import io
import re
import zipfile

import pytest

from dpo_core.workspace import Workspace
from store.annotators import retract_annotator
from store.comparisons import Choice
from store.database import reading, writing
from store.models import Pair, Purpose
from store.preferences import poll_comparisons
from store.quality import read_quality
from store.snapshot_filter import SnapshotFilter
from tests.browser import seeding
from tests.store.teams import ask, ask_again, give, say, send_back
from tests.ui.conftest import OpenApp, button, labels, said, words
from ui.transfer import zipped_tables


@pytest.fixture
def workspace(tmp_path) -> Workspace:  # type: ignore[no-untyped-def]
    """A workspace in which each pair is compared twice."""
    return seeding.new_workspace(tmp_path / "workspace", target=24, per_pair=2)


@pytest.fixture
def compared(workspace: Workspace) -> Workspace:
    """Twelve pairs, each compared by Lea and by Max; they differ on one, where Lea says left."""
    seeding.open_round(workspace, seeding.plain_exchanges(12))
    with writing(workspace.engine) as session:
        for number, pair in enumerate(session.query(Pair).order_by(Pair.id)):
            say(session, pair, "Lea", verdict="a", left_side="a", seconds=6.5)
            say(session, pair, "Max", verdict="b" if number == 4 else "a", left_side="ab"[number % 2], seconds=0.4)
    return workspace


def test_nobody_has_compared_yet(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app("team")
    assert "Nothing compared yet" in words(app)
    app.segmented_control(key="team").set_value("Inbox").run()
    assert "Nothing in doubt" in words(app)


def test_each_figure_says_what_it_means_or_needs(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("team")
    shown = {each.label: each.value for each in app.metric}
    assert shown["Agreement"] == "92%"
    assert shown["With themselves"] == shown["Gold"] == "–"
    page = words(app).replace("\\", "")
    assert "Repeats are needed for this" in page
    assert "Gold pairs are needed for this" in page
    assert "half is what to expect: nothing speaks against it in all together, but look at Lea." in page
    assert "<td>100% (76% to 100%), favours left</td>" in page
    assert "<td>Lea</td><td>Max</td><td>12</td><td>92%</td>" in page


def test_a_name_is_text_whatever_is_in_it(compared: Workspace, open_app: OpenApp) -> None:
    with writing(compared.engine) as session:
        for _ in range(12):
            ask(session, {"![x](http://there)": {"verdict": "a", "left_side": "a"}})
    captions = "".join(each.value for each in open_app("team").caption)
    assert r"\!\[x\]\(http" in captions and "![x]" not in captions


def test_repeats_and_gold_pairs_are_shown_once_there_are_some(compared: Workspace, open_app: OpenApp) -> None:
    with writing(compared.engine) as session:
        pair = ask(session, {"Lea": "a"}, purpose=Purpose.GOLD, gold="a")
        ask_again(session, pair, "Lea", "b")
    shown = {each.label: each.value for each in open_app("team").metric}
    assert (shown["With themselves"], shown["Gold"]) == ("100%", "100%")


def test_retracted_annotators_are_shown_on_request(compared: Workspace, open_app: OpenApp) -> None:
    with writing(compared.engine) as session:
        for name in ("Lea", "Max"):
            retract_annotator(session=session, name=name)
    app = open_app("team")
    assert "Nothing compared yet" in words(app)
    app.toggle(key="with_retracted").set_value(True).run()
    assert "Lea (retracted)" in words(app)


def test_what_is_said_next_is_in_the_figures(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("team")
    with writing(compared.engine) as session:
        ask(session, {"Lea": "a", "Max": "b"})
    app.run()
    assert {each.label: each.value for each in app.metric}["Agreement"] == "85%"


def test_the_tables_are_offered_as_csv(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("team")
    assert [each.proto.label for each in app.get("download_button")] == ["Download as CSV"]
    with reading(compared.engine) as session:
        found = read_quality(session=session)
    with zipfile.ZipFile(io.BytesIO(zipped_tables(found))) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    assert names == {"overall.csv", "annotators.csv", "couples.csv"}


def inbox(app) -> str:  # type: ignore[no-untyped-def]
    app.segmented_control(key="team").set_value("Inbox").run()
    assert not app.exception
    return words(app)


def test_a_pair_in_doubt_is_decided_and_the_decision_taken_back(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("team", name="Rea")
    page = inbox(app)
    assert "Annotators disagree. No side has a majority." in page
    assert "Question 5?" in page and "First answer to 5." in page
    assert "<td>Lea</td>" in page and "<td>Max</td>" in page
    before = len(said(compared))
    button(app, "Left is better").click().run()
    (decided,) = said(compared)[before:]
    assert decided.adjudicates and decided.verdict == decided.left_side
    assert "Nothing in doubt" in words(app)
    with reading(compared.engine) as session:
        found = poll_comparisons(session=session, filter=SnapshotFilter())
    assert [each.adjudicated for each in found.preferences].count(True) == 1
    button(app, "Undo the last decision").click().run()
    assert "Question 5?" in words(app)
    assert "Undo the last decision" not in labels(app)


def test_a_pair_that_is_put_off_comes_last(compared: Workspace, open_app: OpenApp) -> None:
    with writing(compared.engine) as session:
        ask(
            session,
            {"Lea": {"verdict": "a", "flags": {"a": ["unsafe"]}, "tags": ["odd"], "reason": "Hm."}},
            prompt="Why?",
        )
    app = open_app("team", name="Rea")
    assert "Question 5?" in inbox(app)
    button(app, "Later").click().run()
    page = words(app)
    assert "Why?" in page and "Somebody flagged it." in page
    assert ": unsafe; odd</td>" in page and "<td>Hm.</td>" in page
    button(app, "Later").click().run()
    assert "Question 5?" in words(app)


def test_pairs_that_wait_for_one_reason(compared: Workspace, open_app: OpenApp) -> None:
    with writing(compared.engine) as session:
        ask(session, {"Lea": {"verdict": "a", "flags": {"b": ["odd"]}}}, prompt="Why?")
    app = open_app("team", name="Rea")
    inbox(app)
    assert app.segmented_control(key="why").options == ["All: 2", "Annotators disagree: 1", "Somebody flagged it: 1"]
    app.segmented_control(key="why").set_value("flagged").run()
    assert "Why?" in words(app)
    button(app, "Tie").click().run()
    assert "Question 5?" in words(app)  # none of that kind is left


def test_both_are_bad(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("team", name="Rea")
    inbox(app)
    button(app, "Both bad").click().run()
    assert [each.verdict for each in said(compared) if each.adjudicates] == [Choice.BOTH_BAD]


def second_looks(app) -> str:  # type: ignore[no-untyped-def]
    app.segmented_control(key="team").set_value("Second looks").run()
    assert not app.exception
    return words(app)


@pytest.fixture
def looked_again(compared: Workspace) -> Workspace:
    """Lea chose the first of two pairs on which a checkpoint doubts her; asked again, she overturned one."""
    with writing(compared.engine) as session:
        asked = send_back(session, {1: -2.5, 2: -0.5, 3: 1.0})
        for look, verdict in zip(asked, ("a", "b"), strict=True):  # "a" of a repeat is "b" of its original
            give(session, look, verdict)
    return compared


def test_second_looks_before_there_are_any(compared: Workspace, open_app: OpenApp) -> None:
    page = second_looks(open_app("team"))
    assert "No second looks yet" in page and "`second_looks` in [queue]" in page


def test_what_second_looks_came_to(looked_again: Workspace, open_app: OpenApp) -> None:
    app = open_app("team", name="Rea")
    page = second_looks(app)
    assert "2 comparisons went back into the queue: those that a checkpoint found most unlikely" in page
    assert "2 were answered: 1 confirmed, 1 overturned." in page
    shown = {each.label: each.value for each in app.metric}
    assert shown == {"Overturned": "50%", "By the same person": "50%", "Repeats at random": "–"}
    assert "is told once there are repeats at random" in page
    row = "<td>Question 1?</td><td>First answer to 1.</td><td>Second answer to 1.</td><td>the same person</td>"
    assert f"{row}<td>-2.50</td><td>overturned</td>" in page
    assert page.index("-2.50") < page.index("<td>-0.50</td><td>confirmed</td>")
    inbox(app)
    app.segmented_control(key="why").set_value("overturned").run()
    page = words(app)
    assert "and a second look overturned it." in page
    assert "Question 1?" in page and ", asked again</td>" in page


def test_a_second_look_is_a_pair_like_any_other_on_the_label_page(compared: Workspace, open_app: OpenApp) -> None:
    """What the page says of one is word for word what it says of a first look at the same texts on those sides."""
    with writing(compared.engine) as session:
        (look,) = send_back(session, {1: -2.5})
        look_id, seed = look.id, look.side_seed
    again = open_app("label", name="Lea")
    drawn = r'data-pair="\w+"|"(token|pair)": "[\w-]+"'  # anew in each session
    page = re.sub(drawn, "", words(again))
    with writing(compared.engine) as session:  # the same pair, as if it were asked of Lea for the first time
        look = session.get_one(Pair, look_id)
        look.purpose, look.repeats, look.asked_of, look.side_seed = Purpose.TRAIN, None, None, seed
    assert re.sub(drawn, "", words(open_app("label", name="Lea"))) == page
    assert "First answer to 1." in page and "Question 1?" in page
