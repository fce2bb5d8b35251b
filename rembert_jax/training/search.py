"""Exact search for the nearest vectors by their cosine, in blocks on a device.

Queries lie there whole; candidates come block by block, and of their products with the queries only the best are kept. BUCC's
Chinese set, the largest of XTREME, has 90,000 sentences to be found among two million.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 4096
"""Rows of a block of queries and of one of candidates: 64 MiB of scores."""


class Neighbours(NamedTuple):
    """The nearest of each query, the nearest first; of equally near ones the first.

    Attributes:
      scores: cosines, [queries, k] float32.
      indices: of candidates, [queries, k] int32.
    """

    scores: np.ndarray
    indices: np.ndarray


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, [N, H] float32; a row of zeros stays one."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


class Search:
    """The nearest of a fixed set of queries among candidates that come block by block, and the other way round."""

    def __init__(self, queries: np.ndarray, k: int, *, block: int = BLOCK) -> None:
        """Prepares a search.

        Args:
          queries: [N, H].
          k: how many to keep for each.
          block: rows of queries, and of candidates, that are compared at once.
        """
        self._count, self._k, self._block = len(queries), min(k, len(queries)), block
        rows = _in_blocks(unit(queries), block)
        self._queries = [jax.device_put(rows[start : start + block]) for start in range(0, len(rows), block)]
        empty = np.full((block, k), -np.inf, np.float32), np.full((block, k), -1, np.int32)
        self._best = [tuple(map(jnp.asarray, empty)) for _ in self._queries]
        self._seen = 0

    def add(self, candidates: np.ndarray) -> Neighbours:
        """Compares more candidates, [M, H]; returns the nearest queries of each.

        The nearest candidates of all blocks are then in `nearest`, numbered in the order in which they came.
        """
        candidates = unit(candidates)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(candidates), self._block):
            part = candidates[start : start + self._block]
            padded, count = jnp.asarray(_in_blocks(part, self._block)), len(part)
            back = None
            for number, queries in enumerate(self._queries):
                mine = min(self._block, self._count - number * self._block)
                self._best[number], back = _compare(
                    queries, padded, self._best[number], back, number * self._block, self._seen, mine, count, self._k
                )
            assert back is not None
            found.append((np.asarray(back[0])[:count], np.asarray(back[1])[:count]))
            self._seen += count
        return Neighbours(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    @property
    def nearest(self) -> Neighbours:
        """The nearest of all candidates so far; at most as many as there were."""
        k = min(self._best[0][0].shape[1], self._seen)
        scores, indices = (np.concatenate([np.asarray(best[i]) for best in self._best]) for i in (0, 1))
        return Neighbours(scores[: self._count, :k], indices[: self._count, :k])


def nearest(
    queries: np.ndarray, candidates: np.ndarray | Iterable[np.ndarray], k: int, *, block: int = BLOCK
) -> Neighbours:
    """The k nearest candidates of each query.

    Args:
      queries: [N, H].
      candidates: [M, H], or parts of it.
      k: how many; fewer where there are fewer candidates.
      block: rows that are compared at once.
    """
    search = Search(queries, k, block=block)
    for part in [candidates] if isinstance(candidates, np.ndarray) else candidates:
        search.add(part)
    return search.nearest


def _in_blocks(rows: np.ndarray, block: int) -> np.ndarray:
    """Filled up with zeros to whole blocks."""
    return np.pad(rows, ((0, -len(rows) % block), (0, 0)))


@functools.partial(jax.jit, static_argnums=8)
def _compare(queries, candidates, best, back, first_query, first_candidate, query_count, candidate_count, k):
    """Merges the scores of a block of each into the best of the queries and of the candidates.

    Args:
      queries, candidates: [block, H]; rows from `query_count` and `candidate_count` on are filling.
      best: scores and indices of the nearest candidates, [block, k].
      back: those of the nearest queries, [block, k]; None before the first block of queries.
      first_query, first_candidate: numbers of the first rows.
      k: of `back`.
    """
    block = len(queries)
    scores = jnp.matmul(queries, candidates.T, precision=jax.lax.Precision.HIGHEST)
    numbers = jnp.arange(block)
    forward = jnp.where(numbers[None, :] < candidate_count, scores, -jnp.inf)
    backward = jnp.where(numbers[None, :] < query_count, scores.T, -jnp.inf)
    if back is None:
        back = jnp.full((block, k), -jnp.inf), jnp.full((block, k), -1)
    return _merge(best, forward, first_candidate), _merge(back, backward, first_query)


def _merge(best, scores, first):
    """The best of those so far, which win where they are equal, and of new scores [block, block]."""
    kept, indices = best
    k = kept.shape[1]
    new, places = jax.lax.top_k(scores, min(k, scores.shape[1]))
    values, chosen = jax.lax.top_k(jnp.concatenate([kept, new], axis=1), k)
    return values, jnp.take_along_axis(jnp.concatenate([indices, places + first], axis=1), chosen, axis=1)
