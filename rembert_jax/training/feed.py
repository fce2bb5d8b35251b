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
    """An endless stream of global batches, of which each process makes its own rows.

    Attributes:
      rows: the iterator of this process's rows; its `get_state` and `set_state` go into checkpoints.
      tokens: how many have been given out that are not padding, by all processes if they have as many each.
    """

    def __init__(self, rows: Any, model_config: RemBertConfig, mesh: Mesh) -> None:
        self.rows, self.tokens = rows, 0
        self._model_config, self._mesh = model_config, mesh

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        rows = next(self.rows)
        self._model_config.check_ids(rows)
        self.tokens += _count_tokens(rows) * jax.process_count()
        return sharding.to_global(rows, self._mesh)

    def close(self) -> None:
        """Ends the threads and processes that prepare batches."""
        self.rows.close()


def place_whole(model_config: RemBertConfig, mesh: Mesh) -> Any:
    """From the rows of a batch, all of them in every process, to global arrays, as evaluation has them."""

    def place(rows: Features) -> Batch:
        model_config.check_ids(rows)
        return sharding.replicated_rows_to_global(rows, mesh)

    return place


def _count_tokens(rows: Mapping[str, np.ndarray]) -> int:
    mask = rows["segment_ids"] if "segment_ids" in rows else rows["attention_mask"]
    return int(np.count_nonzero(mask))
