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


def abstract_params(init: Callable[[jax.Array], Any]) -> Any:
    """Boxed shapes and dtypes. The key is made while tracing: under a mesh of devices that are not there none can be made."""
    return jax.eval_shape(lambda: init(jax.random.key(0)))


def state_shardings(init: Callable[[jax.Array], Any], tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Sharding of every leaf of the state that `create` builds, without building it."""
    boxed = abstract_params(init)
    params = sharding.param_shardings(boxed, mesh)
    plain = sharding.unbox(boxed)
    opt_state = sharding.like_params(jax.eval_shape(tx.init, plain), params, plain, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    return TrainState(step=replicated, params=params, opt_state=opt_state, healthy=replicated)


def _draw(init: Callable[[jax.Array], Any], shardings: Any) -> Callable[[jax.Array], Params]:
    return jax.jit(lambda key: sharding.unbox(init(key)), out_shardings=shardings)


def _new(params: Params, tx: optax.GradientTransformation) -> TrainState:
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params), healthy=jnp.ones((), bool)
    )


def abstract(init: Callable[[jax.Array], Any], tx: optax.GradientTransformation, shardings: TrainState) -> TrainState:
    """Shape, dtype and sharding of every leaf of the state that `create` builds, without building it."""
    shapes = jax.eval_shape(lambda: _new(sharding.unbox(init(jax.random.key(0))), tx))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
    )


def initial_params(init: Callable[[jax.Array], Any], seed: int, mesh: Mesh) -> Params:
    """The parameters that `create` starts from, in their shards."""
    shardings = sharding.param_shardings(abstract_params(init), mesh)
    return _draw(init, shardings)(jax.random.key(seed))


def create(
    init: Callable[[jax.Array], Any], tx: optax.GradientTransformation, seed: int, shardings: TrainState
) -> TrainState:
    """Initialises the state directly in its shards; no device ever holds more than its part.

    Parameters come first and the optimizer's state after them, as drawing the numbers takes memory too.

    Args:
      init: from a key to boxed parameters.
      tx: the optimizer.
      seed: of the initialisation.
      shardings: of the result (`state_shardings`).
    """
    params = _draw(init, shardings.params)(jax.random.key(seed))
    begin = jax.jit(lambda params: _new(params, tx), out_shardings=shardings, donate_argnums=0)
    return begin(jax.block_until_ready(params))
