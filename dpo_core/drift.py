"""How long a checkpoint's answers are beside its parent's: the same prompts, the same seeds, one answer each.

A preference that goes with length is learned as a length, and the held-out accuracy does not show it. Texts follow from
the run's settings alone, so that a run that is resumed compares the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import fmean
from typing import Any

from dpo_core.config import SamplingSettings
from dpo_core.policies import encode_prompt
from dpo_core.progress import RunProgress
from dpo_core.sampling import load_writer, prompt_room, sample_completions
from dpo_core.workspace import Workspace
from store.models import Checkpoint
from store.prompts import Message
from store.snapshots import PreferencePair

PHASE = "write samples"


@dataclass(frozen=True)
class Lengths:
    """Tokens of the answers to the same prompts, the end included, by the parent and by the checkpoint."""

    before: list[int]
    after: list[int]

    @property
    def figures(self) -> dict[str, float]:
        """For the record; empty where nothing was written."""
        if not self.before:
            return {}
        return {"samples": len(self.before), "before": fmean(self.before), "after": fmean(self.after)}


def prompts_to_answer(held_out: Sequence[PreferencePair], train: Sequence[PreferencePair]) -> list[list[Message]]:
    """Every prompt once, those that were not trained on first."""
    unique = {str(pair.messages): pair.messages for pair in [*held_out, *train]}
    return list(unique.values())


def compare_lengths(
    workspace: Workspace,
    *,
    before: Checkpoint,
    after: Checkpoint,
    prompts: Sequence[list[Message]],
    count: int,
    sampling: SamplingSettings,
    progress: RunProgress,
) -> Lengths:
    """Have both checkpoints answer the first `count` prompts that leave room. Raises RunCancelled, LostRunError."""
    count = min(count, len(prompts))
    if not count:
        return Lengths([], [])
    written: list[list[int | None]] = []
    for place, checkpoint in enumerate((before, after)):
        report = partial(progress.report, PHASE, place * count, 2 * count)
        report()
        written.append(_answer(load_writer(workspace, checkpoint), prompts, count, sampling, report))
    progress.report(PHASE, 2 * count, 2 * count)
    both = [(old, new) for old, new in zip(*written, strict=True) if old is not None and new is not None]
    return Lengths([old for old, _ in both], [new for _, new in both])


def _answer(
    writer: tuple[Any, Any], prompts: Sequence[list[Message]], count: int, sampling: SamplingSettings, on_step: Any
) -> list[int | None]:
    """Tokens of one answer to each prompt; None where it stayed empty however often it was drawn."""
    model, tokenizer = writer
    room = prompt_room(model, sampling)
    fitting = (asked for asked in prompts if room is None or len(encode_prompt(tokenizer, asked)) <= room)
    answers = sample_completions(
        model, tokenizer, list(islice(fitting, count)), sampling, per_prompt=1, seed=sampling.seed, on_step=on_step
    )
    return [found[0].tokens if found else None for found in answers]
