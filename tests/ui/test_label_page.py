"""The Label page: what it shows, what its buttons write, and what it says when there is nothing to compare."""

from __future__ import annotations

from typing import Any

import pytest

import ui.verdicts
from dpo_core.editing_settings import change_section
from dpo_core.loop import start_round
from dpo_core.workspace import Workspace
from store.annotators import get_annotator, get_or_add_annotator, list_annotators, retract_annotator
from store.comparisons import Choice, record_comparison
from store.database import reading, writing
from store.models import Pair
from store.pairs import get_pair, shown_pair
from store.preferences import poll_comparisons
from store.runs import fail_run, list_runs
from store.snapshot_filter import SnapshotFilter
from tests.browser import seeding
from tests.ui.conftest import OpenApp, button, labels, said, words

SHORTCUTS = {
    "Left much": "1",
    "Left clearly": "2",
    "Left slightly": "3",
    "Tie": "4",
    "Right slightly": "5",
    "Right clearly": "6",
    "Right much": "7",
    "Both bad": "b",
    "Skip": "s",
    "Undo": "u",
    "Look back": "p",
    "Differences": "d",
}


def keyed(widgets: Any, name: str) -> Any:
    """The widget whose key begins so; the rest of it is a pair's name within the session."""
    [found] = [each for each in widgets if (each.key or "").rpartition("-")[0] == name]
    return found


@pytest.fixture
def pairs(workspace: Workspace) -> Workspace:
    """The workspace with a round of six pairs; four comparisons are asked for."""
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    return workspace


def test_a_newcomer_is_comparing_at_once(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    page = words(app)
    assert "Question 1?" in page
    assert "First answer to 1." in page
    assert "Second answer to 1." in page
    assert "0 of 4" in page
    with reading(pairs.engine) as session:
        assert [annotator.name for annotator in list_annotators(session=session)] == ["me"]


def test_every_verdict_has_its_key_in_sight(pairs: Workspace, open_app: OpenApp) -> None:
    assert {each.label: each.proto.shortcut for each in open_app().button} == SHORTCUTS


@pytest.mark.parametrize(
    ("label", "verdict"),
    [
        ("Left clearly", "left"),
        ("Right much", "right"),
        ("Tie", "tie"),
        ("Both bad", "both_bad"),
        ("Skip", "skip"),
    ],
)
def test_a_verdict_is_written_and_the_next_pair_shown(
    pairs: Workspace, open_app: OpenApp, label: str, verdict: str
) -> None:
    app = open_app()
    button(app, label).click().run()
    if verdict == "skip":
        button(app, "Just skip").click().run()
    (written,) = said(pairs)
    with reading(pairs.engine) as session:
        pair, _ = get_pair(session=session, pair_id=written.pair_id)
        shown = shown_pair(session=session, pair_id=written.pair_id, annotator_id=written.annotator_id)
    other = "b" if shown.left_side == "a" else "a"
    assert written.verdict == {"left": shown.left_side, "right": other}.get(verdict, verdict)
    assert pair.position == 0
    assert written.seconds is not None
    assert "Question 2?" in words(app)
    assert ("1 of 4" in words(app)) == (verdict != "skip")


def test_the_side_on_screen_is_the_side_that_is_written(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    page = words(app)
    left_is_first = page.index("First answer") < page.index("Second answer")
    assert page.index('aria-label="Left"') < page.index('aria-label="Right"')
    button(app, "Left clearly").click().run()
    assert said(pairs)[0].verdict == ("a" if left_is_first else "b")


def test_the_same_verdict_twice_is_written_once(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    pressed = button(app, "Left clearly")
    pressed.click().run()
    pressed.click().run()  # the button of a pair that is gone: a second press that was on its way
    assert len(said(pairs)) == 1


def test_a_verdict_too_soon_is_not_taken(pairs: Workspace, open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    app = open_app()
    monkeypatch.setattr(ui.verdicts, "DWELL_SECONDS", 1000.0)
    button(app, "Tie").click().run()
    assert said(pairs) == []
    assert "Question 1?" in words(app)


def test_undo_brings_the_pair_back(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    button(app, "Tie").click().run()
    button(app, "Undo").click().run()
    assert [each.superseded_at is None for each in said(pairs)] == [False]
    assert "Question 1?" in words(app)
    button(app, "Both bad").click().run()
    assert [each.verdict for each in said(pairs) if each.superseded_at is None] == ["both_bad"]


def test_undo_with_nothing_to_undo_cannot_be_pressed(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    assert button(app, "Undo").disabled
    button(app, "Tie").click().run()
    assert not button(app, "Undo").disabled


def test_the_name_in_the_address_is_who_compares(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app(name="Lea")
    button(app, "Tie").click().run()
    with reading(pairs.engine) as session:
        assert said(pairs)[0].annotator_id == get_annotator(session=session, name="Lea").id
    assert app.query_params["as"] in ("Lea", ["Lea"])
    assert "1 by Lea" in words(app)


def test_a_new_name_is_kept_in_the_address_and_on_other_pages(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    app.text_input(key="name_input").input("  Ada   Lovelace ").run()
    assert app.query_params["as"] in ("Ada Lovelace", ["Ada Lovelace"])
    app.switch_page("pages/loop.py").run()
    app.switch_page("pages/label.py").run()
    assert "0 by Ada Lovelace" in words(app)


def test_two_people_are_shown_different_pairs(pairs: Workspace, open_app: OpenApp) -> None:
    assert "Question 1?" in words(open_app(name="Lea"))
    assert "Question 2?" in words(open_app(name="Max"))


def test_a_retracted_annotator_is_told(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app(name="Lea")
    with writing(pairs.engine) as session:
        retract_annotator(session=session, name="Lea")
    button(app, "Tie").click().run()
    assert said(pairs) == []
    assert "not active" in words(app)
    assert "You are not asked any more" in words(app)
    assert "Tie" not in labels(app) and "Question" not in words(app)


def test_nothing_tells_which_checkpoint_wrote_what(pairs: Workspace, open_app: OpenApp) -> None:
    page = words(open_app()).lower()
    for given_away in ("base", "checkpoint", "round-", "somewhere/tiny"):
        assert given_away not in page


def test_a_conversation_shows_who_said_what(workspace: Workspace, open_app: OpenApp) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Really?"},
    ]
    seeding.open_round(workspace, [(turns, "No.", "Indeed.")])
    page = words(open_app())
    assert [page.index(said) for said in ("Be brief.", "Hello?", "Yes.", "Really?")] == sorted(
        page.index(said) for said in ("Be brief.", "Hello?", "Yes.", "Really?")
    )
    for role in ("system", "user", "assistant"):
        assert f'<span class="pl-role">{role}</span>' in page


def test_without_prompts_it_leads_to_the_import(workspace: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    assert "No prompts yet" in words(app)
    assert labels(app) == ["Import prompts"]


def test_with_prompts_it_starts_the_round(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.add_prompts(workspace, seeding.plain_exchanges(6))
    app = open_app()
    button(app, "Start round 1").click().run()
    with reading(workspace.engine) as session:
        assert [run.kind for run in list_runs(session=session)] == ["sample"]
    assert "Round 1 is being written" in words(app)
    assert "No worker is running" in words(app)


def test_it_waits_for_the_first_pair(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.add_prompts(workspace, seeding.plain_exchanges(2))
    start_round(workspace, by="me")
    seeding.worker_is_there(workspace)
    app = open_app()
    assert "appears here by itself" in words(app)
    assert "No worker" not in words(app)
    assert labels(app) == []


def test_past_the_target_it_goes_on_and_says_so(pairs: Workspace, open_app: OpenApp) -> None:
    seeding.compare(pairs, "me", [Choice.LEFT] * 4)
    app = open_app()
    assert "has what it asked for" in words(app)
    assert "Question 5?" in words(app)
    assert "Left clearly" in labels(app)


def test_when_all_is_compared_it_leads_to_training(pairs: Workspace, open_app: OpenApp) -> None:
    seeding.compare(pairs, "me", [Choice.LEFT] * 6)
    app = open_app()
    assert "Round 1 is complete" in words(app)
    assert labels(app) == ["Train", "Undo"]


def test_when_others_hold_the_rest_it_waits(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(1))
    open_app(name="Lea")
    assert "other people's screens" in words(open_app(name="Max"))


def test_when_too_few_pairs_are_left_it_leads_to_the_loop(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    seeding.compare(workspace, "me", [Choice.LEFT] * 2)
    app = open_app()
    assert "still wants 2 comparisons" in words(app)
    assert labels(app) == ["See the Loop page", "Undo"]


def test_spare_pairs_can_be_compared_while_the_round_trains(pairs: Workspace, open_app: OpenApp) -> None:
    seeding.compare(pairs, "me", [Choice.LEFT] * 4)
    seeding.train(pairs, steps=1, of=4, finish=False)
    app = open_app()
    assert "training already" in words(app)
    button(app, "Tie").click().run()
    assert len(said(pairs)) == 5


def test_a_training_that_failed_is_not_said_to_go_on(pairs: Workspace, open_app: OpenApp) -> None:
    seeding.compare(pairs, "me", [Choice.LEFT] * 4)
    run = seeding.train(pairs, steps=1, of=4, finish=False)
    with writing(pairs.engine) as session:
        fail_run(session=session, run_id=run.id or 0, attempt=1, error="The disk is full.")
    app = open_app()
    assert "**Round 1 has stopped**" in words(app) and "training already" not in words(app)
    [link] = app.get("page_link")
    assert (link.proto.label, link.proto.page) == ("See why on the Loop page", "loop")
    assert "Left clearly" in labels(app)


def test_once_the_round_is_trained_it_leads_to_the_decision(pairs: Workspace, open_app: OpenApp) -> None:
    seeding.compare(pairs, "me", [Choice.LEFT] * 4)
    seeding.train(pairs, steps=4, of=4)
    app = open_app()
    assert "**Round 1 is trained.** Next: decide." in words(app)
    assert "training already" not in words(app)
    [link] = app.get("page_link")
    assert (link.proto.label, link.proto.page) == ("Decide on the Loop page", "loop")
    assert "Left clearly" in labels(app)


@pytest.mark.parametrize(("label", "side", "strength"), [("Left slightly", "left", 1), ("Right much", "right", 3)])
def test_a_strength_is_written_with_the_verdict(
    pairs: Workspace, open_app: OpenApp, label: str, side: str, strength: int
) -> None:
    app = open_app()
    button(app, label).click().run()
    (written,) = said(pairs)
    assert (written.verdict == written.left_side, written.strength) == (side == "left", strength)


def test_without_strengths_the_arrows_alone_decide(workspace: Workspace, open_app: OpenApp) -> None:
    change_section(workspace, "label", {"strengths": False, "skip_reasons": []})
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    app = open_app()
    shortcuts = {each.label: each.proto.shortcut for each in app.button}
    assert (shortcuts["Left is better"], shortcuts["Right is better"], shortcuts["Tie"]) == ("left", "right", "t")
    button(app, "Left is better").click().run()
    button(app, "Skip").click().run()
    written = [(each.verdict == each.left_side, each.strength) for each in said(workspace)]
    assert written == [(True, None), (False, None)]


def test_a_skip_can_say_why_and_can_be_thought_better_of(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    button(app, "Skip").click().run()
    assert "Why skip this pair?" in words(app)
    button(app, "Back").click().run()
    assert said(pairs) == [] and "Question 1?" in words(app)
    button(app, "Skip").click().run()
    button(app, "Cannot tell").click().run()
    assert [(each.verdict, each.tags) for each in said(pairs)] == [("skip", ["Cannot tell"])]
    assert "Question 2?" in words(app) and "Why skip" not in words(app)


def test_looking_back_shows_the_days_work_and_changes_a_verdict(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    button(app, "Left much").click().run()
    button(app, "Tie").click().run()
    button(app, "Look back").click().run()
    assert "2 of 2 today" in words(app) and "You said: **Tie**" in words(app) and "Question 2?" in words(app)
    button(app, "Earlier").click().run()
    assert "1 of 2 today" in words(app) and "You said: **Left much**" in words(app)
    assert button(app, "Earlier").disabled
    button(app, "Right slightly").click().run()
    assert "Question 3?" in words(app), "back in the queue"
    assert [(each.strength, each.superseded_at is None) for each in said(pairs)] == [
        (3, False),
        (None, True),
        (1, True),
    ]


def test_looking_back_takes_nothing_back(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    button(app, "Tie").click().run()
    button(app, "Look back").click().run()
    button(app, "Back to the queue").click().run()
    assert "Question 2?" in words(app)
    assert [each.superseded_at is None for each in said(pairs)] == [True]


@pytest.fixture
def asking(workspace: Workspace) -> Workspace:
    """A workspace that asks for everything beside the verdict."""
    everything = {"criteria": ["helpful"], "tags": ["clearer"], "reason": True, "flags": ["unsafe"], "rewrite": True}
    change_section(workspace, "label", everything)
    seeding.open_round(workspace, seeding.plain_exchanges(3))
    return workspace


def test_what_is_said_beside_the_verdict_is_kept_with_it(asking: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    keyed(app.segmented_control, "criterion-helpful").set_value("right").run()
    keyed(app.pills, "tags").set_value(["clearer"]).run()
    keyed(app.pills, "flags-left").set_value(["unsafe"]).run()
    keyed(app.text_input, "reason").input("It answers.").run()
    button(app, "Right clearly").click().run()
    (written,) = said(asking)
    other = "b" if written.left_side == "a" else "a"
    assert (written.criteria, written.tags, written.reason) == ({"helpful": other}, ["clearer"], "It answers.")
    assert written.flags == {written.left_side: ["unsafe"]}


def test_what_was_said_comes_back_with_an_undo(asking: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    keyed(app.pills, "tags").set_value(["clearer"]).run()
    button(app, "Tie").click().run()
    button(app, "Undo").click().run()
    assert keyed(app.pills, "tags").value == ["clearer"]


def test_a_bettered_text_is_a_preference_over_the_original(asking: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    keyed(app.toggle, "rewriting-left").set_value(True).run()
    original = keyed(app.text_area, "rewrite-left").value
    keyed(app.text_area, "rewrite-left").input("My own words.").run()
    button(app, "Right much").click().run()
    with reading(asking.engine) as session:
        kept = poll_comparisons(session=session, filter=SnapshotFilter()).preferences
    assert ("My own words.", original) in [(row.chosen, row.rejected) for row in kept]
    assert len(kept) == 2 and "1 of 4" in words(app)
    button(app, "Undo").click().run()
    with reading(asking.engine) as session:
        assert poll_comparisons(session=session, filter=SnapshotFilter()).preferences == []


def test_differences_are_marked_on_demand(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    assert "<mark>" not in words(app)
    button(app, "Differences").click().run()
    assert "<mark>First</mark>" in words(app) and "<mark>Second</mark>" in words(app)
    button(app, "Hide differences").click().run()
    assert "<mark>" not in words(app)


def test_lengths_are_shown_only_where_allowed(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    assert "4 words" not in words(open_app())
    change_section(workspace, "label", {"lengths": True})
    assert "4 words" in words(open_app())


def test_a_goal_for_the_day_is_in_sight(workspace: Workspace, open_app: OpenApp) -> None:
    change_section(workspace, "label", {"daily_goal": 2})
    seeding.open_round(workspace, seeding.plain_exchanges(4))
    app = open_app()
    assert "0 of 2 today" in words(app)
    button(app, "Tie").click().run()
    button(app, "Tie").click().run()
    assert "2 today: the day's goal is reached" in words(app)


def test_the_end_of_the_queue_says_what_one_did(pairs: Workspace, open_app: OpenApp) -> None:
    seeding.compare(pairs, "me", [Choice.LEFT] * 6)
    assert "You made 6 comparisons today, as a rule in 6 seconds. Thank you." in words(open_app())


def test_looking_back_keeps_a_bettered_text_and_undo_brings_it_back(asking: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    keyed(app.toggle, "rewriting-left").set_value(True).run()
    keyed(app.text_area, "rewrite-left").input("My own words.").run()
    button(app, "Left slightly").click().run()
    button(app, "Look back").click().run()
    button(app, "Left much").click().run()
    with reading(asking.engine) as session:
        kept = poll_comparisons(session=session, filter=SnapshotFilter()).preferences
    assert "My own words." in [row.chosen for row in kept]
    button(app, "Undo").click().run()
    assert keyed(app.text_area, "rewrite-left").value == "My own words."


def test_a_bettered_text_ends_with_the_verdict_that_a_skip_replaces(asking: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    keyed(app.toggle, "rewriting-left").set_value(True).run()
    keyed(app.text_area, "rewrite-left").input("My own words.").run()
    for label in ("Left slightly", "Look back", "Skip", "Just skip"):
        button(app, label).click().run()
    with reading(asking.engine) as session:
        assert poll_comparisons(session=session, filter=SnapshotFilter()).preferences == []


def test_why_a_pair_was_skipped_does_not_become_a_reason_for_a_verdict(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    for label in ("Skip", "Cannot tell", "Undo", "Left clearly"):
        button(app, label).click().run()
    assert [(each.verdict == "skip", each.tags) for each in said(pairs)] == [(True, ["Cannot tell"]), (False, [])]


def test_looking_back_at_a_gold_pair_is_as_at_any_other(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    with writing(workspace.engine) as session:
        pair = session.get_one(Pair, 1)
        pair.purpose, pair.gold_verdict, pair.round_id, pair.wanted, pair.open_slots = "gold", "a", None, 0, 0
        me = get_or_add_annotator(session=session, name="me")
        assert me.id is not None
        record_comparison(session=session, pair_id=1, annotator_id=me.id, choice=Choice.TIE)
    app = open_app()
    button(app, "Look back").click().run()
    assert not app.exception and "You said: **Tie**" in words(app) and "Question 1?" in words(app)
    button(app, "Left much").click().run()
    assert [each.superseded_at is None for each in said(workspace)] == [False, True]


def test_what_was_skipped_and_then_answered_by_somebody_else_takes_no_second_answer(
    workspace: Workspace, open_app: OpenApp
) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    app = open_app(name="Lea")
    button(app, "Skip").click().run()
    button(app, "Just skip").click().run()
    seeding.compare(workspace, "Max", [Choice.TIE])
    button(app, "Look back").click().run()
    button(app, "Left much").click().run()
    assert [each.verdict for each in said(workspace)] == ["skip", "tie"] and "went to somebody else" in words(app)


def test_another_name_does_not_take_over_what_is_looked_back_at(pairs: Workspace, open_app: OpenApp) -> None:
    app = open_app()
    button(app, "Tie").click().run()
    button(app, "Look back").click().run()
    app.text_input(key="name_input").input("Bob").run()
    assert "Looking back" not in words(app) and "Question 1?" not in words(app)
