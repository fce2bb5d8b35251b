"""Configuration of the RemBERT architecture and of how it is executed.

Field names and defaults are those of the released model (Chung et al., 2021; `google/rembert`). `RemBertConfig` holds
only what determines the parameters and the function they compute; `Execution` holds what may change between two
machines without changing the result beyond rounding.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np

from rembert_jax import hub, schema
from rembert_jax.errors import RemBertError
from rembert_jax.hub import ModelFolderError

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
MODEL_TYPE = "rembert"
# "gelu" is the exact erf form; the other three of its kind are the tanh approximation that google-research/bert used.
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu", "tanh")
ACTIVATION_ALIASES = {"swish": "silu", "gelu_python": "gelu"}
# Keys of a config.json of transformers that do not change what the model computes, and those that must have this value
# for the model to be the one we compute.
HARMLESS_KEYS = frozenset(
    "_name_or_path architectures attn_implementation chunk_size_feed_forward cls_token_id dtype finetuning_task "
    "gradient_checkpointing id2label is_encoder_decoder label2id model_type name_or_path num_labels output_attentions "
    "output_hidden_states problem_type return_dict sep_token_id tokenizer_class torch_dtype torchscript "
    "transformers_version use_bfloat16 use_cache".split()
)
FIXED_KEYS = {"pruned_heads": {}, "position_embedding_type": "absolute", "embedding_dropout_prob": 0}
REFUSED_KEYS = ("quantization_config", "auto_map")
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
      pad_token_id: padding, whose row of the input table is not trained; None for none.
      bos_token_id, eos_token_id: [CLS] and [SEP]. No model computes with them; `generate` ends at the latter, of which
        there may be several or None, and only it refuses ids that the vocabulary lacks.
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
    pad_token_id: int | None = 0
    bos_token_id: int | tuple[int, ...] | None = 312
    eos_token_id: int | tuple[int, ...] | None = 313
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self) -> None:
        for name in ("bos_token_id", "eos_token_id"):
            if isinstance(getattr(self, name), list):  # A config must have a hash.
                object.__setattr__(self, name, tuple(getattr(self, name)))
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
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise RemBertError(
                f"pad_token_id={self.pad_token_id} is outside the vocabulary of {self.vocab_size}; "
                "take the special ids from the tokenizer of this vocabulary, or None for none"
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
        small = values.get("vocab_size", cls.vocab_size) <= max(ids_of(cls.eos_token_id))
        if small:  # The released special ids do not exist in a small vocabulary; those of `train_vocabulary` do.
            values = {"bos_token_id": 1, "eos_token_id": 3, **values}
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

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, revision: str | None = None, **changes: Any) -> Self:
        """The configuration in a folder of transformers, or in a repository of the hub.

        Args:
          path: such as "DIR" or "google/rembert".
          revision: branch, tag or commit of a repository.
          **changes: fields that get other values than the file's.

        Raises:
          ModelFolderError: see `from_huggingface`.
        """
        file = hub.find_folder(path, (CONFIG_FILE,), revision=revision) / CONFIG_FILE
        return cls.from_huggingface(hub.read_json(file), str(file), **changes)

    @classmethod
    def from_huggingface(cls, values: Mapping[str, Any], where: str, **changes: Any) -> Self:
        """The configuration in a `config.json` of transformers, key by key; unknown keys are logged and left out.

        Args:
          values: its content.
          where: what the file is called in messages.
          **changes: fields that get other values; a value of the file that is not used is not checked.

        Raises:
          ModelFolderError: if it is of another architecture, a value has the wrong type, or asks for what RemBERT lacks.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        _check_kind(values, where)
        if unknown := sorted(set(values) - known - HARMLESS_KEYS - set(FIXED_KEYS) - {*REFUSED_KEYS, "embedding_size"}):
            logger.warning("%s: unknown keys without effect: %s", where, ", ".join(unknown))
        found = {name: value for name, value in values.items() if name in known}
        # The name of the first files.
        found.setdefault("input_embedding_size", values.get("embedding_size", cls.input_embedding_size))
        if values.get("embedding_size", found["input_embedding_size"]) != found["input_embedding_size"]:
            raise ModelFolderError(
                f"{where}: embedding_size={values['embedding_size']} contradicts "
                f"input_embedding_size={found['input_embedding_size']}; remove the former, which is its old name"
            )
        found |= changes
        activation = found.get("hidden_act", cls.hidden_act)
        found["hidden_act"] = (
            ACTIVATION_ALIASES.get(activation, activation) if isinstance(activation, str) else activation
        )
        sizes = found["input_embedding_size"], found.get("output_embedding_size", cls.output_embedding_size)
        if found.get("tie_word_embeddings") is True and "tie_word_embeddings" not in changes and sizes[0] != sizes[1]:
            logger.warning(
                "%s: tie_word_embeddings=true, but the tables have the widths %s and %s; they are not tied, as in transformers",
                where,
                *sizes,
            )
            found["tie_word_embeddings"] = False
        try:
            config = schema.from_mapping(cls, found, where)
        except schema.SchemaError as error:
            raise ModelFolderError(f"{error}; correct {'it' if changes else 'the file'}") from error
        for name in ("bos_token_id", "eos_token_id"):
            if strange := [i for i in ids_of(getattr(config, name)) if not 0 <= i < config.vocab_size]:
                logger.warning(
                    "%s: %s=%s is outside the vocabulary of %s; no model needs it, generate() refuses it as an end token",
                    where,
                    name,
                    strange[0],
                    config.vocab_size,
                )
        return config

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes a `config.json` alone, which transformers' `RemBertConfig.from_pretrained` reads."""
        target = pathlib.Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"model_type": MODEL_TYPE, **self.to_dict()}, indent=2)
        (target / CONFIG_FILE).write_text(f"{text}\n", encoding="utf-8")

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

    def training_flops(self, rows: int, length: int, predictions: int) -> int:
        """Floating-point operations that a pre-training step needs: those of its matrix products, backward twice those forward.

        Args:
          rows: of the batch.
          length: tokens of a row.
          predictions: masked positions of a row, which alone the output head sees.
        """
        h, f, e_out = self.hidden_size, self.intermediate_size, self.output_embedding_size
        layer = rows * length * (4 * h * h + 2 * h * f + 2 * length * h)
        projection = rows * length * self.input_embedding_size * h
        head = rows * predictions * (h * e_out + e_out * self.vocab_size)
        return 3 * 2 * (self.num_hidden_layers * layer + projection + head)


def ids_of(value: int | Sequence[int] | None) -> tuple[int, ...]:
    """A special id as a tuple: of one, of several, or of none."""
    return () if value is None else (value,) if isinstance(value, int) else tuple(value)


def _check_kind(values: Mapping[str, Any], where: str) -> None:
    model_type = values.get("model_type")
    if model_type not in (None, MODEL_TYPE) or (model_type is None and not values.get("architectures")):
        raise ModelFolderError(
            f"{where}: model_type={model_type!r}, expected {MODEL_TYPE!r}; this folder holds another kind of model"
        )
    for key, expected in FIXED_KEYS.items():
        if values.get(key, expected) not in (expected, None):
            raise ModelFolderError(f"{where}: {key}={values[key]!r}; only {expected!r} is implemented")
    for key in REFUSED_KEYS:
        if values.get(key):
            raise ModelFolderError(f"{where}: {key} asks for quantised weights or foreign code; take the plain model")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a model is computed: choices that change speed and memory, not the function.

    Attributes:
      compute_dtype: dtype of activations and matrix products. Parameters, softmax, layer-norm statistics and losses are
        always float32.
      remat: what the backward pass recomputes: "none" keeps all activations, "dots" keeps only the results of matrix
        products, "full" keeps only the input of each block.
      scan_layers: compile one block and scan over the stacked parameters, instead of compiling each block.
      attention: "auto", or one of the implementations of `ops.attention` by name.
    """

    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "full"] = "none"
    scan_layers: bool = True
    attention: Literal["auto", "xla", "splash", "cudnn"] = "auto"
