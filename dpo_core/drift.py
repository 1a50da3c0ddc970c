"""How far a checkpoint's answers are from its parent's: the same prompts, the same seeds, one answer each.

A preference that goes with length is learned as a length, and the held-out accuracy does not show it; nor does it show
how much else has changed, which is what the KL divergence says. Texts follow from the run's settings alone, so that a
run that is resumed compares the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import fmean

from dpo_core.config import SamplingSettings
from dpo_core.logps import PairLogps
from dpo_core.policies import encode_prompt
from dpo_core.progress import RunProgress
from dpo_core.sampling import prompt_room, sample_completions
from dpo_core.workspace import Workspace
from dpo_core.writers import load_writer
from store.intervals import mean_interval
from store.models import Checkpoint
from store.pairs import NewCompletion
from store.prompts import Message
from store.snapshots import PreferencePair

PHASE = "write samples"


@dataclass(frozen=True)
class Answers:
    """Answers to the same prompts by the parent and by the checkpoint, with their tokens, the end included."""

    prompts: list[list[Message]]
    before: list[NewCompletion]
    after: list[NewCompletion]

    @property
    def lengths(self) -> dict[str, float]:
        """For the record; empty where nothing was written."""
        if not self.before:
            return {}
        before, after = self.tokens
        return {"samples": len(self.before), "before": fmean(before), "after": fmean(after)}

    @property
    def tokens(self) -> tuple[list[int], list[int]]:
        """How many tokens each answer of the parent and of the checkpoint has."""
        return [new.tokens or 0 for new in self.before], [new.tokens or 0 for new in self.after]

    @property
    def pairs(self) -> list[PreferencePair]:
        """The answers as pairs, the checkpoint's as `chosen`, for their log-probs."""
        rows = zip(self.prompts, self.after, self.before, strict=True)
        return [
            PreferencePair(index, asked, after.text, before.text, chosen_side="a", agreement=1.0, annotators=0)
            for index, (asked, after, before) in enumerate(rows)
        ]


def divergence(policy: Sequence[PairLogps], reference: Sequence[PairLogps]) -> dict[str, float]:
    """KL(policy || reference) in nats per answer, from the policy's own answers (`chosen`); empty without any.

    The mean of log policy - log reference over samples of the policy: unbiased, and noisy with few samples. `low` and
    `high` are its 95% interval.
    """
    if not policy:
        return {}
    gains = [mine.chosen - theirs.chosen for mine, theirs in zip(policy, reference, strict=True)]
    found = {"nats": fmean(gains), "samples": len(gains)}
    low, high = mean_interval(gains, range(len(gains)))
    return found | ({"low": low, "high": high} if len(gains) > 1 else {})


def prompts_to_answer(held_out: Sequence[PreferencePair], train: Sequence[PreferencePair]) -> list[list[Message]]:
    """Every prompt once, those that were not trained on first."""
    unique = {str(pair.messages): pair.messages for pair in [*held_out, *train]}
    return list(unique.values())


Asked = list[tuple[list[Message], NewCompletion | None]]  # None where it stayed empty however often it was drawn


def compare_answers(before: Asked, after: Asked) -> Answers:
    """What two checkpoints answered to the same prompts, where both did."""
    both = [(asked, old, new) for (asked, old), (_, new) in zip(before, after, strict=True) if old and new]
    return Answers([asked for asked, _, _ in both], [old for _, old, _ in both], [new for _, _, new in both])


def answer_prompts(
    workspace: Workspace,
    checkpoint: Checkpoint,
    *,
    prompts: Sequence[list[Message]],
    count: int,
    sampling: SamplingSettings,
    progress: RunProgress,
) -> Asked:
    """One answer to each of the first `count` prompts that leave room. Raises RunCancelled, LostRunError."""
    count = min(count, len(prompts))
    if not count:
        return []
    report = partial(progress.report, f"{PHASE} of {checkpoint.name}", 0, count)
    report()
    model, tokenizer = load_writer(workspace, checkpoint)
    room = prompt_room(model, sampling)
    fitting = (asked for asked in prompts if room is None or len(encode_prompt(tokenizer, asked)) <= room)
    asked = list(islice(fitting, count))
    answers = sample_completions(
        model, tokenizer, asked, sampling, per_prompt=1, seed=sampling.seed, on_step=lambda _: report()
    )
    return [(messages, found[0] if found else None) for messages, found in zip(asked, answers, strict=True)]
