"""A new checkpoint is duelled blind before it is promoted, and what the gate says of it is on record."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import select

from dpo_core.carry_out import carry_out_here
from dpo_core.deciding import decide, go_on, roll_back
from dpo_core.duels import all_matches, more_duels
from dpo_core.errors import GateError, RunError
from dpo_core.gate import gate_to_pass
from dpo_core.loop import Step, read_loop, start_round, start_training
from dpo_core.standings import read_standings
from dpo_core.worker import work
from dpo_core.workspace import Workspace
from store.annotators import get_or_add_annotator
from store.comparisons import Choice, record_comparison
from store.database import reading, writing
from store.decisions import list_decisions
from store.errors import StateError
from store.models import (
    Checkpoint,
    Completion,
    Decision,
    Pair,
    Prompt,
    Purpose,
    Round,
    Run,
    RunKind,
    RunStatus,
    Snapshot,
)
from store.pairs import next_pair, shown_pair
from store.runs import list_runs
from store.snapshots import snapshot_pairs
from store.win_rate import DuelVerdict
from tests.dpo_core.test_train import Cut, ready_to_train, run_next
from tests.store.asking import add_prompt

Make = Callable[..., Workspace]
DUELS = {"duels": {"against_parent": 12, "against_base": 4}, "gate": {"win_rate": "better"}}


@pytest.fixture
def trained(make_workspace: Make) -> Workspace:
    """A round that is trained; the run that writes its duels is queued."""
    workspace = make_workspace(prompts=110, **DUELS)
    ready_to_train(workspace)
    start_training(workspace, by="test")
    assert run_next(workspace).status == RunStatus.DONE
    return workspace


def open_run(workspace: Workspace) -> Run:
    with reading(workspace.engine) as session:
        run = read_loop(session=session).run
    assert run is not None
    return run


def the_duels(workspace: Workspace) -> list[Pair]:
    with reading(workspace.engine) as session:
        return list(session.exec(select(Pair).where(Pair.purpose == Purpose.DUEL).order_by(Pair.id)))  # type: ignore[arg-type]


def judge(workspace: Workspace, verdicts: str) -> None:
    """One verdict on each of the duels that are open, in order: "w" for the new checkpoint, "l", "t"."""
    with writing(workspace.engine) as session:
        annotator = get_or_add_annotator(session=session, name="Ada").id or 0
        is_open = select(Pair).where(Pair.purpose == Purpose.DUEL, Pair.open_slots > 0).order_by(Pair.id)  # type: ignore[arg-type]
        for pair, verdict in zip(session.exec(is_open).all(), verdicts, strict=False):
            shown = shown_pair(session=session, pair_id=pair.id or 0, annotator_id=annotator)
            new_is_left = shown.left_side == "a"
            choice = Choice.LEFT if (verdict == "w") == new_is_left else Choice.RIGHT
            choice = Choice.TIE if verdict == "t" else choice
            record_comparison(session=session, pair_id=pair.id or 0, annotator_id=annotator, choice=choice)


def test_after_a_training_duels_are_written_on_held_out_prompts(trained: Workspace) -> None:
    assert open_run(trained).kind == RunKind.DUEL
    assert run_next(trained).status == RunStatus.DONE
    duels = the_duels(trained)
    assert 8 <= len(duels) <= 12, "the parent is the base: it is met once"
    with reading(trained.engine) as session:
        writers = {
            (
                session.get_one(Completion, pair.completion_a_id).checkpoint_id,
                session.get_one(Completion, pair.completion_b_id).checkpoint_id,
            )
            for pair in duels
        }
        assert writers == {(2, 1)}
        assert all(session.get_one(Prompt, pair.prompt_id).held_out for pair in duels)
        assert session.get_one(Round, 1).duels == len(duels)
        state = read_loop(session=session)
    assert (state.step, state.late) == (Step.DECIDE, 0)
    judge(trained, "w" * 5)
    with reading(trained.engine) as session:
        state = read_loop(session=session)
    assert (state.late, state.comparisons["duels"]) == (0, 5), "they are not late: nothing would have learned of them"


def test_the_gate_waits_then_opens_and_the_record_keeps_why(trained: Workspace) -> None:
    run_next(trained)
    with pytest.raises(GateError, match=r"round-1 does not show yet .* none of them decided yet"):
        decide(trained, decision=Decision.PROMOTE, by="Rae")
    while len(the_duels(trained)) < 20:
        more = more_duels(trained, pairs=12, by="Rae")
        assert carry_out_here(trained, more.id or 0).status == RunStatus.DONE
    judge(trained, "w" * 18 + "tl")
    with reading(trained.engine) as session:
        gate = gate_to_pass(session, trained)
    assert gate is not None and gate.is_open and gate.suggestion == Decision.PROMOTE
    [match] = gate.matches
    assert (match.win_rate.won, match.win_rate.lost, match.win_rate.ties) == (18, 1, 1)
    decide(trained, decision=Decision.PROMOTE, by="Rae")
    with reading(trained.engine) as session:
        [record] = list_decisions(session=session)
        [again] = all_matches(session, alpha=0.05)
        points = read_standings(session)
    assert (record.by, record.forced, record.gate["matches"][0]["won"]) == ("Rae", False, 18)
    kept = record.gate["matches"][0]
    assert (kept["alpha"], record.gate["asked"]) == (0.05, trained.settings.gate.model_dump())
    assert kept["at_equal_length_interval"] == pytest.approx(match.at_equal_length.interval)
    assert again.win_rate == match.win_rate
    assert (points["round-1"].value or 0) > 100
    current = trained.folder / "checkpoints" / "current"
    assert current.resolve() == (trained.folder / "checkpoints" / "round-1").resolve()
    assert json.loads((current / "pairloop.json").read_text())["name"] == "round-1"


def test_a_person_can_promote_all_the_same_which_is_told(trained: Workspace) -> None:
    run_next(trained)
    judge(trained, "l" * 4)
    decide(trained, decision=Decision.PROMOTE, by="Rae", force=True)
    with reading(trained.engine) as session:
        [record] = list_decisions(session=session)
    assert (record.action, record.forced) == ("promote", True)
    assert [condition["met"] for condition in record.gate["conditions"]] == [None]


def test_to_keep_needs_no_gate(trained: Workspace) -> None:
    decide(trained, decision=Decision.KEEP, by="Rae")
    with reading(trained.engine) as session:
        [record] = list_decisions(session=session)
    assert (record.action, record.forced, record.checkpoint_id) == ("keep", False, 1)


def test_what_was_not_judged_goes_along_into_the_next_round(trained: Workspace) -> None:
    run_next(trained)
    written = len(the_duels(trained))
    judge(trained, "ww")
    opened = go_on(trained, decision=Decision.PROMOTE, by="Rae", force=True)
    run_next(trained)
    with writing(trained.engine) as session:
        annotator = get_or_add_annotator(session=session, name="Ada").id or 0
        moved = session.exec(select(Pair).where(Pair.purpose == Purpose.DUEL, Pair.round_id == opened.id)).all()
        assert len(moved) == written - 2 == session.get_one(Round, opened.id).duels
        assert session.get_one(Round, 1).duels == 2
        served = next_pair(session=session, round_id=opened.id or 0, annotator_id=annotator)
        assert served is not None
    judge(trained, "w" * written)
    with reading(trained.engine) as session:
        [match] = all_matches(session, alpha=0.05)
    assert match.win_rate.won == written, "one match over two rounds"


def test_what_is_known_is_not_asked_on(trained: Workspace) -> None:
    """The match is decided before all its duels are judged: the next round asks none of what is left."""
    run_next(trained)
    more_duels(trained, pairs=12, by="Rae")
    run_next(trained)
    judge(trained, "w" * (len(the_duels(trained)) - 2))
    with reading(trained.engine) as session:
        [match] = all_matches(session, alpha=0.05)
    assert (match.win_rate.verdict, match.counts.open) == (DuelVerdict.PROMOTE, 2)
    opened = go_on(trained, decision=Decision.PROMOTE, by="Rae")
    with reading(trained.engine) as session:
        assert session.get_one(Round, opened.id).duels == 0


def test_duels_that_were_written_too_late_for_their_round_are_asked_in_the_next(trained: Workspace) -> None:
    run = open_run(trained)
    opened = go_on(trained, decision=Decision.PROMOTE, by="Rae", force=True)
    assert carry_out_here(trained, run.id or 0).status == RunStatus.DONE
    assert {pair.round_id for pair in the_duels(trained)} == {opened.id}


def test_duels_of_a_checkpoint_that_was_kept_back_meanwhile_are_asked_of_nobody(trained: Workspace) -> None:
    run = open_run(trained)
    opened = go_on(trained, decision=Decision.KEEP, by="Rae")
    finished = carry_out_here(trained, run.id or 0)
    assert (finished.status, finished.result["duels"], the_duels(trained)) == (RunStatus.DONE, 0, [])
    with reading(trained.engine) as session:
        assert session.get_one(Round, opened.id).duels == 0


def test_nothing_is_trained_on_duels(trained: Workspace) -> None:
    run_next(trained)
    judge(trained, "w" * 12)
    go_on(trained, decision=Decision.PROMOTE, by="Rae", force=True)
    run_next(trained)
    with writing(trained.engine) as session:
        annotator = get_or_add_annotator(session=session, name="Ada").id or 0
        while shown := next_pair(session=session, round_id=2, annotator_id=annotator):
            record_comparison(session=session, pair_id=shown.pair_id, annotator_id=annotator, choice=Choice.LEFT)
    start_training(trained, by="test", early=True)
    with reading(trained.engine) as session:
        current = session.get_one(Round, 2)
        duels = {pair.id for pair in session.exec(select(Pair).where(Pair.purpose == Purpose.DUEL))}
        snapshot = session.get_one(Snapshot, current.snapshot_id)
        rows = [
            row.pair_id
            for split in ("train", "test")
            for row in snapshot_pairs(session=session, snapshot=snapshot, folder=trained.folder, split=split)
        ]
    assert rows and not duels & set(rows)


def test_a_run_that_was_cut_off_writes_what_one_that_was_not_does(make_workspace: Make) -> None:
    texts = []
    for name, cut in (("whole", None), ("cut", 14)):
        workspace = make_workspace(name, prompts=80, **DUELS)
        ready_to_train(workspace)
        start_training(workspace, by="test")
        run_next(workspace)
        run, heard = open_run(workspace), []

        def listener(progress: dict[str, Any], heard: list[int] = heard, cut: int | None = cut) -> None:
            heard.append(1)
            if len(heard) == cut:
                raise Cut

        if cut is not None:
            with pytest.raises(Cut):
                carry_out_here(workspace, run.id or 0, listener)
            assert the_duels(workspace) == []
        assert carry_out_here(workspace, run.id or 0).status == RunStatus.DONE
        with reading(workspace.engine) as session:
            texts.append(
                [
                    (pair.prompt_id, pair.position, session.get_one(Completion, pair.completion_a_id).text)
                    for pair in session.exec(select(Pair).where(Pair.purpose == Purpose.DUEL).order_by(Pair.id))  # type: ignore[arg-type]
                ]
            )
    assert texts[0] == texts[1] != []


def test_without_held_out_prompts_there_are_none_and_the_gate_says_so(make_workspace: Make) -> None:
    workspace = make_workspace(prompts=0, **DUELS)
    with writing(workspace.engine) as session:
        for index in range(20):
            add_prompt(session, f"Say something about {index}.", held_out_share=0)
    ready_to_train(workspace)
    start_training(workspace, by="test")
    run_next(workspace)
    with reading(workspace.engine) as session:
        assert [run.kind for run in list_runs(session=session)] == ["train", "sample"]
    with pytest.raises(RunError, match="No prompt is held out"):
        more_duels(workspace, pairs=4, by="Rae")
    with pytest.raises(GateError, match="no duel was written"):
        decide(workspace, decision=Decision.PROMOTE, by="Rae")


def test_rolled_back_what_served_before_serves_again(trained: Workspace) -> None:
    with pytest.raises(StateError, match="nothing to roll back to"):
        roll_back(trained, by="Rae")
    opened = go_on(trained, decision=Decision.PROMOTE, by="Rae", force=True)
    record = roll_back(trained, by="Bo")
    current = trained.folder / "checkpoints" / "current"
    with reading(trained.engine) as session:
        base = session.get_one(Checkpoint, 1)
        assert (record.checkpoint_id, record.by) == (base.id, "Bo")
        assert session.get_one(Round, opened.id).checkpoint_id == base.id
    assert str(current.resolve()) == str(trained.checkpoint_path(base))
    roll_back(trained, by="Bo", to="round-1")
    assert current.resolve().name == "round-1"


def test_a_link_that_a_cut_off_decision_left_wrong_is_set_again_by_the_worker(trained: Workspace) -> None:
    decide(trained, decision=Decision.PROMOTE, by="Rae", force=True)
    current = trained.folder / "checkpoints" / "current"
    current.unlink()
    current.symlink_to("nowhere")
    work(trained, stop=stopped())
    assert sorted(path.name for path in current.parent.glob(".*")) == [".current.lock"]
    assert current.resolve().name == "round-1"


def stopped() -> threading.Event:
    stop = threading.Event()
    stop.set()
    return stop


def test_the_round_after_is_started_by_what_serves(trained: Workspace) -> None:
    decide(trained, decision=Decision.PROMOTE, by="Rae", force=True)
    roll_back(trained, by="Rae")
    opened = start_round(trained, by="Rae")
    with reading(trained.engine) as session:
        assert session.get_one(Checkpoint, opened.checkpoint_id).name == "base"
