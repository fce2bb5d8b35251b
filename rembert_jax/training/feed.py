"""Batches for the training loop, and where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rembert_jax import sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.data.masking import Features
from rembert_jax.training.train_step import Batch


class Feed:
    """An endless stream of global batches, of which each process makes the rows that its devices need.

    Attributes:
      tokens: how many have been given out that are not padding, by all processes if their rows have as many each.
    """

    def __init__(self, rows: Any, batch_size: int, model_config: RemBertConfig, mesh: Mesh) -> None:
        """Prepares to give out batches.

        Args:
          rows: an iterator over those rows of a batch that `sharding.local_rows` names; its state is a list, of each row's.
          batch_size: rows of the batch of all processes.
          model_config, mesh: whose batches they are, and where they go.
        """
        self.tokens = 0
        self._rows, self._batch_size, self._model_config, self._mesh = rows, batch_size, model_config, mesh
        self._share = len(sharding.local_rows(batch_size, mesh)) / batch_size

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        rows = next(self._rows)
        self._model_config.check_ids(rows)
        self.tokens += round(_count_tokens(rows) / self._share)
        return sharding.to_global(rows, self._mesh, self._batch_size)

    @property
    def position(self) -> jax.Array:
        """Where the stream of each row stands, [batch_size, numbers] uint32, split as a batch is."""
        states = [_numbers(state) for state in self._rows.get_state()]
        return sharding.to_global({"position": np.stack(states)}, self._mesh, self._batch_size)["position"]

    def restore(self, position: jax.Array) -> None:
        """Goes on from a `position`, whichever processes made it."""
        stored = sharding.from_global(position)
        states = self._rows.get_state()
        self._rows.set_state([_with_numbers(state, row) for state, row in zip(states, stored, strict=True)])

    def close(self) -> None:
        """Ends the threads that prepare batches."""
        self._rows.close()


def _numbers(state: Any) -> np.ndarray:
    """The numbers in a nested state, in the order of their keys, as pairs of uint32: JAX has no 64 bits."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state)]).astype(np.int64).view(np.uint32)


def _with_numbers(state: Any, numbers: np.ndarray) -> Any:
    """A state of the same structure with these numbers."""
    leaves, structure = jax.tree.flatten(state)
    values = np.split(numbers.view(np.int64), np.cumsum([np.size(leaf) for leaf in leaves])[:-1])
    return structure.unflatten(
        value if isinstance(leaf, np.ndarray) else int(value[0]) for leaf, value in zip(leaves, values, strict=True)
    )


def place_whole(model_config: RemBertConfig, mesh: Mesh) -> Any:
    """From the rows of a batch, all of them in every process, to global arrays, as evaluation has them."""

    def place(rows: Features) -> Batch:
        model_config.check_ids(rows)
        return sharding.to_global(rows, mesh)

    return place


def _count_tokens(rows: Mapping[str, np.ndarray]) -> int:
    mask = rows["segment_ids"] if "segment_ids" in rows else rows["attention_mask"]
    return int(np.count_nonzero(mask))
