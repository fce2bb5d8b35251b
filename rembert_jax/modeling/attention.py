"""Multi-head attention. Letters: B batch, Q query length, K key length, N heads, D head width, H hidden width."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.modeling.cache import LayerCache, append
from rembert_jax.modeling.layers import Dense


class AttentionMask(struct.PyTreeNode):
    """Which key each query may see.

    Attributes:
      visible: [B, 1, Q, K].
      length: where keys are read from a cache: its number of slots in use before this call; None without a cache.
    """

    visible: Bool[Array, "B 1 Q K"]
    length: Int[Array, ""] | None = None


def attention_mask(
    padding: Int[Array, "B L"], segment_ids: Int[Array, "B L"] | None = None, causal: bool = False
) -> Bool[Array, "B 1 L L"]:
    """Which key each query of the same sequence may see.

    Args:
      padding: 1 for a real token, 0 for padding; keys at padding are never seen.
      segment_ids: for packed rows, the number of the document each token belongs to; a token sees only its own document.
      causal: a token sees only itself and what stands before it.
    """
    mask = padding[:, None, None, :] > 0
    if segment_ids is not None:
        mask = mask & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
    if causal:
        length = padding.shape[1]
        mask = mask & jnp.tril(jnp.ones((length, length), bool))[None, None]
    return jnp.broadcast_to(mask, (padding.shape[0], 1, padding.shape[1], padding.shape[1]))


def cached_attention_mask(slots: Bool[Array, "B M"], length: Int[Array, ""], new_tokens: int) -> Bool[Array, "B 1 L M"]:
    """Which slot of a cache each of the `new_tokens` at slots `length`, `length + 1`, … may see: none behind its own."""
    own = length + jnp.arange(new_tokens, dtype=jnp.int32)
    past = jnp.arange(slots.shape[1], dtype=jnp.int32)[None, :] <= own[:, None]
    return slots[:, None, None, :] & past[None, None]


def attention_probabilities(
    query: Float[Array, "B Q N D"],
    key: Float[Array, "B K N D"],
    mask: Bool[Array, "B 1 Q K"],
    in_use: Bool[Array, " K"] | None = None,
) -> Float[Array, "B N Q K"]:
    """Softmax of the scaled scores, in float32.

    A query that sees no key attends evenly to all of them instead of producing NaN; to all that are `in_use`, where keys
    come from a cache with empty slots.
    """
    scores = jnp.einsum("BQND,BKND->BNQK", query, key, preferred_element_type=jnp.float32)
    scores = scores * (query.shape[-1] ** -0.5)
    # Added, not put in place of the scores, as the reference does: the sum is the most negative number either way, but a
    # query that sees no key keeps its gradient.
    scores = scores + jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min)
    if in_use is not None:
        scores = jnp.where(in_use[None, None, None, :], scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)


class _Projections(nn.Module):
    """Query, key, value and output projections of multi-head attention, and the attention itself."""

    config: RemBertConfig
    execution: Execution

    def setup(self) -> None:
        c = self.config

        def dense(axes: tuple[str, str]) -> Dense:
            return Dense(c.hidden_size, c, self.execution, axes)

        self.query, self.key, self.value = (dense(("embed", "heads")) for _ in range(3))
        self.output = dense(("heads", "embed"))
        self.dropout = nn.Dropout(c.attention_probs_dropout_prob)

    def heads(self, projected: Float[Array, "B L H"]) -> Float[Array, "B L N D"]:
        return projected.reshape(*projected.shape[:-1], self.config.num_attention_heads, self.config.head_dim)

    def attend(
        self,
        x: Float[Array, "B Q H"],
        key: Float[Array, "B K N D"],
        value: Float[Array, "B K N D"],
        mask: Bool[Array, "B 1 Q K"],
        in_use: Bool[Array, " K"] | None,
        deterministic: bool,
    ) -> tuple[Float[Array, "B Q H"], Float[Array, "B N Q K"]]:
        """The projected context (without residual and layer norm) and the attention probabilities (after dropout)."""
        probabilities = attention_probabilities(self.heads(self.query(x)), key, mask, in_use)
        probabilities = self.dropout(probabilities, deterministic=deterministic)
        context = jnp.einsum("BNQK,BKND->BQND", probabilities.astype(self.execution.compute_dtype), value)
        return self.output(context.reshape(x.shape)), probabilities


class SelfAttention(_Projections):
    """Attention of a sequence to itself, or, with a cache, to itself and everything before it."""

    def __call__(
        self, x: Float[Array, "B L H"], mask: AttentionMask, deterministic: bool, cache: LayerCache | None = None
    ) -> tuple[Float[Array, "B L H"], Float[Array, "B N L K"], tuple[jax.Array, jax.Array]]:
        """Returns the context, the probabilities, and the keys and values [B, L, N, D] of the L tokens of `x`."""
        new = self.heads(self.key(x)), self.heads(self.value(x))
        if cache is None:
            return *self.attend(x, *new, mask.visible, None, deterministic), new
        assert mask.length is not None
        key, value = append(cache.key, new[0], mask.length), append(cache.value, new[1], mask.length)
        in_use = jnp.arange(key.shape[1], dtype=jnp.int32) < mask.length + x.shape[1]
        return *self.attend(x, key, value, mask.visible, in_use, deterministic), new


class CrossAttention(_Projections):
    """Attention to the output of an encoder."""

    def __call__(
        self,
        x: Float[Array, "B Q H"],
        mask: Bool[Array, "B S"],
        deterministic: bool,
        memory: Float[Array, "B S H"] | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[Float[Array, "B Q H"], Float[Array, "B N Q S"], tuple[jax.Array, jax.Array]]:
        """Returns the context, the probabilities, and the keys and values [B, S, N, D], from `cache` if it has them."""
        if cache is not None and cache.cross_key is not None and cache.cross_value is not None:
            key, value = cache.cross_key, cache.cross_value
        else:
            assert memory is not None
            key, value = self.heads(self.key(memory)), self.heads(self.value(memory))
        visible = jnp.broadcast_to(mask[:, None, None, :], (x.shape[0], 1, x.shape[1], mask.shape[1]))
        return *self.attend(x, key, value, visible, None, deterministic), (key, value)
