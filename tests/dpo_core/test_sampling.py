"""Sampling: the same law as plain generation, the same texts whatever the batch, whole pairs only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from dpo_core import sampling
from dpo_core.config import SamplingSettings
from dpo_core.decoding import Law, Row, continue_prompts, draw_tokens, nucleus, prefill, uniforms
from dpo_core.errors import ModelError, RunError
from dpo_core.policies import encode_prompt
from dpo_core.sampling import sample_completions
from store.pairs import NewCompletion
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
