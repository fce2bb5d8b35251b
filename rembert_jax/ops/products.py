"""A matrix product that keeps its operands narrow in both directions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def einsum_float32(letters: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.einsum(letters, a, b)`, accumulated and returned in float32.

    `preferred_element_type` alone does that too, but then the cotangent is float32, and with it an operand of both products
    of the backward pass, which run at half the rate or less. Here it is first rounded to the dtype of the operands.

    Args:
      letters: such as "BQND,BKND->BNQK"; each letter stands in at least two of the three arrays.
      a, b: of one dtype.
    """
    return jnp.einsum(letters, a, b, preferred_element_type=jnp.float32)


def _forward(letters: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return einsum_float32(letters, a, b), (a, b)


def _backward(letters: str, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = saved
    inputs, out = letters.split("->")
    of_a, of_b = inputs.split(",")
    narrow = cotangent.astype(a.dtype)
    to_a = jnp.einsum(f"{out},{of_b}->{of_a}", narrow, b, preferred_element_type=jnp.float32)
    to_b = jnp.einsum(f"{out},{of_a}->{of_b}", narrow, a, preferred_element_type=jnp.float32)
    return to_a.astype(a.dtype), to_b.astype(b.dtype)


einsum_float32.defvjp(_forward, _backward)
