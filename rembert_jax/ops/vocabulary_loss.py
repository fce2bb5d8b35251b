"""The masked-LM loss over a huge vocabulary: three matrix products, and never more logits than a tile of positions has.

Letters: T positions, E width of the output embedding, V vocabulary, R rows of a tile.

The loss is one sum, so its gradients are known as soon as the logits of a tile are: the forward pass of a gradient computes
them, tile by tile, and the backward pass scales them. Operands of all three products have the dtype of the features, results
are accumulated in float32; softmax and sums are float32.

| execution | chosen where | memory beside parameters and gradients |
| --- | --- | --- |
| dense | one tile holds all positions | logits [T, V] |
| chunked | it does not | logits [R, V] of one tile after the other, the last one filled up with positions of weight 0 |
| sharded | a mesh is set | on each device those of its own positions, and where `Split.vocabulary` is split of its own words |
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from rembert_jax.errors import RemBertError
from rembert_jax.ops.products import outer_products
from rembert_jax.ops.split import Split, parts

TILE_LOGITS = 2**28
"""Logits that are in memory at a time: 1 GiB in float32."""
LANES = 128
"""Rows of a tile are a multiple of it."""


class Sums(NamedTuple):
    """Over all positions, weighted, in float32: negative log-likelihood in nats, right predictions, z_loss penalty."""

    loss: Any
    correct: Any
    penalty: Any


def tile_rows(positions: int, vocabulary: int) -> int:
    """R: all positions where their logits fit into `TILE_LOGITS`, otherwise as many as do."""
    fitting = max(LANES, TILE_LOGITS // vocabulary // LANES * LANES)
    return min(positions, fitting)


def vocabulary_loss(
    features: Float[Array, "T E"],
    table: Float[Array, "V E"],
    bias: Float[Array, " V"],
    labels: Int[Array, " T"],
    weights: Float[Array, " T"],
    z_loss: float = 0.0,
    split: Split = Split(),
) -> Sums:
    """Cross-entropy of `labels` under softmax(features @ table.T + bias).

    Differentiable in features, table and bias. The gradient of `loss` is that of loss and penalty together; `penalty` by
    itself has none.

    Args:
      features, table, bias, labels, weights: as named; labels are below V also where the weight is 0.
      z_loss: coefficient of the penalty z_loss * logsumexp(logits)**2.
      split: how the arrays lie on the mesh that is set; without a mesh it does not count.

    Raises:
      RemBertError: if T cannot be split.
    """
    split = split.on_mesh()
    if features.shape[0] % parts(split.rows):
        raise RemBertError(
            f"{features.shape[0]} predicted positions are not divisible by mesh axes {'x'.join(split.rows)}="
            f"{parts(split.rows)}; choose a batch of which rows times predictions is a multiple of {parts(split.rows)}"
        )
    if missing := -table.shape[0] % parts(split.vocabulary):
        table = _filled_up(table, missing, split)
        bias = jnp.pad(bias, (0, missing), constant_values=jnp.finfo(jnp.float32).min)
    return _loss(z_loss, split, features, table, bias, labels, weights)


def _filled_up(table: jax.Array, missing: int, split: Split) -> jax.Array:
    """Adds rows to a table that lies split by width over all axes, and splits it by words; its gradient goes back that way."""
    by_width = PartitionSpec(None, (split.width, split.vocabulary) if split.width else split.vocabulary)
    filled = jnp.pad(jax.lax.with_sharding_constraint(table, by_width), [(0, missing), (0, 0)])
    by_width_again = jax.lax.with_sharding_constraint(filled, by_width)
    return jax.lax.with_sharding_constraint(by_width_again, PartitionSpec(split.vocabulary, split.width))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(z_loss: float, split: Split, features: jax.Array, table: jax.Array, *others: jax.Array) -> Sums:
    run = _on_mesh(functools.partial(_sums, z_loss, split), split, ())
    return run(features, table.astype(features.dtype), *others)


def _forward(
    z_loss: float, split: Split, features: jax.Array, table: jax.Array, *others: jax.Array
) -> tuple[Sums, Any]:
    positions = PartitionSpec(split.rows or None)
    places = (positions, PartitionSpec(split.vocabulary, split.width), PartitionSpec(split.vocabulary))
    run = _on_mesh(functools.partial(_sums_and_gradients, z_loss, split), split, places)
    # Narrowed before it is gathered: that is half as much to send.
    sums, gradients = run(features, table.astype(features.dtype), *others)
    kinds = [jnp.zeros((), x.dtype) for x in (features, table, *others)]  # Only their dtypes.
    return sums, (*gradients, kinds)


def _backward(z_loss: float, split: Split, saved: Any, cotangents: Sums) -> tuple[Any, ...]:
    *gradients, kinds = saved
    scaled = [(g * cotangents.loss).astype(kind.dtype) for g, kind in zip(gradients, kinds, strict=False)]
    return (*scaled, None, None)


_loss.defvjp(_forward, _backward)


def _on_mesh(function: Callable[..., Any], split: Split, places: tuple[Any, ...]) -> Callable[..., Any]:
    """The function on each device's own positions and words; `places` are those of its gradients, if it gives any."""
    if not any(split):
        return function
    positions, words = PartitionSpec(split.rows or None), PartitionSpec(split.vocabulary)
    sums = Sums(*[PartitionSpec()] * 3)
    return jax.shard_map(
        function,
        in_specs=(positions, words, words, positions, positions),
        out_specs=(sums, places) if places else sums,
        check_vma=False,
    )


class _Tile(NamedTuple):
    features: jax.Array
    labels: jax.Array
    weights: jax.Array


def _tiles(features: jax.Array, labels: jax.Array, weights: jax.Array, vocabulary: int) -> _Tile:
    """Positions in tiles [tiles, R, …], the last one filled up with weight 0."""
    positions = features.shape[0]
    rows = tile_rows(positions, vocabulary)
    missing = -positions % rows

    def cut(x: jax.Array) -> jax.Array:
        return jnp.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)]).reshape(-1, rows, *x.shape[1:])

    return _Tile(cut(features), cut(labels), cut(weights.astype(jnp.float32)))


class _Softmax(NamedTuple):
    sums: Sums
    probabilities: jax.Array  # [R, V] of this device's words.
    normaliser: jax.Array  # [R]
    own: jax.Array  # [R], the label among this device's words; beyond them where it is another's.


def _tile_sums(z_loss: float, split: Split, tile: _Tile, table: jax.Array, bias: jax.Array) -> _Softmax:
    logits = jnp.einsum("RE,VE->RV", tile.features, table, preferred_element_type=jnp.float32)
    logits = logits + bias[None, :].astype(jnp.float32)
    words, axis = table.shape[0], split.vocabulary
    first = 0 if axis is None else jax.lax.axis_index(axis) * words
    own = tile.labels - first
    own = jnp.where((own >= 0) & (own < words), own, words)
    target = jnp.take_along_axis(logits, own[:, None], axis=1, mode="fill", fill_value=0.0)[:, 0]
    largest = jnp.max(logits, axis=1)
    if axis is not None:
        largest = jax.lax.pmax(largest, axis)
        target = jax.lax.psum(target, axis)
    # Of equal logits the first word counts, as in `argmax`, which takes ten times as long on a CPU.
    before = jnp.arange(words, dtype=tile.labels.dtype)[None, :] + first < tile.labels[:, None]
    equal_before = jnp.any((logits == largest[:, None]) & before, axis=1)
    if axis is not None:
        equal_before = jax.lax.pmax(equal_before.astype(jnp.int32), axis) > 0
    exponentials = jnp.exp(logits - largest[:, None])
    total = jnp.sum(exponentials, axis=1)
    total = total if axis is None else jax.lax.psum(total, axis)
    normaliser = largest + jnp.log(total)
    sums = Sums(
        loss=jnp.sum((normaliser - target) * tile.weights),
        correct=jnp.sum(((target == largest) & ~equal_before) * tile.weights),
        penalty=z_loss * jnp.sum(normaliser**2 * tile.weights),
    )
    return _Softmax(sums, exponentials * (1.0 / total)[:, None], normaliser, own)


def _over_positions(split: Split, value: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.psum(x, split.rows), value) if split.rows else value


def _sums(
    z_loss: float,
    split: Split,
    features: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
) -> Sums:
    tiles = _tiles(features, labels, weights, table.shape[0])
    if tiles.labels.shape[0] == 1:
        return _over_positions(split, _tile_sums(z_loss, split, jax.tree.map(lambda x: x[0], tiles), table, bias).sums)

    def add(sums: Sums, tile: _Tile) -> tuple[Sums, None]:
        return jax.tree.map(jnp.add, sums, _tile_sums(z_loss, split, tile, table, bias).sums), None

    return _over_positions(split, jax.lax.scan(add, Sums(*[jnp.zeros(())] * 3), tiles)[0])


def _tile_gradients(
    z_loss: float, split: Split, tile: _Tile, table: jax.Array, bias: jax.Array
) -> tuple[Sums, jax.Array, jax.Array, jax.Array]:
    """The sums of a tile, and the gradients of features [R, E], table [V, E] and bias [V] in float32."""
    sums, probabilities, normaliser, own = _tile_sums(z_loss, split, tile, table, bias)
    scale = tile.weights * (1.0 + 2.0 * z_loss * normaliser)
    is_label = own[:, None] == jnp.arange(table.shape[0], dtype=own.dtype)[None, :]
    by_logits = probabilities * scale[:, None] - is_label * tile.weights[:, None]
    narrow = by_logits.astype(table.dtype)
    of_features = jnp.einsum("RV,VE->RE", narrow, table, preferred_element_type=jnp.float32)
    return sums, of_features, outer_products(narrow, tile.features, jnp.float32), jnp.sum(by_logits, axis=0)


def _sums_and_gradients(
    z_loss: float,
    split: Split,
    features: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
) -> tuple[Sums, tuple[jax.Array, jax.Array, jax.Array]]:
    tiles = _tiles(features, labels, weights, table.shape[0])

    def add(carry: Any, tile: _Tile) -> tuple[Any, jax.Array]:
        sums, of_features, *others = _tile_gradients(z_loss, split, tile, table, bias)
        return jax.tree.map(jnp.add, carry, (sums, *others)), of_features

    if tiles.labels.shape[0] == 1:
        sums, of_features, of_table, of_bias = _tile_gradients(
            z_loss, split, jax.tree.map(lambda x: x[0], tiles), table, bias
        )
    else:
        zeros = (Sums(*[jnp.zeros(())] * 3), jnp.zeros(table.shape), jnp.zeros(bias.shape))
        (sums, of_table, of_bias), of_features = jax.lax.scan(add, zeros, tiles)
    of_features = of_features.reshape(-1, features.shape[1])[: features.shape[0]]
    if split.vocabulary:
        of_features = jax.lax.psum(of_features, split.vocabulary)
    sums, of_bias = _over_positions(split, (sums, of_bias))
    if split.width:  # Summed and split at once.
        of_table = jax.lax.psum_scatter(of_table, split.width, scatter_dimension=1, tiled=True)
        split = split._replace(rows=tuple(axis for axis in split.rows if axis != split.width))
    return sums, (of_features, _over_positions(split, of_table), of_bias)
