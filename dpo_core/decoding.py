"""The token loop: a policy continues prompts, and every draw can be repeated.

What sets it apart from `model.generate`: a prompt is computed once for all its completions (its keys and values are
then copied), a row that has ended leaves the batch, and a row's draws depend on its own seed alone. Two rows of one
batch never share a stream of random numbers, so a run that is resumed, or batched otherwise, writes the same texts (as
far as floating point allows: a logit that differs in the seventh digit may tip one draw in a million).

Left out on purpose: beams, repetition penalties, top-k and whatever else a generation_config asks for. DPO's loss is
about the policy's own distribution; temperature and top_p are the only things that may come between.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from dpo_core.errors import ModelError

NUCLEUS_GUESS = 128  # tokens looked at first for the nucleus; sorting a whole vocabulary costs more than a small model
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer, SplitMix64's step
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


OnStep = Callable[[Sequence[Sequence[int]]], None]  # given the tokens of every row so far; may raise to stop


@dataclass(frozen=True)
class Row:
    """One completion to write: which of the prompts it continues, and the seed of its draws (below 2**63)."""

    prompt: int
    seed: int


@dataclass(frozen=True)
class Law:
    """What tokens are drawn from, and when to stop."""

    temperature: float
    top_p: float
    max_new_tokens: int
    stop_ids: Collection[int]


def continue_prompts(
    model: Any,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Row],
    law: Law,
    *,
    pad_id: int,
    on_step: OnStep | None = None,
) -> list[list[int]]:
    """The tokens of every row, its stop token included if it came to one. `on_step` is called after each token.

    Raises ModelError where the model's logits are no numbers.
    """
    with torch.inference_mode():
        return _continue(model, prompts, rows, law, pad_id, on_step or (lambda written: None))


def _continue(
    model: Any,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Row],
    law: Law,
    pad_id: int,
    on_step: OnStep,
) -> list[list[int]]:
    logits, state = prefill(model, prompts, [row.prompt for row in rows], pad_id=pad_id)
    seeds = torch.tensor([row.seed for row in rows], device=logits.device)  # (R,)
    written: list[list[int]] = [[] for _ in rows]
    live = list(range(len(rows)))
    for step in range(law.max_new_tokens):
        drawn = draw_tokens(logits, seeds, step, temperature=law.temperature, top_p=law.top_p)  # (R,)
        for row, token in zip(live, drawn.tolist(), strict=True):
            written[row].append(token)
        on_step(written)
        going = [place for place, row in enumerate(live) if written[row][-1] not in law.stop_ids]
        if not going or step + 1 == law.max_new_tokens:
            break
        if len(going) < len(live):
            live = [live[place] for place in going]
            kept = torch.tensor(going, device=seeds.device)
            drawn, seeds = drawn[kept], seeds[kept]
            state.pick(kept)
        logits = state.advance(drawn)
    return written


class DecodingState:
    """The keys and values of the rows being written, and where each row is."""

    def __init__(self, model: Any, mask: torch.Tensor) -> None:
        self.model = model
        self.mask = mask  # (R, T): 0 for padding on the left
        self.positions = (mask.cumsum(-1) - 1).clamp(min=0)  # (R, T)
        self.cache = DynamicCache(config=model.config)
        # Models with relative positions only (Bloom, MPT) take no position_ids.
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._extra = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits (R, V) after the last of `ids` (R, T)."""
        places = {"position_ids": self.positions} if self._takes_positions else {}
        output = self.model(
            input_ids=ids, attention_mask=self.mask, past_key_values=self.cache, use_cache=True, **places, **self._extra
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def advance(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (R, V) after one more token per row, `tokens` (R,)."""
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        self.positions = self.positions[:, -1:] + 1
        return self.forward(tokens[:, None])

    def pick(self, rows: torch.Tensor) -> None:
        """Go on with these rows (R',): some dropped, or some repeated."""
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        self.cache.reorder_cache(rows)  # made for beam search: it takes any rows, any number of times


def prefill(
    model: Any, prompts: Sequence[Sequence[int]], owners: Sequence[int], *, pad_id: int
) -> tuple[torch.Tensor, DecodingState]:
    """The next token's logits (R, V) and the state of R rows, row r continuing prompt `owners[r]`.

    Every prompt is computed once, however many rows continue it. Raises ModelError for logits that are no numbers.
    """
    longest = max(map(len, prompts))
    ids = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    state = DecodingState(model, torch.tensor(mask, device=model.device))
    logits = state.forward(torch.tensor(ids, device=model.device))  # (P, V)
    if not torch.isfinite(logits.max(dim=-1).values).all():
        raise ModelError(
            "The checkpoint's weights give no numbers (NaN or infinity): its training went wrong. "
            "Nothing was written. Go on from its parent, and train with a lower learning_rate."
        )
    rows = torch.tensor(owners, device=model.device)
    state.pick(rows)
    return logits[rows], state


def draw_tokens(
    logits: torch.Tensor, seeds: torch.Tensor, step: int, *, temperature: float, top_p: float
) -> torch.Tensor:
    """One token per row, (R,), from the nucleus of softmax(logits / temperature); logits (R, V), seeds (R,).

    An exponential race: the token with the smallest E / p wins, E drawn from Exp(1) for each token, which has exactly
    the law p. Unlike a search in the cumulative sum, it is indifferent to the order of the tokens, so that rounding
    in a logit tips a draw only where two tokens finish neck and neck.
    """
    # The largest is taken off first: a temperature near 0 then gives 0 and -inf, never inf - inf.
    probs = ((logits - logits.max(dim=-1, keepdim=True).values) / temperature).softmax(dim=-1)
    weights, tokens = nucleus(probs, top_p)  # both (R, K)
    exponentials = -torch.log(uniforms(seeds, step, tokens))
    return tokens.gather(1, (weights / exponentials).argmax(dim=-1, keepdim=True)).squeeze(1)


def nucleus(probs: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest set of likeliest tokens that adds up to `top_p` (Holtzman et al. 2020): weights and ids, (R, K).

    K covers the widest row; in the others, what is outside the nucleus has weight 0. `probs` is (R, V).
    """
    size = probs.shape[-1]
    if top_p >= 1:
        return probs.double(), torch.arange(size, device=probs.device).expand_as(probs)
    count = min(size, NUCLEUS_GUESS)
    while True:
        best, tokens = probs.topk(count, dim=-1)
        weights = best.double()
        if count == size or bool((weights.sum(dim=-1) >= top_p).all()):
            break
        count = min(size, count * 8)
    likelier = weights.cumsum(dim=-1) - weights  # what the tokens before this one add up to
    return weights.masked_fill(likelier >= top_p, 0.0), tokens


def uniforms(seeds: torch.Tensor, step: int, tokens: torch.Tensor) -> torch.Tensor:
    """A number in (0, 1) for each (seed, step, token), (R, K): a function of the three, the same on every device.

    SplitMix64 (Steele, Lea and Flood 2014), entered at place `token` of the stream that seed and step name. A counter
    and not a generator: noise is worked out for the nucleus alone, not for a vocabulary of 150,000.
    """
    stream = _mixed(_mixed(seeds) + seeds.new_tensor(step + 1) * _GOLDEN)  # (R,)
    bits = _mixed(stream[:, None] + (tokens + 1) * _GOLDEN)  # (R, K)
    return (((bits >> 12) & ((1 << 52) - 1)).double() + 0.5) / float(1 << 52)


def _mixed(x: torch.Tensor) -> torch.Tensor:
    # torch's >> keeps the sign; the masks make it the unsigned shift that SplitMix64 wants. Products wrap around.
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX_2
    return x ^ ((x >> 31) & ((1 << 33) - 1))
