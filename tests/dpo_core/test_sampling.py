"""Sampling: the same law as plain generation, the same texts whatever the batch, whole pairs only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from sqlmodel import select
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from dpo_core import sampling
from dpo_core.config import SamplingSettings
from dpo_core.decoding import Law, Row, continue_prompts, draw_tokens, nucleus, prefill, uniforms
from dpo_core.errors import ModelError, RunCancelled, RunError
from dpo_core.loop import sample_more, start_round
from dpo_core.policies import encode_prompt
from dpo_core.progress import RunProgress
from dpo_core.sampling import sample_completions, sample_round
from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.models import Completion, Pair, Prompt, Round, RoundStatus, Run, RunStatus
from store.pairs import NewCompletion
from store.runs import LostRunError, claim_run, get_run, release_run
from tests.dpo_core.conftest import build_model, build_tokenizer

SETTINGS = SamplingSettings(max_new_tokens=12, batch_size=4)
ASKED = [[{"role": "user", "content": "word " * size}] for size in (1, 7, 3, 2, 5, 1, 4, 6, 2)]
ASKED = [[{"role": "user", "content": f"{entry[0]['content']}{index}"}] for index, entry in enumerate(ASKED)]


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """One: in models this small, threads only wait for each other, a thousand times longer beside other work."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


def build(kind: str, tokenizer: Any, **changes: Any) -> Any:
    """A tiny model of an architecture, its weights wide enough that the tokens differ."""
    if kind == "llama":
        return build_model(tokenizer).eval()
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    size = {"vocab_size": len(tokenizer), "initializer_range": 0.2} | ends | changes
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **size)).eval()
    size |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"num_key_value_heads": 2, "max_position_embeddings": 256}
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(sliding_window=16, **size)).eval()
    return Qwen2ForCausalLM(Qwen2Config(**size)).eval()


KINDS = ["llama", "qwen2", "gpt2", "mistral"]


def texts(written: Sequence[Sequence[NewCompletion]]) -> list[list[str]]:
    return [[new.text for new in completions] for completions in written]


@pytest.mark.parametrize("kind", KINDS)
def test_no_temperature_or_no_nucleus_is_greedy_generation(tokenizer: Any, kind: str) -> None:
    model = build(kind, tokenizer)
    prompts = [encode_prompt(tokenizer, messages) for messages in ASKED[:5]]
    rows = [Row(index, seed) for index in range(len(prompts)) for seed in (1, 2)]
    stops = {tokenizer.eos_token_id}
    cold = continue_prompts(model, prompts, rows, Law(1e-4, 1.0, 24, stops), pad_id=0)
    narrow = continue_prompts(model, prompts, rows, Law(1.0, 1e-6, 24, stops), pad_id=0)
    for index, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        plain = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)
        expected = plain[0, len(prompt) :].tolist()
        assert cold[2 * index : 2 * index + 2] == narrow[2 * index : 2 * index + 2] == [expected] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_shared_prefill_gives_the_logits_of_each_row_alone(tokenizer: Any, kind: str) -> None:
    model = build(kind, tokenizer)
    prompts = [encode_prompt(tokenizer, messages) for messages in ASKED[:3]]
    owners, following = [0, 0, 1, 2, 2], torch.tensor([5, 6, 7, 8, 9])
    with torch.inference_mode():
        first, state = prefill(model, prompts, owners, pad_id=0)
        second = state.advance(following)
        state.pick(torch.tensor([4, 1]))
        third = state.advance(torch.tensor([3, 4]))
        alone = [
            model(torch.tensor([[*prompts[owner], int(following[row])]])).logits[0] for row, owner in enumerate(owners)
        ]
        last = [
            model(torch.tensor([[*prompts[owners[row]], int(following[row]), token]])).logits[0, -1]
            for row, token in ((4, 3), (1, 4))
        ]
    assert torch.allclose(first, torch.stack([logits[-2] for logits in alone]), atol=1e-5)
    assert torch.allclose(second, torch.stack([logits[-1] for logits in alone]), atol=1e-5)
    assert torch.allclose(third, torch.stack(last), atol=1e-5)


def test_prompt_is_computed_once_for_all_its_completions(tokenizer: Any) -> None:
    model, seen = build("qwen2", tokenizer), []
    model.model.register_forward_pre_hook(
        lambda _module, _args, given: seen.append(given["input_ids"].shape[0]), with_kwargs=True
    )
    sample_completions(model, tokenizer, ASKED[:3], SETTINGS, per_prompt=4, seed=0)
    assert seen[:2] == [3, 12]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_do_not_depend_on_the_batch(tokenizer: Any, kind: str) -> None:
    model = build(kind, tokenizer)
    together = sample_completions(model, tokenizer, ASKED, SETTINGS, seed=5)
    for size in (1, 9):
        settings = SETTINGS.model_copy(update={"batch_size": size})
        backwards = sample_completions(model, tokenizer, ASKED[::-1], settings, seed=5)
        assert backwards[::-1] == together
    other = sample_completions(model, tokenizer, ASKED, SETTINGS, seed=6)
    assert all(mine != yours for mine, yours in zip(texts(together), texts(other), strict=True))
    assert all(len(set(pair)) == 2 for pair in texts(together))


def draws(logits: torch.Tensor, count: int, *, temperature: float, top_p: float) -> Counter[int]:
    seeds = torch.arange(count) * 7 + 3
    return Counter(draw_tokens(logits.expand(count, -1), seeds, 2, temperature=temperature, top_p=top_p).tolist())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits, count = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5]), 20_000
    expected = (logits / temperature).softmax(-1).double() * count
    found = draws(logits, count, temperature=temperature, top_p=1.0)
    assert chisquare([found[token] for token in range(5)], (expected / expected.sum() * count).tolist()).pvalue > 1e-3


def test_draws_stay_in_the_nucleus_and_keep_its_proportions() -> None:
    probs, count = torch.tensor([0.05, 0.4, 0.15, 0.3, 0.1]), 20_000
    found = draws(probs.log(), count, temperature=1.0, top_p=0.8)  # 0.4 + 0.3 < 0.8 <= 0.4 + 0.3 + 0.15
    assert set(found) == {1, 3, 2}
    expected = [count * share / 0.85 for share in (0.4, 0.3, 0.15)]
    assert chisquare([found[token] for token in (1, 3, 2)], expected).pvalue > 1e-3


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("size", [50, 1500])
def test_nucleus_is_that_of_transformers(top_p: float, size: int) -> None:
    from transformers import TopPLogitsWarper

    torch.manual_seed(0)
    logits = torch.randn(6, size) * torch.tensor([0.1, 0.5, 1, 2, 4, 8])[:, None]
    weights, tokens = nucleus(logits.softmax(-1), top_p)
    kept = torch.zeros(6, size, dtype=torch.bool).scatter(1, tokens, weights > 0)
    plain = TopPLogitsWarper(top_p)(torch.zeros(6, 1), logits) > -torch.inf if top_p < 1 else torch.ones_like(kept)
    differing = (kept != plain).sum(-1)
    assert (differing <= 1).all() and differing.sum() <= 1  # rounding of the sum may move the last token


def test_numbers_are_even_and_unrelated_between_rows_steps_and_tokens() -> None:
    seeds, tokens = torch.arange(200), torch.arange(200).expand(200, 200)
    here, next_step = uniforms(seeds, 0, tokens), uniforms(seeds, 1, tokens)
    counts = torch.histc(here.float().flatten(), bins=20, min=0, max=1)
    assert chisquare(counts.tolist()).pvalue > 1e-3 and here.min() > 0 and here.max() < 1
    for other in (next_step, here.roll(1, 0), here.roll(1, 1)):
        assert abs(torch.corrcoef(torch.stack([here.flatten(), other.flatten()]))[0, 1]) < 0.02


def test_sequences_have_the_law_of_the_model(tokenizer: Any) -> None:
    """Two tokens in a row from a vocabulary of five: all 25 outcomes, against the product of the model's softmaxes."""
    model = build("qwen2", tokenizer, vocab_size=5, pad_token_id=0, eos_token_id=0)
    rows = [Row(0, seed * 11) for seed in range(6000)]
    law = Law(temperature=1.5, top_p=1.0, max_new_tokens=2, stop_ids=())
    found = Counter(map(tuple, continue_prompts(model, [[1, 2, 3]], rows, law, pad_id=0)))
    with torch.inference_mode():
        first = (model(torch.tensor([[1, 2, 3]])).logits[0, -1] / 1.5).softmax(-1)
        then = (model(torch.tensor([[1, 2, 3, token] for token in range(5)])).logits[:, -1] / 1.5).softmax(-1)
    expected = (first[:, None] * then).double().flatten()
    observed = [found[first, second] for first in range(5) for second in range(5)]
    assert chisquare(observed, (expected / expected.sum() * len(rows)).tolist()).pvalue > 1e-3


class Scripted:
    """Stands in for the token loop: says what each prompt's rows get, attempt by attempt."""

    def __init__(self, tokenizer: Any, *attempts: Sequence[str]) -> None:
        self.attempts = iter(attempts)
        self.tokenizer = tokenizer
        self.asked: list[list[Row]] = []

    def __call__(self, _model: Any, _prompts: Any, rows: list[Row], _law: Law, **_options: Any) -> list[list[int]]:
        self.asked.append(rows)
        return [self.tokenizer(text).input_ids for text in next(self.attempts)]


def test_identical_and_empty_texts_are_drawn_again(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(
        tokenizer, ["same<|end|>", " same <|end|>", "<|end|>", "cut off"], ["new<|end|>", " \n"], ["late"]
    )
    monkeypatch.setattr(sampling, "continue_prompts", script)
    written = sample_completions(build("llama", tokenizer), tokenizer, ASKED[2:4][::-1], SETTINGS, seed=0)
    assert texts(written) == [["same", "new"], ["cut off", "late"]]
    assert [[row.prompt for row in rows] for rows in script.asked] == [[0, 0, 1, 1], [0, 1], [0]]
    assert len({row.seed for rows in script.asked for row in rows}) == 7
    first, second = written[0][0], written[1][0]
    assert (first.finish_reason, first.tokens, second.finish_reason, second.tokens) == ("eos", 5, "length", 7)
    assert first.seed == script.asked[0][0].seed


def test_prompt_whose_texts_stay_the_same_comes_back_short(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(tokenizer, ["same", "same"], *[["same"]] * 3)
    monkeypatch.setattr(sampling, "continue_prompts", script)
    settings = SETTINGS.model_copy(update={"attempts": 3})
    assert texts(sample_completions(build("llama", tokenizer), tokenizer, ASKED[:1], settings, seed=0)) == [["same"]]
    assert len(script.asked) == 4


def test_special_tokens_cut_letters_and_nul_are_no_text(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [tokenizer("<|user|> a\x00b caf").input_ids + tokenizer("é").input_ids[:1]]
    monkeypatch.setattr(sampling, "continue_prompts", lambda *_args, **_options: tokens)
    written = sample_completions(build("llama", tokenizer), tokenizer, ASKED[:1], SETTINGS, per_prompt=1, seed=0)
    assert texts(written) == [["ab caf"]]


def test_rows_end_at_any_stop_token(tokenizer: Any) -> None:
    model = build("llama", tokenizer)
    prompts = [encode_prompt(tokenizer, messages) for messages in ASKED]
    rows = [Row(index, index) for index in range(len(prompts))]
    free = continue_prompts(model, prompts, rows, Law(1.0, 1.0, 40, ()), pad_id=0)
    stops = {free[0][3], free[4][9]}
    stopped = continue_prompts(model, prompts, rows, Law(1.0, 1.0, 40, stops), pad_id=0)
    for whole, cut in zip(free, stopped, strict=True):
        ends = [place for place, token in enumerate(whole) if token in stops]
        assert cut == (whole[: ends[0] + 1] if ends else whole)
    assert len({len(cut) for cut in stopped}) > 2


def test_weights_that_are_no_numbers_are_an_error_in_words(tokenizer: Any) -> None:
    model = build("llama", tokenizer)
    model.lm_head.weight.data[3] = torch.nan
    with pytest.raises(ModelError, match=r"no numbers.*lower learning_rate"):
        sample_completions(model, tokenizer, ASKED, SETTINGS, seed=0)


def test_prompt_without_room_is_an_error_in_words(tokenizer: Any) -> None:
    long = [{"role": "user", "content": "x" * 250}]
    with pytest.raises(RunError, match=r"has 25\d tokens, and the model has room for 256, 12 of which"):
        sample_completions(build("llama", tokenizer), tokenizer, [long], SETTINGS, seed=0)


def test_adapter_samples_as_its_merged_model_does(tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(build("llama", tokenizer), config).eval()
    adapted = sample_completions(model, tokenizer, ASKED, SETTINGS, seed=0)
    plain = sample_completions(build("llama", tokenizer), tokenizer, ASKED, SETTINGS, seed=0)
    merged = sample_completions(model.merge_and_unload(), tokenizer, ASKED, SETTINGS, seed=0)
    assert adapted == merged != plain


# ---- sample runs


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
    subprocess.run([sys.executable, "-c", code], check=True)
