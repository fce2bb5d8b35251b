"""What a parameter is called here, in transformers, and in the TensorFlow code of the BERT family: one table.

The names of transformers are those of `modeling_rembert.py`. Those of TensorFlow are from google-research/bert and albert,
with what transformers' former converter for RemBERT read (`embedding_hidden_mapping_in`, `output_embedding`). Google's
checkpoint cannot be listed without downloading 12 GB, so where its name is not certain the pattern takes each that this
family of code uses.
"""

from __future__ import annotations

import dataclasses
import re

# Leaves of a module: here, in transformers (a kernel transposed), in TensorFlow.
DENSE = (("kernel", "weight", "/kernel"), ("bias", "bias", "/bias"))
NORM = (("scale", "weight", "/gamma"), ("bias", "bias", "/beta"))
TABLE = (("embedding", "weight", ""),)
OUTPUT_BIAS = (("bias", "bias", ""),)

# (module here, in transformers, regular expression for TensorFlow, its leaves); {i} is the number of a layer.
MODULES: tuple[tuple[str, str, str, tuple[tuple[str, str, str], ...]], ...] = (
    ("rembert/embeddings/word_embeddings", "rembert.embeddings.word_embeddings", "bert/embeddings/word_embeddings", TABLE),
    ("rembert/embeddings/position_embeddings", "rembert.embeddings.position_embeddings",
     "bert/embeddings/position_embeddings", TABLE),
    ("rembert/embeddings/token_type_embeddings", "rembert.embeddings.token_type_embeddings",
     "bert/embeddings/token_type_embeddings", TABLE),
    ("rembert/embeddings/LayerNorm", "rembert.embeddings.LayerNorm", "bert/embeddings/(?:LayerNorm|layer_normalization)",
     NORM),
    ("rembert/encoder/embedding_hidden_mapping_in", "rembert.encoder.embedding_hidden_mapping_in",
     "bert/(?:encoder|embeddings)/embedding_hidden_mapping_in", DENSE),
    ("rembert/encoder/layer_{i}/attention/query", "rembert.encoder.layer.{i}.attention.self.query",
     "bert/encoder/layer_{i}/attention/self/query", DENSE),
    ("rembert/encoder/layer_{i}/attention/key", "rembert.encoder.layer.{i}.attention.self.key",
     "bert/encoder/layer_{i}/attention/self/key", DENSE),
    ("rembert/encoder/layer_{i}/attention/value", "rembert.encoder.layer.{i}.attention.self.value",
     "bert/encoder/layer_{i}/attention/self/value", DENSE),
    ("rembert/encoder/layer_{i}/attention/output", "rembert.encoder.layer.{i}.attention.output.dense",
     "bert/encoder/layer_{i}/attention/output/dense", DENSE),
    ("rembert/encoder/layer_{i}/attention_LayerNorm", "rembert.encoder.layer.{i}.attention.output.LayerNorm",
     "bert/encoder/layer_{i}/attention/output/LayerNorm", NORM),
    ("rembert/encoder/layer_{i}/crossattention/query", "rembert.encoder.layer.{i}.crossattention.self.query", "", DENSE),
    ("rembert/encoder/layer_{i}/crossattention/key", "rembert.encoder.layer.{i}.crossattention.self.key", "", DENSE),
    ("rembert/encoder/layer_{i}/crossattention/value", "rembert.encoder.layer.{i}.crossattention.self.value", "", DENSE),
    ("rembert/encoder/layer_{i}/crossattention/output", "rembert.encoder.layer.{i}.crossattention.output.dense", "", DENSE),
    ("rembert/encoder/layer_{i}/crossattention_LayerNorm", "rembert.encoder.layer.{i}.crossattention.output.LayerNorm", "",
     NORM),
    ("rembert/encoder/layer_{i}/intermediate", "rembert.encoder.layer.{i}.intermediate.dense",
     "bert/encoder/layer_{i}/intermediate/dense", DENSE),
    ("rembert/encoder/layer_{i}/output", "rembert.encoder.layer.{i}.output.dense",
     "bert/encoder/layer_{i}/output/dense", DENSE),
    ("rembert/encoder/layer_{i}/output_LayerNorm", "rembert.encoder.layer.{i}.output.LayerNorm",
     "bert/encoder/layer_{i}/output/LayerNorm", NORM),
    ("rembert/pooler/dense", "rembert.pooler.dense", "bert/pooler/dense", DENSE),
    ("cls/dense", "cls.predictions.dense", "cls/predictions/(?:transform/)?dense", DENSE),
    ("cls/LayerNorm", "cls.predictions.LayerNorm", "cls/predictions/(?:transform/)?LayerNorm", NORM),
    ("cls/decoder", "cls.predictions.decoder", "(?:(?:cls/predictions|bert|bert/embeddings|bert/output)/)?"
     "output_embeddings?(?:/output_embeddings?|/embeddings?)?", TABLE),
    ("cls/decoder", "cls.predictions.decoder", "cls/predictions/output_bias", OUTPUT_BIAS),
    ("classifier/dense", "classifier", "", DENSE),
    ("qa_outputs", "qa_outputs", "", DENSE),
)  # fmt: skip

# Arrays of a source that are no parameters, by regular expression: old releases of transformers saved this buffer.
BUFFERS = (r"(rembert\.)?embeddings\.position_ids",)

# Groups that --drop and --init know by name: expressions over names in a source, and over names here.
SOURCE_GROUPS = {
    "optimizer": r".*/(adam_[mv]|Adam(_1)?|LAMB.*|lamb_[mv]|Momentum)|global_step|beta[12]_power|.*/beta[12]_power",
    "cls": r"cls[./].*|(.*/)?output_embeddings?(/.*)?",
    "pooler": r"(rembert\.|rembert/|bert/)?pooler[./].*",
    "classifier": r"classifier[./].*",
    "qa_outputs": r"qa_outputs[./].*",
}
TARGET_GROUPS = {
    "cls": r"cls/.*",
    "pooler": r"rembert/pooler/.*",
    "classifier": r"classifier/.*",
    "qa_outputs": r"qa_outputs/.*",
}

_OWN_PREFIXES = ("rembert/", "cls/", "classifier/", "qa_outputs/")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter under its three names.

    Attributes:
      name: its full name here, of a single layer, for example "rembert/encoder/layer_3/intermediate/kernel".
      huggingface: its full name in transformers, for example "rembert.encoder.layer.3.intermediate.dense.weight".
      tensorflow: a regular expression for its name in TensorFlow; empty where there is none.
      transposed: whether transformers stores it transposed (PyTorch's linear layers do).
    """

    name: str
    huggingface: str
    tensorflow: str
    transposed: bool


def full_name(name: str) -> str:
    """The name of a parameter of any model; a bare `RemBertModel` leaves out the prefix "rembert/"."""
    return name if name.startswith(_OWN_PREFIXES) else f"rembert/{name}"


def parameter(name: str) -> Parameter:
    """The row of the table for a full name of a single layer.

    Raises:
      KeyError: if no model of the family has such a parameter.
    """
    number = re.search(r"/layer_(\d+)/", name)
    i = number.group(1) if number else ""
    template = name.replace(f"/layer_{i}/", "/layer_{i}/") if number else name
    module, _, leaf = template.rpartition("/")
    for ours, huggingface, tensorflow, leaves in MODULES:
        for own_leaf, hf_leaf, tf_leaf in leaves:
            if ours == module and own_leaf == leaf:
                return Parameter(
                    name=name,
                    huggingface=f"{huggingface}.{hf_leaf}".replace("{i}", i),
                    tensorflow=(tensorflow + tf_leaf).replace("{i}", i) if tensorflow else "",
                    transposed=leaf == "kernel",
                )
    raise KeyError(name)
