"""Heads on top of the encoder: pooler, masked-LM prediction head, classifiers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.modeling.layers import ACTIVATION_FUNCTIONS, Dense, Dropout, LayerNorm, truncated_normal


class Pooler(nn.Module):
    """Dense layer and tanh on the first token."""

    config: RemBertConfig
    execution: Execution

    @nn.compact
    def __call__(self, hidden: Float[Array, "B L H"]) -> Float[Array, "B H"]:
        c = self.config
        return jnp.tanh(Dense(c.hidden_size, c, self.execution, ("embed", "embed_out"), name="dense")(hidden[:, 0]))


class OutputTable(nn.Module):
    """The output embedding [vocab_size, output_embedding_size] and its bias; the table is absent in a tied model."""

    config: RemBertConfig

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "V E"] | None, Float[Array, " V"]]:
        c = self.config
        table: Any = None
        if not c.tie_word_embeddings:
            init = nn.with_logical_partitioning(truncated_normal(c), ("vocab", "embed"))
            table = self.param("embedding", init, (c.vocab_size, c.output_embedding_size), jnp.float32)
        init = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
        bias: Any = self.param("bias", init, (c.vocab_size,), jnp.float32)
        return table, bias


class PredictionHead(nn.Module):
    """Dense to `output_embedding_size`, activation, layer norm; `decoder` holds the output embedding."""

    config: RemBertConfig
    execution: Execution

    def setup(self) -> None:
        c = self.config
        self.dense = Dense(c.output_embedding_size, c, self.execution, ("embed", "embed_out"))
        self.LayerNorm = LayerNorm(c, self.execution)
        self.decoder = OutputTable(c)

    def __call__(
        self, hidden: Float[Array, "*lead H"]
    ) -> tuple[Float[Array, "*lead E"], Float[Array, "V E"] | None, Float[Array, " V"]]:
        """Returns the features to be multiplied with the output embedding, the embedding (None if tied) and the bias."""
        features = self.LayerNorm(ACTIVATION_FUNCTIONS[self.config.hidden_act](self.dense(hidden)))
        # Without this, XLA's partitioner may compute wrong gradients where data, fsdp and tensor are all larger than 1
        # (tests/test_partitioner.py).
        features = nn.with_logical_constraint(
            features, ("batch", *["length"] * (features.ndim - 2), "embed_activation")
        )
        table, bias = self.decoder()
        return features, table, bias


class Classifier(nn.Module):
    """Dropout and a dense layer to `num_labels`; logits are float32."""

    config: RemBertConfig
    execution: Execution
    num_labels: int

    @nn.compact
    def __call__(self, x: Float[Array, "*lead H"], deterministic: bool) -> Float[Array, "*lead C"]:
        x = Dropout(self.config.classifier_dropout_prob)(x, deterministic=deterministic)
        dense = Dense(self.num_labels, self.config, self.execution, ("embed", "labels"), name="dense")
        return dense(x).astype(jnp.float32)
