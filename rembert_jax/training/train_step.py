"""The compiled training step: gradients of a summed loss, accumulation, update, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from rembert_jax import sharding
from rembert_jax.ops.attention import platform
from rembert_jax.ops.split import parts
from rembert_jax.training.train_state import Params, TrainState

COPIES = "data"
"""The mesh axis of copies of the model."""

Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]
Objective = Callable[[Params, Batch, jax.Array | None], Sums]
"""From parameters, batch and dropout key (None: deterministic) to summed `loss`, `weight` and `correct`.

A sum `penalty`, where there is one, is added to the loss for the gradient, and reported by itself."""


def with_frozen(objective: Objective, frozen: Callable[[Params], Any]) -> Objective:
    """The objective as a function of the other parameters alone: gradients of frozen ones are 0 and are not computed.

    Args:
      objective: of all parameters.
      frozen: from parameters to a tree of the same form, True for those that are not trained.
    """

    def partial(params: Params, batch: Batch, key: jax.Array | None) -> Sums:
        held = jax.tree.map(lambda leaf, still: jax.lax.stop_gradient(leaf) if still else leaf, params, frozen(params))
        return objective(held, batch, key)

    return partial


def _gradients(objective: Objective, params: Params, batch: Batch, key: jax.Array) -> tuple[Params, Sums]:
    def total(params: Params) -> tuple[jax.Array, Sums]:
        sums = objective(params, batch, key)
        return sums["loss"] + sums.get("penalty", 0.0), sums

    gradients, sums = jax.grad(total, has_aux=True)(params)
    return gradients, sums


def summed_gradients(
    objective: Objective, params: Params, batch: Batch, key: jax.Array, accumulation: int
) -> tuple[Params, Sums]:
    """Gradient of the summed loss and the sums, computed in `accumulation` micro-batches.

    Rows are dealt out in turn, so each device keeps its own rows. Sums are added, not averaged: micro-batches of different
    weight count as they would in one batch. Copies of the model add up what their own rows give, and sum it once at the end.
    """
    if accumulation == 1:
        return _gradients(objective, params, batch, key)
    if parts(COPIES) == 1:
        return _accumulated(objective, params, batch, key, accumulation)

    def of_own_rows(params: Params, batch: Batch, key: jax.Array) -> tuple[Params, Sums]:
        with sharding.rules_without(COPIES):
            return jax.lax.psum(_accumulated(objective, params, batch, key, accumulation), COPIES)

    copied, rows = PartitionSpec(), PartitionSpec(COPIES)
    return jax.shard_map(
        of_own_rows, in_specs=(copied, rows, copied), out_specs=copied, axis_names={COPIES}, check_vma=False
    )(params, batch, key)


def _accumulated(
    objective: Objective, params: Params, batch: Batch, key: jax.Array, accumulation: int
) -> tuple[Params, Sums]:
    micro = {
        name: value.reshape(value.shape[0] // accumulation, accumulation, *value.shape[1:]).swapaxes(0, 1)
        for name, value in batch.items()
    }

    def add(carry: Any, inputs: tuple[Batch, jax.Array]) -> tuple[Any, None]:
        rows, index = inputs
        return jax.tree.map(jnp.add, carry, _gradients(objective, params, rows, jax.random.fold_in(key, index))), None

    shapes = jax.eval_shape(lambda: _gradients(objective, params, {k: v[0] for k, v in micro.items()}, key))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (micro, jnp.arange(accumulation)))
    return total


def _update(
    tx: optax.GradientTransformationExtraArgs, gradients: Params, state: TrainState, norm: jax.Array, healthy: jax.Array
) -> tuple[Params, Any]:
    """New parameters and optimizer state, computed in place of the old ones, or the old ones where not `healthy`."""

    def keep(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(healthy, a, b), new, old)

    updates, opt_state = tx.update(gradients, state.opt_state, state.params, grad_norm=norm)
    params = keep(optax.apply_updates(state.params, updates), state.params)
    if platform() == "cpu" and parts(sharding.AXES) == 1:
        # On CPUs, XLA computes parameters and moments in a kernel each, all of them from the old moments, and copies those if
        # it may compute the new ones first. Only a value that they need makes them wait: whether the parameters are finite.
        gradients = jax.tree.map(lambda g, p: g * jnp.isfinite(p.ravel()[0]), gradients, params)
        _, opt_state = tx.update(gradients, state.opt_state, params, grad_norm=norm)
    return params, keep(opt_state, state.opt_state)


def make_train_step(
    objective: Objective, tx: optax.GradientTransformation, *, seed: int, accumulation: int, schedule: optax.Schedule
) -> Callable[[TrainState, Batch], tuple[TrainState, Any]]:
    """The function to be compiled: one update of the state and the metrics of its batch.

    The loss is one global sum divided by one global weight. Where loss, gradient or learning rate is not finite the state
    stays as it was and `healthy` turns False, so that nothing after it is learnt either. All three are known before the update
    is computed, so each parameter and its moments are read and written once.

    Returns:
      A function from (state, batch) to (state, sums) with keys `loss`, `weight`, `correct` and, where the objective has it,
      `penalty` (sums over the batch), `grad_norm` (before clipping), `learning_rate` and `finite`.
    """
    tx = optax.with_extra_args_support(tx)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradients, sums = summed_gradients(objective, state.params, batch, key, accumulation)
        scale = 1.0 / jnp.maximum(sums["weight"], 1.0)
        norm = scale * optax.tree.norm(gradients)  # Scaled afterwards: scaled gradients need never be written.
        gradients = jax.tree.map(lambda g: g * scale, gradients)
        rate = schedule(state.step)
        finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(norm) & jnp.isfinite(rate)
        healthy = state.healthy & finite
        params, opt_state = _update(tx, gradients, state, norm, healthy)
        new: Any = TrainState(
            step=jnp.where(healthy, state.step + 1, state.step), params=params, opt_state=opt_state, healthy=healthy
        )
        return new, {**sums, "grad_norm": norm, "learning_rate": rate, "finite": finite}

    return step
