"""What a checkpoint holds of the model: step, parameters, optimizer state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rembert_jax import sharding

Params = dict[str, Any]


class TrainState(struct.PyTreeNode):
    """State of training.

    Attributes:
      step: number of updates done.
      params: float32 parameters.
      opt_state: state of the optimizer.
      healthy: False once a loss, gradient or update was not finite; from then on updates change nothing.
    """

    step: Any
    params: Any
    opt_state: Any
    healthy: Any


def state_shardings(init: Callable[[jax.Array], Any], tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Sharding of every leaf of the state that `create` builds, without building it."""
    boxed = jax.eval_shape(init, jax.random.key(0))
    params = sharding.param_shardings(boxed, mesh)
    plain = sharding.unbox(boxed)
    opt_state = sharding.like_params(jax.eval_shape(tx.init, plain), params, plain, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    return TrainState(step=replicated, params=params, opt_state=opt_state, healthy=replicated)


def _builder(init: Callable[[jax.Array], Any], tx: optax.GradientTransformation) -> Callable[[jax.Array], TrainState]:
    def build(key: jax.Array) -> TrainState:
        params = sharding.unbox(init(key))
        return TrainState(
            step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params), healthy=jnp.ones((), bool)
        )

    return build


def abstract(init: Callable[[jax.Array], Any], tx: optax.GradientTransformation, shardings: TrainState) -> TrainState:
    """Shape, dtype and sharding of every leaf of the state that `create` builds, without building it."""
    shapes = jax.eval_shape(_builder(init, tx), jax.random.key(0))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
    )


def initial_params(init: Callable[[jax.Array], Any], seed: int, mesh: Mesh) -> Params:
    """The parameters that `create` starts from, in their shards."""
    key = jax.random.key(seed)
    shardings = sharding.param_shardings(jax.eval_shape(init, key), mesh)
    return jax.jit(lambda key: sharding.unbox(init(key)), out_shardings=shardings)(key)


def create(
    init: Callable[[jax.Array], Any], tx: optax.GradientTransformation, seed: int, shardings: TrainState
) -> TrainState:
    """Initialises the state directly in its shards; no device ever holds more than its part.

    Args:
      init: from a key to boxed parameters.
      tx: the optimizer.
      seed: of the initialisation.
      shardings: of the result (`state_shardings`).
    """
    return jax.jit(_builder(init, tx), out_shardings=shardings)(jax.random.key(seed))
