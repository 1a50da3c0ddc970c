"""The pairs of a training in several processes, in the same order for one process that trains in their place.

accelerate deals an epoch's batches to the processes in turn, and fills the last ones up with the epoch's first pairs,
from the beginning again if need be. One process that goes through the same order, filled up alike, and adds up as many
batches before each step as all of them did together, sees the same pairs at each step. Only sums are added in another
order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import RandomSampler, Sampler

from dpo_core.trainer import PairTrainer


class SharedOrder(Sampler[int]):  # type: ignore[misc]
    """Places of pairs, epoch by epoch, as so many processes share them out in batches of this size."""

    def __init__(self, drawn: RandomSampler, *, batch_size: int, processes: int) -> None:
        # As accelerate replaces the sampler of any number of processes: it leaves one of another kind as it is.
        self._order = SeedableRandomSampler(drawn.data_source, generator=drawn.generator)
        self._round = batch_size * processes

    def __len__(self) -> int:
        return -(-len(self._order) // self._round) * self._round

    def __iter__(self) -> Iterator[int]:
        return islice(cycle(list(self._order)), len(self))

    def set_epoch(self, epoch: int) -> None:
        """Another epoch is drawn anew, in the same order whoever draws it."""
        self._order.set_epoch(epoch)


class PairTrainerForSeveral(PairTrainer):
    """A PairTrainer that sees what so many `processes` saw; batches are to be added up for all of them."""

    def __init__(self, *given: Any, processes: int, **named: Any) -> None:
        self._processes = processes
        super().__init__(*given, **named)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        drawn = super()._get_train_sampler(train_dataset)
        return SharedOrder(drawn, batch_size=self.args.train_batch_size, processes=self._processes)
