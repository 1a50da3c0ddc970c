"""Sample runs that select their pairs: by which rewards, which they record, and the same after a cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlmodel import col, select

from dpo_core import sampling
from dpo_core.candidate_rewards import CandidateRewards
from dpo_core.loop import start_round
from dpo_core.policies import load_policy
from dpo_core.sampling import sample_round
from dpo_core.selection import select_pair
from dpo_core.workspace import Workspace
from store.checkpoints import add_checkpoint, base_checkpoint, get_checkpoint
from store.database import reading, writing
from store.models import Completion, Pair, Prompt, Run, SelectedBy
from store.runs import get_run, release_run
from tests.dpo_core.conftest import build_model, build_tokenizer
from tests.dpo_core.test_sample_runs import StopHereError, claimed, finished, pairs_of, stop_after

Make = Callable[..., Workspace]
NEAR = {"by": "near", "candidates": 4, "random_share": 0.4}


@dataclass(frozen=True)
class Asked:
    """A pair, and all that was written for its prompt."""

    pair: Pair
    messages: list[dict[str, str]]
    texts: list[str]
    two: tuple[int, int]


def asked(workspace: Workspace) -> list[Asked]:
    with reading(workspace.engine) as session:
        found = []
        for pair, prompt in session.exec(select(Pair, Prompt).join(Prompt).order_by(col(Pair.position))):
            of_prompt = select(Completion).where(Completion.prompt_id == prompt.id).order_by(col(Completion.id))
            written = session.exec(of_prompt).all()
            ids = [completion.id for completion in written]
            two = ids.index(pair.completion_a_id), ids.index(pair.completion_b_id)
            found.append(Asked(pair, prompt.messages, [each.text for each in written], two))
        return found


def add_policy(workspace: Workspace, kind: str) -> str:
    """A checkpoint that is not the base: other weights, or an adapter on the base's."""
    folder: Path = workspace.folder / "checkpoints" / "other"
    if kind == "full":
        tokenizer = build_tokenizer()
        build_model(tokenizer, seed=1).save_pretrained(folder)
    else:
        from peft import LoraConfig, get_peft_model

        with reading(workspace.engine) as session:
            base = base_checkpoint(session=session)
        model, tokenizer = load_policy(workspace, base)
        torch.manual_seed(0)
        lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(model, lora).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with writing(workspace.engine) as session:
        add_checkpoint(session=session, name="other", path="checkpoints/other", kind=kind)
    return "other"


def start(workspace: Workspace, writer: str = "base") -> None:
    start_round(workspace, by="test")
    with writing(workspace.engine) as session:
        run = get_run(session=session, run_id=1)
        run.settings = run.settings | {"checkpoint": writer}
        session.add(run)


def selecting(make_workspace: Make, rule: dict[str, Any], writer: str = "", name: str = "workspace") -> Workspace:
    """A workspace whose sample run waits; `writer`: "full" or "lora" where it is not the base that writes."""
    workspace = make_workspace(name, selection=rule, sampling={"max_new_tokens": 6})
    start(workspace, add_policy(workspace, writer) if writer else "base")
    return workspace


def reward(workspace: Workspace, name: str, messages: Any, text: str) -> float:
    """log p(text | messages) under a checkpoint, by nothing but its logits."""
    with reading(workspace.engine) as session:
        model, tokenizer = load_policy(workspace, get_checkpoint(session=session, name=name))
    prompt = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": text}], tokenize=True, return_dict=True
    )
    ids, start = whole["input_ids"], len(prompt["input_ids"])
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(logps[place - 1, ids[place]] for place in range(start, len(ids))))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_margins_are_the_writers_over_the_base_and_the_nearest_are_asked(make_workspace: Make, kind: str) -> None:
    workspace = selecting(make_workspace, NEAR, kind)
    run = finished(workspace)
    found = asked(workspace)
    assert run.result["pairs"] == len(found) == 12
    assert Counter(run.result["selected"]) == Counter(each.pair.selected_by for each in found)
    with reading(workspace.engine) as session:
        held_out = set(session.exec(select(Prompt.id).where(Prompt.held_out)))
    left = [each for each in found if each.pair.selected_by == SelectedBy.HELD_OUT]
    assert {each.pair.prompt_id for each in left} == {each.pair.prompt_id for each in found} & held_out != set()
    assert {(each.two, each.pair.selected_margin) for each in left} == {((0, 1), None)}
    rest = [each for each in found if each not in left]
    assert {each.pair.selected_by for each in rest[:4]} == {"near", "slice"}
    for each in rest[:4]:
        both = {
            name: [reward(workspace, name, each.messages, text) for text in each.texts] for name in ("other", "base")
        }
        rewards = [0.1 * (mine - theirs) for mine, theirs in zip(both["other"], both["base"], strict=True)]
        first, second = each.two
        assert len(each.texts) == 4
        assert each.pair.selected_margin == pytest.approx(rewards[first] - rewards[second], abs=1e-4)
        if each.pair.selected_by == "near":
            gaps = sorted(abs(one - other) for index, one in enumerate(rewards) for other in rewards[:index])
            assert abs(each.pair.selected_margin) == pytest.approx(gaps[0], abs=1e-4)  # no two are near-duplicates
        else:
            assert each.two == (0, 1)


def test_what_is_left_to_chance_is_the_pair_that_there_would_be_anyway(make_workspace: Make) -> None:
    """And scoring disturbs no writing: texts are the same to the letter."""
    plain = selecting(make_workspace, {}, "full", name="plain")
    chosen = selecting(make_workspace, NEAR | {"candidates": 3}, "full", name="chosen")
    finished(plain)
    finished(chosen)
    without = {prompt: (place, a, b) for place, prompt, a, b in pairs_of(plain)}
    with_it = {prompt: (place, a, b) for place, prompt, a, b in pairs_of(chosen)}
    sliced = [each.pair.prompt_id for each in asked(chosen) if each.pair.selected_by == SelectedBy.SLICE]
    assert len(sliced) > 2 and {each: without[each] for each in sliced} == {each: with_it[each] for each in sliced}
    assert without.keys() == with_it.keys() and without != with_it
    assert {each.pair.selected_by for each in asked(plain)} == {None}


def test_in_the_first_round_chance_decides_and_the_record_says_so(make_workspace: Make, monkeypatch: Any) -> None:
    workspace = selecting(make_workspace, NEAR)
    monkeypatch.setattr(CandidateRewards, "of", None)  # the base's own rewards are nothing to compute
    run = finished(workspace)
    assert set(run.result["selected"]) == {"random", "slice", "held_out"}
    assert {each.pair.selected_margin for each in asked(workspace)} == {None}
    with reading(workspace.engine) as session:
        assert len(session.exec(select(Completion)).all()) == 48  # those not asked about are kept


def test_the_first_pairs_come_before_all_is_written(make_workspace: Make) -> None:
    workspace = selecting(make_workspace, NEAR, "full")
    heard: dict[int, int] = {}

    def hear(report: dict[str, Any]) -> None:
        heard.setdefault(report["step"], len(pairs_of(workspace)))

    run, progress = claimed(workspace, hear)
    sample_round(workspace, run, progress)
    assert heard == {0: 0, 2: 2, 6: 6, 10: 10, 12: 12}


def test_a_resumed_run_selects_what_it_would_have_selected(make_workspace: Make, monkeypatch: Any) -> None:
    rule = NEAR | {"by": "mixed"}
    whole, broken = (selecting(make_workspace, rule, "full", name=name) for name in ("whole", "broken"))
    finished(whole)
    run, progress = claimed(broken)
    with monkeypatch.context() as patch, pytest.raises(StopHereError):
        stop_after(7, StopHereError(), patch)
        sample_round(broken, run, progress)
    assert len(pairs_of(broken)) == 6
    with writing(broken.engine) as session:
        release_run(session=session, run_id=run.id or 0, attempt=run.attempt, crashed=True)
    finished(broken)
    assert pairs_of(broken) == pairs_of(whole)
    assert [recorded(each) for each in asked(broken)] == [recorded(each) for each in asked(whole)]
    assert len({each.pair.selected_by for each in asked(whole)}) > 2


def recorded(each: Asked) -> tuple[object, ...]:
    return each.pair.prompt_id, each.pair.selected_by, each.pair.selected_margin, each.texts


def test_settings_of_the_run_hold_where_the_file_was_changed_meanwhile(make_workspace: Make) -> None:
    workspace = selecting(make_workspace, NEAR)
    changed = workspace.with_settings(
        workspace.settings.model_copy(update={"selection": type(workspace.settings)().selection})
    )
    assert set(finished(changed).result["selected"]) == {"random", "slice", "held_out"}


def test_where_only_two_come_out_there_is_nothing_to_choose_and_one_is_no_pair(
    make_workspace: Make, monkeypatch: Any
) -> None:
    real = sampling.sample_completions

    def fewer(*args: Any, **given: Any) -> Any:
        return [found[: 1 + index % 2] for index, found in enumerate(real(*args, **given))]

    monkeypatch.setattr(sampling, "sample_completions", fewer)
    workspace = selecting(make_workspace, NEAR, "full")
    run: Run = finished(workspace)
    assert (run.result["pairs"], run.result["skipped_identical"]) == (6, 6)
    assert {each.two for each in asked(workspace)} == {(0, 1)}
    assert "near" in {each.pair.selected_by for each in asked(workspace)} <= {"near", "slice", "held_out"}


def test_rewards_of_an_odd_number_are_those_of_each(make_workspace: Make) -> None:
    """Each text's reward does not hang on its neighbour."""
    workspace = make_workspace()
    add_policy(workspace, "full")
    with reading(workspace.engine) as session:
        both = [get_checkpoint(session=session, name=name) for name in ("other", "base")]
    (policy, tokenizer), (base, _) = (load_policy(workspace, each) for each in both)
    scorer = CandidateRewards(policy, base, tokenizer, beta=0.5)
    messages, texts = [{"role": "user", "content": "Why?"}], ["Because.", "No reason at all, as it were.", "So."]
    found = scorer.of(messages, texts)
    expected = [
        0.5 * (reward(workspace, "other", messages, text) - reward(workspace, "base", messages, text)) for text in texts
    ]
    assert found == pytest.approx(expected, abs=1e-4)
    assert scorer.of(messages, texts[:2]) == pytest.approx(found[:2], abs=1e-4)
    settings = workspace.settings.selection.model_copy(update={"candidates": 3, "by": "far", "random_share": 0.0})
    far = max(((0, 1), (0, 2), (1, 2)), key=lambda two: abs(expected[two[0]] - expected[two[1]]))
    assert select_pair(texts, settings=settings, named="x", rewards=found).two == far
