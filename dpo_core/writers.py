"""Checkpoints made ready to write: their weights on the device, in a precision that keeps what a training changed.

That is little: bfloat16 rounds most of a short training away, be it added to weights that are kept in bfloat16 or to
what is computed in it, which no adapter that is kept apart survives either. So products are in float32 in any case.
Weights are too where they fit; where they do not, those of the layers' linear maps are kept in bfloat16 (as most models
come), and an adapter beside them in float32.

    load_writers   checkpoints that are in memory together, held alike, so that they can be compared
    load_writer    one of them by itself
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from dpo_core.policies import load_policy
from dpo_core.workspace import Workspace
from store.models import Checkpoint

log = logging.getLogger("pairloop")
FILLED = 0.6  # of a card's free memory, by weights; the rest is for keys and values
Writer = tuple[Any, Any]  # a model and its tokenizer


def load_writer(workspace: Workspace, checkpoint: Checkpoint) -> Writer:
    """A checkpoint's model, on the GPU if there is one, and its tokenizer. Raises ModelError."""
    return load_writers(workspace, [checkpoint])[0]


def load_writers(workspace: Workspace, checkpoints: Sequence[Checkpoint]) -> list[Writer]:
    """The same for several at once, in their order. Raises ModelError."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: list[Writer] = []
    dtype = None
    for checkpoint in checkpoints:
        model, tokenizer = load_policy(workspace, checkpoint)
        if dtype is None:  # the first decides for all: they are of one architecture
            dtype = weights_dtype(len(checkpoints) * float32_bytes(model), _free_on(device))
        if dtype != torch.float32 and checkpoint.kind == "full" and checkpoint.parent_id is not None:
            log.warning(
                "%s does not fit in float32: its weights are rounded to bfloat16 to write, which may lose part of what "
                "it learned.",
                checkpoint.name,
            )
        found.append((made_ready(model, checkpoint.kind, dtype).to(device), tokenizer))
    return found


def weights_dtype(float32: int, free: int | None) -> torch.dtype:
    """What weights that take so many bytes in float32 are kept in; `free` bytes on a card, or None without one."""
    return torch.float32 if free is None or float32 <= FILLED * free else torch.bfloat16


def made_ready(model: Any, kind: str, dtype: torch.dtype) -> Any:
    """A float32 model as it writes: its adapter merged, or its weights narrowed and the adapter beside them."""
    if dtype != torch.float32:
        return _narrowed(model)
    return model.merge_and_unload() if kind == "lora" else model  # else its products are computed for every token


def float32_bytes(model: Any) -> int:
    """What a model's weights take in float32."""
    return sum(4 * int(weight.numel()) for weight in model.parameters())


def _narrowed(model: Any) -> Any:
    """Linear maps of the layers kept in bfloat16, multiplied in float32 nevertheless; all else is as it was.

    A weight is widened when it is its turn, so one of them at a time is there twice. Embeddings and head are not
    narrowed (TRL's fused head reads its weight itself), nor are the experts of a mixture, which are no linear maps.
    """
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head and "lora_" not in name:
            module.weight.data = module.weight.data.bfloat16()
            module.forward = partial(_product, module)
    return model


def _product(linear: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(inputs, linear.weight.to(inputs.dtype), linear.bias)


def _free_on(device: str) -> int | None:
    """Bytes that this process can have on its card; what torch keeps for itself and does not use counts as free."""
    if device == "cpu":
        return None
    return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
