"""Optimizers by name, learning-rate schedules, weight-decay mask."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rembert_jax.errors import RemBertError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Section `optimizer`; the defaults are the paper's.

    Attributes:
      name: "adamw", "lamb" or "adafactor".
      learning_rate: peak.
      warmup_steps: linear increase from 0; 0 starts at the peak.
      decay: "linear" or "cosine" to 0 at the last step, or "constant".
      b1, b2, eps: Adam's (and LAMB's) moments; Adafactor has its own.
      weight_decay: decoupled; not applied to biases and layer norms.
      clip_norm: largest global norm of the gradient; 0 does not clip.
      accumulation: micro-batches whose gradients are summed before an update.
    """

    learning_rate: float
    name: Literal["adamw", "lamb", "adafactor"] = "adamw"
    warmup_steps: int = 0
    decay: Literal["linear", "cosine", "constant"] = "linear"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    accumulation: int = 1

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise RemBertError(f"learning_rate={self.learning_rate}: expected a positive number")
        if self.warmup_steps < 0 or self.accumulation < 1:
            raise RemBertError(
                f"warmup_steps={self.warmup_steps}, accumulation={self.accumulation}: expected at least 0 and 1"
            )
        for name in ("b1", "b2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise RemBertError(f"{name}={getattr(self, name)}: expected a number in [0, 1)")
        if not self.eps > 0:
            raise RemBertError(f"eps={self.eps}: expected a positive number")
        for name in ("weight_decay", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise RemBertError(f"{name}={getattr(self, name)}: expected at least 0")


def learning_rate_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Learning rate of update i, counted from 0.

    The warm-up reaches the peak at update `warmup_steps`; the first update already has 1/(warmup+1) of it, so no update is
    wasted. The decay ends at 0 one step after the last update.

    Raises:
      RemBertError: if the warm-up is not shorter than the run.
    """
    if config.warmup_steps >= total_steps:
        raise RemBertError(
            f"optimizer.warmup_steps={config.warmup_steps} is not shorter than the run of {total_steps} steps"
        )
    remaining = total_steps - config.warmup_steps

    def schedule(count: Any) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        warm = (count + 1) / (config.warmup_steps + 1)
        progress = jnp.clip((count - config.warmup_steps) / remaining, 0.0, 1.0)
        after = {
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "constant": jnp.ones_like(progress),
        }[config.decay]
        return config.learning_rate * jnp.where(count < config.warmup_steps, warm, after)

    return schedule


def decayed(params: Any) -> Any:
    """True for parameters that weight decay applies to: all but biases and layer norms."""

    def is_decayed(path: Any, _: Any) -> bool:
        names = [jax.tree_util.keystr((key,), simple=True) for key in path]
        return names[-1] != "bias" and not any("LayerNorm" in name for name in names)

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def _by_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """A stateless transformation of leaves by their norm, which takes each layer of scanned parameters by itself.

    `execution.scan_layers` stacks the layers in one leaf; without this it would change what is learnt.
    """

    def leaf(update: Any, param: Any) -> Any:
        return transform.update(update, transform.init(param), param)[0]

    def update(updates: Any, params: Any) -> Any:
        def apply(path: Any, *leaves: Any) -> Any:
            stacked = any(jax.tree_util.keystr((key,), simple=True) == "layer" for key in path)
            return (jax.vmap(leaf) if stacked else leaf)(*leaves)

        return jax.tree_util.tree_map_with_path(apply, updates, params)

    return optax.stateless(update)


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """The optimizer of a run. Its updates are to be added to the parameters."""
    schedule = learning_rate_schedule(config, total_steps)
    if config.name == "adamw":
        update = optax.adamw(
            schedule, b1=config.b1, b2=config.b2, eps=config.eps, weight_decay=config.weight_decay, mask=decayed
        )
    elif config.name == "lamb":
        update = optax.chain(  # `optax.lamb`, layer by layer.
            optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
            optax.add_decayed_weights(config.weight_decay, decayed),
            _by_layer(optax.scale_by_trust_ratio()),
            optax.scale_by_learning_rate(schedule),
        )
    else:
        # Adafactor multiplies its decay into the update without the learning rate; decay here is decoupled and scaled.
        # The moments need no `_by_layer`: they are factored over the two largest axes, and fewer than 128 layers are neither.
        update = optax.chain(
            optax.scale_by_factored_rms(),
            _by_layer(optax.clip_by_block_rms(1.0)),
            optax.add_decayed_weights(config.weight_decay, decayed),
            optax.scale_by_learning_rate(schedule),
        )
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(clip, update)
