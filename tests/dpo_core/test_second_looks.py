"""Second looks after a training: margins under the checkpoint on disk, kept as rewards, and repeats in the queue."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import select

from dpo_core.deciding import decide
from dpo_core.evaluate import judge
from dpo_core.logps import pair_logps
from dpo_core.loop import start_round, start_training
from dpo_core.policies import load_policy
from dpo_core.second_looks import EXAMINED
from dpo_core.tokenization import tokenize_pairs
from dpo_core.workspace import Workspace
from store.checkpoints import get_checkpoint
from store.database import reading
from store.hashing import text_hash
from store.held_out import judging_run, read_held_out
from store.holds import is_second_look
from store.models import Decision, Pair, PairReward, Prompt, Round, Run, RunStatus
from store.second_looks import read_second_looks
from store.snapshots import get_snapshot, snapshot_pairs
from tests.dpo_core.test_train import Make, compare_all, prefer_longer, run_next


def by_no_rule(left: str, right: str) -> str:
    """The same for the same texts, but nothing that could be learned: some stay unlikely."""
    slips = int(text_hash(min(left, right))[:4], 16) % 2 == 0
    return "left" if (prefer_longer(left, right) == "left") != slips else "right"


def trained(make_workspace: Make, second_looks: int, **changes: Any) -> tuple[Workspace, Run]:
    workspace = make_workspace(
        queue={"second_looks": second_looks}, round={"comparisons": 16}, training={"learning_rate": 1e-3}
    )
    start_round(workspace, by="test")
    assert run_next(workspace).status == RunStatus.DONE
    compare_all(workspace, by_no_rule)
    start_training(workspace, by="test", **changes)
    run = run_next(workspace)
    assert run.status == RunStatus.DONE, run.error
    return workspace, run


def kept(workspace: Workspace, split: str = "train") -> list[PairReward]:
    with reading(workspace.engine) as session:
        return list(session.exec(select(PairReward).where(PairReward.split == split).order_by(PairReward.margin)))


def looks(workspace: Workspace) -> list[Pair]:
    with reading(workspace.engine) as session:
        return list(session.exec(select(Pair).where(is_second_look(Pair)).order_by(Pair.id)))


def test_margins_are_those_of_the_checkpoint_and_its_parent(make_workspace: Make) -> None:
    workspace, run = trained(make_workspace, 2)
    with reading(workspace.engine) as session:
        snapshot = get_snapshot(session=session, name=run.settings["snapshot"])
        pairs = snapshot_pairs(session=session, snapshot=snapshot, folder=workspace.folder, split="train")
        both = [get_checkpoint(session=session, name=name) for name in ("round-1", "base")]
        held_out = {p.id for p, q in session.exec(select(Pair, Prompt).join(Prompt)) if q.held_out}
    found = []
    for checkpoint in both:
        model, tokenizer = load_policy(workspace, checkpoint)
        tokens = tokenize_pairs(pairs, tokenizer, max_length=128)
        found.append(pair_logps(model, tokenizer, tokens))
    margins = {item.pair.pair_id: item.margin(0.1) for item in judge(tokens, *found)}
    rewards = kept(workspace)
    assert len(margins) == len(rewards) > 4 and not held_out & set(margins)  # all: they are fewer than the bound
    assert {reward.pair_id: reward.margin for reward in rewards} == pytest.approx(margins, abs=1e-5)
    assert {reward.checkpoint_id for reward in rewards} == {both[0].id}
    doubted = [reward.pair_id for reward in rewards if reward.margin < 0][:2]
    assert [look.repeats for look in looks(workspace)] == doubted != []
    with reading(workspace.engine) as session:
        assert {look.round_id for look in looks(workspace)} == {run.round_id}
        held = read_held_out(session=session, run=run)
        judging = judging_run(session=session, checkpoint_id=both[0].id or 0)
    assert judging is not None and judging.id == run.id
    assert held is not None and held.pairs.after.count == len(kept(workspace, "test")) // 2


def test_no_more_are_examined_than_ten_for_each_that_goes_back(make_workspace: Make, monkeypatch: Any) -> None:
    monkeypatch.setattr("dpo_core.second_looks.EXAMINED", 3)
    workspace, _ = trained(make_workspace, 1)
    assert EXAMINED == 10 and len(kept(workspace)) == 3


def test_none_are_asked_for_unless_settings_say_so(make_workspace: Make) -> None:
    workspace, _ = trained(make_workspace, 0)
    assert kept(workspace) == [] == looks(workspace)


def test_of_a_sweep_the_best_looks_back(make_workspace: Make) -> None:
    workspace, run = trained(make_workspace, 2, sweep=["beta=0.1,0.3"])
    assert {reward.checkpoint_id for reward in kept(workspace)} == {run.checkpoint_id}


def test_they_are_answered_in_the_open_round_or_go_along(make_workspace: Make) -> None:
    workspace, _ = trained(make_workspace, 3)
    waiting = len(looks(workspace))
    assert 0 < waiting <= 3
    decide(workspace, decision=Decision.KEEP, by="Rae")
    start_round(workspace, by="Rae")
    with reading(workspace.engine) as session:
        second = session.exec(select(Round.id).where(Round.number == 2)).one()
    assert {look.round_id for look in looks(workspace)} == {second}
    assert run_next(workspace).status == RunStatus.DONE
    compare_all(workspace, by_no_rule)
    with reading(workspace.engine) as session:
        found = read_second_looks(session=session)
    # Who goes by the texts alone says the same again, whichever side a text stands on.
    assert (found.asked, found.overturned.count, found.overturned_count) == (waiting, waiting, 0)
