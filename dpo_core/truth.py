"""How good a checkpoint truly is, which only simulations know: a taste judges fresh completions of held-out prompts.

Held-out prompts alone: what is trained on may be known by heart. Where there are few of them each is answered several
times, as often as it takes to come to DUELS; each answer is a draw of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dpo_core.errors import RunError
from dpo_core.policies import load_policy
from dpo_core.sampling import sample_completions
from dpo_core.tastes import Taste
from dpo_core.workspace import Workspace
from store.checkpoints import base_checkpoint
from store.database import reading
from store.hashing import text_hash
from store.intervals import Estimate, share_of
from store.models import Checkpoint
from store.prompts import Message, all_prompts

DUELS = 100  # fresh ones, at least, for each checkpoint; and no more prompts than this
SEEDS = 50_021  # between two answers to the same prompts


@dataclass(frozen=True)
class Shares:
    """How often a checkpoint's fresh completions please more than another's, and how often less."""

    won: float
    lost: float


class Truth:
    """Fresh completions for held-out prompts, judged by the taste without noise. Raises RunError where none is."""

    def __init__(self, workspace: Workspace, taste: Taste, seed: int) -> None:
        self._workspace = workspace
        self._taste = taste
        self._seed = seed + 1_000_003  # not the draws that the rounds' pairs were made of
        with reading(workspace.engine) as session:
            held_out = [prompt for prompt in all_prompts(session=session) if prompt.held_out]
            self._base = base_checkpoint(session=session)
        if not held_out:
            raise RunError(
                "No prompt is held out, so nothing can be measured: import more, or raise held_out_share in [round]."
            )
        held_out.sort(key=lambda prompt: text_hash(prompt.content_hash))
        self._prompts = [prompt.messages for prompt in held_out[:DUELS]]
        self._answers = -(-DUELS // len(self._prompts))
        self._known: dict[str, list[float]] = {}

    def win_rate(self, checkpoint: Checkpoint) -> Estimate:
        """How often a checkpoint's completions please more than the base's; ties count half.

        `count` is of duels; each prompt has as many.
        """
        pairs = zip(self._scores(checkpoint), self._scores(self._base), strict=True)
        won = [1.0 if new > old else 0.5 if new == old else 0.0 for new, old in pairs]
        return share_of(won, [place % len(self._prompts) for place in range(len(won))])

    def shares(self, checkpoint: Checkpoint, other: Checkpoint) -> Shares:
        """How often one checkpoint's completion pleases more than another's, and less."""
        pairs = list(zip(self._scores(checkpoint), self._scores(other), strict=True))
        won, lost = sum(mine > theirs for mine, theirs in pairs), sum(mine < theirs for mine, theirs in pairs)
        return Shares(won / len(pairs), lost / len(pairs))

    def _scores(self, checkpoint: Checkpoint) -> list[float]:
        """Of all prompts, then of all once more."""
        if checkpoint.name not in self._known:
            self._known[checkpoint.name] = self._score(checkpoint, self._seed + (checkpoint.name != self._base.name))
        return self._known[checkpoint.name]

    def _score(self, checkpoint: Checkpoint, seed: int) -> list[float]:
        model, tokenizer = load_policy(self._workspace, checkpoint)
        settings, scores = self._workspace.settings.sampling, []
        for answer in range(self._answers):  # not several at once: these would be made to differ
            seed_of_it = seed + SEEDS * answer
            written = sample_completions(model, tokenizer, self._prompts, settings, per_prompt=1, seed=seed_of_it)
            texts = [completions[0].text if completions else "" for completions in written]
            scores += [self._taste(prompt_text(asked), text) for asked, text in zip(self._prompts, texts, strict=True)]
        return scores


def prompt_text(messages: Sequence[Message]) -> str:
    """What a taste is given as the prompt: the last thing the user said."""
    return messages[-1]["content"]
