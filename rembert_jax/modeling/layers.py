"""Dense, layer-norm and embedding layers with logical axis names on every parameter.

Logical axes: "vocab", "embed" (any model width that is not split by heads or by the feed-forward layer), "embed_out" (such a
width where it comes out of a layer that takes "embed"), "heads" (heads times head width), "mlp", "labels", "norm", "layers".
`rembert_jax.sharding` maps them to mesh axes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rembert_jax import sharding
from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.ops.embedding import lookup
from rembert_jax.ops.products import affine
from rembert_jax.ops.split import Split, parts


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x times the probability that a standard normal is below it, computed in float32.

    By erf, as in PyTorch: JAX's own takes erfc, which is slower on CPUs, and most of all in bfloat16. For its
    gradient it keeps one array of the dtype of x.
    """
    wide = x.astype(jnp.float32)
    return (wide * _below(wide)).astype(x.dtype)


# A rational approximation of erf on [-4, 4], odd numerator over even denominator, highest power first: Eigen's, and XLA's.
# It is written out since XLA's own operation is exported in a form that TensorFlow 2.21 does not read.
_NUMERATOR = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
              -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)  # fmt: skip
_DENOMINATOR = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
                -1.42647390514189e-02)  # fmt: skip


def _below(x: jax.Array) -> jax.Array:
    z = jnp.clip(x * math.sqrt(0.5), -4.0, 4.0)
    square = z * z
    numerator, denominator = (
        functools.reduce(lambda value, coefficient: value * square + coefficient, coefficients, jnp.zeros_like(z))
        for coefficients in (_NUMERATOR, _DENOMINATOR)
    )
    return 0.5 * (1.0 + z * numerator / denominator)


@gelu.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    wide = x.astype(jnp.float32)
    slope = _below(wide) + wide * jnp.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
    return gelu(x), tangent * slope.astype(x.dtype)


ACTIVATION_FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_new": lambda x: nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: nn.gelu(x, approximate=True),
    "gelu_fast": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
}


def truncated_normal(config: RemBertConfig) -> nn.initializers.Initializer:
    """Normal of standard deviation `initializer_range` cut at two of them, as in the original TensorFlow code.

    TensorFlow's `truncated_normal_initializer(stddev)` cuts the tails without rescaling, so the resulting standard
    deviation is 0.88 of the nominal one. JAX's initialiser does the same.
    """
    return nn.initializers.truncated_normal(stddev=config.initializer_range)


class Dense(nn.Module):
    """Affine map of the last axis, in the compute dtype."""

    features: int
    config: RemBertConfig
    execution: Execution
    axes: tuple[str, str]

    @nn.compact
    def __call__(self, x: Float[Array, "*lead inputs"]) -> Float[Array, "*lead features"]:
        init = nn.with_logical_partitioning(truncated_normal(self.config), self.axes)
        kernel: Any = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        bias: Any = self.param(
            "bias", nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:]), (self.features,), jnp.float32
        )
        return affine(x.astype(self.execution.compute_dtype), kernel, bias)


class LayerNorm(nn.Module):
    """Layer norm of the last axis with float32 statistics; the result has the compute dtype."""

    config: RemBertConfig
    execution: Execution

    @nn.compact
    def __call__(self, x: Float[Array, "*lead width"]) -> Float[Array, "*lead width"]:
        width = x.shape[-1]
        scale: Any = self.param(
            "scale", nn.with_logical_partitioning(nn.initializers.ones, ("norm",)), (width,), jnp.float32
        )
        bias: Any = self.param(
            "bias", nn.with_logical_partitioning(nn.initializers.zeros, ("norm",)), (width,), jnp.float32
        )
        x = x.astype(jnp.float32)
        mean = jnp.mean(x, axis=-1, keepdims=True)
        centred = x - mean
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        lead = (1,) * (x.ndim - 1)
        y = centred * jax.lax.rsqrt(variance + self.config.layer_norm_eps)
        y = y * scale.reshape(*lead, width) + bias.reshape(*lead, width)
        return y.astype(self.execution.compute_dtype)


class Dropout(nn.Module):
    """Sets values to 0 with probability `rate` and scales up the others.

    Which ones follows from the key and the place in the whole batch, also where a device only has its own rows of it
    (`training.train_step`), so a run does not depend on its mesh.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], deterministic: bool) -> Float[Array, "*shape"]:
        if deterministic or self.rate == 0.0:
            return x
        key, keep, rows = self.make_rng("dropout"), 1.0 - self.rate, x.shape[0]
        own = jax.sharding.get_abstract_mesh().manual_axes
        kept = jax.random.bernoulli(key, keep, (rows * parts(own), *x.shape[1:]))
        if own:
            kept = jax.lax.dynamic_slice_in_dim(kept, jax.lax.axis_index(own) * rows, rows)
        return jnp.where(kept, x / keep, 0.0)


class Embed(nn.Module):
    """A lookup table of shape [rows, features]; the rows are float32, as stored."""

    rows: int
    features: int
    config: RemBertConfig
    axes: tuple[str | None, str]

    @nn.compact
    def __call__(self, ids: Int[Array, "B L"]) -> Float[Array, "B L features"]:
        init = nn.with_logical_partitioning(truncated_normal(self.config), self.axes)
        table: Any = self.param("embedding", init, (self.rows, self.features), jnp.float32)
        return lookup(table, ids, Split.of(*sharding.mesh_axes("batch", *self.axes)))
