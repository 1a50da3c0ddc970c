"""Preference pairs -> token ids, as TRL tokenizes conversational rows, once for training, reference and evaluation.

A completion starts where the tokenized prompt and the tokenized prompt + completion part ways. Where that is before the
prompt's end, the model trains on a context that it never sees when sampling: `prompt_tail_lost` says by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from dpo_core.errors import RunError
from store.snapshots import PreferencePair


@dataclass(frozen=True)
class TokenizedPair:
    """The token ids of a pair. Prompt and completion together are at most `max_length` long: the end is cut."""

    pair_id: int
    chosen_side: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    prompt_tail_lost: int
    chosen_cut: int = 0  # tokens that max_length took off the end
    rejected_cut: int = 0

    @property
    def row(self) -> dict[str, list[int]]:
        """What TRL's collator takes."""
        return {"prompt_ids": self.prompt_ids, "chosen_ids": self.chosen_ids, "rejected_ids": self.rejected_ids}


def tokenize_pairs(
    pairs: Sequence[PreferencePair], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> list[TokenizedPair]:
    """The pairs whose prompt leaves room for a completion within `max_length`; the others are left out, as in TRL."""
    tokenized = [_tokenize(pair, tokenizer, max_length) for pair in pairs]
    return [pair for pair in tokenized if len(pair.prompt_ids) < max_length]


def require_room(found: Sequence[PreferencePair], kept: Sequence[TokenizedPair], *, max_length: int) -> None:
    """Raise RunError where every pair there was had to be left out (`alarms.left_out` speaks of some)."""
    if found and not kept:
        raise RunError(
            f"Every prompt alone is longer than max_length = {max_length} tokens. Raise it in pairloop.toml."
        )


def _tokenize(pair: PreferencePair, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenizedPair:
    prompt = _ids(tokenizer, pair.messages, add_generation_prompt=True)
    chosen = _ids(tokenizer, [*pair.messages, {"role": "assistant", "content": pair.chosen}])
    rejected = _ids(tokenizer, [*pair.messages, {"role": "assistant", "content": pair.rejected}])
    start = min(_common_prefix(prompt, chosen), _common_prefix(prompt, rejected))
    return TokenizedPair(
        pair_id=pair.pair_id,
        chosen_side=pair.chosen_side,
        prompt_ids=prompt[:start],
        chosen_ids=chosen[start:max_length],
        rejected_ids=rejected[start:max_length],
        prompt_tail_lost=len(prompt) - start,
        chosen_cut=max(0, len(chosen) - max_length),
        rejected_cut=max(0, len(rejected) - max_length),
    )


def _ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Any], **options: Any) -> list[int]:
    # Not verbose: it would warn of indexing errors for texts that are only cut after this.
    options |= {"tokenize": True, "return_dict": True, "tokenizer_kwargs": {"verbose": False}}
    return list(tokenizer.apply_chat_template(list(messages), **options)["input_ids"])


def _common_prefix(one: list[int], other: list[int]) -> int:
    for index, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            return index
    return min(len(one), len(other))
