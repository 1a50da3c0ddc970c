"""What the loop waits for at each point, without any model: runs are ended by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from dpo_core import loop
from dpo_core.automatic import Act, plan_next
from dpo_core.changing_settings import change_training
from dpo_core.deciding import decide, go_on
from dpo_core.errors import RunError
from dpo_core.filters import Earlier, late_ones_count, learned_from_as_well, snapshot_filter, training_filter
from dpo_core.loop import (
    Step,
    cancel,
    queue_evaluation,
    read_loop,
    retry,
    return_to_comparing,
    round_stories,
    sample_more,
    start_round,
    start_training,
)
from dpo_core.workspace import Workspace
from store.checkpoints import add_checkpoint, base_checkpoint
from store.comparisons import Choice
from store.database import reading, writing
from store.decisions import roll_back_to
from store.errors import StateError
from store.importing import import_preferences
from store.models import Decision, Prompt, Round, RoundStatus, Run, RunKind, RunStatus
from store.pairs import NewCompletion, add_completion, add_pair
from store.rounds import add_round
from store.runs import cancel_run, claim_run, end_cancelled_run, fail_run, get_run, list_runs, queue_run
from store.snapshot_filter import SnapshotFilter
from store.snapshots import cut_snapshot, cut_words, get_snapshot
from tests.browser import seeding

Make = Callable[..., Workspace]


def step(workspace: Workspace) -> Step:
    with reading(workspace.engine) as session:
        return read_loop(session=session).step


def claim(workspace: Workspace) -> Run:
    with writing(workspace.engine) as session:
        run = claim_run(session=session, owner="test", lease=timedelta(minutes=1))
    assert run is not None
    return run


def test_first_prompts_then_a_round_then_pairs(make_workspace: Make) -> None:
    empty = make_workspace("empty", prompts=0)
    assert step(empty) == Step.IMPORT_PROMPTS
    with pytest.raises(RunError, match="pairloop import"):
        start_round(empty, by="test")
    workspace = make_workspace()
    assert step(workspace) == Step.START_ROUND
    opened = start_round(workspace, by="test")
    assert (opened.number, opened.target, opened.status) == (1, 10, RoundStatus.SAMPLING)
    assert step(workspace) == Step.WAIT_FOR_PAIRS
    with pytest.raises(StateError, match="still open"):
        start_round(workspace, by="test")


def test_a_failed_run_is_to_be_mended_and_can_be_retried(make_workspace: Make) -> None:
    workspace = make_workspace()
    start_round(workspace, by="test")
    run = claim(workspace)
    with writing(workspace.engine) as session:
        fail_run(session=session, run_id=run.id or 0, attempt=run.attempt, error="The model is not there.")
    assert step(workspace) == Step.MEND_RUN
    retry(workspace, run_id=run.id or 0)
    assert step(workspace) == Step.WAIT_FOR_PAIRS


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_a_pair_that_is_there_already_hides_no_failed_run(make_workspace: Make, ended: str) -> None:
    """One that came from the Playground, say, or a duel that went along."""
    workspace = make_workspace()
    opened = start_round(workspace, by="test")
    run = claim(workspace)
    with writing(workspace.engine) as session:
        asked, base = next(iter(session.exec(select(Prompt)))), base_checkpoint(session=session)
        both = [
            add_completion(
                session=session, prompt_id=asked.id or 0, new=NewCompletion(text=text), checkpoint_id=base.id
            )
            for text in ("Yes.", "No.")
        ]
        add_pair(session=session, prompt_id=asked.id or 0, completions=both, round_id=opened.id)
        if ended == "failed":
            fail_run(session=session, run_id=run.id or 0, attempt=run.attempt, error="Out of memory.")
        else:
            cancel_run(session=session, run_id=run.id or 0)
            end_cancelled_run(session=session, run_id=run.id or 0, attempt=run.attempt)
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
    assert (state.step, state.stuck_run and state.stuck_run.id) == (Step.COMPARE, run.id)
    assert plan_next(state, None, workspace.settings.automatic).act == Act.STOP
    retry(workspace, run_id=run.id or 0)
    with reading(workspace.engine) as session:
        assert read_loop(session=session).stuck_run is None


def test_a_run_that_was_overtaken_is_not_retried(make_workspace: Make) -> None:
    workspace = make_workspace()
    start_round(workspace, by="test")
    run = claim(workspace)
    with writing(workspace.engine) as session:
        fail_run(session=session, run_id=run.id or 0, attempt=run.attempt, error="No.")
        current = session.get_one(Round, run.round_id)
        given_up = Run(kind=RunKind.TRAIN, status=RunStatus.FAILED, round_id=current.id)
        taken = Run(kind=RunKind.TRAIN, status=RunStatus.FAILED, round_id=current.id)
        session.add_all([given_up, taken])
        current.status = RoundStatus.COMPARING
    with pytest.raises(RunError, match="went on without run"):
        retry(workspace, run_id=taken.id or 0)
    set_status(workspace, RoundStatus.TRAINING)
    with pytest.raises(RunError, match=f"Run {taken.id} took the place"):
        retry(workspace, run_id=given_up.id or 0)
    set_status(workspace, RoundStatus.DONE)
    for old in (run, given_up, taken):
        with pytest.raises(RunError, match="Round 1 is done"):
            retry(workspace, run_id=old.id or 0)
    set_status(workspace, RoundStatus.TRAINING)
    assert retry(workspace, run_id=taken.id or 0).status == RunStatus.QUEUED


def set_status(workspace: Workspace, status: RoundStatus) -> None:
    with writing(workspace.engine) as session:
        session.get_one(Round, 1).status = status


def test_a_round_asks_for_each_prompt_once_and_for_the_held_out_share(make_workspace: Make) -> None:
    workspace = make_workspace(prompts=100)
    start_round(workspace, by="test")
    with reading(workspace.engine) as session:
        [run] = list_runs(session=session)
    ids = run.settings["prompt_ids"]
    assert len(ids) == len(set(ids)) == 12  # 10 comparisons and a quarter to spare, rounded to even
    with pytest.raises(StateError, match="queued already"):
        sample_more(workspace, pairs=5, by="test")


def with_imports(workspace: Workspace, tmp_path: Path) -> Workspace:
    path = tmp_path / "preferences.jsonl"
    rows = [{"prompt": f"Question {n}?", "chosen": f"Yes, {n}.", "rejected": f"No {n}."} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_preferences(engine=workspace.engine, path=path, held_out_share=0.2)
    return workspace


@pytest.mark.parametrize("setting", ["all", "round"])
def test_imported_comparisons_can_be_trained_on_at_once(make_workspace: Make, tmp_path: Path, setting: str) -> None:
    workspace = with_imports(make_workspace(prompts=0, training={"comparisons": setting}), tmp_path)
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
    assert (state.step, state.imported) == (Step.START_ROUND, 20)
    run = start_training(workspace, by="test")
    assert run.kind == RunKind.TRAIN and step(workspace) == Step.WAIT_FOR_TRAINING
    with reading(workspace.engine) as session:
        [story] = round_stories(session=session)
    assert story.snapshot is not None
    assert sum(story.snapshot.manifest["pairs"].values()) == 20
    assert story.checkpoint.name == run.settings["parent"] == "base"
    with pytest.raises(StateError, match="no new checkpoint"):
        decide(workspace, decision=Decision.PROMOTE, by="test")


def test_a_round_on_imports_whose_training_was_given_up_waits_to_be_trained(
    make_workspace: Make, tmp_path: Path
) -> None:
    workspace = with_imports(make_workspace(prompts=0), tmp_path)
    first = start_training(workspace, by="test")
    cancel(workspace, run_id=first.id or 0, by="test")
    assert step(workspace) == Step.MEND_RUN
    return_to_comparing(workspace, by="test")
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
        [story] = round_stories(session=session)
    assert (state.step, state.imported, story.on_imports) == (Step.TRAIN, 20, True)
    with pytest.raises(RunError, match="asks for none"):
        sample_more(workspace, pairs=5, by="test")
    again = start_training(workspace, by="test")
    assert (again.id, again.settings["snapshot"]) == (2, first.settings["snapshot"])
    assert step(workspace) == Step.WAIT_FOR_TRAINING


@pytest.fixture
def trained(tmp_path: Path) -> Workspace:
    """A round of six pairs, four of them compared, trained to round-1, which waits for its decision."""
    workspace = seeding.new_workspace(tmp_path / "trained", target=4)
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    seeding.compare(workspace, "me", [Choice.LEFT] * 4)
    seeding.train(workspace, steps=1, of=1)
    return workspace


def test_to_go_on_is_to_decide_and_to_start_the_next_round(trained: Workspace) -> None:
    opened = go_on(trained, decision=Decision.PROMOTE, by="Lea", comparisons=7)
    with reading(trained.engine) as session:
        first, second = round_stories(session=session)
    assert (first.round.status, first.round.decision, first.round.decided_by) == ("done", "promote", "Lea")
    assert (second.round.id, second.round.target, second.checkpoint.name) == (opened.id, 7, "round-1")


def test_a_decision_that_cannot_be_followed_by_a_round_is_not_taken(
    trained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "prompts_to_ask", lambda **_: [])
    with pytest.raises(RunError, match="no prompts"):
        go_on(trained, decision=Decision.PROMOTE, by="Lea")
    with reading(trained.engine) as session:
        [story] = round_stories(session=session)
    assert (story.round.status, story.round.decision) == ("deciding", None)
    assert story.result is not None and story.result.verdict is None


def with_training_on(workspace: Workspace, comparisons: str) -> Workspace:
    training = workspace.settings.training.model_copy(update={"comparisons": comparisons})
    return Workspace(workspace.folder, workspace.settings.model_copy(update={"training": training}))


@pytest.mark.parametrize(
    ("setting", "decision", "trained_on_later"),
    [
        ("all", Decision.PROMOTE, 4 + 2 + 3),
        ("all", Decision.KEEP, 4 + 2 + 3),
        ("round", Decision.PROMOTE, 3),
        ("round", Decision.KEEP, 4 + 2 + 3),  # the parent has learned from none of them
    ],
)
def test_what_becomes_of_comparisons_of_rounds_before(
    trained: Workspace, setting: str, decision: Decision, trained_on_later: int
) -> None:
    workspace = with_training_on(trained, setting)
    with reading(workspace.engine) as session:
        assert read_loop(session=session).late == 0
    seeding.compare(workspace, "me", [Choice.LEFT] * 2)
    with reading(workspace.engine) as session:
        assert read_loop(session=session).late == 2
    go_on(workspace, decision=decision, by="test", comparisons=3)
    seeding.write_pairs(workspace, seeding.plain_exchanges(9)[6:])
    seeding.compare(workspace, "me", [Choice.LEFT] * 3)
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
    told = (1,) if (setting, decision) == ("round", Decision.KEEP) else ()
    assert (state.late, learned_from_as_well(workspace, state.round)) == (0, Earlier(told, imports=False))
    start_training(workspace, by="test")
    with reading(workspace.engine) as session:
        second = round_stories(session=session)[1]
    assert second.snapshot is not None
    assert second.snapshot.manifest["comparisons"] == trained_on_later
    assert late_ones_count(workspace) == (setting == "all")
    with writing(workspace.engine) as session:  # kept and exported in any case
        cut = cut_snapshot(session=session, folder=workspace.folder, filter=snapshot_filter(workspace))
    assert cut.manifest["comparisons"] == 9


def test_a_training_begun_anew_uses_what_came_in_since(trained: Workspace) -> None:
    set_status(trained, RoundStatus.COMPARING)
    seeding.compare(trained, "me", [Choice.LEFT])
    run = start_training(trained, by="test")
    with reading(trained.engine) as session:
        assert read_loop(session=session).late == 0
    assert run.settings["compared"] == 5


def test_a_cancelled_runs_log_says_who_asked(make_workspace: Make) -> None:
    workspace = make_workspace()
    start_round(workspace, by="test")
    run = claim(workspace)
    assert cancel(workspace, run_id=run.id or 0, by="Lea").cancel_requested
    assert "Lea asked it to stop." in (workspace.run_folder(run.id or 0) / "log.txt").read_text()
    with writing(workspace.engine) as session:
        fail_run(session=session, run_id=run.id or 0, attempt=run.attempt, error="No.")
    with pytest.raises(StateError, match="failed already"):
        cancel(workspace, run_id=run.id or 0, by="Lea")
    with reading(workspace.engine) as session:
        assert get_run(session=session, run_id=run.id or 0).status == RunStatus.FAILED


def wanted(workspace: Workspace, checkpoint_id: int, changes: dict[str, Any], **told: Any) -> SnapshotFilter:
    training = change_training(workspace.settings.training, changes)
    with reading(workspace.engine) as session:
        return training_filter(training, session=session, checkpoint_id=checkpoint_id, **told)


def test_a_checkpoint_learns_from_every_round_that_began_from_it(make_workspace: Make) -> None:
    """Kept back, promoted, rolled back to: what `comparisons = "round"` comes to."""
    workspace = make_workspace(training={"comparisons": "round"})
    with writing(workspace.engine) as session:
        base = base_checkpoint(session=session).id or 0
        first = add_checkpoint(session=session, name="round-1", path="checkpoints/round-1", parent_id=base).id or 0
        for writer in (base, base, first, base, first):  # 1 kept back, 2 promoted, 3 rolled back to base, 4 to first
            opened = add_round(session=session, checkpoint_id=writer, target=2)
            if opened.number != 4:  # which is on imports
                queue_run(session=session, kind=RunKind.SAMPLE, settings={}, requested_by="test", round_id=opened.id)
            opened.status = RoundStatus.DONE
            session.add(opened)
            session.flush()
    assert wanted(workspace, first, {}) == SnapshotFilter((3, 5), include_imported=False)
    assert wanted(workspace, base, {}) == SnapshotFilter((1, 2))  # and what is imported, for round 4
    assert wanted(workspace, first, {"comparisons": "all"}) == SnapshotFilter()


def test_imports_that_were_kept_back_are_learned_from_beside_the_next_round(
    make_workspace: Make, tmp_path: Path
) -> None:
    workspace = with_imports(make_workspace(prompts=0, training={"comparisons": "round"}), tmp_path)
    assert learned_from_as_well(workspace, None) == Earlier((), imports=False)  # these are the round's own
    seeding.train(workspace, steps=1, of=1)
    decide(workspace, decision=Decision.KEEP, by="test")
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    seeding.compare(workspace, "me", [Choice.LEFT] * 4)
    with reading(workspace.engine) as session:
        current = read_loop(session=session).round
    assert learned_from_as_well(workspace, current) == Earlier((), imports=True)
    training = start_training(workspace, by="test", early=True)
    with reading(workspace.engine) as session:
        manifest = get_snapshot(session=session, name=training.settings["snapshot"]).manifest
    assert (manifest["comparisons"], cut_words(manifest)) == (
        24,
        f"{manifest['pairs']['train']} pairs to train on and {manifest['pairs']['test']} held out, "
        "of round 2 and imports",
    )


def test_the_plan_is_drawn_for_what_the_training_takes(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, drawn_for = with_training_on(trained, "round"), []
    monkeypatch.setattr(loop, "next_plan", lambda *_, wanted, **__: drawn_for.append(wanted.described()))
    go_on(workspace, decision=Decision.KEEP, by="test", comparisons=3)
    seeding.write_pairs(workspace, seeding.plain_exchanges(9)[6:])
    seeding.compare(workspace, "me", [Choice.LEFT] * 3)
    loop.plan_training(workspace)
    training = start_training(workspace, by="test")
    with reading(workspace.engine) as session:
        cut = get_snapshot(session=session, name=training.settings["snapshot"])
    assert drawn_for == [cut.manifest["filter"]] and drawn_for[0]["round_numbers"] == [1, 2]


def test_who_takes_the_place_of_another_in_an_open_round_learns_from_it(trained: Workspace) -> None:
    """Round 2 is written by round-1; then base serves again, and is what the round is trained from."""
    workspace = with_training_on(trained, "round")
    go_on(workspace, decision=Decision.PROMOTE, by="test", comparisons=3)
    seeding.write_pairs(workspace, seeding.plain_exchanges(9)[6:])
    seeding.compare(workspace, "me", [Choice.LEFT] * 3)
    with writing(workspace.engine) as session:
        base = base_checkpoint(session=session)
        roll_back_to(session=session, checkpoint=base, by="test")
        current = read_loop(session=session).round
    assert learned_from_as_well(workspace, current) == Earlier((1,), imports=False)
    training = start_training(workspace, by="test")
    with reading(workspace.engine) as session:
        manifest = get_snapshot(session=session, name=training.settings["snapshot"]).manifest
    assert (training.settings["parent"], manifest["comparisons"]) == ("base", 7)
    assert cut_words(manifest).endswith("of rounds 1 and 2")


def test_filters_follow_pairloop_toml_unless_told(make_workspace: Make) -> None:
    workspace = make_workspace(training={"min_agreement": 0.7, "comparisons": "round"})
    assert snapshot_filter(workspace) == SnapshotFilter(min_agreement=0.7)
    told = snapshot_filter(workspace, round_numbers=(2,), include_imported=False, min_agreement=0, max_chars=9)
    assert told == SnapshotFilter(round_numbers=(2,), include_imported=False, min_agreement=0, max_chars=9)
    assert wanted(workspace, 1, {}) == SnapshotFilter((), include_imported=False, min_agreement=0.7)
    assert wanted(workspace, 1, {}, on_imports=True) == SnapshotFilter((), min_agreement=0.7)
    assert wanted(workspace, 1, {"comparisons": "all"}) == SnapshotFilter(min_agreement=0.7)
    changes = {"comparisons": "all", "ties": "davidson"}
    assert wanted(workspace, 1, changes) == SnapshotFilter(min_agreement=0.7, keep_ties=True)
    changes = {"comparisons": "all", "confidence": "reliability"}
    assert wanted(workspace, 1, changes) == SnapshotFilter(min_agreement=0.7, confidence=True)
    changes = {"comparisons": "all", "confidence": "agreement"}
    assert wanted(workspace, 1, changes) == SnapshotFilter(min_agreement=0.7, votes=True)
    points = [{"confidence": "ignore"}, {"confidence": "agreement"}]
    by_votes = SnapshotFilter((), include_imported=False, min_agreement=0.7, votes=True)
    assert wanted(workspace, 1, {}, sweep=points) == by_votes
    assert snapshot_filter(workspace, confidence=True) == SnapshotFilter(min_agreement=0.7, confidence=True)


@pytest.mark.parametrize(("named", "judged"), [(None, "round-1"), ("base", "base")])
def test_the_newest_checkpoint_is_judged_unless_another_is_named(
    trained: Workspace, named: str | None, judged: str
) -> None:
    with reading(trained.engine) as session:
        [story] = round_stories(session=session)
    assert story.snapshot is not None
    run = queue_evaluation(trained, checkpoint=named, snapshot=story.snapshot, by="test")
    assert (run.settings["checkpoint"], run.settings["reference"]) == (judged, "base")
