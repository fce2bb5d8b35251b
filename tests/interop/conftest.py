"""A masked language model and the folder it is saved in."""

import pytest
from interop.folders import make

from rembert_jax import RemBertForMaskedLM, save_pretrained


@pytest.fixture(scope="session")
def masked_lm(tiny_config, random_params):
    return make(RemBertForMaskedLM, tiny_config, random_params)


@pytest.fixture
def folder(masked_lm, tmp_path):
    """A folder with a masked language model."""
    save_pretrained(*masked_lm, tmp_path / "model")
    return tmp_path / "model"
