"""The RemBERT model family as Linen modules.

Letters: B batch, L length, P predicted positions, H hidden width, E output embedding width, V vocabulary, C labels.
All models share the call arguments of `RemBertModel`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.errors import RemBertError
from rembert_jax.modeling.attention import attention_mask as make_attention_mask
from rembert_jax.modeling.embeddings import RemBertEmbeddings
from rembert_jax.modeling.encoder import RemBertEncoder
from rembert_jax.modeling.heads import Classifier, Pooler, PredictionHead


class ModelOutput(struct.PyTreeNode):
    """What a model returns; fields it does not compute are None.

    Attributes:
      last_hidden_state: [B, L, H].
      pooler_output: [B, H].
      logits: [B, L, V] or [B, P, V] (masked LM), [B, C] (sequence classification), [B, L, C] (token classification).
      hidden_states: one [B, L, H] per layer, the projected embeddings first.
      attentions: one [B, heads, L, L] per layer.
    """

    last_hidden_state: jax.Array | None = None
    pooler_output: jax.Array | None = None
    logits: jax.Array | None = None
    hidden_states: tuple[jax.Array, ...] | None = None
    attentions: tuple[jax.Array, ...] | None = None


def _is_concrete(array: Any) -> bool:
    return array is not None and not isinstance(array, Tracer)


class RemBertModel(nn.Module):
    """Embeddings, encoder and, with `add_pooling_layer`, the pooler."""

    config: RemBertConfig
    execution: Execution = Execution()
    add_pooling_layer: bool = True

    def setup(self) -> None:
        self.embeddings = RemBertEmbeddings(self.config, self.execution)
        self.encoder = RemBertEncoder(self.config, self.execution)
        if self.add_pooling_layer:
            self.pooler = Pooler(self.config, self.execution)

    def __call__(
        self,
        input_ids: Int[Array, "B L"] | None = None,
        attention_mask: Int[Array, "B L"] | None = None,
        token_type_ids: Int[Array, "B L"] | None = None,
        position_ids: Int[Array, "B L"] | None = None,
        inputs_embeds: Float[Array, "B L E"] | None = None,
        segment_ids: Int[Array, "B L"] | None = None,
        deterministic: bool = True,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> ModelOutput:
        """Encodes a batch.

        Args:
          input_ids: token ids; exactly one of `input_ids` and `inputs_embeds` is given.
          attention_mask: 1 for tokens, 0 for padding; all ones by default.
          token_type_ids: 0 for the first and 1 for the second text; all zero by default.
          position_ids: 0 … L-1 by default; restarted in each document of a packed row.
          inputs_embeds: replaces the word embeddings.
          segment_ids: document number of each token in a packed row; tokens see only their own document.
          deterministic: no dropout; False needs a "dropout" rng.
          output_hidden_states, output_attentions: also return what each layer computed.

        Raises:
          RemBertError: if both or none of `input_ids` and `inputs_embeds` are given, if L exceeds
            `max_position_embeddings`, or, outside `jit`, if an id has no row in its table.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise RemBertError("expected exactly one of input_ids and inputs_embeds")
        batch, length = input_ids.shape if input_ids is not None else inputs_embeds.shape[:2]  # pyright: ignore
        if length > self.config.max_position_embeddings:
            raise RemBertError(
                f"sequence of {length} tokens, but max_position_embeddings={self.config.max_position_embeddings}; "
                "shorten the input (data.seq_length) or raise model.max_position_embeddings"
            )
        given = {"input_ids": input_ids, "token_type_ids": token_type_ids, "position_ids": position_ids}
        # Values are known only outside of transformations; the trainer checks its batches on the host.
        self.config.check_ids({name: np.asarray(ids) for name, ids in given.items() if _is_concrete(ids)})
        if attention_mask is None:
            attention_mask = jnp.ones((batch, length), jnp.int32)
        if token_type_ids is None:
            token_type_ids = jnp.zeros((batch, length), jnp.int32)
        if position_ids is None:
            position_ids = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (batch, length))
        mask = make_attention_mask(attention_mask, segment_ids, causal=self.config.is_decoder)
        embeddings = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, deterministic)
        hidden, hidden_states, attentions = self.encoder(
            embeddings, mask, deterministic, output_hidden_states, output_attentions
        )
        return ModelOutput(
            last_hidden_state=hidden,
            pooler_output=self.pooler(hidden) if self.add_pooling_layer else None,
            hidden_states=hidden_states,
            attentions=attentions,
        )


class RemBertForMaskedLM(nn.Module):
    """Masked-language model: the encoder without pooler, and the prediction head `cls` that fine-tuning drops."""

    config: RemBertConfig
    execution: Execution = Execution()

    def setup(self) -> None:
        self.rembert = RemBertModel(self.config, self.execution, add_pooling_layer=False)
        self.cls = PredictionHead(self.config, self.execution)

    def __call__(self, *args: Any, masked_positions: Int[Array, "B P"] | None = None, **kwargs: Any) -> ModelOutput:
        """Logits at `masked_positions`, or at every position where it is None. Other arguments: `RemBertModel`."""
        output, features, table, bias = self._encode(*args, masked_positions=masked_positions, **kwargs)
        flat = features.reshape(-1, features.shape[-1])
        logits = jnp.einsum("TE,VE->TV", flat, table.astype(flat.dtype), preferred_element_type=jnp.float32)
        logits = logits + bias[None, :]
        return output.replace(logits=logits.reshape(*features.shape[:-1], self.config.vocab_size))

    def prediction_features(
        self, *args: Any, masked_positions: Int[Array, "B P"], **kwargs: Any
    ) -> tuple[Float[Array, "B P E"], Float[Array, "V E"], Float[Array, " V"]]:
        """The three inputs of `losses.masked_lm_loss`: features at the masked positions, output table, output bias."""
        return self._encode(*args, masked_positions=masked_positions, **kwargs)[1:]

    def _encode(
        self, *args: Any, masked_positions: jax.Array | None, **kwargs: Any
    ) -> tuple[ModelOutput, jax.Array, jax.Array, jax.Array]:
        output = self.rembert(*args, **kwargs)
        hidden: Any = output.last_hidden_state
        if masked_positions is not None:
            hidden = jnp.take_along_axis(hidden, masked_positions[:, :, None], axis=1)
        features, table, bias = self.cls(hidden)
        if table is None:  # Tied: the input table serves as output table.
            table = nn.unbox(self.rembert.embeddings.variables["params"]["word_embeddings"]["embedding"])
        return output, features, table, bias


class RemBertForSequenceClassification(nn.Module):
    """Classifies a text or a pair of texts from the pooled first token."""

    config: RemBertConfig
    num_labels: int
    execution: Execution = Execution()

    def setup(self) -> None:
        self.rembert = RemBertModel(self.config, self.execution)
        self.classifier = Classifier(self.config, self.execution, self.num_labels)

    def __call__(self, *args: Any, deterministic: bool = True, **kwargs: Any) -> ModelOutput:
        """Logits [B, C]. Arguments: `RemBertModel`."""
        output: Any = self.rembert(*args, deterministic=deterministic, **kwargs)
        return output.replace(logits=self.classifier(output.pooler_output, deterministic))


class RemBertForTokenClassification(nn.Module):
    """Classifies every token from its last hidden state."""

    config: RemBertConfig
    num_labels: int
    execution: Execution = Execution()

    def setup(self) -> None:
        self.rembert = RemBertModel(self.config, self.execution, add_pooling_layer=False)
        self.classifier = Classifier(self.config, self.execution, self.num_labels)

    def __call__(self, *args: Any, deterministic: bool = True, **kwargs: Any) -> ModelOutput:
        """Logits [B, L, C]. Arguments: `RemBertModel`."""
        output: Any = self.rembert(*args, deterministic=deterministic, **kwargs)
        return output.replace(logits=self.classifier(output.last_hidden_state, deterministic))
