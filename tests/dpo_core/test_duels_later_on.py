"""Duels from round 2 on, where the parent is not the base; round-1 and round-2 have the base's weights here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import select

from dpo_core.carry_out import carry_out_here
from dpo_core.duels import more_duels, queue_duels
from dpo_core.gate import gate_to_pass
from dpo_core.workspace import Workspace
from store.checkpoints import add_checkpoint, base_checkpoint, get_checkpoint
from store.database import reading, writing
from store.models import Completion, Pair, Purpose, RoundStatus, RunStatus
from store.prompts import count_prompts
from store.rounds import add_round, latest_round

Make = Callable[..., Workspace]


def second_round(workspace: Workspace) -> Workspace:
    """Round 2 in the database: written by round-1, trained to round-2, to be decided about."""
    with writing(workspace.engine) as session:
        base = base_checkpoint(session=session)
        parent = add_checkpoint(session=session, name="round-1", path=base.path, parent_id=base.id)
        new = add_checkpoint(session=session, name="round-2", path=base.path, parent_id=parent.id)
        for checkpoint, status in ((base, RoundStatus.DONE), (parent, RoundStatus.DECIDING)):
            opened = add_round(session=session, checkpoint_id=checkpoint.id or 0, target=4)
            opened.status = status
            opened.result_checkpoint_id = (parent if checkpoint is base else new).id
            session.flush()
    return workspace


def asked(workspace: Workspace, **given: Any) -> dict[str, list[int]]:
    """Which prompts a duel run that is queued now is to write for, by opponent."""
    with writing(workspace.engine) as session:
        current = latest_round(session=session)
        assert current is not None
        new = get_checkpoint(session=session, name="round-2")
        run = queue_duels(session, workspace, current=current, checkpoint=new, by="test", **given)
        assert run is not None
        return dict(run.settings["against"])


@pytest.mark.parametrize(
    ("settings", "parent", "base"),
    [({"against_parent": 60, "against_base": 10}, 20, 5), ({"against_parent": 6, "against_base": 2}, 6, 2)],
)
def test_no_prompt_is_asked_of_two_opponents(
    make_workspace: Make, settings: dict[str, int], parent: int, base: int
) -> None:
    """Of 25 held-out prompts the base gets a fifth at most, the parent up to all others."""
    workspace = second_round(make_workspace(prompts=110, duels=settings))
    with reading(workspace.engine) as session:
        assert count_prompts(session=session)["held_out"] == 25
    against = asked(workspace)
    assert {name: len(set(prompts)) for name, prompts in against.items()} == {"round-1": parent, "base": base}
    assert not set(against["round-1"]) & set(against["base"])


def test_nobody_sees_a_new_text_twice(make_workspace: Make) -> None:
    workspace = second_round(make_workspace(prompts=40, duels={"against_parent": 60, "against_base": 10}))
    asked(workspace)
    assert carry_out_here(workspace, 1).status == RunStatus.DONE
    with reading(workspace.engine) as session:
        duels = session.exec(select(Pair).where(Pair.purpose == Purpose.DUEL)).all()
        shown = [(pair.prompt_id, session.get_one(Completion, pair.completion_a_id).text) for pair in duels]
        olds = {session.get_one(Completion, pair.completion_b_id).checkpoint_id for pair in duels}
    assert len(set(shown)) == len(shown) > 4 and olds == {1, 2}


def test_duels_of_a_sweeps_checkpoint_are_asked_of_nobody_once_another_is_picked(make_workspace: Make) -> None:
    workspace = second_round(make_workspace(prompts=40, duels={"against_parent": 4}))
    asked(workspace)
    with writing(workspace.engine) as session:
        current, base = latest_round(session=session), base_checkpoint(session=session)
        assert current is not None
        picked = add_checkpoint(session=session, name="round-2-beta-1.0", path=base.path, parent_id=2)
        current.result_checkpoint_id = picked.id
    assert carry_out_here(workspace, 1).result["duels"] == 0
    with reading(workspace.engine) as session:
        assert session.exec(select(Pair).where(Pair.purpose == Purpose.DUEL)).all() == []


def test_the_gate_asks_for_the_checks_that_the_settings_name(make_workspace: Make) -> None:
    workspace = second_round(make_workspace(gate={"checks": "all"}, evaluation={"checks": ["true"]}))
    with reading(workspace.engine) as session:
        gate = gate_to_pass(session, workspace)
    assert gate is not None and not gate.is_open
    assert [condition.found for condition in gate.conditions] == ["not run on this checkpoint: true"]


def test_more_duels_with_the_parent_may_have_every_prompt(make_workspace: Make) -> None:
    workspace = second_round(make_workspace(prompts=110, duels={"against_parent": 60, "against_base": 10}))
    run = more_duels(workspace, pairs=60, by="test")
    assert {name: len(prompts) for name, prompts in run.settings["against"].items()} == {"round-1": 25}
