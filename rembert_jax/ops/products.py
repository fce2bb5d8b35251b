"""Matrix products whose operands stay narrow in both directions, in the form in which a CPU is fast too."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


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


def outer_products(a: Float[Array, "*lead M"], b: Float[Array, "*lead N"], dtype: DTypeLike) -> Float[Array, "M N"]:
    """Sum over the leading axes of the outer products of a and b, summed in float32 and rounded to `dtype`."""
    if a.dtype == jnp.float32:
        a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
    elif a.ndim == 2:
        a, b = a[None], b[None]
    # Over several axes XLA lays out one operand anew. A CPU multiplies narrow numbers by its own units only then.
    lead = tuple(range(a.ndim - 1))
    return jax.lax.dot_general(a, b, ((lead, lead), ((), ())), preferred_element_type=dtype)


@jax.custom_vjp
def affine(
    x: Float[Array, "*lead K"], kernel: Float[Array, "K N"], bias: Float[Array, " N"]
) -> Float[Array, "*lead N"]:
    """x @ kernel + bias in the dtype of x, to which kernel and bias are rounded.

    Their gradients are summed over the leading axes in float32 and have their own dtype. That of the kernel is rounded once to
    the dtype of x, in which devices send their parts to each other. JAX's own of the bias would be summed in the dtype of x, on
    a CPU with a rounding after each addition.
    """
    return _affine(x, kernel, bias)


def _affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    product = jnp.einsum("...K,KN->...N", x, kernel.astype(x.dtype))
    return product + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + bias.shape)


def _affine_forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    # Not `affine`, whose product no policy of rematerialisation sees.
    return _affine(x, kernel, bias), (x, kernel, bias)


def _affine_backward(
    saved: tuple[jax.Array, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, kernel, bias = saved
    to_x = jnp.einsum("...N,KN->...K", cotangent, kernel.astype(x.dtype))
    to_bias = jnp.sum(cotangent, axis=tuple(range(x.ndim - 1)), dtype=jnp.float32)
    to_kernel = outer_products(x, cotangent, x.dtype)
    return to_x, to_kernel.astype(kernel.dtype), to_bias.astype(bias.dtype)


affine.defvjp(_affine_forward, _affine_backward)
