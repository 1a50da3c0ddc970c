"""Whether a training computes in bfloat16: where the processor has it, it pays, and it says the same as float32.

With `bf16 = "auto"` the first pairs go through the parent in both precisions, forward and backward. bfloat16 is taken
if it is FASTER there, if the gradients point the same way (COSINE) and if rewards differ by little (REWARD). What was
found is kept with the run, so that an attempt that goes on, another process, and whoever repeats it do the same.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel
from trl.trainer.dpo_trainer import DataCollatorForPreference

from dpo_core import ranks
from dpo_core.logps import prepare, row_logps
from dpo_core.passes import token_passes
from dpo_core.policies import best_device, load_policy
from dpo_core.prefix_sharing import unique_tokens
from dpo_core.progress import RunProgress
from dpo_core.tokenization import TokenizedPair
from dpo_core.training_plan import Plan
from dpo_core.workspace import Workspace

log = logging.getLogger("pairloop")
FILE = "precision.json"  # in the run's folder
PROBE_TOKENS = 2048  # compared at once
WORTH = 200  # times as many tokens as are compared must be trained on, or comparing costs more than it can save
FASTER = 1.1  # times as fast, at the least: halved precision is not taken for nothing
COSINE = 0.99  # of the angle between the two gradients
REWARD = 0.05  # difference of a pair's reward margin, in the mean; the loss's own scale is 1
ROUNDS = 2  # of which the quickest counts


@dataclass(frozen=True)
class Precision:
    """What a training computes in, and why."""

    bf16: bool
    why: str


def settle_precision(workspace: Workspace, plan: Plan, adapter: LoraConfig | None, progress: RunProgress) -> Plan:
    """The plan with bf16 decided, by the leader in the run's first attempt. Raises ModelError."""
    if plan.training.bf16 != "auto":
        return plan
    kept = progress.folder / FILE
    if ranks.is_leader() and not kept.exists():
        found = _choose(workspace, plan, adapter, progress)
        log.info("%s: %s", "bfloat16" if found.bf16 else "float32", found.why)
        aside = kept.with_suffix(".part")
        aside.write_text(json.dumps(asdict(found)), encoding="utf-8")
        aside.rename(kept)
    ranks.wait_at(kept)
    bf16 = bool(json.loads(kept.read_text(encoding="utf-8"))["bf16"])
    return replace(plan, training=plan.training.model_copy(update={"bf16": bf16}))


def has_bf16() -> bool:
    """Whether the device that trains multiplies in bfloat16 by itself, rather than by way of float32."""
    if torch.accelerator.is_available():
        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))
    return any(there is True and "bf16" in name for name, there in torch.cpu.get_capabilities().items())


def _choose(workspace: Workspace, plan: Plan, adapter: LoraConfig | None, progress: RunProgress) -> Precision:
    if not has_bf16():
        return Precision(False, "this processor has no arithmetic of its own for bfloat16")
    probe = probe_pairs(plan.train)
    probed, trained = _tokens(probe), _tokens(plan.train) * plan.training.num_train_epochs
    if trained < WORTH * probed:
        return Precision(False, "too little is trained on for a comparison with bfloat16 to pay")
    progress.report("compare precisions", 0, 1)
    model, tokenizer = load_policy(workspace, plan.parent, trainable=True)
    if adapter is not None:
        model = get_peft_model(model, adapter)
    prepare(model.to(best_device()), plan.training.prefix_sharing)
    batch = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)([pair.row for pair in probe])
    return judge_precisions(model, batch, beta=plan.training.beta)


def probe_pairs(pairs: Sequence[TokenizedPair]) -> list[TokenizedPair]:
    """Pairs of middling length, as many as PROBE_TOKENS allow: the middle one of the passes that all would make."""
    passes = token_passes([_tokens([pair]) for pair in pairs], PROBE_TOKENS)
    return [pairs[place] for place in passes[len(passes) // 2]]


def _tokens(pairs: Sequence[TokenizedPair]) -> int:
    return sum(unique_tokens(len(pair.prompt_ids), pair.chosen_ids, pair.rejected_ids) for pair in pairs)


def judge_precisions(model: PreTrainedModel, batch: dict[str, torch.Tensor], *, beta: float) -> Precision:
    """Float32 beside bfloat16 on one batch, forward and backward. `model` is as `prepare` leaves it."""
    model.eval()  # dropout would make the two differ
    batch = {name: values.to(model.device) for name, values in batch.items()}
    seconds = {False: float("inf"), True: float("inf")}
    found: dict[bool, tuple[torch.Tensor, torch.Tensor]] = {}
    for _ in range(ROUNDS):
        for bf16 in (False, True):
            started = time.perf_counter()
            found[bf16] = _margins_and_gradient(model, batch, bf16)
            seconds[bf16] = min(seconds[bf16], time.perf_counter() - started)
    (exact, gradient), (rounded, other) = found[False], found[True]
    return judged(
        speed=seconds[False] / seconds[True],
        cosine=float(cosine_similarity(gradient, other, dim=0)),
        error=float(beta * (exact - rounded).abs().mean()),
    )


def judged(*, speed: float, cosine: float, error: float) -> Precision:
    """The rule. `error` is of a pair's reward margin."""
    told = f"{speed:.2f} times as fast as float32, gradients at a cosine of {cosine:.4f}, rewards {error:.4f} apart"
    if speed < FASTER:
        return Precision(False, f"bfloat16 is not worth it here: {told}")
    if not (cosine >= COSINE and error <= REWARD):  # NaN is no agreement either
        return Precision(False, f"bfloat16 does not agree here: {told}")
    return Precision(True, told)


def _margins_and_gradient(
    model: PreTrainedModel, batch: dict[str, Any], bf16: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of chosen less that of rejected, (B,), and the gradient of the mean, as one vector.

    At the start of a training every loss of margins has this gradient, but for a factor.
    """
    model.zero_grad(set_to_none=True)
    chosen, rejected = row_logps(model, batch, bf16).chunk(2)
    margins = chosen - rejected
    margins.mean().backward()
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad(set_to_none=True)
    if batch["input_ids"].device.type == "cuda":
        torch.cuda.synchronize()
    return margins.detach(), torch.cat(gradients)
