"""PairTrainer: trl.DPOTrainer on pairs that are tokenized already and whose reference log-probs are known.

TRL's collator, losses, metrics and PEFT handling are untouched. What is ours: a forward that computes what
chosen and rejected share once (prefix_sharing.py), no second tokenization, no reference pass of its own, checkpoints
that are marked complete only when every byte is on disk, and metrics handed to the run.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import DPOConfig, DPOTrainer

from dpo_core.config import TrainingSettings
from dpo_core.errors import RunError
from dpo_core.logps import PairLogps
from dpo_core.prefix_sharing import share_or_warn
from dpo_core.tokenization import TokenizedPair

COMPLETE = "COMPLETE"  # the file that says that a trainer's checkpoint is whole
OnLog = Callable[[int, int, dict[str, float]], None]


class PairTrainer(DPOTrainer):  # type: ignore[misc]
    """trl.DPOTrainer for prepared pairs. `on_log(step, total, metrics)` hears every step; raising there ends it."""

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
    ) -> None:
        self._on_log = on_log
        super().__init__(
            model=model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=peft_config
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

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL would write a card for the hub beside each checkpoint; lineage is in pairloop.json and the database."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand every step's metrics on, after TRL has added its own."""
        super().log(logs, start_time)
        if "loss" in logs:
            _check_finite(logs["loss"], self.state.global_step)
            metrics = {name: float(value) for name, value in logs.items() if isinstance(value, int | float)}
            self._on_log(self.state.global_step, self.state.max_steps, metrics)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        mark_complete(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise RunError(
            f"The loss became {loss} at step {step}, so training stopped; the parent checkpoint is as it was. "
            "Lower learning_rate, raise beta, or set bf16 = false."
        )


def training_rows(pairs: Sequence[TokenizedPair], reference: Sequence[PairLogps]) -> Dataset:
    """The pairs with their reference log-probs, as TRL's trainer and collator take them."""
    return Dataset.from_list(
        [
            pair.row | {"ref_chosen_logps": known.chosen, "ref_rejected_logps": known.rejected}
            for pair, known in zip(pairs, reference, strict=True)
        ]
    )


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
            gradient_checkpointing=settings.gradient_checkpointing,
            bf16=settings.bf16,
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
    return max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


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
