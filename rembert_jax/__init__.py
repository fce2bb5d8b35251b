"""RemBERT in JAX and Flax: the public names."""

from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.modeling.cache import KeyValueCache
from rembert_jax.modeling.models import (
    RemBertForCausalLM,
    RemBertForMaskedLM,
    RemBertForMultipleChoice,
    RemBertForQuestionAnswering,
    RemBertForSequenceClassification,
    RemBertForTokenClassification,
    RemBertModel,
)
from rembert_jax.modeling.pretrained import save_pretrained
from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast

__all__ = [
    "Execution",
    "KeyValueCache",
    "RemBertConfig",
    "RemBertForCausalLM",
    "RemBertForMaskedLM",
    "RemBertForMultipleChoice",
    "RemBertForQuestionAnswering",
    "RemBertForSequenceClassification",
    "RemBertForTokenClassification",
    "RemBertModel",
    "RemBertTokenizer",
    "RemBertTokenizerFast",
    "save_pretrained",
]
