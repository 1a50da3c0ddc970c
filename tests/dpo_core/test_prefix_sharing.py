"""The packed forward against TRL's own: losses, every logged metric, and every parameter's gradient."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, set_seed
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from dpo_core import prefix_sharing
from dpo_core.prefix_sharing import IGNORED, lay_out, share_prefixes, unique_tokens

SIZE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": None},
    "smollm3": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "resid_pdrop": 0,
             "embd_pdrop": 0, "attn_pdrop": 0},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0},
    "phi": {},
    "phi3": {},
    "gemma": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "gpt_neox": {},
    "olmo2": {},
}  # fmt: skip


def build(kind: str = "llama", **extra: Any) -> PreTrainedModel:
    set_seed(0)
    config = AutoConfig.for_model(kind, **SIZE | ARCHITECTURES.get(kind, {}) | extra)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-any-return]


def random_rows(seed: int, count: int = 5, longest: int = 200) -> list[dict[str, list[int]]]:
    """Pairs as TRL's collator takes them: every shape that real data comes in."""
    draw = random.Random(seed)

    def text(length: int) -> list[int]:
        return [draw.randrange(3, SIZE["vocab_size"]) for _ in range(length)]

    shapes = [
        (1, text(4), text(6)),  # a prompt of one token
        (draw.randrange(100, longest), text(1), text(9)),  # a long prompt, a completion of one token
        (3, [5, 6, 7, *text(4)], [5, 6, 7, *text(2)]),  # completions that begin alike
        (9, [8, 9, 10], [8, 9, 10, 11, 12]),  # one is the beginning of the other: a row that was cut
        (17, text(30), text(2)),
    ]
    rows = [
        {"prompt_ids": text(prompt), "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, chosen, rejected in shapes
    ]
    return draw.sample(rows, count)


def trainer_of(model: Any, out: Path, tokenizer_folder: Path, **options: Any) -> DPOTrainer:
    arguments: dict[str, Any] = {
        "output_dir": str(out),
        "gradient_checkpointing": False,
        "bf16": False,
        "report_to": "none",
        "max_length": None,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    one = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])  # never trained on: batches are given
    return DPOTrainer(
        model=model,
        ref_model=None if hasattr(model, "peft_config") else copy.deepcopy(model),
        args=DPOConfig(**arguments | options),
        train_dataset=one,
        processing_class=AutoTokenizer.from_pretrained(tokenizer_folder),
    )


def step(trainer: DPOTrainer, rows: list[dict[str, list[int]]]) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """One loss with its metrics and gradients, by parameter name."""
    trainer.model.train()
    trainer.model.zero_grad(set_to_none=True)
    trainer._metrics["train"].clear()
    loss = trainer.compute_loss(trainer.model, DataCollatorForPreference(pad_token_id=0)(rows))
    loss.backward()
    gradients = {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    return loss.item(), metrics, copy.deepcopy(gradients)


def check_same(trainer: DPOTrainer, seed: int) -> None:
    """The same trainer, on the same rows, before and after its model shares prefixes."""
    rows = random_rows(seed)
    before = step(trainer, rows)
    inner = trainer.model.get_base_model() if hasattr(trainer.model, "peft_config") else trainer.model
    assert share_prefixes(inner) == ""
    assert trainer.ref_model is None or share_prefixes(trainer.ref_model) == ""
    loss, metrics, gradients = step(trainer, rows)
    assert loss == pytest.approx(before[0], rel=1e-4, abs=1e-5)
    assert metrics.keys() == before[1].keys()
    for name in metrics.keys() - {"num_tokens"}:
        assert metrics[name] == pytest.approx(before[1][name], rel=1e-4, abs=1e-4), name
    assert gradients.keys() == before[2].keys() and gradients
    for name, gradient in gradients.items():
        scale = max(1.0, float(before[2][name].abs().max()))
        assert torch.allclose(gradient, before[2][name], atol=2e-5 * scale, rtol=1e-3), name


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_gives_trls_losses_metrics_and_gradients(
    kind: str, tmp_path: Path, tiny_model: Path
) -> None:
    check_same(trainer_of(build(kind), tmp_path, tiny_model), seed=1)


LOSSES: list[dict[str, Any]] = [
    {"loss_type": ["hinge"]},
    {"loss_type": ["ipo"]},
    {"loss_type": ["exo_pair"], "label_smoothing": 0.1},
    {"loss_type": ["nca_pair"]},
    {"loss_type": ["robust"], "label_smoothing": 0.1},
    {"loss_type": ["bco_pair"]},
    {"loss_type": ["sppo_hard"]},
    {"loss_type": ["aot"]},
    {"loss_type": ["aot_unpaired"]},
    {"loss_type": ["apo_zero"]},
    {"loss_type": ["apo_down"]},
    {"loss_type": ["discopop"]},
    {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    {"loss_type": ["sigmoid_norm"]},
    {"f_divergence_type": "forward_kl"},
    {"f_divergence_type": "js_divergence"},
    {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
    {"ld_alpha": 0.3},
    {"use_weighting": True},
    {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    {"bf16": True},
]


@pytest.mark.parametrize("options", LOSSES, ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()))
def test_every_option_of_trl_keeps_its_meaning(options: dict[str, Any], tmp_path: Path, tiny_model: Path) -> None:
    trainer = trainer_of(build(), tmp_path, tiny_model, **options)
    with torch.no_grad():  # away from the reference, so that no loss is at its symmetric point
        for weight in trainer.model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(7)))
    if options.get("bf16"):
        rows = random_rows(2)
        before = step(trainer, rows)[0]
        assert share_prefixes(trainer.model) == ""
        assert step(trainer, rows)[0] == pytest.approx(before, rel=0.05)
    else:
        check_same(trainer, seed=2)


def test_an_adapter_is_trained_as_by_trl(tmp_path: Path, tiny_model: Path) -> None:
    model = get_peft_model(build(), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    check_same(trainer_of(model, tmp_path, tiny_model), seed=3)


def plain_logps(model: Any, row: list[int], prompt: int) -> list[float]:
    """The definition, one row at a time: the log-prob of each completion token after everything before it."""
    logits = model(torch.tensor([row])).logits[0].log_softmax(-1)
    return [logits[index - 1, row[index]].item() for index in range(prompt, len(row))]


@pytest.mark.parametrize("seed", range(4))
def test_log_probs_are_the_definition(seed: int) -> None:
    plain, model = build().eval(), build().eval()
    add_fused_lm_head(model)
    assert share_prefixes(model) == ""
    rows = random_rows(seed)
    batch = DataCollatorForPreference(pad_token_id=0)(rows)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    seen: list[torch.Size] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    with torch.no_grad():
        found = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, fused_lm_head=True
        ).log_probs
        for place, side in enumerate(("chosen_ids", "rejected_ids")):
            for index, row in enumerate(rows):
                prompt, line = len(row["prompt_ids"]), place * len(rows) + index
                expected = plain_logps(plain, row["prompt_ids"] + row[side], prompt)
                got = found[line, prompt - 1 : prompt - 1 + len(expected)].tolist()
                assert got == pytest.approx(expected, abs=1e-4)
                assert found[line].count_nonzero() <= len(expected), "nothing stands anywhere else"
    unique = sum(unique_tokens(len(row["prompt_ids"]), row["chosen_ids"], row["rejected_ids"]) for row in rows)
    assert seen == [(1, unique)]


PAIR = st.tuples(
    st.lists(st.integers(3, 9), min_size=1, max_size=6),
    st.lists(st.integers(3, 5), min_size=1, max_size=6),
    st.lists(st.integers(3, 5), min_size=1, max_size=6),
)


@given(st.lists(PAIR, min_size=1, max_size=4))
def test_a_layout_holds_every_row_and_no_token_twice(pairs: list[tuple[list[int], list[int], list[int]]]) -> None:
    rows = [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected} for prompt, chosen, rejected in pairs
    ]
    batch = DataCollatorForPreference(pad_token_id=0)(rows)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    layout = lay_out(batch["input_ids"], batch["attention_mask"], labels)
    row, positions = layout.tokens[0].tolist(), layout.positions[0].tolist()
    for place, (prompt, chosen, rejected) in zip(layout.pairs, pairs, strict=True):
        trunk = row[place.start : place.fork]
        assert trunk + row[place.fork : place.split] == prompt + chosen
        assert trunk + row[place.split : place.end] == prompt + rejected
        assert positions[place.start : place.split] == list(range(place.split - place.start))
        assert positions[place.split : place.end] == list(range(len(trunk), len(prompt + rejected)))
    assert len(row) == sum(unique_tokens(len(prompt), chosen, rejected) for prompt, chosen, rejected in pairs)
    assert layout.labels[0].tolist() == labels[:, 1:].reshape(-1)[layout.targets].tolist()
    assert len(layout.targets) == int((labels[:, 1:] != IGNORED).sum())


def test_generation_and_plain_calls_are_as_before() -> None:
    plain, model = build().eval(), build().eval()
    add_fused_lm_head(model)
    assert share_prefixes(model) == ""
    ids = torch.tensor([[0, 0, 5, 6], [4, 5, 6, 7]])
    mask = (ids != 0).long()
    assert torch.allclose(plain(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits, atol=1e-5)
    options = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False}
    assert torch.equal(plain.generate(ids, **options), model.generate(ids, **options))


def test_sharing_twice_changes_nothing_and_nothing_of_it_is_saved(tmp_path: Path) -> None:
    model = build()
    add_fused_lm_head(model)
    assert share_prefixes(model) == ""
    forward = model.forward
    assert share_prefixes(model) == ""
    assert model.forward == forward
    add_fused_lm_head(model)  # as a second use of the same model does
    assert share_prefixes(model) == ""
    assert len(model.base_model._forward_hooks) == 1
    model.save_pretrained(tmp_path)
    assert "pairloop" not in (tmp_path / "config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "extra", "said"),
    [
        ("gemma2", {"head_dim": 8}, "soft-capped"),
        ("qwen3_next", {"head_dim": 8}, "another kind (linear_attention)"),
        ("bloom", {"n_layer": 2, "n_head": 4}, "cannot be exchanged"),
    ],
)
def test_what_cannot_be_shared_says_why_and_stays_as_it_was(kind: str, extra: dict[str, Any], said: str) -> None:
    model = build(kind, **extra)
    add_fused_lm_head(model)
    forward = model.forward
    assert said in share_prefixes(model)
    assert model.forward == forward


def test_a_model_that_comes_to_other_log_probs_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture nobody tried: here one whose attention ignores what ours says about who sees whom."""
    model = build()
    add_fused_lm_head(model)
    before, forward = model.config._attn_implementation, model.forward
    monkeypatch.setattr("dpo_core.prefix_sharing._rejected_mask", lambda *_: None)
    assert "other log-probs" in share_prefixes(model)
    assert (model.config._attn_implementation, model.forward) == (before, forward)
    assert not model.base_model._forward_hooks


def test_rows_longer_than_a_sliding_window_go_through_trls_forward() -> None:
    plain = build("mistral", sliding_window=16).eval()
    model = build("mistral", sliding_window=16).eval()
    for each in (plain, model):
        add_fused_lm_head(each)
    assert share_prefixes(model) == ""
    for longest in (8, 120):
        rows = [{"prompt_ids": list(range(3, 7)) * (longest // 4), "chosen_ids": [5, 6], "rejected_ids": [9]}]
        batch = DataCollatorForPreference(pad_token_id=0)(rows)
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
        both = [
            each(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, fused_lm_head=True
            ).log_probs
            for each in (plain, model)
        ]
        assert torch.allclose(*both, atol=1e-4)


def varlen_by_definition(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    longest_query: int,
    longest_key: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What torch's varlen_attn says that it computes, segment by segment; it has no kernel for the CPU."""
    assert window_size == (-1, 0) and query_ends.dtype == key_ends.dtype == torch.int32
    assert longest_query == int(query_ends.diff().max()) and longest_key == int(key_ends.diff().max())
    parts = []
    for index in range(len(query_ends) - 1):
        q, k, v = (
            states[ends[index] : ends[index + 1]].transpose(0, 1)
            for states, ends in ((query, query_ends), (key, key_ends), (value, key_ends))
        )
        k, v = (states.repeat_interleave(q.shape[0] // k.shape[0], dim=0) for states in (k, v))
        scores = q @ k.transpose(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(k.shape[1] - q.shape[1])
        parts.append((scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("seed", range(3))
def test_the_one_call_for_gpus_gives_what_the_calls_for_each_pair_give(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_sharing, "varlen_attn", varlen_by_definition)
    batch = DataCollatorForPreference(pad_token_id=0)(random_rows(seed))
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    layout = lay_out(batch["input_ids"], batch["attention_mask"], labels)
    draw = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(1, heads, layout.tokens.shape[1], 8, generator=draw) for heads in (4, 2, 2))
    whole = prefix_sharing._attend_in_one_call(query, key, value, layout.segments, None)
    apart = prefix_sharing._attend_pair_by_pair(query, key, value, layout, None, 0.0)
    assert torch.allclose(whole, apart, atol=1e-5)
