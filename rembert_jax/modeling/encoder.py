"""The Transformer encoder: projection from the input embedding, then post-LN blocks, scanned or unrolled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.modeling.attention import SelfAttention
from rembert_jax.modeling.layers import ACTIVATION_FUNCTIONS, Dense, LayerNorm

REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class TransformerBlock(nn.Module):
    """Self-attention and feed-forward sub-layers, each followed by residual and layer norm (post-LN, as BERT)."""

    config: RemBertConfig
    execution: Execution
    keep_hidden: bool = False
    keep_attentions: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L H"], mask: Bool[Array, "B 1 L L"], deterministic: bool
    ) -> tuple[Float[Array, "B L H"], tuple[Any, Any]]:
        """Returns the block's output and, where asked for, (its output, its attention probabilities), else None."""
        c, e = self.config, self.execution
        dropout = nn.Dropout(c.hidden_dropout_prob)
        attended, probabilities = SelfAttention(c, e, name="attention")(x, mask, deterministic)
        x = LayerNorm(c, e, name="attention_LayerNorm")(x + dropout(attended, deterministic=deterministic))
        y = Dense(c.intermediate_size, c, e, ("embed", "mlp"), name="intermediate")(x)
        y = Dense(c.hidden_size, c, e, ("mlp", "embed"), name="output")(ACTIVATION_FUNCTIONS[c.hidden_act](y))
        x = LayerNorm(c, e, name="output_LayerNorm")(x + dropout(y, deterministic=deterministic))
        x = nn.with_logical_constraint(x, ("batch", "length", "embed_activation"))
        return x, (x if self.keep_hidden else None, probabilities if self.keep_attentions else None)


class RemBertEncoder(nn.Module):
    """Projects the embeddings to `hidden_size` and applies the blocks."""

    config: RemBertConfig
    execution: Execution

    @nn.compact
    def __call__(
        self,
        embeddings: Float[Array, "B L E"],
        mask: Bool[Array, "B 1 L L"],
        deterministic: bool = True,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> tuple[Float[Array, "B L H"], tuple[jax.Array, ...] | None, tuple[jax.Array, ...] | None]:
        """Returns the last hidden state, all hidden states (projection first) or None, and all attentions or None."""
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
                in_axes=(nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
                length=c.num_hidden_layers,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            x, (hidden, attentions) = scanned(c, e, **kept, name="layer")(x, mask, deterministic)
            hidden = None if hidden is None else tuple(hidden)
            attentions = None if attentions is None else tuple(attentions)
        else:
            outputs = []
            for i in range(c.num_hidden_layers):
                x, output = block_class(c, e, **kept, name=f"layer_{i}")(x, mask, deterministic)
                outputs.append(output)
            hidden = tuple(h for h, _ in outputs) if output_hidden_states else None
            attentions = tuple(a for _, a in outputs) if output_attentions else None
        return x, None if hidden is None else (first, *hidden), attentions


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
