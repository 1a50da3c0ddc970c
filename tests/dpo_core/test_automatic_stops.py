"""Where automatic rounds stop and why, and that nothing is done which people have overtaken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dpo_core import automatic
from dpo_core.automatic import BY, GIVEN_UP, NO_HELD_OUT, Act, Pilot, Plan, read_plan, steps_taken, take_step
from dpo_core.deciding import decide
from dpo_core.editing_settings import change_section
from dpo_core.errors import RunError
from dpo_core.loop import cancel, read_loop, return_to_comparing
from dpo_core.queueing import pause, resume
from dpo_core.workspace import Workspace, open_workspace
from store.comparisons import Choice
from store.database import reading
from store.decisions import list_decisions
from store.errors import SnapshotError
from store.models import Decision
from store.refusals import last_refusal
from store.runs import list_runs
from tests.browser import seeding

LEFT, RIGHT, TIE, SKIP = Choice.LEFT, Choice.RIGHT, Choice.TIE, Choice.SKIP


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A round of six pairs that asks for four comparisons, in automatic rounds."""
    made = seeding.new_workspace(tmp_path / "workspace", target=4)
    change_section(made, "automatic", {"on": True})
    opened = open_workspace(made.folder)
    seeding.open_round(opened, seeding.plain_exchanges(6))
    return opened


def gated(workspace: Workspace) -> Workspace:
    """Trained, and its checkpoint must show in duels that it is better."""
    seeding.compare(workspace, "Ada", [LEFT, RIGHT] * 2)
    change_section(workspace, "gate", {"win_rate": "better"})
    seeding.train(workspace, steps=1, of=1)
    return open_workspace(workspace.folder)


def kinds(workspace: Workspace) -> list[str]:
    with reading(workspace.engine) as session:
        return [run.kind for run in list_runs(session=session)]


def test_a_round_that_is_paused_while_it_is_decided_about_holds_up_nothing_after_it(workspace: Workspace) -> None:
    decided = gated(workspace)
    pause(decided)
    assert read_plan(decided) == Plan(Act.WAIT, "The round is paused.")
    decide(decided, decision=Decision.KEEP, by="Ada")
    assert read_plan(decided).act == Act.START
    with pytest.raises(RunError, match="No round is open"):
        resume(decided)


def test_what_was_refused_is_a_stop_until_the_loop_has_moved_on(workspace: Workspace) -> None:
    seeding.compare(workspace, "Ada", [TIE] * 4)
    why = "4 comparisons, but no preference to train on"
    assert read_plan(workspace).act == Act.STOP and why in read_plan(workspace).why, "known before it is tried"
    with pytest.raises(SnapshotError, match=why):
        take_step(workspace)
    with reading(workspace.engine) as session:
        refusal = last_refusal(session=session)
    assert refusal is not None and (refusal.act, why in refusal.why) == ("train", True)
    seeding.compare(workspace, "Ada", [LEFT, RIGHT])
    plan = take_step(workspace)
    assert plan is not None and plan.act == Act.TRAIN
    with reading(workspace.engine) as session:
        assert last_refusal(session=session) is None


def test_a_refusal_that_nobody_could_know_beforehand_is_told_as_a_stop(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise RunError("Too little memory.")

    seeding.compare(workspace, "Ada", [LEFT, RIGHT] * 2)
    assert read_plan(workspace).act == Act.TRAIN
    monkeypatch.setattr(automatic, "start_training", no_room)
    assert not Pilot(every=0).look(workspace)
    assert read_plan(workspace) == Plan(Act.STOP, "Too little memory.")
    pause(workspace)
    assert read_plan(workspace).act == Act.WAIT, "it is told of this step alone"
    take_step(workspace)
    resume(workspace)
    assert read_plan(workspace).act == Act.TRAIN, "it had moved on"


def test_a_pair_that_everybody_skipped_is_not_waited_for(workspace: Workspace) -> None:
    seeding.compare(workspace, "Ada", [LEFT] * 3 + [SKIP] * 2)
    assert read_plan(workspace).act == Act.WAIT
    seeding.compare(workspace, "Ada", [SKIP])
    assert (read_plan(workspace).act, read_plan(workspace).count) == (Act.WRITE_PAIRS, 1)
    assert take_step(workspace) is not None and kinds(workspace)[0] == "sample"


def test_a_duel_that_everybody_skipped_is_not_waited_for(workspace: Workspace) -> None:
    decided = gated(workspace)
    seeding.compare(decided, "Ada", [LEFT] * 2)
    seeding.duel(decided, won=0, lost=0, left_open=1)
    assert "1 blind duel to judge" in read_plan(decided).why
    for name in ("Ada", "lea"):
        seeding.compare(decided, name, [SKIP])
    assert read_plan(decided).act == Act.WRITE_DUELS


def test_without_held_out_prompts_it_says_so(workspace: Workspace) -> None:
    assert read_plan(gated(workspace)) == Plan(Act.STOP, NO_HELD_OUT, about="round-1")


def test_what_a_person_gave_up_is_not_trained_again_until_more_is_compared(workspace: Workspace) -> None:
    seeding.compare(workspace, "Ada", [LEFT, RIGHT] * 2)
    assert (take_step(workspace) or Plan(Act.WAIT, "")).act == Act.TRAIN
    with reading(workspace.engine) as session:
        run = read_loop(session=session).run
    assert run is not None
    cancel(workspace, run_id=run.id or 0, by="Ada")
    return_to_comparing(workspace, by="Ada")
    assert (take_step(workspace), read_plan(workspace)) == (None, Plan(Act.STOP, GIVEN_UP))
    seeding.compare(workspace, "Ada", [LEFT])
    assert (take_step(workspace) or Plan(Act.WAIT, "")).act == Act.TRAIN


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Between the moment at which a step is planned and the step itself."""
    really = automatic._do

    def first(workspace: Workspace, plan: Plan) -> None:
        happens()
        really(workspace, plan)

    monkeypatch.setattr(automatic, "_do", first)


@pytest.mark.parametrize("what", ["paused", "off"])
def test_what_is_paused_or_switched_off_at_the_last_moment_is_not_done(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    seeding.compare(workspace, "Ada", [LEFT, RIGHT] * 2)
    stop = {"paused": lambda: pause(workspace), "off": lambda: change_section(workspace, "automatic", {"on": False})}
    meanwhile(monkeypatch, stop[what])
    assert take_step(workspace) is None
    assert kinds(workspace) == ["sample"]
    with reading(workspace.engine) as session:
        assert last_refusal(session=session) is None, "nothing was refused"


def test_a_parent_is_kept_only_while_the_duels_say_so(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = gated(workspace)
    seeding.duel(decided, won=0, lost=20)
    assert read_plan(decided).act == Act.KEEP
    meanwhile(monkeypatch, lambda: seeding.duel(decided, won=40, lost=0))  # lea thinks better of it
    assert take_step(decided) is None
    with reading(decided.engine) as session:
        assert list_decisions(session=session) == []


def test_the_steps_it_took_are_told_from_what_is_on_record(workspace: Workspace) -> None:
    with reading(workspace.engine) as session:
        assert steps_taken(session=session) == [], "a person started this round"
    seeding.compare(workspace, "Ada", [LEFT, RIGHT] * 2)
    take_step(workspace)
    with reading(workspace.engine) as session:
        [training] = steps_taken(session=session)
        [run] = [run for run in list_runs(session=session) if run.requested_by == BY]
    assert (training.what, training.at) == ("Training of round 1 started", run.created_at)


def test_a_decision_and_the_round_it_leads_to_are_told_too(workspace: Workspace) -> None:
    decided = gated(workspace)
    seeding.duel(decided, won=0, lost=20)
    assert take_step(decided) is not None
    with reading(decided.engine) as session:
        told = [step.what for step in steps_taken(session=session)]
    assert sorted(told) == ["Round 2 started", "round-1 kept back"]
