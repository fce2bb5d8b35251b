"""Records in a new random order every epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

TABLE = 2**16
"""Records of which an order is kept as a table; Grain's function of the index takes longer for fewer."""
EPOCHS = 3
"""Whose tables are kept: rows of a batch pass from one epoch to the next within a few batches of each other."""


class Shuffled:
    """Records without end, by their place: each once in an epoch, and each epoch in an order of its own."""

    def __init__(self, records: Sequence[Any], seed: Sequence[int]) -> None:
        self._records, self._seed = records, list(seed)
        self._orders: dict[int, Callable[[int], int]] = {}

    def __getitem__(self, place: int) -> Any:
        epoch, index = divmod(place, len(self._records))
        if epoch not in self._orders:
            if len(self._orders) == EPOCHS:
                del self._orders[next(iter(self._orders))]
            self._orders[epoch] = _permutation(len(self._records), [*self._seed, epoch])
        return self._records[self._orders[epoch](index)]


def _permutation(size: int, seed: list[int]) -> Callable[[int], int]:
    if size <= TABLE:
        return np.random.default_rng(seed).permutation(size).astype(np.uint16).item  # 65,535 is the largest.
    number, last = int(np.random.SeedSequence(seed).generate_state(1)[0]), size - 1
    # Where the last index is a power of four, Grain's function (0.2.18) leaves out one and gives another one twice.
    largest = last if last & (last - 1) else last - 1

    def shuffled(index: int) -> int:
        return grain.experimental.index_shuffle(index, max_index=largest, seed=number, rounds=4)

    return lambda index: shuffled(index) if index <= largest else last


class ShuffledStream(grain.IterDataset):
    """Every `count`-th record in its shuffled order, from `index` on."""

    def __init__(self, records: Shuffled, *, index: int, count: int) -> None:
        super().__init__()
        self.records, self.index, self.count = records, index, count

    def __iter__(self) -> grain.DatasetIterator:
        return _ShuffledStreamIterator(self)


class _ShuffledStreamIterator(grain.DatasetIterator):
    def __init__(self, dataset: ShuffledStream) -> None:
        super().__init__()
        self._dataset, self._drawn = dataset, 0

    def __next__(self) -> Any:
        dataset, self._drawn = self._dataset, self._drawn + 1
        return dataset.records[dataset.index + dataset.count * (self._drawn - 1)]

    def get_state(self) -> dict[str, Any]:
        return {"drawn": self._drawn}

    def set_state(self, state: dict[str, Any]) -> None:
        self._drawn = state["drawn"]
