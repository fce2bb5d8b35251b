"""Keys and values of the tokens that a decoder has seen, in arrays of fixed size: every step is the same program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.errors import RemBertError


class LayerCache(struct.PyTreeNode):
    """What one layer reads; in a scan over layers the arrays carry a leading layer axis.

    Attributes:
      key, value: [B, M, N, D] of earlier tokens.
      cross_key, cross_value: [B, S, N, D] of the encoder's output; None until the first call has computed them.
    """

    key: jax.Array
    value: jax.Array
    cross_key: jax.Array | None = None
    cross_value: jax.Array | None = None


class KeyValueCache(struct.PyTreeNode):
    """Cache of a whole decoder. Letters: B batch, M room for tokens, S encoder length, N heads, D head width.

    Attributes:
      layers: a `LayerCache` with arrays of shape [layers, B, M, N, D] and [layers, B, S, N, D].
      mask: [B, M], whether a slot holds a token that may be attended to (False: padding, or still empty).
      length: scalar, number of slots in use.
      cross_mask: [B, S], which positions of the encoder's output may be attended to; None before the first call.
    """

    layers: LayerCache
    mask: Bool[Array, "B M"]
    length: Int[Array, ""]
    cross_mask: Bool[Array, "B S"] | None = None

    @property
    def room(self) -> int:
        """Number of tokens that fit."""
        return self.mask.shape[1]

    @classmethod
    def empty(cls, config: RemBertConfig, execution: Execution, batch: int, room: int) -> KeyValueCache:
        """A cache for `batch` sequences of up to `room` tokens."""
        if room > config.max_position_embeddings:
            raise RemBertError(
                f"cache for {room} tokens, but max_position_embeddings={config.max_position_embeddings}; "
                "generate fewer tokens or shorten the prompt"
            )
        shape = (config.num_hidden_layers, batch, room, config.num_attention_heads, config.head_dim)
        layers = LayerCache(
            key=jnp.zeros(shape, execution.compute_dtype), value=jnp.zeros(shape, execution.compute_dtype)
        )
        return cls(layers=layers, mask=jnp.zeros((batch, room), bool), length=jnp.zeros((), jnp.int32))

    def extend_mask(self, attention_mask: Int[Array, "B L"]) -> Bool[Array, "B M"]:
        """`mask` with that of L new tokens behind it."""
        return jax.lax.dynamic_update_slice(self.mask, attention_mask > 0, (0, self.length))

    def store(self, new: LayerCache, mask: Bool[Array, "B M"], cross_mask: Any) -> KeyValueCache:
        """The cache after L more tokens, whose keys and values [layers, B, L, N, D] every layer has computed."""
        start = (0, 0, self.length, 0, 0)
        layers = LayerCache(
            key=jax.lax.dynamic_update_slice(self.layers.key, new.key, start),
            value=jax.lax.dynamic_update_slice(self.layers.value, new.value, start),
            cross_key=self.layers.cross_key if new.cross_key is None else new.cross_key,
            cross_value=self.layers.cross_value if new.cross_value is None else new.cross_value,
        )
        return self.replace(layers=layers, mask=mask, length=self.length + new.key.shape[2], cross_mask=cross_mask)


def append(
    stored: Float[Array, "B M N D"], new: Float[Array, "B L N D"], length: Int[Array, ""]
) -> Float[Array, "B M N D"]:
    """`stored` with `new` from slot `length` on."""
    return jax.lax.dynamic_update_slice(stored, new, (0, length, 0, 0))
