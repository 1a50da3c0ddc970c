"""Pairs in passes: nothing left out, nothing twice, no more tokens than asked for."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.dpo_trainer import DataCollatorForPreference

from dpo_core.passes import pair_lengths, take_pairs, token_passes
from dpo_core.prefix_sharing import unique_tokens
from tests.dpo_core.conftest import tokenized

IDS = st.lists(st.integers(1, 3), min_size=1, max_size=9)  # few different tokens, so that completions begin alike


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 120))
def test_every_place_is_in_one_pass_and_no_pass_is_over_the_budget(tokens: list[int], budget: int) -> None:
    passes = token_passes(tokens, budget)
    assert sorted(place for places in passes for place in places) == list(range(len(tokens)))
    assert all(len(places) == 1 or sum(tokens[place] for place in places) <= budget for places in passes)
    lengths = [tokens[place] for places in passes for place in places]
    assert lengths == sorted(lengths)


@given(st.lists(st.tuples(st.integers(1, 9), IDS, IDS), min_size=1, max_size=6), st.data())
def test_some_pairs_of_a_batch_are_as_if_collated_alone(
    pairs: list[tuple[int, list[int], list[int]]], data: st.DataObject
) -> None:
    collate = DataCollatorForPreference(pad_token_id=0)
    found = [tokenized(place, [5] * prompt, chosen, rejected) for place, (prompt, chosen, rejected) in enumerate(pairs)]
    batch = collate([pair.row for pair in found])
    assert pair_lengths(batch) == [
        unique_tokens(len(pair.prompt_ids), pair.chosen_ids, pair.rejected_ids) for pair in found
    ]
    places = data.draw(st.permutations(range(len(found))))[: data.draw(st.integers(1, len(found)))]
    alone = collate([found[place].row for place in places])
    taken = take_pairs(batch, places)
    assert taken.keys() == alone.keys()
    assert all(torch.equal(taken[name], alone[name]) for name in alone)
