"""One process in place of several: the pairs of each step, against what accelerate deals out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, RandomSampler, Sampler

from dpo_core.shared_order import SharedOrder

EPOCHS = 3


def dealt(pairs: int, batch_size: int, processes: int, place: int) -> Iterator[list[int]]:
    """The batches that accelerate deals to one of the processes, epoch after epoch."""
    yield from epochs(RandomSampler(range(pairs)), pairs, batch_size, processes, place)


def alone(pairs: int, batch_size: int, processes: int) -> Iterator[list[int]]:
    """Those of a process by itself that trains in their place."""
    order = SharedOrder(RandomSampler(range(pairs)), batch_size=batch_size, processes=processes)
    yield from epochs(order, pairs, batch_size, 1, 0)


def epochs(sampler: Sampler[int], pairs: int, batch_size: int, processes: int, place: int) -> Iterator[list[int]]:
    torch.manual_seed(7)
    loader = DataLoader(list(range(pairs)), batch_size=batch_size, sampler=sampler)  # type: ignore[arg-type]
    loader = prepare_data_loader(
        loader, num_processes=processes, process_index=place, put_on_device=False, use_seedable_sampler=True
    )
    for _ in range(EPOCHS):
        yield from (batch.tolist() for batch in loader)


@pytest.mark.parametrize(
    ("pairs", "batch_size", "processes"),
    [(16, 4, 2), (10, 4, 2), (9, 2, 4), (13, 4, 3), (3, 4, 2), (5, 8, 3)],
)
def test_each_step_sees_the_pairs_that_all_of_them_saw(pairs: int, batch_size: int, processes: int) -> None:
    shards = [list(dealt(pairs, batch_size, processes, place)) for place in range(processes)]
    rounds = [list(batches) for batches in zip(*shards, strict=True)]
    mine = list(alone(pairs, batch_size, processes))
    assert [mine[at : at + processes] for at in range(0, len(mine), processes)] == rounds
    assert len(set(map(str, rounds))) > 1, "every epoch has an order of its own"
