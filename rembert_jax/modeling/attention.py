"""The modules of multi-head attention; how attention itself is computed, `ops.attention` decides.

Letters: B batch, Q query length, K key length, N heads, D head width, H hidden width.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float

from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.modeling.cache import LayerCache, append
from rembert_jax.modeling.layers import Dense, Dropout
from rembert_jax.ops import attention
from rembert_jax.ops.attention import Visible


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
        self.dropout = Dropout(c.attention_probs_dropout_prob)

    def heads(self, projected: Float[Array, "B L H"]) -> Float[Array, "B L N D"]:
        return projected.reshape(*projected.shape[:-1], self.config.num_attention_heads, self.config.head_dim)

    def attend(
        self,
        x: Float[Array, "B Q H"],
        key: Float[Array, "B K N D"],
        value: Float[Array, "B K N D"],
        visible: Visible,
        deterministic: bool,
        keep_probabilities: bool,
    ) -> tuple[Float[Array, "B Q H"], Float[Array, "B N Q K"] | None]:
        """The projected context (without residual and layer norm) and, if kept, the probabilities (after dropout)."""
        query = self.heads(self.query(x))
        drops = self.config.attention_probs_dropout_prob > 0 and not deterministic
        dropout = partial(self.dropout, deterministic=False) if drops else None
        probabilities = None
        if keep_probabilities:
            probabilities = attention.probabilities(query, key, visible)
            probabilities = probabilities if dropout is None else dropout(probabilities)
            context = attention.weighted_values(probabilities, value)
        else:
            context = attention.attention(
                query,
                key,
                value,
                visible,
                # Parameters are made from the shortest of inputs, which an implementation of that name may not take.
                implementation="xla" if self.is_initializing() else self.execution.attention,
                dropout=dropout,
                split=nn.logical_to_mesh_axes(("batch", None, "heads", None)),
            )
        return self.output(context.reshape(x.shape)), probabilities


class SelfAttention(_Projections):
    """Attention of a sequence to itself, or, with a cache, to itself and everything before it."""

    def __call__(
        self,
        x: Float[Array, "B L H"],
        visible: Visible,
        deterministic: bool,
        cache: LayerCache | None = None,
        keep_probabilities: bool = False,
        queries: Float[Array, "B Q H"] | None = None,
    ) -> tuple[Float[Array, "B Q H"], Float[Array, "B N Q K"] | None, tuple[jax.Array, jax.Array]]:
        """Returns the context, the probabilities if kept, and the keys and values [B, L, N, D] of the L tokens of `x`.

        `queries` are the tokens at `visible.queries`; None for all of `x`.
        """
        new = self.heads(self.key(x)), self.heads(self.value(x))
        key, value = new
        if cache is not None:
            assert visible.length is not None
            key, value = append(cache.key, key, visible.length), append(cache.value, value, visible.length)
        queries = x if queries is None else queries
        return *self.attend(queries, key, value, visible, deterministic, keep_probabilities), new


class CrossAttention(_Projections):
    """Attention to the output of an encoder."""

    def __call__(
        self,
        x: Float[Array, "B Q H"],
        mask: Bool[Array, "B S"],
        deterministic: bool,
        memory: Float[Array, "B S H"] | None = None,
        cache: LayerCache | None = None,
        keep_probabilities: bool = False,
    ) -> tuple[Float[Array, "B Q H"], Float[Array, "B N Q S"] | None, tuple[jax.Array, jax.Array]]:
        """Returns the context, the probabilities if kept, and the keys and values [B, S, N, D], from `cache` if it has them."""
        if cache is not None and cache.cross_key is not None and cache.cross_value is not None:
            key, value = cache.cross_key, cache.cross_value
        else:
            assert memory is not None
            key, value = self.heads(self.key(memory)), self.heads(self.value(memory))
        return *self.attend(x, key, value, Visible(keys=mask), deterministic, keep_probabilities), (key, value)
