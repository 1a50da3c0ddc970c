"""Whether a training computes in bfloat16: where the processor has it, it pays, and it says the same as float32.

With `bf16 = "auto"` some pairs go through the parent in both precisions, forward and backward. bfloat16 is taken if it
is FASTER there, if the gradients point the same way (COSINE) and if rewards differ by little (REWARD). It is measured,
so a new run may find another answer: what was found is kept with the run, for attempts that go on, and in the
checkpoint's settings, for whoever repeats it.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel
from trl.trainer.dpo_trainer import DataCollatorForPreference

from dpo_core import ranks
from dpo_core.logps import pair_tokens, prepare, row_logps
from dpo_core.passes import token_passes
from dpo_core.policies import best_device, load_policy
from dpo_core.progress import RunProgress
from dpo_core.tokenization import TokenizedPair
from dpo_core.training_plan import Plan
from dpo_core.workspace import Workspace

log = logging.getLogger("pairloop")
FILE = "precision.json"  # in the run's folder
PROBE_TOKENS = 2048  # compared at once
# Times as many tokens as are compared must be trained on, or comparing costs more than it can save: a card saves more.
WORTH, WORTH_ON_CARD = 200, 20
FASTER = 1.1  # times as fast, at the least: halved precision is not taken for nothing
COSINE = 0.99  # of the angle between the two gradients
REWARD = 0.05  # difference of a pair's reward margin, in the mean; the loss's own scale is 1
ROUNDS = 2  # of which the quickest counts
CHUNK = 2**20  # elements added up at once in float64


@dataclass(frozen=True)
class Precision:
    """What a training computes in, and why."""

    bf16: bool
    why: str

    @property
    def words(self) -> str:
        """For the log, and the run's record."""
        return f"{'bfloat16' if self.bf16 else 'float32'}: {self.why}"


def settle_precision(workspace: Workspace, plan: Plan, adapter: LoraConfig | None, progress: RunProgress) -> Plan:
    """The plan with bf16 decided, once for all attempts of a run. Raises ModelError."""
    asked = plan.training.bf16
    if asked != "auto":
        found = Precision(asked, "as pairloop.toml has it")
    else:
        kept = _kept(progress.folder / FILE)
        found = kept or _choose(workspace, plan, adapter, progress)
        if kept is None and ranks.is_leader():
            (progress.folder / FILE).write_text(json.dumps(asdict(found)), encoding="utf-8")
    log.info("%s", found.words)
    return replace(plan, training=plan.training.model_copy(update={"bf16": found.bf16}), precision=found.words)


def _kept(path: Path) -> Precision | None:
    """What an earlier attempt found; None before one has, or where it was killed while writing that down."""
    try:
        return Precision(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def has_bf16() -> bool:
    """Whether the device that trains is known to multiply in bfloat16 by itself, rather than by way of float32."""
    if torch.accelerator.is_available():
        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))
    return any(there is True and "bf16" in name for name, there in torch.cpu.get_capabilities().items())


def _choose(workspace: Workspace, plan: Plan, adapter: LoraConfig | None, progress: RunProgress) -> Precision:
    probe = probe_pairs(plan.train)
    trained = sum(map(pair_tokens, plan.train_and_ties)) * plan.training.num_train_epochs * len(plan.points)
    if ranks.count() > 1:  # the whole model may not fit where its parts do, and all have to come to the same
        return Precision(False, "several processes compare nothing; set bf16 in pairloop.toml")
    if not has_bf16():
        return Precision(False, "this device is not known for arithmetic of its own in bfloat16")
    if plan.training.gradient_checkpointing is True:
        return Precision(False, "memory is short, so bfloat16 was not tried; set bf16 in pairloop.toml")
    if trained < (WORTH_ON_CARD if torch.accelerator.is_available() else WORTH) * sum(map(pair_tokens, probe)):
        return Precision(False, "too little is trained on for a comparison with bfloat16 to pay")
    progress.report("compare precisions", 0, 1)
    model, tokenizer = load_policy(workspace, plan.parent, trainable=True)
    if adapter is not None:
        model = get_peft_model(model, adapter)
    prepare(model.to(best_device()), plan.training.prefix_sharing)
    batch = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)([pair.row for pair in probe])
    try:
        return judge_precisions(model, batch, beta=max(point.training.beta for point in plan.points))
    except torch.OutOfMemoryError:
        return Precision(False, "there was no room to compare it with bfloat16")


def probe_pairs(pairs: Sequence[TokenizedPair]) -> list[TokenizedPair]:
    """Pairs of middling length, as many as PROBE_TOKENS allow: the middle one of the passes that all would make."""
    passes = token_passes([pair_tokens(pair) for pair in pairs], PROBE_TOKENS)
    return [pairs[place] for place in passes[len(passes) // 2]]


def judge_precisions(model: PreTrainedModel, batch: dict[str, torch.Tensor], *, beta: float) -> Precision:
    """Float32 beside bfloat16 on one batch, forward and backward. `model` is as `prepare` leaves it.

    Holds two gradients beside the weights: less than a training does, with its optimizer.
    """
    model.eval()  # dropout would make the two differ
    batch = {name: values.to(model.device) for name, values in batch.items()}
    exact, slow = _margins(model, batch, False)
    gradient = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    rounded, fast = _margins(model, batch, True)
    found = judged(
        speed=slow / fast,
        cosine=cosine([(gradient[name], weight.grad) for name, weight in model.named_parameters() if name in gradient]),
        error=float(beta * (exact - rounded).abs().mean()),
    )
    model.zero_grad(set_to_none=True)
    return found


def judged(*, speed: float, cosine: float, error: float) -> Precision:
    """The rule. `error` is of a pair's reward margin."""
    told = f"{speed:.2f} times as fast as float32, gradients at a cosine of {cosine:.4f}, rewards {error:.4f} apart"
    if speed < FASTER:
        return Precision(False, f"bfloat16 is not worth it here: {told}")
    if not (cosine >= COSINE and error <= REWARD):  # NaN is no agreement either
        return Precision(False, f"bfloat16 does not agree here: {told}")
    return Precision(True, told)


def _margins(model: PreTrainedModel, batch: dict[str, torch.Tensor], bf16: bool) -> tuple[torch.Tensor, float]:
    """Log-prob of chosen less that of rejected, (B,), and seconds, the quickest of ROUNDS passes.

    Leaves the gradient of their mean: at the start of a training every loss of margins has that, but for a factor.
    """
    seconds = float("inf")
    for _ in range(ROUNDS):
        model.zero_grad(set_to_none=True)
        started = time.perf_counter()
        chosen, rejected = row_logps(model, batch, bf16).chunk(2)
        margins = chosen - rejected
        margins.mean().backward()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = min(seconds, time.perf_counter() - started)
    return margins.detach(), seconds


def cosine(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Of the angle between two vectors that come in parts. Summed in float64: float32 is a percent off at 10^8."""
    dot = here = there = 0.0
    for one, other in pairs:
        for chunks in zip(one.flatten().split(CHUNK), other.flatten().split(CHUNK), strict=True):
            a, b = (chunk.double() for chunk in chunks)
            dot, here, there = dot + float(a @ b), here + float(a @ a), there + float(b @ b)
    return dot / math.sqrt(here * there) if here * there else math.nan
