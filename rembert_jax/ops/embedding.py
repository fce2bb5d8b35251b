"""Lookup in a table of embeddings that is split over a mesh.

Letters: B rows of the batch, L length, V vocabulary, E width. Each device looks up what its part of the table has for the rows
of all devices that share them, and they exchange rows for widths. So neither the table nor its gradient is ever gathered.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from rembert_jax.ops.split import Split, parts


def lookup(table: Float[Array, "V E"], ids: Int[Array, "B L"], split: Split = Split()) -> Float[Array, "B L E"]:
    """Rows of a table; where the mesh does not divide rows or width, the compiler decides how.

    Args:
      table: the embeddings.
      ids: of words, all below V.
      split: how table and ids lie on the mesh that is set.
    """
    split = split.on_mesh()
    by_words = table.shape[0] % parts(split.vocabulary) == 0
    widths = tuple(axis for axis in (split.width, None if by_words else split.vocabulary) if axis)
    if not any(split) or ids.shape[0] % parts(split.rows) or table.shape[1] % parts(widths):
        return jnp.take(table, ids, axis=0)

    def on_device(table: jax.Array, ids: jax.Array) -> jax.Array:
        if split.width:
            ids = jax.lax.all_gather(ids, split.width, axis=0, tiled=True)
        if split.vocabulary and by_words:
            own = ids - jax.lax.axis_index(split.vocabulary) * table.shape[0]
            here = (own >= 0) & (own < table.shape[0])
            found = jnp.take(table, jnp.where(here, own, 0), axis=0) * here[:, :, None]
            found = jax.lax.psum(found, split.vocabulary)
        else:
            found = jnp.take(table, ids, axis=0)
            if split.vocabulary:
                found = jax.lax.all_gather(found, split.vocabulary, axis=2, tiled=True)
        if split.width:
            found = jax.lax.all_to_all(found, split.width, split_axis=0, concat_axis=2, tiled=True)
        return found

    rows = PartitionSpec(split.rows or None)
    stored = PartitionSpec(split.vocabulary if by_words else None, widths or None)
    return jax.shard_map(on_device, in_specs=(stored, rows), out_specs=rows, check_vma=False)(table, ids)
