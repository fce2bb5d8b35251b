"""Exact search for the nearest vectors by their cosine, in blocks on a device.

Queries lie there whole; candidates come block by block, and of their products with the queries only the best are kept. BUCC's
Chinese set, the largest of XTREME, has 90,000 sentences to be found among two million.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

BLOCK = 4096
"""Rows of a block of queries and of one of candidates: 64 MiB of scores."""
SIZES = 8
"""The last block is as large as its rows need, in so many steps, each of which is compiled for itself."""


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


@dataclasses.dataclass
class _Queries:
    """A block of queries on a device.

    Attributes:
      rows: [block, H], of which the first `count` are queries.
      first: the number of the first one.
      best: scores and indices of the nearest candidates so far, [block, k].
    """

    rows: jax.Array
    first: int
    count: int
    best: Any


class Search:
    """The nearest of queries among candidates that come block by block, and the other way round.

    It runs on one device of its process; on several processes each searches for itself.
    """

    def __init__(self, k: int, *, block: int = BLOCK) -> None:
        """Prepares a search.

        Args:
          k: how many to keep for each.
          block: rows of queries, and of candidates, that are compared at once.
        """
        self._k, self._block = k, block
        self._mesh = jax.make_mesh((1,), ("block",), (AxisType.Auto,), devices=jax.local_devices()[:1])
        self._queries: list[_Queries] = []
        self._seen = 0

    def hold(self, queries: np.ndarray) -> None:
        """Adds queries, [N, H], before the first candidates come; they stay on the device."""
        if self._seen:
            raise ValueError("queries after candidates; hold all queries first")
        queries = unit(queries)
        for start in range(0, len(queries), self._block):
            part = queries[start : start + self._block]
            filled = self._filled(part)
            shape = len(filled), self._k
            empty = np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int32)
            rows, best = jax.device_put((filled, empty), self._mesh.devices[0])
            self._queries.append(_Queries(rows, self._count, len(part), best))

    @property
    def _count(self) -> int:
        return self._queries[-1].first + self._queries[-1].count if self._queries else 0

    def add(self, candidates: np.ndarray) -> Neighbours:
        """Compares more candidates, [M, H]; returns the nearest queries of each.

        The nearest candidates of all blocks are then in `nearest`, numbered in the order in which they came.
        """
        candidates, k = unit(candidates), min(self._k, self._count)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(candidates), self._block):
            part = candidates[start : start + self._block]
            rows, count = jax.device_put(self._filled(part), self._mesh.devices[0]), len(part)
            back: Any = None
            with jax.set_mesh(self._mesh):  # In place of that of the encoder.
                for held in self._queries:
                    counts = _unless_all(held.count, held.rows), _unless_all(count, rows)
                    held.best, back = _compare(held.rows, rows, held.best, back, held.first, self._seen, *counts, k)
            found.append((np.asarray(back[0])[:count], np.asarray(back[1])[:count]))
            self._seen += count
        return Neighbours(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _filled(self, rows: np.ndarray) -> np.ndarray:
        """With rows of zeros up to the size of a block."""
        step = -(-self._block // SIZES)
        return np.pad(rows, ((0, -len(rows) % step), (0, 0)))

    @property
    def nearest(self) -> Neighbours:
        """The nearest of all candidates so far; at most as many as there were."""
        k = min(self._k, self._seen)
        scores, indices = (
            np.concatenate([np.asarray(held.best[i])[: held.count, :k] for held in self._queries]) for i in (0, 1)
        )
        return Neighbours(scores, indices)


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
    search = Search(k, block=block)
    search.hold(queries)
    for part in [candidates] if isinstance(candidates, np.ndarray) else candidates:
        search.add(part)
    return search.nearest


def _unless_all(count: int, rows: jax.Array) -> int | None:
    """How many rows of a block are no filling, None where all are: then there is nothing to mask, which is most of the time."""
    return None if count == len(rows) else count


@functools.partial(jax.jit, static_argnums=8)
def _compare(queries, candidates, best, back, first_query, first_candidate, query_count, candidate_count, k):
    """Merges the scores of a block of each into the best of the queries and of the candidates.

    Args:
      queries, candidates: [Q, H] and [C, H]; rows from `query_count` and `candidate_count` on are filling, where these are
        not None: a mask takes three times as long as finding the best.
      best: scores and indices of the nearest candidates, [Q, k].
      back: those of the nearest queries, [C, k]; None before the first block of queries.
      first_query, first_candidate: numbers of the first rows.
      k: of `back`.
    """
    scores = jnp.matmul(queries, candidates.T, precision=jax.lax.Precision.HIGHEST)
    if candidate_count is not None:
        scores = jnp.where(jnp.arange(len(candidates))[None, :] < candidate_count, scores, -jnp.inf)
    if query_count is not None:
        scores = jnp.where(jnp.arange(len(queries))[:, None] < query_count, scores, -jnp.inf)
    if back is None:
        back = jnp.full((len(candidates), k), -jnp.inf), jnp.full((len(candidates), k), -1)
    return _merge(best, scores, 1, first_candidate), _merge(back, scores, 0, first_query)


def _merge(best, scores, axis, first):
    """The best of those so far, which win where they are equal, and of new scores along an axis."""
    kept, indices = best
    k = kept.shape[1]
    new, places = top_k(scores, min(k, scores.shape[axis]), axis)
    values, chosen = jax.lax.top_k(jnp.concatenate([kept, new], axis=1), k)
    return values, jnp.take_along_axis(jnp.concatenate([indices, places + first], axis=1), chosen, axis=1)


def top_k(scores: jax.Array, k: int, axis: int = 1) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k` of rows, [N, M] to [N, k], or of columns (axis 0), [M, N] to [N, k].

    Here it sorts 2 sqrt(M k) numbers of each instead of M, and puts no columns into rows for it. The k best lie in the k groups
    of neighbours whose maxima are the best: a group that is not among them has k before it, each with a number as good or
    better. Taking those groups in the order of their places keeps the first of equal numbers first.
    """
    length = scores.shape[axis]
    size = math.isqrt(length // k)
    groups = -(-length // size)
    filling = 0, groups * size - length
    if axis:
        grouped = jnp.pad(scores, ((0, 0), filling), constant_values=-jnp.inf).reshape(-1, groups, size)
        chosen = jnp.sort(jax.lax.top_k(grouped.max(2), k)[1], axis=1)
        inside = jnp.take_along_axis(grouped, chosen[:, :, None], axis=1)
    else:
        grouped = jnp.pad(scores, (filling, (0, 0)), constant_values=-jnp.inf).reshape(groups, size, -1)
        chosen = jnp.sort(jax.lax.top_k(grouped.max(1).T, k)[1], axis=1)
        own = jnp.arange(len(chosen))[:, None, None]
        inside = grouped[chosen[:, :, None], jnp.arange(size)[None, None, :], own]
    values, places = jax.lax.top_k(inside.reshape(-1, k * size), k)
    return values, jnp.take_along_axis(chosen, places // size, axis=1) * size + places % size
