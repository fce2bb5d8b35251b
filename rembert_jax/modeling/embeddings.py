"""Word, position and token-type embeddings at the input embedding size."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.modeling.layers import Dropout, Embed, LayerNorm


class RemBertEmbeddings(nn.Module):
    """Sum of word, position and token-type embeddings, layer norm, dropout. Letters: B batch, L length, E embedding."""

    config: RemBertConfig
    execution: Execution

    @nn.compact
    def __call__(
        self,
        input_ids: Int[Array, "B L"] | None,
        token_type_ids: Int[Array, "B L"],
        position_ids: Int[Array, "B L"],
        inputs_embeds: Float[Array, "B L E"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B L E"]:
        """Embeds `input_ids`, or takes `inputs_embeds` [B, L, input_embedding_size] in place of the word embeddings."""
        c = self.config
        width = c.input_embedding_size
        words = Embed(c.vocab_size, width, c, ("vocab", "embed"), name="word_embeddings")
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = words(input_ids)
            # As in PyTorch, whose table has a padding index: the row of padding is never trained. It matters where padding
            # takes part in a loss, as in the softmax over positions of question answering.
            if c.pad_token_id is not None:
                is_padding = (input_ids == c.pad_token_id)[:, :, None]
                inputs_embeds = jnp.where(is_padding, jax.lax.stop_gradient(inputs_embeds), inputs_embeds)
        elif self.is_initializing():  # The table exists whether or not the first call looks words up.
            words(jnp.zeros((1, 1), jnp.int32))
        positions = Embed(c.max_position_embeddings, width, c, (None, "embed"), name="position_embeddings")(
            position_ids
        )
        types = Embed(c.type_vocab_size, width, c, (None, "embed"), name="token_type_embeddings")(token_type_ids)
        x = LayerNorm(c, self.execution, name="LayerNorm")(inputs_embeds + positions + types)
        # The tables are split over "fsdp" by width and the batch by rows: say which of the two holds from here on.
        x = nn.with_logical_constraint(x, ("batch", "length", "embed_activation"))
        return Dropout(c.hidden_dropout_prob)(x, deterministic=deterministic)
