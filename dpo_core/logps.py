"""Log-probs of pairs under a checkpoint, computed once for its weights and the pairs' tokens.

    pair_logps         a model and tokenized pairs in, two sums for each pair out
    checkpoint_logps   the same for a checkpoint, remembered in the workspace's `logps/`

Such a sum depends on the weights, the tokens and the precision, and on nothing else: not on beta, nor the loss, nor the
order. So what one run has computed serves its resumed attempts, evaluation, every point of a sweep and later runs. The
folder can be deleted at any time: it is computed again.
"""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from dpo_core.config import TrainingSettings
from dpo_core.passes import token_passes
from dpo_core.policies import best_device, load_policy, weights_hash
from dpo_core.prefix_sharing import share_or_warn, unique_tokens
from dpo_core.progress import RunProgress
from dpo_core.tokenization import TokenizedPair
from dpo_core.workspace import Workspace
from store.hashing import content_hash
from store.models import Checkpoint

log = logging.getLogger("pairloop")
FOLDER = "logps"  # in the workspace
PREPARED = "pairloop_forward"  # the forward that `prepare` left on a model
BATCH_TOKENS = 4096  # unique tokens in one pass without gradients; a pair beyond it goes by itself


@dataclass(frozen=True)
class PairLogps:
    """Summed log-probs of a pair's completions, in nats."""

    chosen: float
    rejected: float


OnBatch = Callable[[dict[int, PairLogps]], None]


def checkpoint_logps(
    workspace: Workspace,
    checkpoint: Checkpoint,
    pairs: Sequence[TokenizedPair],
    training: TrainingSettings,
    progress: RunProgress,
) -> list[PairLogps]:
    """What a checkpoint thinks of the pairs, in the precision it is trained in; only what is new is computed."""
    memory = _Memory(workspace, checkpoint, training.in_bf16)
    keys = [_key(pair) for pair in pairs]
    missing = [index for index, key in enumerate(keys) if key not in memory.known]
    if missing:
        log.info(
            "%s: log-probs of %d pairs, %d more are known", checkpoint.name, len(missing), len(pairs) - len(missing)
        )
        model, tokenizer = load_policy(workspace, checkpoint)
        model.to(best_device())
        done = len(pairs) - len(missing)

        def remember(batch: dict[int, PairLogps]) -> None:
            nonlocal done
            memory.add({keys[missing[place]]: logps for place, logps in batch.items()})
            done += len(batch)
            progress.report(f"evaluate {checkpoint.name}", done, len(pairs))

        asked = [pairs[index] for index in missing]
        pair_logps(
            model, tokenizer, asked, bf16=training.in_bf16, prefix_sharing=training.prefix_sharing, on_batch=remember
        )
        del model
        gc.collect()  # its wrapped forward refers to it: it would wait for a collection, on the card
    return [memory.known[key] for key in keys]


def pair_logps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[TokenizedPair],
    *,
    batch_tokens: int = BATCH_TOKENS,
    bf16: bool = False,
    prefix_sharing: bool = True,
    on_batch: OnBatch | None = None,
) -> list[PairLogps]:
    """Log-probs of every pair under `model`, in the order of `pairs`. `on_batch` hears each batch, by place in `pairs`.

    Goes through the very call that TRL's trainer makes, so that rewards are differences of like with like; for that it
    wraps the model's forward as TRL does.
    """
    prepare(model, prefix_sharing)
    model.eval()
    collator = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)
    results: dict[int, PairLogps] = {}
    for batch in token_passes([pair_tokens(pair) for pair in pairs], batch_tokens):
        chosen, rejected = _batch_logps(model, collator([pairs[index].row for index in batch]), bf16)
        found = {i: PairLogps(c, r) for i, c, r in zip(batch, chosen, rejected, strict=True)}
        results |= found
        if on_batch is not None:
            on_batch(found)
    return [results[index] for index in range(len(pairs))]


def pair_tokens(pair: TokenizedPair) -> int:
    """How many tokens of the pair are computed."""
    return unique_tokens(len(pair.prompt_ids), pair.chosen_ids, pair.rejected_ids)


def prepare(model: PreTrainedModel, prefix_sharing: bool) -> None:
    """Wrap the model's forward as TRL does, and as the setting has it. Doing it again does nothing."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    if inner.__dict__.get(PREPARED) is not inner.forward:  # TRL would put its head on once more, however often
        add_fused_lm_head(inner)
    if prefix_sharing:
        share_or_warn(model)
    inner.__dict__[PREPARED] = inner.forward


def row_logps(model: PreTrainedModel, batch: dict[str, torch.Tensor], bf16: bool) -> torch.Tensor:
    """Summed log-probs of the completions, (2B,): chosen before rejected. `batch` is on the model's device."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)  # (2B, L)
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
        output = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
        )
    return output.log_probs.float().sum(dim=1)


def _batch_logps(model: PreTrainedModel, batch: dict[str, torch.Tensor], bf16: bool) -> tuple[list[float], list[float]]:
    with torch.no_grad():
        logps = row_logps(model, {name: tensor.to(model.device) for name, tensor in batch.items()}, bf16)
    chosen, rejected = logps.chunk(2)  # (B,) each
    return chosen.tolist(), rejected.tolist()


def _key(pair: TokenizedPair) -> str:
    """The pair's tokens by name: they hold what the template and max_length made of it."""
    return content_hash([pair.prompt_ids, pair.chosen_ids, pair.rejected_ids])[:32]


class _Memory:
    """What is known about pairs under some weights: lines of JSON, `{"pair": ..., "chosen": ..., "rejected": ...}`."""

    def __init__(self, workspace: Workspace, checkpoint: Checkpoint, bf16: bool) -> None:
        precision = "bf16" if bf16 else "fp32"
        self._path = workspace.folder / FOLDER / f"{weights_hash(workspace, checkpoint)[:32]}-{precision}.jsonl"
        self._path.parent.mkdir(exist_ok=True)
        self.known = _read(self._path)

    def add(self, found: dict[str, PairLogps]) -> None:
        """Remember these, at the end of the file in one write: several runs may be adding to it."""
        lines = [
            json.dumps({"pair": key, "chosen": logps.chosen, "rejected": logps.rejected})
            for key, logps in found.items()
        ]
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, ("\n" + "\n".join(lines)).encode())
        finally:
            os.close(descriptor)
        self.known |= found


def _read(path: Path) -> dict[str, PairLogps]:
    """A memory's lines. Half a line, left by a process that was killed while writing, is passed over."""
    known: dict[str, PairLogps] = {}
    if not path.exists():
        return known
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            known.setdefault(entry["pair"], PairLogps(float(entry["chosen"]), float(entry["rejected"])))
        except (ValueError, KeyError, TypeError):
            continue
    return known
