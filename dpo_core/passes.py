"""Which pairs go through the model together: as many as a budget of tokens allows, those of like length.

    token_passes   lengths -> places, grouped
    pair_lengths   a collated batch -> how many tokens each of its pairs costs
    take_pairs     a collated batch -> the same for some of its pairs, without the padding that the others needed

A collated batch is TRL's: rows (2B, L), those of the chosen completions before those of the rejected, and one value for
each pair (B,).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Batch = dict[str, torch.Tensor]


def token_passes(tokens: Sequence[int], budget: int) -> list[list[int]]:
    """Places in `tokens`, shortest first, in groups of at most so many tokens; what is beyond it goes by itself.

    What is left of the list after any number of whole groups is cut in the same places: a pass over pairs that was
    interrupted and goes on comes to the same sums, bit for bit.
    """
    groups: list[list[int]] = []
    held = 0
    for place in sorted(range(len(tokens)), key=tokens.__getitem__):
        if not groups or held + tokens[place] > budget:
            groups.append([])
            held = 0
        groups[-1].append(place)
        held += tokens[place]
    return groups


def pair_lengths(batch: Batch) -> list[int]:
    """Tokens of each pair, with what its two rows share counted once."""
    chosen, rejected = batch["input_ids"].chunk(2)  # (B, L) each
    here, there = (mask.bool() for mask in batch["attention_mask"].chunk(2))
    shared = ((chosen == rejected) & here & there).int().cumprod(dim=1).sum(dim=1)
    return list((here.sum(dim=1) + there.sum(dim=1) - shared).tolist())


def take_pairs(batch: Batch, places: Sequence[int]) -> Batch:
    """The pairs at these places, in this order."""
    rows = batch["input_ids"]
    pairs = torch.tensor(places, device=rows.device)
    both = torch.cat([pairs, pairs + len(rows) // 2])
    longest = int(batch["attention_mask"][both].sum(dim=1).max())
    return {name: values[both, :longest] if values.dim() > 1 else values[pairs] for name, values in batch.items()}
