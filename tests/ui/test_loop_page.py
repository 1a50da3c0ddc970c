"""The Loop page: in every state one obvious next step, and what its buttons do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dpo_core.config import FILE_NAME, load_settings
from dpo_core.deciding import go_on
from dpo_core.editing_settings import change_section
from dpo_core.loop import LoopState, Step, cancel, read_loop
from dpo_core.workspace import Workspace
from store.checkpoints import get_checkpoint
from store.comparisons import Choice
from store.database import reading, writing
from store.decisions import list_decisions, serving_checkpoint
from store.importing import import_preferences
from store.models import Checkpoint, Decision, Pair, RunStatus
from store.runs import fail_run, list_runs
from store.wording import counted
from tests.browser import seeding
from tests.store.asking import add_prompt
from tests.ui.conftest import OpenApp, Pairloop, button, labels, primary, step, words
from ui.pages.loop import can_train, read, what_can_be_done
from ui.rounds_table import HEAD

LEFT, RIGHT = Choice.LEFT, Choice.RIGHT


def test_without_prompts_the_next_step_is_to_import_some(workspace: Workspace, open_app: OpenApp) -> None:
    assert primary(open_app("loop")) == ["Import prompts"]


@pytest.mark.parametrize(
    ("step", "done", "imported", "expected"),
    [
        (Step.TRAIN, 4, 0, True),
        (Step.COMPARE, 1, 0, True),
        (Step.COMPARE, 0, 0, False),
        (Step.START_ROUND, 0, 20, True),
        (Step.START_ROUND, 0, 0, False),
        (Step.DECIDE, 4, 0, False),
    ],
)
def test_a_plan_is_drawn_wherever_one_can_train(step: Step, done: int, imported: int, expected: bool) -> None:
    said = {"done": done} if step != Step.START_ROUND else {}
    state = LoopState(step, None, Checkpoint(name="base", path="", kind="full"), said, {}, {}, None, imported)
    assert can_train(state) == expected


def test_a_round_is_started(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.add_prompts(workspace, seeding.plain_exchanges(3))
    app = open_app("loop", name="Lea")
    assert primary(app) == ["Start round 1"]
    button(app, "Start round 1").click().run()
    assert step(workspace) == Step.WAIT_FOR_PAIRS
    with reading(workspace.engine) as session:
        assert [run.requested_by for run in list_runs(session=session)] == ["Lea"]
    assert "No worker is running" in words(app)
    assert primary(app) == ["Compare"]  # the Label page waits for the first pair by itself


def test_while_comparing_the_next_step_is_to_compare(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(12))
    seeding.compare(workspace, "me", [LEFT, RIGHT])
    app = open_app("loop")
    assert primary(app) == ["Compare"]
    assert "Train early, on 2 comparisons" in labels(app)
    assert "2 of 4 comparisons" in words(app)


def test_more_pairs_can_be_asked_for(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(3))
    seeding.compare(workspace, "me", [LEFT] * 3)
    app = open_app("loop")
    assert primary(app) == ["Write 10 more pairs"]
    button(app, "Write 10 more pairs").click().run()
    with reading(workspace.engine) as session:
        assert [(run.kind, run.status) for run in list_runs(session=session)] == [
            ("sample", "queued"),
            ("sample", "done"),
        ]


def test_training_too_early_is_not_offered_and_says_what_is_missing(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    missing = {}
    for number, choice in enumerate((Choice.TIE, LEFT, RIGHT), start=1):
        seeding.compare(workspace, "me", [choice])
        early = button(open_app("loop"), f"Train early, on {counted(number, 'comparison')}")
        missing[number] = early.help if early.disabled else None
    assert "1 comparison, but no preference to train on" in str(missing[1])
    assert "only 1 preference to train on; 2 are needed, 1 more" in str(missing[2])
    assert missing[3] is None


def test_a_drawing_of_the_page_reads_the_state_once(
    compared: Workspace, open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = open_app("loop")  # the plan, kept for a while, reads it as well
    reads: list[int] = []
    monkeypatch.setattr("dpo_core.loop.read_loop", lambda **given: reads.append(1) or read_loop(**given))
    app.run()
    assert reads == [1]


def test_training_is_started(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("loop")
    assert primary(app) == ["Train"]
    assert "10 comparisons are there; the round asked for 4." in words(app)
    button(app, "Train").click().run()
    assert step(compared) == Step.WAIT_FOR_TRAINING
    assert "Round 1 is training" in words(app)


def test_a_live_run_shows_how_far_it_is(compared: Workspace, open_app: OpenApp) -> None:
    seeding.train(compared, steps=10, of=40, finish=False)
    app = open_app("loop")
    assert [each.proto.text for each in app.get("progress")] == ["Train: 10 of 40 · about 36 s left"]


@pytest.mark.parametrize(
    ("after", "first", "trusted"),
    [
        (0.75, "Promote round-1 and start round 2", "better than a coin toss"),
        (0.96, "Promote round-1 and start round 2", "higher than people usually agree with each other"),
        (0.2, "Keep base and start round 2", "worse than a coin toss"),
    ],
)
def test_the_decision_shows_what_is_known(
    compared: Workspace, open_app: OpenApp, after: float, first: str, trusted: str
) -> None:
    seeding.train(compared, steps=4, of=4, after=after)
    app = open_app("loop")
    assert primary(app) == [first]
    assert [each.value for each in app.metric] == ["50%", f"{after:.0%}", "34"]
    assert trusted in words(app)


def test_the_decision_names_the_trainings_alarms_and_leads_to_them(compared: Workspace, open_app: OpenApp) -> None:
    seeding.train(compared, steps=4, of=4)
    assert open_app("loop").get("page_link") == []
    note, warning = ({"level": level, "text": "Text.", "pairs": [1]} for level in ("note", "warning"))
    told = [note | {"name": "length-bias"}]
    link = alarms_link(compared, open_app, told)
    assert (link.label, link.page, link.icon) == ("1 note: length bias", "runs", ":material/info:")
    told += [warning | {"name": "missing-eos"}, warning | {"name": "diverged"}]
    link = alarms_link(compared, open_app, told)
    assert (link.label, link.icon) == ("2 alarms: missing eos, diverged; 1 note: length bias", ":material/warning:")


def alarms_link(workspace: Workspace, open_app: OpenApp, told: list[dict[str, Any]]) -> Any:
    """How the Loop page leads to these alarms of round-1."""
    with writing(workspace.engine) as session:
        checkpoint = get_checkpoint(session=session, name="round-1")
        checkpoint.metrics = checkpoint.metrics | {"alarms": told}
        session.add(checkpoint)
    [link] = open_app("loop").get("page_link")
    return link.proto


@pytest.mark.parametrize(
    ("label", "serving"), [("Promote round-1 and start round 2", "round-1"), ("Keep base and start round 2", "base")]
)
def test_a_decision_starts_the_next_round(compared: Workspace, open_app: OpenApp, label: str, serving: str) -> None:
    seeding.train(compared, steps=4, of=4)
    app = open_app("loop")
    button(app, label).click().run()
    with reading(compared.engine) as session:
        state = read_loop(session=session)
    assert state.round is not None
    assert (state.round.number, state.checkpoint.name, state.step) == (2, serving, Step.WAIT_FOR_PAIRS)
    assert ("promoted round-1" if serving == "round-1" else "kept base") in words(app)


def test_one_can_decide_and_stop(compared: Workspace, open_app: OpenApp) -> None:
    seeding.train(compared, steps=4, of=4)
    app = open_app("loop")
    button(app, "Promote only").click().run()
    assert step(compared) == Step.START_ROUND
    assert primary(app) == ["Start round 2"]


def failed(workspace: Workspace, why: str = "The disk is full. Free some space.") -> None:
    seeding.train(workspace, steps=2, of=4, finish=False)
    with writing(workspace.engine) as session:
        run = list_runs(session=session)[0]
        assert run.id is not None
        fail_run(session=session, run_id=run.id, attempt=run.attempt, error=why)


def test_a_failed_run_says_why_and_can_be_tried_again(compared: Workspace, open_app: OpenApp) -> None:
    failed(compared)
    app = open_app("loop")
    assert "The disk is full. Free some space." in words(app)
    assert primary(app) == ["Try again"]
    button(app, "Try again").click().run()
    assert step(compared) == Step.WAIT_FOR_TRAINING


def test_writing_that_failed_is_told_beside_the_pairs_that_are_there(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    with writing(workspace.engine) as session:
        (run,) = list_runs(session=session)
        run.status = RunStatus.FAILED
        run.error = "Out of memory."
        session.add(run)
    app = open_app("loop")
    assert "Out of memory." in words(app)
    assert "Try again" in labels(app) and primary(app) == ["Compare"]


@pytest.mark.parametrize("page", ["loop", "runs"])
def test_an_error_is_shown_as_the_text_it_is(compared: Workspace, open_app: OpenApp, page: str) -> None:
    failed(compared, 'There is no "**[mine](https://example.org)**": set `base`.')
    (told,) = [each.value for each in open_app(page).error]
    assert told == 'There is no "\\*\\*\\[mine\\](https://example.org)\\*\\*": set `base`.'


def test_a_failed_training_can_be_given_up(compared: Workspace, open_app: OpenApp) -> None:
    failed(compared)
    app = open_app("loop")
    button(app, "Back to comparing").click().run()
    assert step(compared) == Step.TRAIN


def test_what_came_in_since_is_used_if_a_failed_training_is_given_up(compared: Workspace, open_app: OpenApp) -> None:
    failed(compared)
    seeding.compare(compared, "me", [LEFT])
    page = words(open_app("loop"))
    assert "1 more comparison since training began." in page
    assert "If this training is given up, the one begun in its place uses it all." in page


@pytest.mark.parametrize(
    ("won", "lost", "left_open", "first", "told"),
    [
        (0, 0, 8, "Compare", "8 duels, none of them decided yet"),
        (7, 5, 8, "Compare", "won 58% of 12 decided duels"),
        (20, 1, 0, "Promote round-1 and start round 2", "People prefer round-1."),
        (1, 20, 0, "Keep base and start round 2", "People prefer base."),
    ],
)
def test_people_decide_blind(
    gated: Workspace, open_app: OpenApp, won: int, lost: int, left_open: int, first: str, told: str
) -> None:
    with writing(gated.engine) as session:
        session.execute(sa.update(Pair).values(open_slots=0))
    seeding.duel(gated, won=won, lost=lost, left_open=left_open)
    app = open_app("loop")
    assert primary(app) == [first]
    assert told in words(app) and "Better than base in blind duels" in words(app)
    assert ("Promote round-1 and start round 2 all the same" in labels(app)) == (won != 20)


def test_undecided_more_duels_are_the_next_step(gated: Workspace, open_app: OpenApp) -> None:
    with writing(gated.engine) as session:
        session.execute(sa.update(Pair).values(open_slots=0))
    seeding.duel(gated, won=14, lost=8)
    app = open_app("loop")
    assert primary(app) == ["Import prompts"], "all 22 were judged, and count once"
    assert "22 held-out prompts cannot decide it at this rate: import more prompts." in words(app)
    with writing(gated.engine) as session:
        for number in range(200):
            add_prompt(session, f"Held out too {number}?", held_out_share=1)
    app = open_app("loop")
    [more] = primary(app)
    assert more.startswith("Write ") and more.endswith("0 more duels")
    button(app, more).click().run()
    with reading(gated.engine) as session:
        [run] = [run for run in list_runs(session=session) if run.kind == "duel"]
    assert f"Write {len(run.settings['against']['base'])} more duels" == more
    assert primary(app) == ["Watch the run"]


def test_what_is_promoted_against_the_gate_is_said_and_rolled_back(gated: Workspace, open_app: OpenApp) -> None:
    seeding.duel(gated, won=3, lost=3)
    app = open_app("loop")
    button(app, "Promote round-1 and start round 2 all the same").click().run()
    assert "round-1 serves: promoted by me" in words(app) and "against the gate" in words(app)
    button(app, "Let base serve").click().run()
    assert "base serves: rolled back to by me" in words(app)
    assert "Round 2: base is writing pairs" in words(app), "the open round goes on with it"


def test_the_gate_is_what_the_file_asks_when_the_button_is_pressed(compared: Workspace, open_app: OpenApp) -> None:
    seeding.train(compared, steps=4, of=4)
    app = open_app("loop")
    assert primary(app) == ["Promote round-1 and start round 2"], "as drawn before the file was edited"
    change_section(compared, "gate", {"win_rate": "better"})
    seeding.duel(compared, won=0, lost=3)
    button(app, "Promote round-1 and start round 2").click().run()
    assert "round-1 does not show yet what" in words(app) and "Nothing was decided" in words(app)
    button(app, "Promote round-1 and start round 2 all the same").click().run()
    with reading(compared.engine) as session:
        [record] = list_decisions(session=session)
    assert (record.action, record.forced) == ("promote", True)


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        (lambda text: text + "[gate\n", "not valid TOML"),
        (lambda text: text.replace("[gate]", "[gaet]"), "did you mean 'gate'"),
        (lambda text: "", "names another database"),  # an editor has emptied it and not written yet
        (lambda text: text.replace('[store]\nurl = ""', '[store]\nurl = "sqlite:///b.db"'), "names another database"),
    ],
)
def test_a_file_that_cannot_be_used_leaves_the_settings_as_they_were(
    compared: Workspace, open_app: OpenApp, spoilt: Callable[[str], str], told: str
) -> None:
    app = open_app("loop")
    path = compared.folder / FILE_NAME
    good = path.read_text()
    path.write_text(spoilt(good))
    app.run()
    assert not app.exception
    assert told in words(app) and "Until then the settings from before hold." in words(app)
    assert "the round asked for 4" in words(app) and primary(app) == ["Train"]
    path.write_text(good)
    change_section(compared, "automatic", {"on": True})
    app.run()
    assert "the settings from before hold" not in words(app) and app.toggle[0].value, "mended, it holds"


def test_the_button_to_keep_names_what_will_serve(compared: Workspace, open_app: OpenApp) -> None:
    """round-1 wrote round 2, but was rolled back from while round-2 was to be decided about: base is kept."""
    seeding.train(compared, steps=4, of=4)
    seeding.promote(compared)
    seeding.open_round(compared, seeding.plain_exchanges(24)[12:])
    seeding.compare(compared, "me", [LEFT, RIGHT] * 2)
    seeding.train(compared, steps=4, of=4)
    app = open_app("loop")
    before = read(compared)
    assert "Keep round-1 and start round 3" in labels(app)
    assert "base served before: it began with this." in words(app) and "Nothing is deleted." in words(app)
    button(app, "Let base serve").click().run()
    assert what_can_be_done(before) != what_can_be_done(read(compared)), "other pages are drawn anew"
    assert "round-1 served before: promoted by lea on" in words(app)
    button(app, "Keep base and start round 3").click().run()
    with reading(compared.engine) as session:
        assert serving_checkpoint(session=session).name == "base"
    assert "<td>kept base</td>" in words(app) and "kept round-1" not in words(app)


def test_automatic_rounds_say_what_comes_next_and_can_be_switched_off(compared: Workspace, open_app: OpenApp) -> None:
    app = open_app("loop")
    [switch] = app.toggle
    assert (switch.label, switch.value) == ("Automatic rounds", False)
    switch.set_value(True).run()
    assert load_settings(compared.folder / FILE_NAME).automatic.on
    assert "Next: Every comparison is made: training starts." in words(app)
    [switch] = app.toggle
    switch.set_value(False).run()
    assert not load_settings(compared.folder / FILE_NAME).automatic.on
    assert "Next: Every" not in words(app)


def test_what_happened_before_stays_in_sight(compared: Workspace, open_app: OpenApp) -> None:
    seeding.train(compared, steps=4, of=4)
    seeding.promote(compared)
    seeding.open_round(compared, seeding.plain_exchanges(20)[12:])
    page = words(open_app("loop"))
    assert HEAD[:4] == ("Round", "Trained on", "Held-out accuracy", "Decision")  # in sight on a phone, too
    assert "<tr><td>1</td><td>10 pairs</td><td>50% → 67% (n=34)</td><td>promoted round-1</td><td>–</td>" in page
    for told in ("base", "10 of 4", "50% → 67% (n=34)", "promoted round-1", "round-1"):
        assert told in page


def test_two_people_press_the_same_button(compared: Workspace, open_app: OpenApp) -> None:
    first, second = open_app("loop"), open_app("loop")
    button(first, "Train").click().run()
    button(second, "Train").click().run()
    with reading(compared.engine) as session:
        assert [run.kind for run in list_runs(session=session)] == ["train", "sample"]
    assert "nothing to train now" in words(second)


def test_a_round_on_imports_is_trained_again_after_its_training_was_given_up(
    workspace: Workspace, open_app: OpenApp, tmp_path: Path
) -> None:
    path = tmp_path / "given.jsonl"
    rows = [{"prompt": f"Question {n}?", "chosen": f"Yes, {n}.", "rejected": f"No, {n}."} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_preferences(engine=workspace.engine, path=path, held_out_share=0.2)
    app = open_app("loop")
    button(app, "Train on 20 imported comparisons").click().run()
    assert "base learns from the imported comparisons." in words(app)
    cancel(workspace, run_id=1, by="test")
    app = open_app("loop")
    button(app, "Give this training up").click().run()
    assert (primary(app), labels(app)[-2:]) == (["Train"], ["Train", "Pause"])  # and nothing to compare or to write
    assert "20 imported comparisons are there." in words(app)
    assert "<td>20 imported</td>" in words(app)
    assert "It asks for nothing: 20 imported comparisons" in words(open_app())
    button(app, "Train").click().run()
    assert step(workspace) == Step.WAIT_FOR_TRAINING


def each_round_alone(workspace: Workspace, *, back: bool = False) -> None:
    change_section(workspace, "training", {"comparisons": "all" if back else "round"})


def test_what_comes_in_after_the_cut_is_counted_and_its_fate_told(compared: Workspace, open_app: OpenApp) -> None:
    seeding.train(compared, steps=1, of=4, finish=False)
    app = open_app("loop")
    assert "Comparing can go on. What is compared now counts from the next round on." in words(app)
    assert primary(app) == ["Compare"]
    seeding.compare(compared, "me", [LEFT])
    assert "1 more comparison since training began. What is compared now counts" in words(open_app("loop"))


def test_nobody_is_pressed_to_compare_what_a_training_hardly_uses(compared: Workspace, open_app: OpenApp) -> None:
    each_round_alone(compared)
    seeding.train(compared, steps=1, of=4, finish=False)
    seeding.compare(compared, "me", [LEFT, RIGHT])
    app = open_app("loop")
    assert "2 more comparisons since training began. What is compared now is kept and exported" in words(app)
    assert primary(app) == ["Watch the run"]


def test_the_label_page_says_so_too(compared: Workspace, open_app: OpenApp) -> None:
    each_round_alone(compared)
    seeding.train(compared, steps=1, of=4, finish=False)
    page = words(open_app())
    assert "Round 1 is training already. What is compared now is kept and exported, but a training uses it only" in page


def test_labels_of_a_round_that_was_kept_back_are_said_to_be_learned_from(
    compared: Workspace, open_app: OpenApp
) -> None:
    seeding.train(compared, steps=4, of=4)
    each_round_alone(compared)
    seeding.add_prompts(compared, seeding.plain_exchanges(24)[12:])
    go_on(compared, decision=Decision.KEEP, by="Lea", comparisons=4)
    seeding.write_pairs(compared, seeding.plain_exchanges(24)[12:])
    for some in ([LEFT], [RIGHT, LEFT, RIGHT]):  # to train on early, and all of them
        seeding.compare(compared, "me", some)
        page = words(open_app("loop"))
        assert "Beside these comparisons training uses those of round 1: base has not learned from them" in page
    each_round_alone(compared, back=True)
    assert "Beside these" not in words(open_app("loop")), "all there is, and nobody has to be told"


def test_a_page_left_open_decides_nothing_about_the_next_round(compared: Workspace, open_app: OpenApp) -> None:
    seeding.train(compared, steps=4, of=4)
    left_open = open_app("loop")
    seeding.promote(compared)
    seeding.open_round(compared, seeding.plain_exchanges(24)[12:])
    seeding.compare(compared, "me", [LEFT, RIGHT] * 2)
    seeding.train(compared, steps=4, of=4)
    button(left_open, "Promote round-1 and start round 2").click().run()
    assert "You were shown round-1, but round 2 is about round-2 by now" in words(left_open)
    with reading(compared.engine) as session:
        assert serving_checkpoint(session=session).name == "round-1"
    assert step(compared) == Step.DECIDE


def test_a_link_that_leads_elsewhere_is_said_with_what_to_do(
    compared: Workspace, open_app: OpenApp, pairloop: Pairloop
) -> None:
    seeding.train(compared, steps=4, of=4)
    assert "pairloop's link" not in words(open_app("loop")) + pairloop("status")[1]
    (compared.folder / "checkpoints" / "current").mkdir()
    for told in (words(open_app("loop")), pairloop("status")[1]):
        assert "current is not pairloop's link, so it does not lead to base, which serves. Move it elsewhere." in told


def test_whoever_decides_says_their_name(compared: Workspace, open_app: OpenApp) -> None:
    seeding.train(compared, steps=4, of=4)
    app = open_app("loop")
    app.session_state["name"] = ""  # a visitor from another machine, where nobody logs in
    app.run()
    assert not [label for label in labels(app) if label.startswith(("Promote", "Keep"))]
    app.text_input(key="decider_name_input").set_value("Lea").run()
    button(app, "Keep only").click().run()
    with reading(compared.engine) as session:
        [record] = list_decisions(session=session)
    assert (record.action, record.by) == ("keep", "Lea")
