"""Configuration of the RemBERT architecture and of how it is executed.

Field names and defaults are those of the released model (Chung et al., 2021; `google/rembert`). `RemBertConfig` holds
only what determines the parameters and the function they compute; `Execution` holds what may change between two
machines without changing the result beyond rounding.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np

from rembert_jax import schema
from rembert_jax.errors import RemBertError

# "gelu" is the exact erf form; the other two names are the tanh approximation that google-research/bert used.
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
MAX_LAYERS = 1000
"""As deep as Transformers have been trained (DeepNet, https://arxiv.org/abs/2203.00555)."""

SIZES: dict[str, dict[str, int]] = {
    # For tests and for reading along on a laptop.
    "tiny": dict(
        vocab_size=1000, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, input_embedding_size=32,
        output_embedding_size=96, intermediate_size=128, max_position_embeddings=128,
    ),
    "small": dict(
        vocab_size=16_000, hidden_size=256, num_hidden_layers=6, num_attention_heads=4, input_embedding_size=128,
        output_embedding_size=384, intermediate_size=1024, max_position_embeddings=512,
    ),
    # The paper's ablation models (Tables 2-6) start from mBERT's shape with 120,000 words.
    "base": dict(
        vocab_size=120_000, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, input_embedding_size=128,
        output_embedding_size=768, intermediate_size=3072,
    ),
    "rembert": dict(),
}  # fmt: skip

# Which field says how many rows the table of an id has.
ID_SIZES = {
    "input_ids": "vocab_size",
    "masked_labels": "vocab_size",
    "token_type_ids": "type_vocab_size",
    "position_ids": "max_position_embeddings",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemBertConfig:
    """Architecture of a RemBERT encoder and its masked-LM head.

    Attributes:
      vocab_size: rows of the input table and of the output table.
      hidden_size: width of the Transformer.
      num_hidden_layers: number of Transformer blocks.
      num_attention_heads: heads per block; must divide `hidden_size`.
      input_embedding_size: width of word, position and token-type embeddings, kept for fine-tuning.
      output_embedding_size: width of the output table, used in pre-training only.
      intermediate_size: width of the feed-forward layer.
      hidden_act: one of `ACTIVATIONS`.
      hidden_dropout_prob: dropout of embeddings and of both sub-layers.
      attention_probs_dropout_prob: dropout of attention probabilities.
      classifier_dropout_prob: dropout before a classification head.
      max_position_embeddings: longest sequence.
      type_vocab_size: number of token types (segments A and B).
      initializer_range: standard deviation of the truncated normal initialiser.
      layer_norm_eps: epsilon of every layer norm.
      pad_token_id, bos_token_id, eos_token_id: ids of padding, [CLS] and [SEP].
      is_decoder: causal self-attention.
      add_cross_attention: a cross-attention sub-layer in each block of a decoder.
      tie_word_embeddings: the coupled baseline of the paper, where one table serves as input and as output.

    Raises:
      RemBertError: where a field is out of range or two fields disagree; the message names them.
    """

    vocab_size: int = 250_300
    hidden_size: int = 1152
    num_hidden_layers: int = 32
    num_attention_heads: int = 18
    input_embedding_size: int = 256
    output_embedding_size: int = 1664
    intermediate_size: int = 4608
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    bos_token_id: int = 312
    eos_token_id: int = 313
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "input_embedding_size",
            "output_embedding_size", "intermediate_size", "max_position_embeddings", "type_vocab_size",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise RemBertError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.num_hidden_layers > MAX_LAYERS:  # Whatever builds so many layers would seem to hang.
            raise RemBertError(f"num_hidden_layers={self.num_hidden_layers}: expected at most {MAX_LAYERS}")
        if self.hidden_size % self.num_attention_heads:
            raise RemBertError(
                f"hidden_size={self.hidden_size} is not divisible by num_attention_heads={self.num_attention_heads}; "
                "change one of them"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise RemBertError(f"hidden_act={self.hidden_act!r}: expected one of {', '.join(ACTIVATIONS)}")
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            token = getattr(self, name)
            if not 0 <= token < self.vocab_size:
                raise RemBertError(
                    f"{name}={token} is outside the vocabulary of {self.vocab_size}; "
                    "take the special ids from the tokenizer of this vocabulary"
                )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise RemBertError(f"{name}={getattr(self, name)}: expected a probability in [0, 1)")
        for name in ("initializer_range", "layer_norm_eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise RemBertError(f"{name}={getattr(self, name)}: expected a positive number")
        if self.tie_word_embeddings and self.input_embedding_size != self.output_embedding_size:
            raise RemBertError(
                f"tie_word_embeddings=True needs equal sizes, found input_embedding_size={self.input_embedding_size} "
                f"and output_embedding_size={self.output_embedding_size}; make them equal or untie the tables"
            )
        if self.add_cross_attention and not self.is_decoder:
            raise RemBertError("add_cross_attention=True is for decoders; set is_decoder=True as well")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def named(cls, size: str, **changes: Any) -> Self:
        """The configuration of a named size (`SIZES`), with single fields replaced.

        Raises:
          RemBertError: for an unknown name; the message lists the known ones.
        """
        if size not in SIZES:
            raise RemBertError(f"unknown model size {size!r}: expected one of {', '.join(SIZES)}")
        values = {**SIZES[size], **changes}
        small = values.get("vocab_size", cls.vocab_size) <= cls.eos_token_id
        if small:  # The released special ids do not exist in a small vocabulary.
            values = {"bos_token_id": 1, "eos_token_id": 2, **values}
        return cls(**values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; unknown keys and wrong types raise `schema.SchemaError`."""
        return schema.from_mapping(cls, values, "model")

    def to_dict(self) -> dict[str, Any]:
        """All fields as a plain dict."""
        return schema.to_mapping(self)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Inverse of `to_json`."""
        return cls.from_dict(json.loads(text))

    def to_json(self) -> str:
        """All fields as indented JSON."""
        return schema.to_json(self)

    def check_ids(self, batch: Mapping[str, np.ndarray]) -> None:
        """Refuses ids without a row in their table; on a device such a lookup gives NaN, or another row.

        Args:
          batch: name to array [rows, …]; names that `ID_SIZES` does not have are passed over.

        Raises:
          RemBertError: naming the first such id, its row and the size of the table.
        """
        for name, field in ID_SIZES.items():
            ids, size = batch.get(name), getattr(self, field)
            if ids is not None and ids.size and (ids.min() < 0 or ids.max() >= size):
                place = tuple(np.argwhere((ids < 0) | (ids >= size))[0])
                raise RemBertError(
                    f"{name}: id {ids[place]} in row {place[0]}, expected 0 … {size - 1} ({field}={size}); "
                    "prepare the batch for this model: its tokenizer, and no more positions and token types than it has"
                )

    def parameter_counts(self) -> dict[str, int]:
        """Closed-form number of parameters by part.

        Keys: `input_embedding` (word, position and type tables with their layer norm), `projection` (input embedding to
        hidden), `encoder` (all blocks), `pooler`, `output_head` (dense, layer norm, table and bias), and the sums
        `fine_tuning` (everything but the output head) and `pre_training` (everything but the pooler).
        """
        h, e_in, e_out, f = (
            self.hidden_size,
            self.input_embedding_size,
            self.output_embedding_size,
            self.intermediate_size,
        )
        attention = 4 * (h * h + h) + 2 * h
        feed_forward = (h * f + f) + (f * h + h) + 2 * h
        if self.add_cross_attention:
            attention *= 2
        counts = {
            "input_embedding": (self.vocab_size + self.max_position_embeddings + self.type_vocab_size) * e_in
            + 2 * e_in,
            "projection": e_in * h + h,
            "encoder": self.num_hidden_layers * (attention + feed_forward),
            "pooler": h * h + h,
        }
        table = 0 if self.tie_word_embeddings else self.vocab_size * e_out
        counts["output_head"] = (h * e_out + e_out) + 2 * e_out + table + self.vocab_size
        body = counts["input_embedding"] + counts["projection"] + counts["encoder"]
        counts["fine_tuning"] = body + counts["pooler"]
        counts["pre_training"] = body + counts["output_head"]
        return counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a model is computed: choices that change speed and memory, not the function.

    Attributes:
      compute_dtype: dtype of activations and matrix products. Parameters, softmax, layer-norm statistics and losses are
        always float32.
      remat: what the backward pass recomputes: "none" keeps all activations, "dots" keeps only the results of matrix
        products, "full" keeps only the input of each block.
      scan_layers: compile one block and scan over the stacked parameters, instead of compiling each block.
    """

    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "full"] = "none"
    scan_layers: bool = True
