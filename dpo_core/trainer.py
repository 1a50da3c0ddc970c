"""PairTrainer: trl.DPOTrainer on pairs that are tokenized already and whose reference log-probs are known.

TRL's collator, losses, metrics and PEFT handling are untouched. What is ours: a forward that computes what
chosen and rejected share once (prefix_sharing.py), no second tokenization, no reference pass of its own, checkpoints
that are marked complete only when every byte is on disk, and metrics handed to the run.
"""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from dpo_core import ranks
from dpo_core.config import TrainingSettings
from dpo_core.errors import DivergedError
from dpo_core.logps import PairLogps
from dpo_core.losses import expected_correction, tie_correction
from dpo_core.passes import Batch, pair_lengths, take_pairs, token_passes
from dpo_core.prefix_sharing import share_or_warn
from dpo_core.tokenization import TokenizedPair

CONFIDENCE = "confidence"  # a row's: the probability that its label is right
TIE = "tie"  # a row's: whether its two texts were called equally good
# Figures of which a pair that is a tie has none: which of its texts is `chosen` means nothing.
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
OF_DECIDED = (*REWARDS, "logps/chosen", "logps/rejected")
COMPLETE = "COMPLETE"  # the file that says that a trainer's checkpoint is whole
OnLog = Callable[[int, int, dict[str, float]], None]


class PairTrainer(DPOTrainer):  # type: ignore[misc]
    """trl.DPOTrainer for prepared pairs. `on_log(step, total, metrics)` hears every step; raising there ends it.

    `pass_tokens`: a batch of more tokens goes through the model in several passes, whose gradients add up to the
    batch's; only for losses that are means over pairs (`in_passes` of the settings). The order of the pairs, and which
    of them make up a step, are TRL's. `ties` names the loss of rows that say whether they are ties.
    """

    _signature_columns: list[str]

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        args: DPOConfig,
        rows: Dataset,
        *,
        on_log: OnLog,
        peft_config: Any = None,
        prefix_sharing: bool = True,
        pass_tokens: int | None = None,
        ties: str = "ignore",
    ) -> None:
        self._on_log = on_log
        self._pass_tokens = pass_tokens
        self._share = 1.0  # of the batch's pairs, that are in this pass
        self._ties = ties
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
            data_collator=PairCollator(pad_token_id=tokenizer.pad_token_id),
            peft_config=peft_config,
        )
        self.remove_callback(PrinterCallback)
        if "ref" in getattr(self.model, "peft_config", {}):
            # TRL copies a given adapter to serve as the reference; ours is in the rows already.
            self.model.delete_adapter("ref")
        if prefix_sharing:
            share_or_warn(self.model)

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if CONFIDENCE not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, CONFIDENCE, TIE]

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """TRL's loss; where pairs carry a confidence or may be ties, with what their losses have beyond it."""
        confidence, ties = inputs.pop(CONFIDENCE, None), inputs.pop(TIE, None)
        if confidence is None and ties is None:
            return super()._compute_loss(model, inputs, return_outputs)
        with outputs_of(model) as outputs:
            loss = super()._compute_loss(model, inputs, False)
        chosen, rejected = outputs[0].log_probs.sum(dim=1).chunk(2)  # (B,) each
        logits = self.beta * (chosen - inputs["ref_chosen_logps"] - rejected + inputs["ref_rejected_logps"])
        if ties is not None:
            references = torch.stack((inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]), dim=1)
            self._log_decided(torch.stack((chosen, rejected), dim=1).detach(), references, ties)
            return loss + self.loss_weights[0] * tie_correction(self._ties, logits, ties).mean()
        for name, weight in zip(self.loss_types, self.loss_weights, strict=True):
            if name == "sigmoid":
                loss = loss + weight * expected_correction(logits, confidence).mean()
        return loss

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """TRL's step; of a batch with many tokens, one pass after the other."""
        passes = self._passes(inputs)
        if len(passes) == 1:
            return super().training_step(model, inputs, num_items_in_batch)
        pairs = sum(map(len, passes))
        loss = torch.zeros((), device=self.args.device)
        with merged_metrics(self._metrics["train"], but=OF_DECIDED if TIE in inputs else ()) as weights:
            for places in passes:
                part = take_pairs(inputs, places)
                weights.append(metric_weights(part))
                self._share = len(places) / pairs
                loss += super().training_step(model, part, num_items_in_batch)
        self._share = 1.0
        return loss

    def _passes(self, inputs: Batch) -> list[list[int]]:
        """The batch's pairs in groups; in one, where the parts would not add up or several processes keep step."""
        together = ranks.count() > 1 or self.is_deepspeed_enabled or self.aux_loss_enabled
        if self._pass_tokens is None or together:
            return [list(range(len(inputs["input_ids"]) // 2))]
        return token_passes(pair_lengths(inputs), self._pass_tokens)

    def compute_loss(self, model: Any, inputs: Batch, return_outputs: bool = False, **rest: Any) -> Any:
        """TRL's loss, as large as this pass's share of the batch."""
        loss = super().compute_loss(model, inputs, return_outputs, **rest)
        return loss if self._share == 1 else self._share * loss

    def _log_decided(self, logps: torch.Tensor, references: torch.Tensor, ties: torch.Tensor) -> None:
        """Put decided pairs' figures in place of those that TRL has just logged for all.

        `logps` and `references` are (B, 2). One figure for each pair, so that their mean over a step is that over its
        decided pairs; a step of ties alone logs none. Figures over tokens (entropy, logits/*) are TRL's still.
        """
        rows = torch.cat((logps, self.beta * (logps - references), ties[:, None]), dim=1)
        gathered = self.accelerator.gather(rows)  # (processes * B, 5)
        chosen, rejected, chosen_reward, rejected_reward, _ = gathered[gathered[:, 4] == 0].T
        margins = chosen_reward - rejected_reward
        figures = (chosen_reward, rejected_reward, margins, (margins > 0).float(), chosen, rejected)
        logged = self._metrics["train" if self.model.training else "eval"]
        for name, values in zip(OF_DECIDED, figures, strict=True):
            logged[name] = logged[name][:-1] + values.tolist()  # the last one is TRL's for this batch
            if not logged[name]:
                del logged[name]

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL would write a card for the hub beside each checkpoint; lineage is in pairloop.json and the database."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand every step's metrics on, after TRL has added its own."""
        super().log(logs, start_time)
        if "loss" in logs:
            _check_step(logs["loss"], logs.get("grad_norm", 0.0), self.state.global_step)
            metrics = {name: float(value) for name, value in logs.items() if isinstance(value, int | float)}
            self._on_log(self.state.global_step, self.state.max_steps, metrics)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        check_weights(self.model, self.state.global_step)  # before an older checkpoint is removed for the new one
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process writes its own random state, or its part of the optimizer
        if ranks.is_leader():
            mark_complete(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    def gathered_weights(self) -> dict[str, torch.Tensor] | None:
        """The whole weights where processes hold parts of them (FSDP, ZeRO), for all to ask at once; None elsewhere."""
        if self.is_fsdp_enabled:
            return dict(self.accelerator.get_state_dict(self.model))
        if self.is_deepspeed_enabled:
            return dict(self.accelerator.get_state_dict(self.deepspeed))
        return None


@dataclass
class PairCollator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's collator, with the pairs' confidence and whether they are ties where the rows say so."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """(B,) under `confidence` and `tie`, beside what TRL makes of the rows."""
        batch: dict[str, Any] = super().torch_call(examples)
        for name in {CONFIDENCE, TIE} & set(examples[0]):
            batch[name] = torch.tensor([example[name] for example in examples])
        return batch


def metric_weights(batch: Batch) -> dict[str, float]:
    """What TRL's metrics are means over, in a batch: tokens for these, pairs (under "") for all others."""
    chosen, rejected = (int(mask.sum()) for mask in batch["completion_mask"].chunk(2))
    return {
        "": len(batch["input_ids"]) / 2,
        "entropy": chosen + rejected,
        "logits/chosen": chosen,
        "logits/rejected": rejected,
        "mean_token_accuracy": chosen,
    }


@contextmanager
def merged_metrics(metrics: dict[str, list[float]], *, but: Collection[str] = ()) -> Iterator[list[dict[str, float]]]:
    """Make one entry of what several passes add to `metrics`, weighted by what the block puts into the list.

    All `but` these, which have an entry for each pair.
    """
    before = {name: len(values) for name, values in metrics.items()}
    weights: list[dict[str, float]] = []
    yield weights
    for name, values in metrics.items():
        added = values[before.get(name, 0) :]
        if name not in but and len(added) == len(weights):  # what is a running count has one entry only
            shares = [each.get(name, each[""]) for each in weights]
            mean = sum(share * value for share, value in zip(shares, added, strict=True)) / sum(shares)
            values[before.get(name, 0) :] = [mean]


@contextmanager
def outputs_of(model: torch.nn.Module) -> Iterator[list[Any]]:
    """What the model puts out while the block lasts."""
    heard: list[Any] = []
    hook = model.register_forward_hook(lambda module, args, output: heard.append(output))
    try:
        yield heard
    finally:
        hook.remove()


def _check_step(loss: float, grad_norm: float, step: int) -> None:
    """Raise DivergedError for a loss that is no number, or a gradient that has just made the weights none."""
    if not math.isfinite(loss):  # it is the loss of the weights before this step's update
        raise _diverged(f"The loss became {loss}", step, last_good=step - 2)
    if not math.isfinite(grad_norm):
        raise _diverged(f"The gradient became {grad_norm}", step, last_good=step - 1)


def check_weights(model: torch.nn.Module, step: int) -> None:
    """Raise DivergedError where a trained weight is NaN or infinite after `step` steps."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and not bool(torch.isfinite(weight).all()):
            raise _diverged(f"{name} became NaN or infinite", step, last_good=step - 1)


def _diverged(what: str, step: int, *, last_good: int) -> DivergedError:
    return DivergedError(
        f"{what} at step {step}, so training stopped; the parent checkpoint is as it was. "
        "Lower learning_rate, raise beta, or set bf16 = false.",
        last_good=last_good,
    )


def training_rows(
    pairs: Sequence[TokenizedPair],
    reference: Sequence[PairLogps],
    confidence: Sequence[float] | None = None,
    ties: Sequence[bool] | None = None,
) -> Dataset:
    """The pairs with their reference log-probs, as TRL's trainer and collator take them.

    `confidence` is the probability of each pair's label to be right. Where all are 1 it is left out: the
    loss is then TRL's to the last bit. `ties` says which pairs are ties, where these are trained on.
    """
    rows = [
        pair.row | {"ref_chosen_logps": known.chosen, "ref_rejected_logps": known.rejected}
        for pair, known in zip(pairs, reference, strict=True)
    ]
    if confidence is not None and set(confidence) != {1.0}:
        rows = [row | {CONFIDENCE: share} for row, share in zip(rows, confidence, strict=True)]
    if ties is not None:
        rows = [row | {TIE: tie} for row, tie in zip(rows, ties, strict=True)]
    return Dataset.from_list(rows)


def trainer_arguments(settings: TrainingSettings, folder: Path) -> DPOConfig:
    """TRL's configuration for these settings; everything written goes below `folder`."""
    with warnings.catch_warnings():
        # TRL sets gradient_checkpointing in any case, and transformers has given it another name.
        warnings.simplefilter("ignore", FutureWarning)
        return DPOConfig(
            output_dir=str(folder),
            beta=settings.beta,
            learning_rate=settings.learning_rate,
            num_train_epochs=settings.num_train_epochs,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            max_length=settings.max_length,
            loss_type=list(settings.loss_type),
            loss_weights=list(settings.loss_weights) or None,
            label_smoothing=settings.label_smoothing,
            lr_scheduler_type=settings.lr_scheduler_type,
            warmup_steps=settings.warmup_steps,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            gradient_checkpointing=settings.gradient_checkpointing is True,  # "auto" was decided when it was queued
            bf16=settings.in_bf16,
            use_cpu=not torch.accelerator.is_available(),  # without it bf16 is refused where there is no GPU
            seed=settings.seed,
            save_steps=settings.save_steps,
            save_total_limit=2,  # the one before is whole while the next is being written
            logging_steps=1,
            logging_nan_inf_filter=False,  # it would show the last good loss in place of a broken one
            precompute_ref_log_probs=True,
            disable_tqdm=True,
            report_to="none",
            dataloader_pin_memory=False,
        )


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest of a trainer's checkpoints that was written whole, if any."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(whole, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """How many steps a trainer's checkpoint had come."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def forget_after(folder: Path, step: int) -> Path | None:
    """Remove a trainer's checkpoints of later steps, which nothing good comes of; the last one left, if any."""
    for path in folder.glob("checkpoint-*"):
        if step_of(path) > step:
            shutil.rmtree(path)
    return last_complete_checkpoint(folder)


def mark_complete(folder: Path) -> None:
    """Put every file of a folder on disk, then say that it is whole."""
    sync_folder(folder)
    (folder / COMPLETE).write_text("")
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's files and names are on disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
