"""Tokenizers and vocabulary training."""

from rembert_jax.tokenization.tokenizer import RemBertTokenizer, TokenizerError
from rembert_jax.tokenization.vocabulary import VocabularyError, train_vocabulary

__all__ = ["RemBertTokenizer", "TokenizerError", "VocabularyError", "train_vocabulary"]
