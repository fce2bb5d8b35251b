"""Small models and the folders they are saved in, for the tests of saving and loading."""

import json

import jax
import jax.numpy as jnp
from safetensors.numpy import load_file, save_file

from rembert_jax import RemBertForMultipleChoice

IDS = jax.ShapeDtypeStruct((2, 4), jnp.int32)


def make(kind, config, random_params, **fields):
    """A model of this class with random parameters."""
    model = kind(config, **fields)
    shape = jax.ShapeDtypeStruct((2, 3, 4), jnp.int32) if kind is RemBertForMultipleChoice else IDS
    return model, random_params(model, shape)


def edit(folder, **changes):
    """Changes keys of a folder's `config.json`; `...` removes one."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def rewrite(folder, change):
    """Passes all arrays of a folder through a function."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")
