"""The RemBERT model family as Linen modules.

Letters: B batch, L length, P predicted positions, H hidden width, E embedding width, S encoder length, V vocabulary,
C labels or choices. All models share the call arguments of `RemBertModel`, and storage with `pretrained.PreTrained`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
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
from rembert_jax.modeling import generation
from rembert_jax.modeling.cache import KeyValueCache
from rembert_jax.modeling.embeddings import RemBertEmbeddings
from rembert_jax.modeling.encoder import Memory, RemBertEncoder, tokens_at
from rembert_jax.modeling.heads import Classifier, Pooler, PredictionHead
from rembert_jax.modeling.layers import Dense
from rembert_jax.modeling.pretrained import PreTrained
from rembert_jax.ops.attention import Visible
from rembert_jax.ops.products import einsum_float32


class ModelOutput(struct.PyTreeNode):
    """What a model returns; fields it does not compute are None.

    Also read by name, `output["logits"]`, and by place among what was computed, `output[0]`: there the results of a head come
    first, as in transformers, and the hidden states that it was computed from last.

    Attributes:
      last_hidden_state: [B, L, H].
      pooler_output: [B, H].
      logits: [B, L, V] or [B, P, V] (language models), [B, C] (sequence classification, multiple choice), [B, L, C]
        (token classification).
      start_logits, end_logits: [B, L] (question answering).
      past_key_values: the cache after this call (decoders).
      hidden_states: one [B, L, H] per layer, the projected embeddings first.
      attentions: one [B, heads, L, K] per layer; K is L, or the room of the cache.
      cross_attentions: one [B, heads, L, S] per layer (decoders with cross-attention).
    """

    last_hidden_state: jax.Array | None = None
    pooler_output: jax.Array | None = None
    logits: jax.Array | None = None
    start_logits: jax.Array | None = None
    end_logits: jax.Array | None = None
    past_key_values: KeyValueCache | None = None
    hidden_states: tuple[jax.Array, ...] | None = None
    attentions: tuple[jax.Array, ...] | None = None
    cross_attentions: tuple[jax.Array, ...] | None = None

    def keys(self) -> list[str]:
        """Names of what was computed, in the order of `output[0]`, `output[1]`, …"""
        there = [name for name in self.__dataclass_fields__ if getattr(self, name) is not None]
        of_head = any(name in there for name in ("logits", "start_logits"))
        return [n for n in there if not of_head or n not in BODY_FIELDS] + [
            n for n in BODY_FIELDS if of_head and n in there
        ]

    def to_tuple(self) -> tuple[Any, ...]:
        """What was computed, in the order of `keys`."""
        return tuple(getattr(self, name) for name in self.keys())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"{key}: this output has {', '.join(self.keys())}")
        return getattr(self, key)


# What a head was computed from.
BODY_FIELDS = ("last_hidden_state", "pooler_output")


def _is_concrete(array: Any) -> bool:
    return array is not None and not isinstance(array, Tracer)


class RemBertModel(nn.Module, PreTrained):
    """Embeddings, Transformer and, with `add_pooling_layer`, the pooler.

    An encoder, or with `config.is_decoder` a decoder: causal, with a cache, and with `config.add_cross_attention` attending
    to an encoder's output.
    """

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
        attention_mask: Int[Array, "B _"] | None = None,  # L; another length is refused in words.
        token_type_ids: Int[Array, "B L"] | None = None,
        position_ids: Int[Array, "B L"] | None = None,
        inputs_embeds: Float[Array, "B L E"] | None = None,
        deterministic: bool = True,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        *,
        segment_ids: Int[Array, "B L"] | None = None,
        encoder_hidden_states: Float[Array, "B S H"] | None = None,
        encoder_attention_mask: Int[Array, "B S"] | None = None,
        past_key_values: KeyValueCache | None = None,
        use_cache: bool = False,
        read_positions: Int[Array, "B P"] | None = None,
    ) -> ModelOutput:
        """Encodes a batch.

        Args:
          input_ids: token ids; exactly one of `input_ids` and `inputs_embeds` is given.
          attention_mask: 1 for tokens, 0 for padding; all ones by default. With a cache, that of the new tokens only.
          token_type_ids: 0 for the first and 1 for the second text; all zero by default.
          position_ids: 0 … L-1 by default, behind the tokens of a cache; restarted in each document of a packed row.
          inputs_embeds: replaces the word embeddings.
          deterministic: no dropout; False needs a "dropout" rng.
          output_hidden_states, output_attentions: also return what each layer computed.
          segment_ids: document number of each token in a packed row; tokens see only their own document.
          encoder_hidden_states, encoder_attention_mask: what cross-attention attends to; needed in the first of several
            calls with a cache, which then holds it.
          past_key_values: the cache that an earlier call returned, or `KeyValueCache.empty`.
          use_cache: return a cache; without `past_key_values` one with room for `max_position_embeddings` tokens.
          read_positions: return the last hidden state of these positions only, [B, P, H], for which the last layer computes no
            more than that where `execution.scan_layers` is off; a pooler pools the first. Nothing else can be returned then.

        Raises:
          RemBertError: if both or none of `input_ids` and `inputs_embeds` are given, if `read_positions` are given and more
            is to be returned, if L exceeds
            `max_position_embeddings`, if a mask has another shape than the tokens, if an encoder is asked for what only a
            decoder has, or, outside `jit`, if an id has no row in its table or the cache no room. Under `jit`, where values
            are not known, an id without a row gives NaN, and a full cache overwrites its last slots.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise RemBertError("expected exactly one of input_ids and inputs_embeds")
        if read_positions is not None and (output_hidden_states or output_attentions or use_cache or past_key_values):
            raise RemBertError(
                "with read_positions no hidden states, attentions or cache are returned; ask for one of them"
            )
        batch, length = input_ids.shape if input_ids is not None else inputs_embeds.shape[:2]  # pyright: ignore
        cache = past_key_values
        if cache is None and use_cache:
            cache = KeyValueCache.empty(self.config, self.execution, batch, self.config.max_position_embeddings)
        self._check(length, cache, segment_ids, encoder_hidden_states)
        given = {"input_ids": input_ids, "token_type_ids": token_type_ids, "position_ids": position_ids}
        # Values are known only outside of transformations; the trainer checks its batches on the host.
        self.config.check_ids({name: np.asarray(ids) for name, ids in given.items() if _is_concrete(ids)})
        if attention_mask is None:
            attention_mask = jnp.ones((batch, length), jnp.int32)
        elif attention_mask.shape != (batch, length):
            raise RemBertError(
                f"attention_mask of shape {attention_mask.shape}, expected {(batch, length)}: that of the tokens given, also "
                "where a cache holds earlier ones"
            )
        if token_type_ids is None:
            token_type_ids = jnp.zeros((batch, length), jnp.int32)
        if position_ids is None:
            start = 0 if cache is None else cache.length
            position_ids = jnp.broadcast_to(start + jnp.arange(length, dtype=jnp.int32)[None], (batch, length))
        slots: Any = None
        if cache is None:
            visible = Visible(keys=attention_mask > 0, segments=segment_ids, causal=self.config.is_decoder)
        else:
            slots = cache.extend_mask(attention_mask)
            visible = Visible(keys=slots, length=cache.length)
        memory = _memory(encoder_hidden_states, encoder_attention_mask, cache)
        embeddings = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, deterministic)
        kept: Any
        hidden, first, kept = self.encoder(
            embeddings,
            visible,
            deterministic,
            output_hidden_states,
            output_attentions,
            memory,
            None if cache is None else cache.layers,
            read_positions,
        )
        if cache is not None:
            cache = cache.store(kept.cache, slots, None if memory is None else memory.mask)
        return ModelOutput(
            last_hidden_state=hidden,
            pooler_output=self.pooler(hidden) if self.add_pooling_layer else None,
            past_key_values=cache,
            hidden_states=None if kept.hidden is None else (first, *kept.hidden),
            attentions=None if kept.attentions is None else tuple(kept.attentions),
            cross_attentions=None if kept.cross_attentions is None else tuple(kept.cross_attentions),
        )

    def _check(self, length: int, cache: KeyValueCache | None, segment_ids: Any, encoder_hidden_states: Any) -> None:
        c = self.config
        if length > c.max_position_embeddings:
            raise RemBertError(
                f"sequence of {length} tokens, but max_position_embeddings={c.max_position_embeddings}; "
                "shorten the input (data.seq_length) or raise model.max_position_embeddings"
            )
        if cache is not None:
            if not c.is_decoder:
                raise RemBertError("use_cache and past_key_values need a decoder; set config.is_decoder=True")
            if segment_ids is not None:
                raise RemBertError(
                    "segment_ids are of packed rows, which a cache cannot continue; leave one of them out"
                )
            used = int(cache.length) if _is_concrete(cache.length) else 0
            if used + length > cache.room:
                raise RemBertError(
                    f"cache with room for {cache.room} tokens holds {used}, but {length} more were given; "
                    "make a larger one by KeyValueCache.empty"
                )
        if encoder_hidden_states is not None:
            if not c.add_cross_attention:
                raise RemBertError("encoder_hidden_states need cross-attention; set config.add_cross_attention=True")
            if encoder_hidden_states.shape[-1] != c.hidden_size:
                raise RemBertError(
                    f"encoder_hidden_states of width {encoder_hidden_states.shape[-1]}, expected "
                    f"hidden_size={c.hidden_size}; take an encoder of this width, or project its output"
                )


def _memory(states: Any, padding: Any, cache: KeyValueCache | None) -> Memory | None:
    if cache is not None and cache.cross_mask is not None:
        return Memory(states=None, mask=cache.cross_mask)
    if states is None:
        return None
    return Memory(states=states, mask=jnp.ones(states.shape[:2], bool) if padding is None else padding > 0)


class RemBertBackbone(nn.Module):
    """The encoder without a pooler, its parameters named as in models with a head: "rembert/…"."""

    config: RemBertConfig
    execution: Execution = Execution()

    def setup(self) -> None:
        self.rembert = RemBertModel(self.config, self.execution, add_pooling_layer=False)

    def __call__(self, *args: Any, **kwargs: Any) -> ModelOutput:
        """As `RemBertModel`."""
        return self.rembert(*args, **kwargs)


class _LanguageModel(nn.Module, PreTrained):
    """A Transformer and the prediction head `cls` with the output embedding.

    With `add_pooling_layer` it also carries a pooler, which it does not use: for checkpoints that have both.
    """

    config: RemBertConfig
    execution: Execution = Execution()
    add_pooling_layer: bool = False

    def setup(self) -> None:
        self.rembert = RemBertModel(self.config, self.execution, self.add_pooling_layer)
        self.cls = PredictionHead(self.config, self.execution)

    def _logits(self, *args: Any, positions: jax.Array | None, **kwargs: Any) -> ModelOutput:
        output, features, table, bias = self._encode(*args, positions=positions, **kwargs)
        flat = features.reshape(-1, features.shape[-1])
        logits: Any = einsum_float32("TE,VE->TV", flat, table.astype(flat.dtype))
        logits = logits + bias[None, :].astype(jnp.float32)
        return output.replace(logits=logits.reshape(*features.shape[:-1], self.config.vocab_size))

    def _encode(
        self, *args: Any, positions: jax.Array | None, **kwargs: Any
    ) -> tuple[ModelOutput, jax.Array, jax.Array, jax.Array]:
        output = self.rembert(*args, **kwargs)
        hidden: Any = output.last_hidden_state
        if positions is not None:
            hidden = tokens_at(hidden, positions)
        features, table, bias = self.cls(hidden)
        if table is None:  # Tied: the input table serves as output table.
            table = nn.unbox(self.rembert.embeddings.variables["params"]["word_embeddings"]["embedding"])
        return output, features, table, bias


class RemBertForMaskedLM(_LanguageModel):
    """Masked-language model: the encoder without pooler, and the prediction head `cls` that fine-tuning drops."""

    def __call__(self, *args: Any, masked_positions: Int[Array, "B P"] | None = None, **kwargs: Any) -> ModelOutput:
        """Logits at `masked_positions`, or at every position where it is None. Other arguments: `RemBertModel`."""
        return self._logits(*args, positions=masked_positions, **kwargs)

    def prediction_features(
        self, *args: Any, masked_positions: Int[Array, "B P"], **kwargs: Any
    ) -> tuple[Float[Array, "B P E"], Float[Array, "V E"], Float[Array, " V"]]:
        """The three inputs of `losses.masked_lm_loss`: features at the masked positions, output table, output bias."""
        return self._encode(*args, positions=None, read_positions=masked_positions, **kwargs)[1:]


class RemBertForCausalLM(_LanguageModel):
    """Left-to-right language model. It is always a decoder: `config.is_decoder` becomes True."""

    def __post_init__(self) -> None:
        if isinstance(self.config, RemBertConfig) and not self.config.is_decoder:
            self.config = dataclasses.replace(self.config, is_decoder=True)
        super().__post_init__()

    def __call__(self, *args: Any, logit_positions: Int[Array, "B P"] | None = None, **kwargs: Any) -> ModelOutput:
        """Logits of the next token at `logit_positions`, or at every position. Other arguments: `RemBertModel`."""
        return self._logits(*args, positions=logit_positions, **kwargs)

    @nn.nowrap
    def generate(
        self, params: Any, input_ids: Int[Array, "B L"], attention_mask: Int[Array, "B _"] | None = None, **options: Any
    ) -> Int[Array, "B T"]:
        """Continues each row of `input_ids`; options and result: `generation.generate`."""
        return generation.generate(self, params, input_ids, attention_mask, **options)


class RemBertForSequenceClassification(nn.Module, PreTrained):
    """Classifies a text or a pair of texts from the pooled first token.

    `labels`, the names of the classes, and `problem_type`, one of `losses.PROBLEM_TYPES`, change nothing that is computed;
    they come with a folder and go with it when it is saved.
    """

    config: RemBertConfig
    num_labels: int
    execution: Execution = Execution()
    labels: tuple[str, ...] | None = None
    problem_type: str | None = None

    def setup(self) -> None:
        self.rembert = RemBertModel(self.config, self.execution)
        self.classifier = Classifier(self.config, self.execution, self.num_labels)

    def __call__(self, *args: Any, deterministic: bool = True, **kwargs: Any) -> ModelOutput:
        """Logits [B, C]. Arguments: `RemBertModel`."""
        output: Any = self.rembert(*args, deterministic=deterministic, **kwargs)
        return output.replace(logits=self.classifier(output.pooler_output, deterministic))


class RemBertForMultipleChoice(nn.Module, PreTrained):
    """Scores each of several choices from its pooled first token; the inputs have one axis more than elsewhere."""

    config: RemBertConfig
    execution: Execution = Execution()

    def setup(self) -> None:
        self.rembert = RemBertModel(self.config, self.execution)
        self.classifier = Classifier(self.config, self.execution, 1)

    def __call__(
        self,
        input_ids: Int[Array, "*lead L"] | None = None,
        attention_mask: Int[Array, "*lead L"] | None = None,
        token_type_ids: Int[Array, "*lead L"] | None = None,
        position_ids: Int[Array, "*lead L"] | None = None,
        inputs_embeds: Float[Array, "*lead L E"] | None = None,
        deterministic: bool = True,
        **kwargs: Any,
    ) -> ModelOutput:
        """Logits [B, C]. Arguments: `RemBertModel`, each [B, C, L] or [B, C, L, E]; other outputs have B times C rows."""
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None or given.ndim != (3 if input_ids is not None else 4):
            raise RemBertError(
                f"multiple choice: found {'no input' if given is None else f'an array of shape {given.shape}'}, expected "
                "input_ids [batch, choices, length] or inputs_embeds [batch, choices, length, width]"
            )

        def rows(x: jax.Array | None) -> Any:
            return None if x is None else x.reshape(-1, *x.shape[2:])

        output: Any = self.rembert(
            rows(input_ids),
            rows(attention_mask),
            rows(token_type_ids),
            rows(position_ids),
            rows(inputs_embeds),
            deterministic=deterministic,
            **kwargs,
        )
        scores = self.classifier(output.pooler_output, deterministic)
        return output.replace(logits=scores.reshape(given.shape[:2]))


class RemBertForTokenClassification(nn.Module, PreTrained):
    """Classifies every token from its last hidden state; `labels` are the names of the classes, kept for saving."""

    config: RemBertConfig
    num_labels: int
    execution: Execution = Execution()
    labels: tuple[str, ...] | None = None

    def setup(self) -> None:
        self.rembert = RemBertModel(self.config, self.execution, add_pooling_layer=False)
        self.classifier = Classifier(self.config, self.execution, self.num_labels)

    def __call__(self, *args: Any, deterministic: bool = True, **kwargs: Any) -> ModelOutput:
        """Logits [B, L, C]. Arguments: `RemBertModel`."""
        output: Any = self.rembert(*args, deterministic=deterministic, **kwargs)
        return output.replace(logits=self.classifier(output.last_hidden_state, deterministic))


class RemBertForQuestionAnswering(nn.Module, PreTrained):
    """Scores every token as the first and as the last one of the answer."""

    config: RemBertConfig
    execution: Execution = Execution()

    def setup(self) -> None:
        self.rembert = RemBertModel(self.config, self.execution, add_pooling_layer=False)
        self.qa_outputs = Dense(2, self.config, self.execution, ("embed", "labels"))

    def __call__(self, *args: Any, **kwargs: Any) -> ModelOutput:
        """Start and end logits [B, L], not masked at padding. Arguments: `RemBertModel`."""
        output: Any = self.rembert(*args, **kwargs)
        logits = self.qa_outputs(output.last_hidden_state).astype(jnp.float32)
        return output.replace(start_logits=logits[..., 0], end_logits=logits[..., 1])


MODELS: dict[str, type[nn.Module]] = {
    "base": RemBertModel,
    "masked_lm": RemBertForMaskedLM,
    "causal_lm": RemBertForCausalLM,
    "sequence_classification": RemBertForSequenceClassification,
    "multiple_choice": RemBertForMultipleChoice,
    "token_classification": RemBertForTokenClassification,
    "question_answering": RemBertForQuestionAnswering,
}
"""The family by the names that command lines use."""
