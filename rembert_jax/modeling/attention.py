"""Multi-head attention. Letters: B batch, Q query length, K key length, N heads, D head width, H hidden width."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.modeling.layers import Dense


def attention_mask(
    padding: Int[Array, "B L"], segment_ids: Int[Array, "B L"] | None = None, causal: bool = False
) -> Bool[Array, "B 1 L L"]:
    """Which key each query may see.

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


def attention_probabilities(
    query: Float[Array, "B Q N D"], key: Float[Array, "B K N D"], mask: Bool[Array, "B 1 Q K"]
) -> Float[Array, "B N Q K"]:
    """Softmax of the scaled scores, in float32. A query that sees no key attends evenly instead of producing NaN."""
    scores = jnp.einsum("BQND,BKND->BNQK", query, key, preferred_element_type=jnp.float32)
    scores = scores * (query.shape[-1] ** -0.5)
    return jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)


class SelfAttention(nn.Module):
    """Multi-head self-attention with its output projection (without residual and layer norm)."""

    config: RemBertConfig
    execution: Execution

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L H"], mask: Bool[Array, "B 1 L L"], deterministic: bool
    ) -> tuple[Float[Array, "B L H"], Float[Array, "B N L L"]]:
        """Returns the projected context and the attention probabilities (after dropout)."""
        c, dtype = self.config, self.execution.compute_dtype

        def heads(name: str) -> jax.Array:
            y = Dense(c.hidden_size, c, self.execution, ("embed", "heads"), name=name)(x)
            return y.reshape(*x.shape[:-1], c.num_attention_heads, c.head_dim)

        query, key, value = heads("query"), heads("key"), heads("value")
        probabilities = attention_probabilities(query, key, mask)
        probabilities = nn.Dropout(c.attention_probs_dropout_prob)(probabilities, deterministic=deterministic)
        context = jnp.einsum("BNQK,BKND->BQND", probabilities.astype(dtype), value)
        context = context.reshape(*x.shape[:-1], c.hidden_size)
        return Dense(c.hidden_size, c, self.execution, ("heads", "embed"), name="output")(context), probabilities
