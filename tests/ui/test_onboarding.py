"""What somebody new sees before the first pair, and what tells nobody which pairs are gold."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from sqlmodel import select

from dpo_core.config import FILE_NAME, QueueSettings
from dpo_core.guidelines import GUIDELINES_FILE, write_guidelines
from dpo_core.queueing import pause, resume
from dpo_core.rendered_settings import render_settings
from dpo_core.workspace import Workspace, write_atomically
from store.comparisons import Choice
from store.database import reading
from store.importing import import_gold
from store.models import Comparison, Pair
from tests.browser import seeding
from tests.ui.conftest import OpenApp, button, labels, said, words
from ui.verdicts import GRADED

VERDICTS = [*(answer.label for answer in GRADED), "Both bad"]


def ask_for(workspace: Workspace, **queue: float) -> Workspace:
    """The workspace with other rules in its pairloop.toml."""
    settings = workspace.settings.model_copy(update={"queue": QueueSettings.model_validate(queue)})
    write_atomically(workspace.folder / FILE_NAME, render_settings(settings))
    return Workspace(workspace.folder, settings)


def write_text(workspace: Workspace, text: str) -> None:
    path = workspace.folder / GUIDELINES_FILE
    path.write_text(text)
    os.utime(path, ns=(len(text), len(text)))  # another moment, however quick the test


def add_gold(workspace: Workspace, count: int) -> None:
    path = workspace.folder / "gold.jsonl"
    rows = [
        {"prompt": f"Gold {n}?", "chosen": f"Right {n}", "rejected": f"Wrong {n}", "note": "So."} for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_gold(engine=workspace.engine, path=path, held_out_share=0)


@pytest.fixture
def pairs(workspace: Workspace) -> Workspace:
    """The workspace with a round of six pairs."""
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    return workspace


def test_the_guidelines_come_before_the_first_pair_and_once(pairs: Workspace, open_app: OpenApp) -> None:
    write_guidelines(pairs.folder)
    app = open_app()
    assert "Before you begin" in words(app) and "How to compare two answers" in words(app)
    assert labels(app) == ["I have read this"]
    button(app, "I have read this").click().run()
    assert "Question 1?" in words(app)
    assert "Question 1?" in words(open_app())  # another day
    assert labels(open_app(name="Max")) == ["I have read this"]


def test_guidelines_that_changed_are_shown_again(pairs: Workspace, open_app: OpenApp) -> None:
    write_text(pairs, "Be brief.")
    app = open_app()
    button(app, "I have read this").click().run()
    button(app, "Tie").click().run()
    write_text(pairs, "Be brief and kind.")
    app.run()
    assert "The guidelines have changed" in words(app) and "brief and kind" in words(app)
    button(app, "I have read this").click().run()
    button(app, "Tie").click().run()
    assert [each.guidelines_id for each in said(pairs)] == [1, 2]


def test_the_guidelines_are_within_reach_at_any_time(pairs: Workspace, open_app: OpenApp) -> None:
    write_text(pairs, "Be **brief**.")
    app = open_app()
    button(app, "I have read this").click().run()
    assert "Be **brief**." in words(app) and "Question 1?" in words(app)


def test_without_guidelines_nobody_is_stopped(pairs: Workspace, open_app: OpenApp) -> None:
    write_text(pairs, " \n")
    assert "Question 1?" in words(open_app())


def test_newcomers_practise_and_are_told_how_it_went(pairs: Workspace, open_app: OpenApp) -> None:
    workspace = ask_for(pairs, calibration=2)
    add_gold(workspace, 3)
    app = open_app()
    for number, next_step in ((1, "Next"), (2, "How it went")):
        assert f"Practice {number} of 2" in words(app)
        assert labels(app) == VERDICTS
        left_is_right = words(app).index("Right ") < words(app).index("Wrong ")
        right = left_is_right == (number == 1)  # the first one right, the second wrong
        button(app, "Left clearly" if right == left_is_right else "Right clearly").click().run()
        told = "Left is better" if left_is_right else "Right is better"
        assert f"**{told}.**" in words(app) and "<p>So.</p>" in words(app)
        assert ("That is what you said" in words(app)) == ("You saw it differently" not in words(app))
        button(app, next_step).click().run()
    assert "of 2 pairs as expected" in words(app)
    button(app, "Start comparing").click().run()
    assert "Question 1?" in words(app) and "0 of 4" in words(app)
    assert "Question 1?" in words(open_app())  # another day


def test_practice_says_whether_it_was_right(pairs: Workspace, open_app: OpenApp) -> None:
    workspace = ask_for(pairs, calibration=1)
    add_gold(workspace, 1)
    app = open_app()
    left_is_right = words(app).index("Right 0") < words(app).index("Wrong 0")
    button(app, "Left clearly" if left_is_right else "Right clearly").click().run()
    assert "That is what you said" in words(app)
    button(app, "How it went").click().run()
    assert "1 of 1 pair as expected" in words(app)


def test_the_page_does_not_tell_which_pairs_are_gold(pairs: Workspace, open_app: OpenApp) -> None:
    workspace = ask_for(pairs, gold=0.5)
    add_gold(workspace, 6)
    app = open_app()
    shapes, counts = set(), []
    for _ in range(6):
        shapes.add(tuple(labels(app)))
        button(app, "Tie").click().run()
        counts.append(words(app).partition(" of 8</b>")[0].rpartition("<b>")[2])
    assert len(shapes) == 1
    assert counts == ["1", "2", "3", "4", "5", "6"]
    with reading(workspace.engine) as session:
        purposes = set(session.exec(select(Pair.purpose).join(Comparison)))
    assert purposes == {"train", "gold"}


def test_a_paused_round_says_so_and_goes_on(pairs: Workspace, open_app: OpenApp) -> None:
    pause(pairs)
    app = open_app()
    assert "Round 1 is paused" in words(app) and "Question" not in words(app)
    resume(pairs)
    app.run()
    assert "Question 1?" in words(app)


def test_the_loop_page_pauses_and_resumes(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app("loop")
    button(app, "Pause").click().run()
    assert "It is paused" in words(app)
    assert "Round 1 is paused" in words(open_app())
    button(app, "Resume").click().run()
    assert "It is paused" not in words(app) and "Pause" in labels(app)


def test_who_is_done_for_today_is_told(pairs: Workspace, open_app: OpenApp) -> None:
    workspace = ask_for(pairs, daily_quota=2)
    seeding.compare(workspace, "me", [Choice.TIE] * 2)
    app = open_app()
    assert "That is all for today" in words(app)
    assert "Question 3?" in words(open_app(name="Max"))
    button(app, "Undo").click().run()
    assert "Question 2?" in words(app)


def test_a_verdict_that_came_too_late_is_said_to_be_lost(pairs: Workspace, open_app: OpenApp) -> None:
    ask_for(pairs, hold_minutes=1e-6)
    late = open_app(name="Lea")
    assert "Question 1?" in words(late) and "Question 1?" in words(open_app(name="Max"))
    seeding.compare(pairs, "Max", [Choice.TIE])
    button(late, "Tie").click().run()
    assert "went to somebody else" in words(late) and "Question 2?" in words(late)
    assert len(said(pairs)) == 1


def test_guidelines_of_ones_own_are_kept(tmp_path: Path) -> None:
    write_guidelines(tmp_path)
    assert "both bad" in (tmp_path / GUIDELINES_FILE).read_text().lower()
    (tmp_path / GUIDELINES_FILE).write_text("Mine.")
    write_guidelines(tmp_path)
    assert (tmp_path / GUIDELINES_FILE).read_text() == "Mine."
