"""Sample runs: pairs in the queue's order, whole or not at all, the same after a cut, and not quite blind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from dpo_core import sampling
from dpo_core.carry_out import carry_out_here
from dpo_core.config import SamplingSettings
from dpo_core.errors import RunCancelled, RunError
from dpo_core.loop import read_loop, sample_more, start_round
from dpo_core.progress import RunProgress
from dpo_core.sampling import names_maker, sample_round
from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.models import Completion, Pair, Prompt, Round, RoundStatus, Run, RunStatus
from store.runs import LostRunError, claim_run, get_run, release_run

SETTINGS = SamplingSettings(max_new_tokens=12, batch_size=4)
ASKED = [[{"role": "user", "content": "word " * size}] for size in (1, 7, 3, 2, 5, 1, 4, 6, 2)]
ASKED = [[{"role": "user", "content": f"{entry[0]['content']}{index}"}] for index, entry in enumerate(ASKED)]


def claimed(workspace: Workspace, listener: Any = None) -> tuple[Run, RunProgress]:
    from datetime import timedelta

    with writing(workspace.engine) as session:
        run = claim_run(session=session, owner="test", lease=timedelta(minutes=5))
    assert run is not None and run.id is not None
    return run, RunProgress(workspace, run.id, run.attempt, listener)


def finished(workspace: Workspace) -> Run:
    run, progress = claimed(workspace)
    sample_round(workspace, run, progress)
    with reading(workspace.engine) as session:
        return get_run(session=session, run_id=run.id or 0)


def pairs_of(workspace: Workspace) -> list[tuple[int, int, str, str]]:
    """(position, prompt, text a, text b) of every pair, in the queue's order."""
    with reading(workspace.engine) as session:
        pairs = session.exec(select(Pair).order_by(Pair.position)).all()  # type: ignore[arg-type]
        return [
            (
                pair.position,
                pair.prompt_id,
                session.get_one(Completion, pair.completion_a_id).text,
                session.get_one(Completion, pair.completion_b_id).text,
            )
            for pair in pairs
        ]


def count_completions(workspace: Workspace) -> int:
    with reading(workspace.engine) as session:
        return len(session.exec(select(Completion)).all())


def round_status(workspace: Workspace) -> str:
    with reading(workspace.engine) as session:
        return session.exec(select(Round)).one().status


MakeWorkspace = Callable[..., Workspace]


def test_sample_run_queues_its_pairs_in_order_and_opens_the_round(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()
    start_round(workspace, by="test")
    run = finished(workspace)
    pairs = pairs_of(workspace)
    assert run.status == RunStatus.DONE and round_status(workspace) == RoundStatus.COMPARING
    assert [(place, prompt) for place, prompt, _, _ in pairs] == list(enumerate(run.settings["prompt_ids"]))
    assert run.result["pairs"] == len(pairs) == 12 and count_completions(workspace) == 24
    assert run.result["skipped_identical"] == run.result["skipped_long"] == 0 and run.result["tokens"] > 24
    with reading(workspace.engine) as session:
        written = session.exec(select(Completion)).first()
    assert written is not None and (written.run_id, written.checkpoint_id) == (run.id, 1) and written.seed is not None
    assert written.settings == {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 8}


def test_more_pairs_go_on_where_the_queue_ends(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()
    start_round(workspace, by="test")
    finished(workspace)
    sample_more(workspace, pairs=3, by="test")
    finished(workspace)
    pairs = pairs_of(workspace)
    assert [place for place, *_ in pairs] == list(range(15))
    assert len({prompt for _, prompt, *_ in pairs}) == 15


class StopHereError(Exception):
    """The process dies here."""


def stop_after(saves: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = sampling.add_pair, iter(range(10_000))

    def add(**given: Any) -> Pair:
        if next(calls) == saves:
            raise error
        return real(**given)

    monkeypatch.setattr(sampling, "add_pair", add)


@pytest.mark.parametrize("saves", [1, 7])
def test_resumed_run_makes_the_pairs_it_would_have_made(
    make_workspace: MakeWorkspace, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    whole, broken = make_workspace("whole"), make_workspace("broken")
    start_round(whole, by="test")
    finished(whole)
    start_round(broken, by="test")
    run, progress = claimed(broken)
    with monkeypatch.context() as patch, pytest.raises(StopHereError):
        stop_after(saves, StopHereError(), patch)
        sample_round(broken, run, progress)
    left = pairs_of(broken)
    assert len(left) == {1: 0, 7: 6}[saves] and count_completions(broken) == 2 * len(left)
    assert round_status(broken) == RoundStatus.SAMPLING
    with writing(broken.engine) as session:
        release_run(session=session, run_id=run.id or 0, attempt=run.attempt, crashed=True)
    assert finished(broken).result["pairs"] == 12
    assert pairs_of(broken) == pairs_of(whole) and count_completions(broken) == 24


def test_cancelled_run_leaves_whole_pairs(make_workspace: MakeWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from store.runs import cancel_run

    monkeypatch.setattr("dpo_core.progress.REPORT_SECONDS", 0.0)
    workspace = make_workspace()
    start_round(workspace, by="test")

    def cancel(report: dict[str, Any]) -> None:
        if report["step"] == 2:
            with writing(workspace.engine) as session:
                cancel_run(session=session, run_id=1)

    run, progress = claimed(workspace, cancel)
    with pytest.raises(RunCancelled):
        sample_round(workspace, run, progress)
    assert len(pairs_of(workspace)) == 2 and count_completions(workspace) == 4


def test_lost_run_writes_nothing_more(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace()
    start_round(workspace, by="test")
    run, progress = claimed(workspace)
    progress.report("sample", 0, 12)
    with writing(workspace.engine) as session:
        release_run(session=session, run_id=run.id or 0, attempt=run.attempt, crashed=False)
    claimed(workspace)
    with pytest.raises(LostRunError):
        sample_round(workspace, run, progress)
    assert count_completions(workspace) == 0


def test_progress_counts_prompts_in_one_phase(make_workspace: MakeWorkspace) -> None:
    workspace, heard = make_workspace(), []
    start_round(workspace, by="test")
    run, progress = claimed(workspace, heard.append)
    sample_round(workspace, run, progress)
    assert {(report["phase"], report["total"]) for report in heard} == {("sample", 12)}
    assert list(dict.fromkeys(report["step"] for report in heard)) == [0, 2, 6, 10, 12]


def test_long_prompts_are_left_out_and_counted(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(prompts=3, sampling={"max_new_tokens": 8})
    lengthen(workspace, {1})
    start_round(workspace, by="test")
    run = finished(workspace)
    assert (run.result["pairs"], run.result["skipped_long"]) == (2, 1)
    assert len(pairs_of(workspace)) == 2


def lengthen(workspace: Workspace, prompt_ids: set[int]) -> None:
    with writing(workspace.engine) as session:
        for number in prompt_ids:
            prompt = session.get_one(Prompt, number)
            prompt.messages = [{"role": "user", "content": "x" * 300}]
            session.add(prompt)


def test_run_of_long_prompts_alone_fails_in_words(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(prompts=2)
    lengthen(workspace, {1, 2})
    start_round(workspace, by="test")
    with pytest.raises(RunError, match=r"Every prompt is too long: the shortest has 30\d tokens, .*max_new_tokens"):
        finished(workspace)


def test_run_whose_texts_are_all_the_same_fails_in_words(make_workspace: MakeWorkspace) -> None:
    workspace = make_workspace(prompts=3, sampling={"temperature": 1e-6, "attempts": 2})
    start_round(workspace, by="test")
    with pytest.raises(RunError, match=r"of all 3 prompts were empty or identical.*Raise sampling.temperature"):
        finished(workspace)
    assert count_completions(workspace) == 0 and round_status(workspace) == RoundStatus.SAMPLING


def test_lora_checkpoint_writes_a_round(make_workspace: MakeWorkspace) -> None:
    from peft import LoraConfig, get_peft_model

    from dpo_core.policies import load_policy
    from store.checkpoints import add_checkpoint, base_checkpoint

    workspace = make_workspace()
    with writing(workspace.engine) as session:
        base = base_checkpoint(session=session)
    model, tokenizer = load_policy(workspace, base)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    folder: Path = workspace.folder / "checkpoints" / "adapted"
    get_peft_model(model, config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with writing(workspace.engine) as session:
        add_checkpoint(session=session, name="adapted", path="checkpoints/adapted", kind="lora")
    start_round(workspace, by="test")
    with writing(workspace.engine) as session:
        run = get_run(session=session, run_id=1)
        run.settings = run.settings | {"checkpoint": "adapted"}
        session.add(run)
    assert finished(workspace).result["pairs"] == 12
    with reading(workspace.engine) as session:
        assert {completion.checkpoint_id for completion in session.exec(select(Completion))} == {2}


def test_nothing_slow_to_import_is_loaded() -> None:
    import subprocess
    import sys

    code = """
import sys
import dpo_core.sampling
assert not {"trl", "datasets", "peft", "streamlit", "pandas"} & set(sys.modules), "slow imports"
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("I am Qwen, created by Alibaba Cloud.", True),
        ("I'm a large language model trained by OpenAI.", True),
        ("As ChatGPT, I cannot know that.", True),
        ("This was written by round-3.", True),
        ("I am glad you asked. A llama eats hay.", False),
        ("OpenAI released it in 2022.", False),
        ("As a rule, water it once a week.", False),
    ],
)
def test_a_completion_that_says_who_wrote_it_is_told(text: str, names: bool) -> None:
    assert names_maker(text) is names


def test_pairs_that_are_not_quite_blind_are_flagged_and_counted(
    make_workspace: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace()
    monkeypatch.setattr("dpo_core.sampling.names_maker", lambda text: hash(text) >= 0)
    opened = start_round(workspace, by="test")
    with reading(workspace.engine) as session:
        run = read_loop(session=session).run
    assert run is not None and run.id is not None
    carry_out_here(workspace, run.id)
    with reading(workspace.engine) as session:
        flagged = {row.id for row in session.exec(select(Completion)) if hash(row.text) >= 0}
        pairs = session.exec(select(Pair).where(Pair.round_id == opened.id)).all()
        telling = sum(bool({pair.completion_a_id, pair.completion_b_id} & flagged) for pair in pairs)
        assert 0 < telling == read_loop(session=session).naming_makers
