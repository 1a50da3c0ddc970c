"""The capability canary: how well a checkpoint predicts a fixed text that has nothing to do with the comparisons.

DPO may cost a model what nobody compared: the perplexity on ordinary text then rises, which neither the held-out
accuracy nor the length of answers shows. The text ships with pairloop (`data/canary.txt`: some registers of plain
English, not a benchmark), or is the user's own (`canary` in `[evaluation]`). The figure compares a checkpoint with its
parent; those of models with other tokenizers are not on one scale.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from dpo_core.errors import RunError
from dpo_core.logps import FOLDER
from dpo_core.packaged import packaged
from dpo_core.policies import best_device, context_length, load_policy, weights_hash
from dpo_core.progress import RunProgress
from dpo_core.workspace import Workspace, write_atomically
from store.hashing import content_hash
from store.models import Checkpoint

log = logging.getLogger("pairloop")
PHASE = "canary"
SHIPS = "canary.txt"
WINDOW = 1024  # tokens in one pass, or the model's positions if fewer: logits of a large vocabulary are the most memory
MOST_NATS = 700.0  # a token: beyond that the perplexity is no number any more


@dataclass(frozen=True)
class Canary:
    """A text and what it is called."""

    name: str
    text: str


@dataclass(frozen=True)
class Predicted:
    """How a model predicts a text: the mean of -log p over the `tokens` predicted, in nats.

    `vocabulary`: how many tokens it chooses among, which is the perplexity of guessing.
    """

    nats: float
    tokens: int
    vocabulary: int

    @property
    def perplexity(self) -> float:
        """exp of the nats a token."""
        return math.exp(min(self.nats, MOST_NATS))


def read_canary(workspace: Workspace) -> Canary:
    """The text that the settings name, or the one that ships. Raises RunError where it cannot be read or is empty."""
    named = workspace.settings.evaluation.canary
    path = workspace.folder / Path(named).expanduser() if named else packaged(SHIPS)
    mend = f'Mend canary in [evaluation] of pairloop.toml ("": the text that ships). It is {named!r} now.'
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise RunError(f"The canary's text {path} cannot be read ({why}). Nothing was started. {mend}") from error
    if not text:
        raise RunError(f"The canary's text {path} is empty. Nothing was started. {mend}")
    return Canary(path.name, text)


def compare_canary(
    workspace: Workspace,
    canary: Canary,
    before: Checkpoint,
    after: Checkpoint,
    *,
    bf16: bool,
    progress: RunProgress,
) -> dict[str, Any]:
    """The text under a parent and its checkpoint, for the record: nats a token, perplexities, counts and its name.

    Empty for a text of a single token, of which nothing is predicted. Raises RunCancelled, LostRunError.
    """
    progress.report(PHASE, 0, 2)
    old = _predicted(workspace, canary, before, bf16)
    progress.report(PHASE, 1, 2)
    new = _predicted(workspace, canary, after, bf16)
    progress.report(PHASE, 2, 2)
    if not old.tokens:
        return {}
    return {
        "before": old.nats,
        "after": new.nats,
        "perplexity_before": old.perplexity,
        "perplexity_after": new.perplexity,
        "tokens": new.tokens,
        "vocabulary": new.vocabulary,
        "text": canary.name,
    }


def _predicted(workspace: Workspace, canary: Canary, checkpoint: Checkpoint, bf16: bool) -> Predicted:
    """Computed once for its weights and the text, as log-probs of pairs are: a parent's is its own training's."""
    key = content_hash([weights_hash(workspace, checkpoint), canary.text, WINDOW, bf16])[:32]
    path = workspace.folder / FOLDER / f"canary-{key}.json"
    try:
        return Predicted(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        pass  # not computed yet, or half of it written by a machine that died
    model, tokenizer = load_policy(workspace, checkpoint)
    found = predict_text(model.to(best_device()), tokenizer, canary.text, bf16=bf16)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps(vars(found)))
    return found


def predict_text(model: Any, tokenizer: Any, text: str, *, bf16: bool = False, window: int | None = None) -> Predicted:
    """How `model`, on its device, predicts a text. `window`: tokens in one pass; no more than the model has positions.

    A long text is cut into windows, each of which begins anew: with BOS where the tokenizer puts one before a text,
    else its first token is given and not predicted.
    """
    room = min(size for size in (window or WINDOW, context_length(model.config)) if size)
    total, count = 0.0, 0
    for ids in _windows(tokenizer, text, max(2, room)):
        total += _nats(model, ids, bf16)
        count += len(ids) - 1
    return Predicted(total / count if count else 0.0, count, model.config.get_text_config().vocab_size)


def _windows(tokenizer: Any, text: str, room: int) -> list[list[int]]:
    ids = [int(token) for token in tokenizer(text, add_special_tokens=False, verbose=False).input_ids]
    bos = tokenizer.bos_token_id
    first = [bos] if bos is not None and tokenizer("a").input_ids[:1] == [bos] else []
    size = room - len(first)
    return [[*first, *ids[start : start + size]] for start in range(0, len(ids), size)]


def _nats(model: Any, ids: list[int], bf16: bool) -> float:
    """The sum of -log p over all tokens but the first, in nats."""
    if len(ids) < 2:
        return 0.0
    tokens = torch.tensor([ids], device=model.device)  # (1, T)
    with torch.no_grad(), torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
        logits = model(input_ids=tokens, use_cache=False).logits  # (1, T, V)
    return float(cross_entropy(logits[0, :-1].float(), tokens[0, 1:], reduction="sum"))
