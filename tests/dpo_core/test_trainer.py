"""PairTrainer computes what an untouched trl.DPOTrainer computes on the same pairs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOTrainer

from dpo_core import trainer
from dpo_core.config import TrainingSettings
from dpo_core.errors import RunError
from dpo_core.logps import pair_logps
from dpo_core.tokenization import tokenize_pairs
from dpo_core.trainer import PairTrainer, last_complete_checkpoint, trainer_arguments, training_rows
from store.snapshots import PreferencePair
from tests.dpo_core.conftest import all_tied

SETTINGS = TrainingSettings(learning_rate=1e-2, batch_size=4, num_train_epochs=3, max_length=64, save_steps=100)
WORDS = ["yes", "no, never", "perhaps so", "why not?", "ask again", "certainly", "hm", "I doubt it"]
PAIRS = [
    PreferencePair(
        pair_id=index,
        messages=[{"role": "user", "content": f"Question {index}?"}],
        chosen=WORDS[index],
        rejected=WORDS[(index + 3) % 8],
        chosen_side="a",
        agreement=1.0,
        annotators=1,
    )
    for index in range(8)
]


def conversational() -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": pair.messages,
                "chosen": [{"role": "assistant", "content": pair.chosen}],
                "rejected": [{"role": "assistant", "content": pair.rejected}],
            }
            for pair in PAIRS
        ]
    )


def adapter(tuning: str) -> LoraConfig | None:
    return LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear") if tuning == "lora" else None


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def pair_trainer(
    folder: Path,
    out: Path,
    settings: TrainingSettings,
    seen: list[dict[str, float]],
    tuning: str,
    pass_tokens: int | None = None,
    ties: list[bool] | None = None,
) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenize_pairs(PAIRS, tokenizer, max_length=settings.max_length)
    reference = pair_logps(load(folder), tokenizer, tokens, batch_tokens=150)
    return PairTrainer(
        load(folder),
        tokenizer,
        trainer_arguments(settings, out),
        training_rows(tokens, reference, ties=ties),
        on_log=lambda step, total, metrics: seen.append(metrics),
        peft_config=adapter(tuning),
        prefix_sharing=settings.prefix_sharing,
        pass_tokens=pass_tokens,
        ties=settings.ties,
    )


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_losses_metrics_and_weights_are_those_of_trl(
    tiny_model: Path, tmp_path: Path, tuning: str, loss_type: str
) -> None:
    settings = SETTINGS.model_copy(update={"loss_type": [loss_type]})
    seen: list[dict[str, float]] = []
    ours = pair_trainer(tiny_model, tmp_path / "ours", settings, seen, tuning)
    ours.train()
    theirs = DPOTrainer(
        model=load(tiny_model),
        args=trainer_arguments(settings, tmp_path / "theirs"),
        train_dataset=conversational(),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=adapter(tuning),
    )
    theirs.train()
    logged = [entry for entry in theirs.state.log_history if "loss" in entry]
    assert len(seen) == len(logged) == 6
    assert [all_tied(entry) for entry in logged] == 2 * [True] + 4 * [False], "the first step warms up at a rate of 0"
    for mine, other in zip(seen, logged, strict=True):
        for name in ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected", "grad_norm"):
            if name == "rewards/accuracies" and all_tied(other):
                continue
            assert mine[name] == pytest.approx(other[name], rel=1e-4, abs=1e-4), name
    pairs = zip(ours.model.named_parameters(), theirs.model.named_parameters(), strict=True)
    for (name, mine_weight), (_, other_weight) in pairs:
        assert torch.allclose(mine_weight, other_weight, atol=1e-4), name


class Gradients(TrainerCallback):
    """Every parameter's gradient, at each step."""

    def __init__(self) -> None:
        self.heard: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.heard.append({name: weight.grad.clone() for name, weight in model.named_parameters()})


@pytest.mark.parametrize("prefix_sharing", [True, False])
@pytest.mark.parametrize("loss_type", [["sigmoid"], ["ipo"], ["sigmoid", "bco_pair"]])
def test_passes_come_to_what_a_whole_batch_does(
    tiny_model: Path, tmp_path: Path, loss_type: list[str], prefix_sharing: bool
) -> None:
    settings = SETTINGS.model_copy(update={"loss_type": loss_type, "prefix_sharing": prefix_sharing, "batch_size": 8})
    seen: dict[int, list[dict[str, float]]] = {}
    heard: dict[int, list[dict[str, torch.Tensor]]] = {}
    for budget in (10_000, 45, 1):
        seen[budget], gradients = [], Gradients()
        trained = pair_trainer(tiny_model, tmp_path / str(budget), settings, seen[budget], "full", budget)
        trained.add_callback(gradients)
        trained.train()
        heard[budget] = gradients.heard
    for budget in (45, 1):
        for whole, parts in zip(seen[10_000], seen[budget], strict=True):
            assert parts.keys() >= {
                "loss",
                "grad_norm",
                "entropy",
                "logits/chosen",
                "mean_token_accuracy",
                "num_tokens",
            }
            if all_tied(whole):
                whole["rewards/accuracies"] = parts["rewards/accuracies"]
            for name in {name for name in whole if "per_second" not in name and "runtime" not in name}:
                assert parts[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-4), name
        for name, gradient in heard[budget][0].items():
            assert torch.allclose(gradient, heard[10_000][0][name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize(
    ("changes", "parts"), [({}, True), ({"loss_type": ["sigmoid", "sft"]}, False), ({"loss_type": ["aot"]}, False)]
)
def test_losses_that_are_no_means_over_pairs_are_computed_whole(changes: dict[str, Any], parts: bool) -> None:
    assert TrainingSettings.model_validate(changes).in_passes is parts


def test_a_budget_splits_a_batch(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    taken = trainer.take_pairs
    monkeypatch.setattr(trainer, "take_pairs", lambda batch, places: sizes.append(len(places)) or taken(batch, places))
    settings = SETTINGS.model_copy(update={"num_train_epochs": 1})
    pair_trainer(tiny_model, tmp_path, settings, [], "full", 1).train()
    assert sizes == [1] * 8


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_training_starts_at_ln_2_and_moves_every_trainable_parameter(
    tiny_model: Path, tmp_path: Path, tuning: str
) -> None:
    seen: list[dict[str, float]] = []
    trainer = pair_trainer(tiny_model, tmp_path, SETTINGS, seen, tuning)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert seen[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert seen[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert seen[-1]["rewards/margins"] > 0
    for name, weight in trainer.model.named_parameters():
        moved = not torch.equal(weight, before[name])
        assert moved == weight.requires_grad, name
    assert any(weight.requires_grad for weight in trainer.model.parameters())


def test_a_loss_that_is_no_number_stops_training(tiny_model: Path, tmp_path: Path) -> None:
    trainer = pair_trainer(tiny_model, tmp_path, SETTINGS, [], "full")
    with torch.no_grad():
        trainer.model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(RunError, match="step 1"):
        trainer.train()


def test_only_whole_checkpoints_are_resumed_from(tiny_model: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"save_steps": 2})
    pair_trainer(tiny_model, tmp_path, settings, [], "full").train()
    newest = last_complete_checkpoint(tmp_path)
    assert newest is not None and newest.name == "checkpoint-6"
    (newest / "COMPLETE").unlink()
    older = last_complete_checkpoint(tmp_path)
    assert older is not None and older.name == "checkpoint-4"
    assert last_complete_checkpoint(tmp_path / "nothing") is None


def test_bf16_trains_where_there_is_no_gpu(tiny_model: Path, tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    settings = SETTINGS.model_copy(update={"bf16": True, "num_train_epochs": 4})
    trainer = pair_trainer(tiny_model, tmp_path, settings, seen, "full")
    trainer.train()
    assert seen[0]["loss"] == pytest.approx(math.log(2), abs=0.02)
    assert seen[-1]["rewards/margins"] > 0.1
    assert all(weight.dtype == torch.float32 for weight in trainer.model.parameters()), "only the products are halved"
