"""The Transformer: projection from the input embedding, then post-LN blocks, scanned or unrolled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.modeling.attention import CrossAttention, SelfAttention
from rembert_jax.modeling.cache import LayerCache
from rembert_jax.modeling.layers import ACTIVATION_FUNCTIONS, Dense, Dropout, LayerNorm
from rembert_jax.ops.attention import Visible

REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Memory(struct.PyTreeNode):
    """What cross-attention attends to.

    Attributes:
      states: [B, S, H] output of an encoder; None where a cache holds its keys and values already.
      mask: [B, S], False at padding.
    """

    states: Float[Array, "B S H"] | None
    mask: Bool[Array, "B S"]


class Kept(struct.PyTreeNode):
    """What a block returns beside its output; None for what was not asked for. Scanned: with a leading layer axis.

    Attributes:
      hidden: [B, L, H], the block's output.
      attentions: [B, N, L, K] probabilities of self-attention.
      cross_attentions: [B, N, L, S] probabilities of cross-attention.
      cache: keys and values of this call's tokens [B, L, N, D], and of the encoder's output [B, S, N, D].
    """

    hidden: jax.Array | None = None
    attentions: jax.Array | None = None
    cross_attentions: jax.Array | None = None
    cache: LayerCache | None = None


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention (decoders only) and feed-forward sub-layers, each with residual and layer norm."""

    config: RemBertConfig
    execution: Execution
    keep_hidden: bool = False
    keep_attentions: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L H"],
        visible: Visible,
        deterministic: bool,
        memory: Memory | None = None,
        cache: LayerCache | None = None,
        positions: Int[Array, "B P"] | None = None,
    ) -> tuple[Float[Array, "B _ H"], Kept]:
        """Returns the block's output, at `positions` if they are given, and what was asked to be kept."""
        c, e = self.config, self.execution
        dropout = Dropout(c.hidden_dropout_prob)
        keep = self.keep_attentions
        tokens = x
        if positions is not None:
            x, visible = tokens_at(x, positions), visible.replace(queries=positions)
        attend = SelfAttention(c, e, name="attention")
        attended, probabilities, new = attend(tokens, visible, deterministic, cache, keep, x)
        x = LayerNorm(c, e, name="attention_LayerNorm")(x + dropout(attended, deterministic=deterministic))
        cross_probabilities, cross_new = None, (None, None)
        if c.add_cross_attention and (memory is not None or self.is_initializing()):
            if memory is None:  # The parameters exist whether or not the first call has an encoder's output.
                memory = Memory(states=jnp.zeros_like(x), mask=jnp.ones(x.shape[:2], bool))
            attend = CrossAttention(c, e, name="crossattention")
            attended, cross_probabilities, cross_new = attend(x, memory.mask, deterministic, memory.states, cache, keep)
            x = LayerNorm(c, e, name="crossattention_LayerNorm")(x + dropout(attended, deterministic=deterministic))
        y = Dense(c.intermediate_size, c, e, ("embed", "mlp"), name="intermediate")(x)
        y = Dense(c.hidden_size, c, e, ("mlp", "embed"), name="output")(ACTIVATION_FUNCTIONS[c.hidden_act](y))
        x = LayerNorm(c, e, name="output_LayerNorm")(x + dropout(y, deterministic=deterministic))
        x = nn.with_logical_constraint(x, ("batch", "length", "embed_activation"))
        return x, Kept(
            hidden=x if self.keep_hidden else None,
            attentions=probabilities,
            cross_attentions=cross_probabilities,
            cache=None if cache is None else self._new_entries(cache, new, cross_new),
        )

    def _new_entries(self, cache: LayerCache, new: tuple[Any, Any], cross: tuple[Any, Any]) -> LayerCache:
        if cache.cross_key is not None:  # The cache holds them already.
            cross = (None, None)
        return LayerCache(key=new[0], value=new[1], cross_key=cross[0], cross_value=cross[1])


def tokens_at(x: Float[Array, "B L H"], positions: Int[Array, "B P"]) -> Float[Array, "B P H"]:
    """The tokens at these positions of each row."""
    return jnp.take_along_axis(x, positions[:, :, None], axis=1)


class RemBertEncoder(nn.Module):
    """Projects the embeddings to `hidden_size` and applies the blocks."""

    config: RemBertConfig
    execution: Execution

    @nn.compact
    def __call__(
        self,
        embeddings: Float[Array, "B L E"],
        visible: Visible,
        deterministic: bool = True,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        memory: Memory | None = None,
        cache: LayerCache | None = None,
        positions: Int[Array, "B P"] | None = None,
    ) -> tuple[Float[Array, "B _ H"], Float[Array, "B L H"], Kept]:
        """Returns the last hidden state, the projected embeddings, and what the layers kept, stacked over layers.

        With `positions` the last hidden state is that of these positions. What the last layer computes for others is read by
        nobody then, so it is left out; not where layers are scanned over, which all have to be alike.
        """
        c, e = self.config, self.execution
        x = Dense(c.hidden_size, c, e, ("embed", "embed_out"), name="embedding_hidden_mapping_in")(embeddings)
        x = nn.with_logical_constraint(x, ("batch", "length", "embed_activation"))
        first = x
        block_class: Any = TransformerBlock
        if e.remat != "none":
            block_class = nn.remat(
                TransformerBlock, prevent_cse=not e.scan_layers, static_argnums=(3,), policy=REMAT_POLICIES[e.remat]
            )
        kept = dict(keep_hidden=output_hidden_states, keep_attentions=output_attentions)
        if e.scan_layers:
            scanned = nn.scan(
                block_class,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0),  # pyright: ignore[reportArgumentType]
                length=c.num_hidden_layers,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            x, outputs = scanned(c, e, **kept, name="layer")(x, visible, deterministic, memory, cache)
            return x if positions is None else tokens_at(x, positions), first, outputs
        layers = []
        for i in range(c.num_hidden_layers):
            own = jax.tree.map(lambda leaf, i=i: leaf[i], cache)
            read = positions if i == c.num_hidden_layers - 1 else None
            x, output = block_class(c, e, **kept, name=f"layer_{i}")(x, visible, deterministic, memory, own, read)
            layers.append(output)
        return x, first, jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)


def stack_layers(encoder_params: Mapping[str, Any]) -> dict[str, Any]:
    """Turns `layer_0 … layer_{n-1}` of an unrolled encoder into the stacked `layer` of a scanned one."""
    rest = {name: value for name, value in encoder_params.items() if not name.startswith("layer_")}
    layers = [encoder_params[f"layer_{i}"] for i in range(len(encoder_params) - len(rest))]
    return {**rest, "layer": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}


def unstack_layers(encoder_params: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `stack_layers`."""
    rest = {name: value for name, value in encoder_params.items() if name != "layer"}
    stacked = encoder_params["layer"]
    count = jax.tree.leaves(stacked)[0].shape[0]
    return {**rest, **{f"layer_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count)}}
