"""A folder as tokenizers are saved in, for the tests to change."""

import pytest
from model_proto import small_model

from rembert_jax.tokenization import RemBertTokenizerFast


@pytest.fixture
def folder(tmp_path):
    """A saved fast tokenizer of the small vocabulary: `.model`, `tokenizer.json` and both files of settings."""
    (tmp_path / "small.model").write_bytes(small_model())
    RemBertTokenizerFast(tmp_path / "small.model").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"
