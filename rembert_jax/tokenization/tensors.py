"""Rows of numbers as arrays of NumPy, JAX or PyTorch; the latter two are imported when they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from rembert_jax.tokenization.model_file import TokenizerError

KINDS = ("np", "jax", "pt")


def to_array(name: str, values: list[Any], kind: str) -> Any:
    """A field as an int32 array of NumPy ("np") or JAX ("jax"), or an int64 tensor of PyTorch ("pt").

    Raises:
      TokenizerError: if rows differ in length, or PyTorch is not installed.
    """
    try:
        array = np.array(values, np.int32)
    except ValueError:
        raise TokenizerError(
            f"{name}: rows of different lengths make no array; give padding=True, or truncation and padding='max_length'"
        ) from None
    if kind == "np":
        return array
    try:
        if kind == "jax":
            import jax.numpy

            return jax.numpy.asarray(array)
        import torch
    except ImportError:
        raise TokenizerError(f"return_tensors={kind!r}: it is not installed; install it, or take 'np'") from None
    return torch.from_numpy(array.astype(np.int64))
