"""The ranking screen without a browser, rankings on the Data page, and importing them by command."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sqlmodel import select

import ui.verdicts
from dpo_core.workspace import Workspace
from store.annotators import get_annotator, get_or_add_annotator
from store.database import reading, writing
from store.errors import StoreError
from store.ranking_tables import Ranking
from store.rankings import record_ranking
from store.slates import shown_slate
from tests.browser import seeding
from tests.ui.conftest import OpenApp, Pairloop, button, labels, said, words
from ui.rankings_said import _tiers, ranking_words


@pytest.fixture
def slates(workspace: Workspace) -> Workspace:
    """The workspace with a round of three slates of four; four comparisons are asked for."""
    seeding.open_ranking_round(workspace, seeding.plain_slates(3))
    return workspace


def rankings(workspace: Workspace) -> list[Ranking]:
    with reading(workspace.engine) as session:
        return list(session.exec(select(Ranking)))


def test_the_cards_are_shown_with_their_letters_and_nothing_of_pairs(slates: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    page = words(app)
    assert "Question 1?" in page and all(f"Text {each} for 1." in page for each in range(1, 5))
    places = [page.index(f'aria-label="Completion {letter}"') for letter in "ABCD"]
    assert places == sorted(places)
    assert labels(app) == ["All bad", "Skip", "Undo", "Look back"]
    assert {each.label: each.proto.shortcut for each in app.button} == {
        "All bad": "b",
        "Skip": "s",
        "Undo": "u",
        "Look back": "p",
    }
    assert "It counts as 6 comparisons for the round, and once for your day." in page
    assert "The last one placed ties with the one before it" in page


def test_the_order_on_screen_is_the_annotators_own_and_stays(slates: Workspace, open_app: OpenApp) -> None:
    def order(name: str) -> list[int]:
        page = words(open_app(name=name))
        [question] = [number for number in range(1, 4) if f"Question {number}?" in page]
        return sorted(range(1, 5), key=lambda each: page.index(f"Text {each} for {question}."))

    assert order("Lea") == order("Lea")
    assert sorted(order("Max")) == [1, 2, 3, 4]


def test_all_bad_is_written_for_all_and_can_be_taken_back(slates: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    button(app, "All bad").click().run()
    assert [each.verdict for each in said(slates)] == ["both_bad"] * 6
    [ranking] = rankings(slates)
    assert ranking.outcome == "all_bad" and ranking.seconds is not None
    page = words(app)
    assert "Question 2?" in page and "6 of 4" in page
    button(app, "Undo").click().run()
    assert [each.superseded_at is None for each in said(slates)] == [False] * 6
    assert "Question 1?" in words(app) and "0 of 4" in words(app)


def test_a_skip_asks_why_and_skips_all(slates: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    button(app, "Skip").click().run()
    assert "Why skip all of these?" in words(app)
    button(app, "Something is broken").click().run()
    assert [(each.verdict, each.tags) for each in said(slates)] == [("skip", ["Something is broken"])] * 6
    assert rankings(slates)[0].tags == ["Something is broken"]
    assert "Question 2?" in words(app)


def test_looking_back_says_what_was_said(slates: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    button(app, "All bad").click().run()
    button(app, "Look back").click().run()
    assert "You said: **All bad**" in words(app)
    button(app, "Back to the queue").click().run()
    assert "Question 2?" in words(app)


def test_too_soon_is_not_taken(slates: Workspace, open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_app()
    monkeypatch.setattr(ui.verdicts, "DWELL_SECONDS", 1000.0)
    button(app, "All bad").click().run()
    assert said(slates) == [] and "Question 1?" in words(app)


def test_the_day_counts_a_ranking_once(slates: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    for _ in range(3):
        button(app, "All bad").click().run()
    assert "You made 3 rankings today" in words(app)


def test_lengths_are_shown_only_where_they_are_wanted(slates: Workspace, open_app: OpenApp) -> None:
    from dpo_core.editing_settings import change_section

    assert "4 words" not in words(open_app())
    change_section(slates, "label", {"lengths": True})
    assert words(open_app()).count("4 words") == 4


@pytest.mark.parametrize("sent", [None, "abcd", [1, 2], [["0"]], [[True]], [[0.5]], {"0": 1}])
def test_what_a_browser_sends_is_looked_at(sent: Any) -> None:
    with pytest.raises(StoreError, match="no ranking"):
        _tiers(sent)


def test_rankings_in_words() -> None:
    ranking = Ranking(slate_id=1, annotator_id=1, outcome="ranked", tiers=[[2], [0, 3], [1]], shown=[3, 2, 1, 0])
    assert ranking_words(ranking) == "B, then A = D, then C"


def rank_first(workspace: Workspace) -> None:
    with writing(workspace.engine) as session:
        person = get_or_add_annotator(session=session, name="Lea").id
        record_ranking(session=session, slate_id=1, annotator_id=person, tiers=[[0], [1, 2], [3]], seconds=31.5)


def test_the_data_page_shows_the_ranking_a_comparison_came_of(slates: Workspace, open_app: OpenApp) -> None:
    rank_first(slates)
    app = open_app()
    app.query_params["comparison"] = "2"
    app.switch_page("pages/data.py").run()
    page = words(app)
    assert not app.exception
    assert "ranking 1 of 4, in 31.5 seconds" in page
    assert "The ranking it comes of" in page
    # Lea's screen, in the order of the ranking: the place is one more than how many are better, as on the cards.
    order = shown_order_of(slates)
    cells = [(1, order[0]), (2, min(order[1:3])), (2, max(order[1:3])), (4, order[3])]
    rows = re.findall(r"<tr><td>(\d)</td><td>[ab]?</td><td>Text (\d) for 1\.</td></tr>", page)
    assert [(int(place), int(text)) for place, text in rows] == cells


def shown_order_of(workspace: Workspace) -> list[int]:
    """Which text stood at each position of Lea's screen for the first slate."""
    with reading(workspace.engine) as session:
        person = get_annotator(session=session, name="Lea").id
        texts = shown_slate(session=session, slate_id=1, annotator_id=person).texts
    return [int(text.split()[1]) for text in texts]


def test_importing_rankings_by_command(workspace: Workspace, pairloop: Pairloop) -> None:
    row = {"prompt": "Tea?", "completions": ["Yes", "No", "Maybe"], "ranks": [1, 2, 2]}
    (workspace.folder / "r.jsonl").write_text(json.dumps(row) + "\n")
    code, out, _ = pairloop("import", "r.jsonl")
    assert code == 0 and "1 ranking, which come to 3 comparisons" in " ".join(out.split())
    (workspace.folder / "s.jsonl").write_text(json.dumps(row | {"ranks": [1]}) + "\n")
    code, _, err = pairloop("import", "s.jsonl")
    assert code == 2 and "s.jsonl, line 1: expected 3 numbers in `ranks`" in " ".join(err.split())


def test_the_queue_says_that_a_ranking_stands_as_one(slates: Workspace, pairloop: Pairloop) -> None:
    code, out, _ = pairloop("queue")
    told = " ".join(out.split())
    assert code == 0 and "18, 3 of them open (one for each ranking)" in told and "Comparisons wanted 18" in told
