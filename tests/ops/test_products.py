"""Products of narrow operands: what is summed is summed in float32, in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rembert_jax.ops.products import affine


@pytest.mark.parametrize("lead", [(), (5,), (3, 5), (2, 3, 5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_affine_and_its_gradients_are_those_of_float64(lead, dtype, tolerance):
    rng = np.random.default_rng(0)
    x, kernel, bias, cotangent = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((*lead, 7), (7, 4), (4,), (*lead, 4))
    )
    y, back = jax.vjp(affine, jnp.asarray(x, dtype), jnp.asarray(kernel), jnp.asarray(bias))
    found = (y, *back(jnp.asarray(cotangent, dtype)))
    assert [array.dtype for array in found] == [jnp.dtype(name) for name in (dtype, dtype, "float32", "float32")]
    flat, flat_cotangent = x.reshape(-1, 7).astype(np.float64), cotangent.reshape(-1, 4).astype(np.float64)
    expected = (x @ kernel + bias, cotangent @ kernel.T, flat.T @ flat_cotangent, flat_cotangent.sum(0))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float64), other, rtol=tolerance, atol=3 * tolerance)


def test_gradients_of_kernel_and_bias_are_not_rounded_while_they_are_summed():
    """In bfloat16, with its eight digits, 1 added to 256 is 256; and a sum of 1025 is not a number of it."""
    x, kernel, bias = jnp.ones((1, 1025, 2), jnp.bfloat16), jnp.zeros((2, 3)), jnp.zeros(3)
    _, back = jax.vjp(affine, x, kernel, bias)
    _, of_kernel, of_bias = back(jnp.ones((1, 1025, 3), jnp.bfloat16))
    np.testing.assert_allclose(of_kernel, np.full((2, 3), 1025.0), rtol=2**-8)
    np.testing.assert_array_equal(of_bias, np.full(3, 1025.0))
