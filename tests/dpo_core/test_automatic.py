"""Automatic rounds do what a person would press next, and stop where one is needed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlmodel import select

from dpo_core.automatic import BY, Act, Pilot, read_plan, take_step
from dpo_core.carry_out import carry_out_here
from dpo_core.editing_settings import change_section
from dpo_core.loop import Step, read_loop
from dpo_core.queueing import pause, resume
from dpo_core.workspace import Workspace, open_workspace
from store.annotators import get_or_add_annotator
from store.comparisons import Choice, record_comparison
from store.database import reading, writing
from store.decisions import list_decisions
from store.models import Completion, Pair, Purpose, Round, RunStatus
from store.pairs import next_pair
from store.runs import claim_run, fail_run
from tests.dpo_core.test_train import run_next

Make = Callable[..., Workspace]
AUTOMATIC = {
    "automatic": {"on": True, "until_round": 2, "most_duels": 24},
    "duels": {"against_parent": 12, "against_base": 0},
    "gate": {"win_rate": "better"},
    "round": {"comparisons": 4},
}


def judge_all(workspace: Workspace, *, new_wins: bool) -> None:
    """Everything that is asked: of duels the new checkpoint's completion, or its parent's; else the left one."""
    with writing(workspace.engine) as session:
        annotator = get_or_add_annotator(session=session, name="Ada").id or 0
        current = session.exec(select(Round).order_by(Round.id.desc())).first()  # type: ignore[union-attr]
        assert current is not None and current.id is not None
        while shown := next_pair(session=session, round_id=current.id, annotator_id=annotator):
            pair = session.get_one(Pair, shown.pair_id)
            left = (shown.left_side == "a") == new_wins if pair.purpose == Purpose.DUEL else True
            choice = Choice.LEFT if left else Choice.RIGHT
            record_comparison(session=session, pair_id=shown.pair_id, annotator_id=annotator, choice=choice)


def steps_until_people_are_needed(workspace: Workspace) -> list[str]:
    """Take every step, and carry out every run, until somebody has to compare or to look."""
    taken = []
    for _ in range(20):
        plan = take_step(workspace)
        with reading(workspace.engine) as session:
            run = read_loop(session=session).open_run
        if plan is None and run is None:
            return taken
        taken += [plan.act.value] if plan is not None else []
        if run is not None:
            assert carry_out_here(workspace, run.id or 0).status == RunStatus.DONE
    raise AssertionError("it went on for ever")


def test_off_it_does_nothing(make_workspace: Make) -> None:
    workspace = make_workspace(prompts=80, **(AUTOMATIC | {"automatic": {"on": False}}))
    assert take_step(workspace) is None
    with reading(workspace.engine) as session:
        assert read_loop(session=session).step == Step.START_ROUND


def test_it_goes_round_while_people_compare_and_stops_after_the_last_round(make_workspace: Make) -> None:
    workspace = make_workspace(prompts=80, **AUTOMATIC)
    assert steps_until_people_are_needed(workspace) == ["start"]
    assert read_plan(workspace).why == "4 comparisons to go until training starts."
    judge_all(workspace, new_wins=True)
    assert steps_until_people_are_needed(workspace) == ["train"]
    assert "blind duels to judge" in read_plan(workspace).why
    taken: list[str] = []
    while "promote" not in taken:
        judge_all(workspace, new_wins=True)
        taken += steps_until_people_are_needed(workspace)
        assert len(taken) < 6
    with reading(workspace.engine) as session:
        [record] = list_decisions(session=session)
        current = read_loop(session=session).round
    assert (record.action, record.by, record.forced) == ("promote", BY, False)
    assert current is not None and current.number == 2
    judge_all(workspace, new_wins=False)
    steps_until_people_are_needed(workspace)
    for _ in range(4):
        judge_all(workspace, new_wins=False)
        steps_until_people_are_needed(workspace)
    plan = read_plan(workspace)
    assert (plan.act, plan.why) == (Act.STOP, "Round 2 was the last that [automatic] until_round asks for.")
    with reading(workspace.engine) as session:
        assert [record.action for record in list_decisions(session=session)] == ["promote", "keep"]


def test_undecided_it_asks_for_more_and_in_the_end_keeps_the_parent(make_workspace: Make) -> None:
    workspace = make_workspace(
        prompts=80, **(AUTOMATIC | {"automatic": {"on": True, "until_round": 1, "most_duels": 16}})
    )
    steps_until_people_are_needed(workspace)
    judge_all(workspace, new_wins=True)
    taken = steps_until_people_are_needed(workspace)
    for turn in range(6):
        judge_all(workspace, new_wins=bool(turn % 2))
        taken += steps_until_people_are_needed(workspace)
    assert taken[0] == "train" and taken[-1] in ("keep", "promote")
    with reading(workspace.engine) as session:
        duels = session.exec(select(Pair).where(Pair.purpose == Purpose.DUEL)).all()
        assert len(duels) <= 16
        assert all(session.get_one(Completion, pair.completion_a_id).checkpoint_id == 2 for pair in duels)


def test_it_can_be_paused_and_switched_off_at_any_moment(make_workspace: Make) -> None:
    workspace = make_workspace(prompts=80, **AUTOMATIC)
    take_step(workspace)
    run_next(workspace)
    judge_all(workspace, new_wins=True)
    pause(workspace)
    assert (take_step(workspace), read_plan(workspace).why) == (None, "The round is paused.")
    resume(workspace)
    change_section(workspace, "automatic", {"on": False})
    assert take_step(workspace) is None, "whoever had it open when it was on hears of it"
    change_section(open_workspace(workspace.folder), "automatic", {"on": True})
    plan = take_step(workspace)
    assert plan is not None and plan.act == Act.TRAIN


def test_a_run_that_failed_waits_for_a_person(make_workspace: Make) -> None:
    workspace = make_workspace(prompts=80, **AUTOMATIC)
    take_step(workspace)
    with writing(workspace.engine) as session:
        run = claim_run(session=session, owner="test", lease=timedelta(minutes=1))
        assert run is not None
        fail_run(session=session, run_id=run.id or 0, attempt=run.attempt, error="No.")
    assert take_step(workspace) is None
    assert read_plan(workspace).act == Act.STOP


def test_a_refusal_is_said_once(make_workspace: Make, caplog: pytest.LogCaptureFixture) -> None:
    workspace = make_workspace(prompts=80, **AUTOMATIC)
    pilot = Pilot(every=0)
    pilot.look(workspace)
    run_next(workspace)
    with writing(workspace.engine) as session:  # nothing but ties: there is nothing to train on
        annotator = get_or_add_annotator(session=session, name="Ada").id or 0
        while shown := next_pair(session=session, round_id=1, annotator_id=annotator):
            record_comparison(session=session, pair_id=shown.pair_id, annotator_id=annotator, choice=Choice.TIE)
    assert not any(pilot.look(workspace) for _ in range(3))
    assert len([record for record in caplog.records if record.levelname == "WARNING" and BY in record.message]) == 1
