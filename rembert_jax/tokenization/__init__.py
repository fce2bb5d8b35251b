"""Tokenizers and vocabulary training."""

from rembert_jax.tokenization.encoding import BatchEncoding
from rembert_jax.tokenization.fast import RemBertTokenizerFast
from rembert_jax.tokenization.model_file import TokenizerError
from rembert_jax.tokenization.tokenizer import RemBertTokenizer
from rembert_jax.tokenization.vocabulary import VocabularyError, train_vocabulary

__all__ = [
    "BatchEncoding",
    "RemBertTokenizer",
    "RemBertTokenizerFast",
    "TokenizerError",
    "VocabularyError",
    "train_vocabulary",
]
