"""Implicit rewards of completions just written, under the checkpoint that wrote them and against the base.

The reward of a completion is `beta * (log p_policy - log p_base)` (Rafailov et al. 2023, equation 5), as in
evaluate.py. Both models are in memory together, so that pairs can be asked about as soon as a batch of them is written,
and held alike (writers.py): what they differ by is what was learned, and not how they were rounded.
Each prompt goes through them by itself: its rewards, and so the pair that is selected, do not depend on what it was
batched with, and a run that was killed and resumed selects what it would have selected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpo_core.logps import pair_logps
from dpo_core.policies import context_length
from dpo_core.tokenization import TokenizedPair, tokenize_pairs
from store.prompts import Message
from store.snapshots import PreferencePair


@dataclass(frozen=True)
class CandidateRewards:
    """Rewards under `policy`, against `base`; both are on the device they compute on."""

    policy: Any
    base: Any
    tokenizer: Any
    beta: float

    def of(self, messages: list[Message], texts: Sequence[str]) -> list[float]:
        """The reward of each of a prompt's completions, two or more."""
        length = context_length(self.policy.config) or 10**9
        pairs = tokenize_pairs(in_twos(messages, texts), self.tokenizer, max_length=length)
        policy, base = self._logps(self.policy, pairs), self._logps(self.base, pairs)
        return [self.beta * (mine - theirs) for mine, theirs in zip(policy, base, strict=True)][: len(texts)]

    def _logps(self, model: Any, pairs: Sequence[TokenizedPair]) -> list[float]:
        # Not sharing prefixes: that would exchange the attention of the model that goes on writing.
        found = pair_logps(model, self.tokenizer, pairs, prefix_sharing=False)
        return [logp for both in found for logp in (both.chosen, both.rejected)]


def in_twos(messages: list[Message], texts: Sequence[str]) -> list[PreferencePair]:
    """Texts as pairs, the first with the second and so on; the last of an odd number stands with the first again."""
    even = [*texts, *texts[: len(texts) % 2]]
    rows = zip(even[::2], even[1::2], strict=True)
    return [PreferencePair(index, messages, one, other, "a", 1.0, 0) for index, (one, other) in enumerate(rows)]
