"""Optimizers by name, learning-rate schedules, weight-decay mask."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from rembert_jax.errors import RemBertError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Section `optimizer`; the defaults are the paper's.

    Attributes:
      name: "adamw", "lamb", "adafactor", or "muon": matrices by their orthogonalised momentum (`matrices`), all else by AdamW.
      learning_rate: peak. That of AdamW suits Muon too: its updates are scaled to the same root mean square.
      warmup_steps: linear increase from 0; 0 starts at the peak.
      decay: "linear" or "cosine" to 0 at the last step, or "constant".
      b1, b2, eps: Adam's (and LAMB's) moments; Adafactor has its own, and so has the momentum of Muon's matrices (0.95).
      weight_decay: decoupled; not applied to biases and layer norms.
      clip_norm: largest global norm of the gradient; 0 does not clip.
      accumulation: micro-batches whose gradients are summed before an update.
      freeze: names of parameters that are not trained.
      learning_rate_factors, weight_decay_factors: name of parameters to a factor of theirs.

    A name is a part of a parameter's path, whole components of it: "rembert/embeddings" or "word_embeddings", and
    "layer_0" where `execution.scan_layers` is off (layers that are scanned over are one parameter). Where several names
    fit, the longest counts.
    """

    learning_rate: float
    name: Literal["adamw", "lamb", "adafactor", "muon"] = "adamw"
    warmup_steps: int = 0
    decay: Literal["linear", "cosine", "constant"] = "linear"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    accumulation: int = 1
    freeze: tuple[str, ...] = ()
    learning_rate_factors: dict[str, float] = dataclasses.field(default_factory=dict)
    weight_decay_factors: dict[str, float] = dataclasses.field(default_factory=dict)

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
        for name in ("learning_rate_factors", "weight_decay_factors"):
            for key, factor in getattr(self, name).items():
                if not 0 <= factor < math.inf:
                    raise RemBertError(f"{name}[{key!r}]={factor}: expected at least 0")


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


def _path(key_path: Any) -> str:
    return "/".join(jax.tree_util.keystr((key,), simple=True) for key in key_path)


def _named(path: str, names: Iterable[str]) -> str | None:
    """The longest of `names` that is a part of `path`."""
    return max((name for name in names if f"/{name}/" in f"/{path}/"), key=len, default=None)


def check_names(config: OptimizerConfig, params: Any) -> None:
    """Checks that each name in `freeze` and in the factors means a parameter, and that something is left to train.

    Raises:
      RemBertError: naming the key and the name, with the paths there are.
    """
    paths = [_path(key_path) for key_path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for key in ("freeze", "learning_rate_factors", "weight_decay_factors"):
        for name in getattr(config, key):
            if not any(_named(path, [name]) for path in paths):
                known = ", ".join(sorted({path.rpartition("/")[0] for path in paths}))
                raise RemBertError(f"optimizer.{key}: no parameter has {name!r} in its path; there are {known}")
    if all(_named(path, config.freeze) for path in paths):
        raise RemBertError(f"optimizer.freeze={list(config.freeze)} leaves no parameter to train")


def frozen(config: OptimizerConfig, params: Any) -> Any:
    """True for the parameters that `config.freeze` names."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _named(_path(path), config.freeze) is not None, params)


def decayed(params: Any) -> Any:
    """True for parameters that weight decay applies to: all but biases and layer norms."""

    def is_decayed(key_path: Any, _: Any) -> bool:
        path = _path(key_path)
        return not path.endswith("bias") and "LayerNorm" not in path

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def _scaled_by_name(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies each update by the factor of its parameter's name."""

    def scale(key_path: Any, update: Any) -> Any:
        name = _named(_path(key_path), factors)
        return update if name is None else factors[name] * update

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def _weight_decay(config: OptimizerConfig) -> optax.GradientTransformation:
    by_name = _scaled_by_name(config.weight_decay_factors)

    def add(updates: Any, params: Any) -> Any:
        scaled, _ = by_name.update(params, by_name.init(params))
        mask = decayed(params)
        return jax.tree.map(lambda u, p, yes: u + config.weight_decay * p if yes else u, updates, scaled, mask)

    return optax.stateless(add)


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


def matrices(params: Any) -> Any:
    """True for the parameters that Muon takes: kernels, but not that of a task's classifier.

    A table of embeddings, the output's too, is a list of vectors and not a matrix.
    """

    def is_matrix(key_path: Any, _: Any) -> bool:
        path = _path(key_path)
        return path.endswith("/kernel") and not path.startswith(("classifier/", "qa_outputs/"))

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def _muon(adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Orthogonalised momentum for the matrices, scaled to the root mean square that AdamW's updates have, Adam for the rest.

    The scale, 0.2, is that of Liu et al. 2025 (arXiv:2502.16982). Stacked layers are orthogonalised one by one.
    """
    muon = optax.contrib.muon(
        1.0,  # Learning rate and decay follow outside, for all parameters alike.
        muon_weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1),
        consistent_rms=0.2,
    )
    return optax.partition({True: optax.chain(muon, optax.scale(-1.0)), False: adam}, matrices)


def _clip(largest: float) -> optax.GradientTransformationExtraArgs:
    """Scales gradients down to a global norm; by a factor, where optax divides each value by the norm."""

    def update(updates: Any, state: Any, params: Any = None, *, grad_norm: Any = None, **_: Any) -> tuple[Any, Any]:
        norm = optax.tree.norm(updates) if grad_norm is None else grad_norm
        factor = jnp.minimum(1.0, largest / norm)
        return jax.tree.map(lambda update: factor * update, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a run. Its updates are to be added to the parameters.

    `update` takes the global norm of the gradients as `grad_norm`, where that is known already.
    """
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    # Adafactor multiplies its decay into the update without the learning rate; decay here is decoupled and scaled. Its
    # moments need no `_by_layer`: they are factored over the two largest axes, and fewer than 128 layers are neither.
    direction = {
        "adamw": lambda: adam,
        "lamb": lambda: adam,
        "adafactor": lambda: optax.chain(optax.scale_by_factored_rms(), _by_layer(optax.clip_by_block_rms(1.0))),
        "muon": lambda: _muon(adam),
    }[config.name]()
    update = [direction, _weight_decay(config)]
    if config.name == "lamb":
        update.append(_by_layer(optax.scale_by_trust_ratio()))
    if config.learning_rate_factors:
        update.append(_scaled_by_name(config.learning_rate_factors))
    update.append(optax.scale_by_learning_rate(learning_rate_schedule(config, total_steps)))
    clip = _clip(config.clip_norm) if config.clip_norm else optax.identity()
    tx = optax.chain(clip, optax.chain(*update))
    if not config.freeze:
        return tx
    return optax.partition({False: tx, True: optax.set_to_zero()}, lambda params: frozen(config, params))
