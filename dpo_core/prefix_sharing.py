"""The packed forward: each unique token of a preference pair is computed once.

A batch of B pairs comes from TRL as 2B rows, prompt + chosen and prompt + rejected, padded to the longest. Here it is
laid out as ONE row of unique tokens, pair after pair:

    [what both rows begin with] [the rest of chosen] [the rest of rejected]      trunk, branch, branch

Both branches attend to the trunk and to themselves; positions in both go on where the trunk ends. The language model's
head sees only the states that predict a completion token; a trunk's last state predicts the first token of both
branches, so it is handed to the head twice. The results go back to where TRL expects them, (2B, L - 1).

`share_prefixes(model)` wraps the forward that TRL calls (`model(..., labels=..., fused_lm_head=True)`), so that losses,
metrics, adapters, checkpointing and precision stay TRL's own. What attention of this shape cannot express runs through
TRL's forward as before: see `why_not`, and `agrees`, which tries the packed forward on the model itself before it is
trusted with one.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from types import MethodType
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

log = logging.getLogger("pairloop")
ATTENTION = "pairloop_shared_prefix"  # the name under which transformers knows our attention
IGNORED = -100  # TRL's label for "no loss here"
_FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")  # of TRL's FusedCausalLMOutput
_TOLERANCE = 1e-3  # of a log-prob, in nats, between the two forwards in float32; a wrong mask is off by tenths


@dataclass(frozen=True)
class Branches:
    """Where one pair lies in the packed row: trunk [start, fork), chosen [fork, split), rejected [split, end)."""

    start: int
    fork: int
    split: int
    end: int


@dataclass(frozen=True)
class Segments:
    """The same pairs for one attention call of variable lengths: two segments a pair, trunk + chosen and rejected.

    A segment's queries stand together in the row; a rejected one's keys do not, so that all keys are gathered. Every
    query looks at the keys of its segment up to its own, counted from their ends.
    """

    keys: torch.Tensor  # (K,) places in the row, segment after segment
    query_ends: torch.Tensor  # (S + 1,) int32, where segments begin and end among the queries
    key_ends: torch.Tensor  # (S + 1,) int32, the same among `keys`
    longest: tuple[int, int]  # queries, keys


@dataclass(frozen=True)
class Layout:
    """A batch of pairs as one row of U unique tokens, with the N states that predict a completion token."""

    tokens: torch.Tensor  # (1, U)
    positions: torch.Tensor  # (1, U), starting at 0 in each pair, and again behind the trunk in each branch
    pairs: tuple[Branches, ...]
    segments: Segments
    masks: tuple[torch.Tensor | None, ...]  # for each pair (R, T + R): what its rejected branch may look at
    predictors: torch.Tensor  # (N,) places in the row whose state predicts a completion token
    labels: torch.Tensor  # (1, N) those tokens
    targets: torch.Tensor  # (N,) their places in TRL's grid (2B, L - 1), flattened
    grid: tuple[int, int]


_packing: ContextVar[Layout | None] = ContextVar("packing", default=None)


def lay_out(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Layout:
    """The layout of a batch as TRL's collator makes it: (2B, L) each, chosen rows first, padded on the right."""
    device, (rows, width) = input_ids.device, input_ids.shape
    ids, lengths = input_ids.tolist(), attention_mask.sum(dim=1).tolist()
    learned = (labels != IGNORED).tolist()
    tokens: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    pairs: list[Branches] = []
    for chosen in range(rows // 2):
        both = (chosen, chosen + rows // 2)
        texts = [ids[row][: lengths[row]] for row in both]
        trunk, start = _common_start(*texts), len(tokens)
        fork, split = start + trunk, start + len(texts[0])
        pairs.append(Branches(start, fork, split, split + len(texts[1]) - trunk))
        tokens += [*texts[0], *texts[1][trunk:]]
        positions += [*range(len(texts[0])), *range(trunk, len(texts[1]))]
        for row, branch in zip(both, (fork, split), strict=True):
            for index in range(1, lengths[row]):
                if learned[row][index]:
                    before = index - 1
                    predictors.append(start + before if before < trunk else branch + before - trunk)
                    targets.append(row * (width - 1) + before)
    grid = (rows, width - 1)
    places = torch.tensor(targets, dtype=torch.long, device=device)
    return Layout(
        tokens=torch.tensor([tokens], dtype=torch.long, device=device),
        positions=torch.tensor([positions], dtype=torch.long, device=device),
        pairs=tuple(pairs),
        segments=_segments(pairs, device),
        masks=tuple(_rejected_mask(pair, device) for pair in pairs),
        predictors=torch.tensor(predictors, dtype=torch.long, device=device),
        labels=labels[:, 1:].reshape(-1)[places][None],
        targets=places,
        grid=grid,
    )


def _common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    shorter = min(len(one), len(other))
    return next((index for index in range(shorter) if one[index] != other[index]), shorter)


def _segments(pairs: Sequence[Branches], device: torch.device) -> Segments:
    keys: list[int] = []
    query_ends, key_ends = [0], [0]
    for pair in pairs:
        whole = [(pair.split - pair.start, [*range(pair.start, pair.split)])]
        if pair.end > pair.split:  # kernels differ on empty segments
            whole.append((pair.end - pair.split, [*range(pair.start, pair.fork), *range(pair.split, pair.end)]))
        for queries, places in whole:
            keys += places
            query_ends.append(query_ends[-1] + queries)
            key_ends.append(len(keys))
    return Segments(
        keys=torch.tensor(keys, dtype=torch.long, device=device),
        query_ends=torch.tensor(query_ends, dtype=torch.int32, device=device),
        key_ends=torch.tensor(key_ends, dtype=torch.int32, device=device),
        longest=(_longest_step(query_ends), _longest_step(key_ends)),
    )


def _longest_step(ends: Sequence[int]) -> int:
    return max((after - before for before, after in pairwise(ends)), default=0)


def _rejected_mask(pair: Branches, device: torch.device) -> torch.Tensor | None:
    """(R, T + R) True where a rejected token may look: all of the trunk, and its own branch up to itself."""
    trunk, length = pair.fork - pair.start, pair.end - pair.split
    if not length or not trunk:
        return None  # nothing to attend with, or a branch that is causal by itself
    return torch.ones(length, trunk + length, dtype=torch.bool, device=device).tril(trunk)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each pair of a packed row; without a layout (generation, TRL's own rows) plain SDPA.

    query (1, H, U, D), key and value (1, K, U, D) with H a multiple of K. Returns (1, U, H, D).
    """
    if layout is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return plain
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout:
        return _attend_in_one_call(query, key, value, layout.segments, scaling), None
    return _attend_pair_by_pair(query, key, value, layout, scaling, dropout), None


def _attend_in_one_call(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scaling: float | None
) -> torch.Tensor:
    """One flash-attention call for all pairs: what a GPU wants. Shapes as in `_attention`."""
    queries, keys, values = (states[0].transpose(0, 1) for states in (query, key, value))  # (U, heads, D)
    found = varlen_attn(
        queries.contiguous(),
        keys[segments.keys],
        values[segments.keys],
        segments.query_ends,
        segments.key_ends,
        *segments.longest,
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found, torch.Tensor)  # a pair only where asked for more
    return found[None]


def _attend_pair_by_pair(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Two SDPA calls a pair: what a CPU wants. Shapes as in `_attention`."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    attend = functools.partial(scaled_dot_product_attention, dropout_p=dropout, scale=scaling)
    # Split, not sliced: the gradient of a slice is a whole row of zeros with the slice in it, once for each slice.
    sizes = [size for pair in layout.pairs for size in (pair.split - pair.start, pair.end - pair.split)]
    queries, keys, values = (states.split(sizes, dim=2) for states in (query, key, value))
    parts = []
    for place, (pair, mask) in enumerate(zip(layout.pairs, layout.masks, strict=True)):
        first, second, trunk = 2 * place, 2 * place + 1, pair.fork - pair.start
        parts.append(attend(queries[first], keys[first], values[first], is_causal=True))
        if pair.end > pair.split:
            shared_keys = torch.cat((keys[first][:, :, :trunk], keys[second]), dim=2)
            shared_values = torch.cat((values[first][:, :, :trunk], values[second]), dim=2)
            parts.append(attend(queries[second], shared_keys, shared_values, attn_mask=mask, is_causal=mask is None))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """No mask for a packed row: `_attention` knows who may look at whom."""
    if _packing.get() is not None:
        return None
    mask: torch.Tensor | None = sdpa_mask(*args, **kwargs)
    return mask


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)


def share_or_warn(model: Any) -> None:
    """Make a model, or the one within an adapter, share prefixes; say so once where it cannot."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    reason = share_prefixes(inner)
    if reason:
        log.warning(
            "Chosen and rejected do not share their prompt's computation here: %s. TRL's own forward is used, which "
            "comes to the same results, only more slowly.",
            reason,
        )


def share_prefixes(model: PreTrainedModel) -> str:
    """Make the model compute each unique token of a pair once; returns why it does not, "" if it does.

    `model` has TRL's fused head (`add_fused_lm_head`) and is not wrapped in an adapter; its layers may hold one. A
    model that shares prefixes already is left as it is.
    """
    if getattr(model.forward, "shares_prefixes", False):
        return ""
    reason = why_not(model)
    if reason:
        return reason
    before, wrapped = model.config._attn_implementation, model.forward
    model.set_attn_implementation(ATTENTION)
    backbone = model.base_model
    # It is there already where TRL's head was put on a second time, over a forward that shares.
    hooked = _keep_predictors in backbone._forward_hooks.values()
    hook = None if hooked else backbone.register_forward_hook(_keep_predictors)
    model.forward = MethodType(_packed(wrapped, _longest(model)), model)
    if agrees(model, wrapped):
        return ""
    if hook is not None:
        hook.remove()
    model.forward = wrapped
    model.set_attn_implementation(before)
    return f"{type(model).__name__} came to other log-probs when prefixes were shared"


def why_not(model: PreTrainedModel) -> str:
    """What about the model cannot be expressed here, as the end of a sentence; "" if nothing is known to."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if model.config is not config:
        return "it reads more than text"
    if kinds:
        return f"it has layers of another kind ({', '.join(sorted(kinds))})"
    if getattr(config, "attn_logit_softcapping", None):
        return "its attention is soft-capped"
    if getattr(config, "output_router_logits", False):
        return "its experts are balanced over all rows of a batch"
    if not getattr(model, "_supports_attention_backend", False) or not getattr(model, "_supports_sdpa", False):
        return "its attention cannot be exchanged"
    return ""


def _longest(model: PreTrainedModel) -> int | None:
    """The longest row whose every token still sees the first one; None without a sliding window."""
    config = model.config.get_text_config()
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ("sliding_attention",))
    window = getattr(config, "sliding_window", None) if slides else None
    return window if getattr(config, "use_sliding_window", True) else None


def _packed(forward: Callable[..., Any], longest: int | None) -> Callable[..., Any]:
    """TRL's fused forward on the packed row of a batch, where the batch is one of whole pairs and short enough."""

    @functools.wraps(forward)
    def packed(
        self: PreTrainedModel,
        *args: Any,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        fused_lm_head: bool = False,
        **kwargs: Any,
    ) -> Any:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if args or not fused_lm_head or not _are_pairs(longest, **given):
            given = {name: value for name, value in given.items() if value is not None}
            return forward(*args, fused_lm_head=fused_lm_head, **given, **kwargs)
        assert input_ids is not None and attention_mask is not None and labels is not None
        layout = lay_out(input_ids, attention_mask, labels)
        with _packs(layout):
            output = forward(
                input_ids=layout.tokens,
                position_ids=layout.positions,
                shift_labels=layout.labels,
                fused_lm_head=True,
                layout=layout,
                **kwargs,
            )
        return _unpacked(output, layout)

    packed.shares_prefixes = True  # type: ignore[attr-defined]
    return packed


def _are_pairs(
    longest: int | None,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    labels: torch.Tensor | None,
) -> bool:
    if input_ids is None or attention_mask is None or labels is None or attention_mask.ndim != 2:
        return False
    if input_ids.shape[0] % 2 or (longest is not None and input_ids.shape[1] > longest):
        return False
    return bool(attention_mask[:, 0].all())  # padded on the right, as TRL's collator does


@contextmanager
def _packs(layout: Layout) -> Iterator[None]:
    token = _packing.set(layout)
    try:
        yield
    finally:
        _packing.reset(token)


def _keep_predictors(module: torch.nn.Module, args: Any, output: Any) -> Any:
    """A hook on the backbone: of a packed row's states (1, U, H) only those that predict, (1, N, H), reach the head."""
    layout = _packing.get()
    if layout is not None:
        output.last_hidden_state = output.last_hidden_state[:, layout.predictors]
    return output


def _unpacked(output: Any, layout: Layout) -> Any:
    """TRL's output with every field (1, N) put back in its place in (2B, L - 1), zeros elsewhere."""
    for name in _FIELDS:
        values = getattr(output, name)
        if values is not None:
            flat = values.new_zeros(layout.grid[0] * layout.grid[1])
            setattr(output, name, flat.index_put((layout.targets,), values[0]).view(layout.grid))
    return output


def agrees(model: PreTrainedModel, reference: Callable[..., Any]) -> bool:
    """Whether the packed forward and the one it wraps find the same log-probs, on two small made-up pairs.

    It is what says that an architecture nobody tried (other positions, biases, attention sinks) may be packed.
    """
    batch = _made_up_pairs(model)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            ours = model(**batch, use_cache=False, fused_lm_head=True).log_probs
            theirs = reference(**batch, use_cache=False, fused_lm_head=True).log_probs
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False
    finally:
        model.train(training)
    loose = 1.0 if ours.dtype == torch.float32 else 300.0  # half precisions keep three digits
    return bool(torch.allclose(ours.float(), theirs.float(), atol=_TOLERANCE * loose, rtol=_TOLERANCE * loose))


def _made_up_pairs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Four rows: two prompts, each with two completions of different lengths."""
    size, device = model.get_input_embeddings().num_embeddings, model.device
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(size, (length,), generator=draw) for length in (7, 3)]
    ends = [torch.randint(size, (length,), generator=draw) for length in (4, 2, 6, 5)]
    rows = [torch.cat((prompts[index % 2], end)) for index, end in enumerate(ends)]
    labels = [torch.cat((torch.full_like(prompts[index % 2], IGNORED), end)) for index, end in enumerate(ends)]
    mask = [torch.ones_like(row) for row in rows]
    return {
        "input_ids": pad_sequence(rows, batch_first=True).to(device),
        "attention_mask": pad_sequence(mask, batch_first=True).to(device),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED).to(device),
    }


def unique_tokens(prompt: int, chosen: Sequence[int], rejected: Sequence[int]) -> int:
    """How many tokens a pair costs here: a prompt of that length once, and each completion from where they part."""
    return prompt + len(chosen) + len(rejected) - _common_start(chosen, rejected)
