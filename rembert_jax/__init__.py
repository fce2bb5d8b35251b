"""RemBERT in JAX and Flax: the public names."""

from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.modeling.models import (
    RemBertForMaskedLM,
    RemBertForSequenceClassification,
    RemBertForTokenClassification,
    RemBertModel,
)
from rembert_jax.tokenization import RemBertTokenizer

__all__ = [
    "Execution",
    "RemBertConfig",
    "RemBertForMaskedLM",
    "RemBertForSequenceClassification",
    "RemBertForTokenClassification",
    "RemBertModel",
    "RemBertTokenizer",
]
