"""Google's original release: a TensorFlow 1 checkpoint with input and output embedding, prediction head and Adam slots."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rembert_jax.config import RemBertConfig
from rembert_jax.interop import names
from rembert_jax.interop.conversion import ConversionError, Source, matches
from rembert_jax.interop.tensor_bundle import TensorBundle

HEAD_DIM = 64
"""Width of an attention head in every published model of the family; the arrays do not tell it."""


class TF1Checkpoint(Source):
    """The variables of a TensorFlow checkpoint, read without TensorFlow."""

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        """
        Args:
          prefix: as TensorFlow names it (without ".index"), or a folder with one checkpoint.
        """
        self._bundle = TensorBundle(prefix)
        self.path = str(prefix)
        self.shapes: dict[str, tuple[int, ...]] = {name: entry.shape for name, entry in self._bundle.entries.items()}

    def read(self, name: str) -> np.ndarray:
        """One variable."""
        return self._bundle.read(name)


def name_in(source: Source, drop: Sequence[str] = ()) -> Callable[[names.Parameter], str | None]:
    """From a row of the table of names to the variable in this checkpoint; those that `drop` names are not taken."""
    candidates = [name for name in source.shapes if not matches(name, drop, names.SOURCE_GROUPS)]

    def find(row: names.Parameter) -> str | None:
        if not row.tensorflow:
            return None
        found = [name for name in candidates if re.fullmatch(row.tensorflow, name)]
        if len(found) > 1:
            raise ConversionError(
                f"{source.path}: both {found[0]} and {found[1]} could be {row.name}; leave one out by --drop"
            )
        return found[0] if found else None

    return find


def infer_config(shapes: Mapping[str, tuple[int, ...]], path: str) -> RemBertConfig:
    """The architecture as far as shapes tell; heads are `HEAD_DIM` wide, everything else is as released.

    Raises:
      ConversionError: naming the variable that is missing.
    """

    def shape(full_name: str, axes: int = 2) -> tuple[int, ...]:
        pattern = names.parameter(full_name).tensorflow
        found = [size for name, size in shapes.items() if re.fullmatch(pattern, name)]
        if not found:
            raise ConversionError(f"{path}: no variable {pattern}; expected a RemBERT checkpoint, or give --config")
        if len(found[0]) != axes:
            raise ConversionError(
                f"{path}: variable {pattern} has shape {list(found[0])}, expected {axes} axes; this is no RemBERT checkpoint"
            )
        return found[0]

    vocab_size, input_width = shape("rembert/embeddings/word_embeddings/embedding")
    hidden, intermediate = shape("rembert/encoder/layer_0/intermediate/kernel")
    if hidden % HEAD_DIM:
        raise ConversionError(f"{path}: hidden size {hidden} is no multiple of {HEAD_DIM}; give the heads by --config")
    layers = {found.group(1) for name in shapes if (found := re.match(r"bert/encoder/layer_(\d+)/", name))}
    table = names.parameter("cls/decoder/embedding").tensorflow
    output_widths = [size[-1] for name, size in shapes.items() if re.fullmatch(table, name)]
    return RemBertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_hidden_layers=len(layers),
        num_attention_heads=hidden // HEAD_DIM,
        input_embedding_size=input_width,
        output_embedding_size=output_widths[0] if output_widths else RemBertConfig.output_embedding_size,
        intermediate_size=intermediate,
        max_position_embeddings=shape("rembert/embeddings/position_embeddings/embedding")[0],
        type_vocab_size=shape("rembert/embeddings/token_type_embeddings/embedding")[0],
    )
