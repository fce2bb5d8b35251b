"""What a run computes, apart from its data: model, objective, optimizer, and the functions that are compiled of them.

Whoever wants the step of a run takes it from here: the trainer, compilation for devices that are not there, benchmarks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rembert_jax import sharding
from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.data.pipeline import DataConfig
from rembert_jax.modeling.models import MODELS, RemBertBackbone, RemBertForMaskedLM
from rembert_jax.tasks.base import TaskConfig, family
from rembert_jax.training import objectives, train_state
from rembert_jax.training.optimizer import OptimizerConfig, frozen, learning_rate_schedule, make_optimizer
from rembert_jax.training.settings import TrainingConfig
from rembert_jax.training.train_state import Params, TrainState
from rembert_jax.training.train_step import Batch, Objective, make_train_step, with_frozen

Shapes = dict[str, tuple[tuple[int, ...], Any]]
"""Name of an array of a row to its shape and dtype."""


@dataclasses.dataclass(frozen=True)
class Program:
    """Model, objective and optimizer on a mesh, whose devices need not be there.

    Attributes:
      model: the Linen module.
      objective: its summed loss.
      outputs: what evaluation takes from a batch, from parameters and batch.
      batch: shapes and dtypes of a global batch, in its sharding.
      optimizer: section `optimizer`.
      total_steps: updates to do.
      step_flops: floating-point operations that one of them needs (`RemBertConfig.training_flops`).
      seed: of the initialisation and of dropout.
      mesh: where it runs.
    """

    model: nn.Module
    objective: Objective
    outputs: Callable[[Params, Batch], Any]
    batch: dict[str, jax.ShapeDtypeStruct]
    optimizer: OptimizerConfig
    total_steps: int
    step_flops: int
    seed: int
    mesh: Mesh

    @contextlib.contextmanager
    def on_mesh(self) -> Iterator[None]:
        """Sets the mesh and the rules of its axes, under which everything here is traced."""
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(list(sharding.LOGICAL_RULES)):
            yield

    def init(self, key: jax.Array) -> Any:
        """Initial parameters with their logical axes."""
        return boxed_params(self.model, key)

    @functools.cached_property
    def tx(self) -> optax.GradientTransformation:
        """The optimizer."""
        return make_optimizer(self.optimizer, self.total_steps)

    @functools.cached_property
    def shardings(self) -> TrainState:
        """Of every leaf of the state."""
        return train_state.state_shardings(self.init, self.tx, self.mesh)

    @functools.cached_property
    def state(self) -> TrainState:
        """Shape, dtype and sharding of every leaf of the state."""
        return train_state.abstract(self.init, self.tx, self.shardings)

    def create(self) -> TrainState:
        """The state before the first step, made in its shards."""
        return train_state.create(self.init, self.tx, self.seed, self.shardings)

    def initial_params(self) -> Params:
        """The parameters that `create` starts from."""
        return train_state.initial_params(self.init, self.seed, self.mesh)

    @functools.cached_property
    def step(self) -> Any:
        """The compiled update, from (state, batch) to (state, sums) (`make_train_step`). The state is updated in place."""
        objective = self.objective
        if self.optimizer.freeze:
            objective = with_frozen(objective, lambda params: frozen(self.optimizer, params))
        step = make_train_step(
            objective,
            self.tx,
            seed=self.seed,
            accumulation=self.optimizer.accumulation,
            schedule=learning_rate_schedule(self.optimizer, self.total_steps),
        )
        # Left to itself the partitioner may place the new state otherwise, and then neither donation nor the compiled step
        # fits the next call.
        return jax.jit(step, donate_argnums=0, out_shardings=(self.shardings, None))

    @functools.cached_property
    def predict(self) -> Any:
        """The compiled `outputs`, whole on every device."""
        return jax.jit(self.outputs, out_shardings=NamedSharding(self.mesh, PartitionSpec()))

    def lower(self) -> Any:
        """The step for shapes alone: `.compile()` it where there are no parameters and no data, `.as_text()` to read it."""
        with self.on_mesh():
            return self.step.lower(self.state, self.batch)


def boxed_params(model: nn.Module, key: jax.Array) -> Any:
    """Initial parameters of a model, with their logical axes."""
    return model.init({"params": key}, jnp.zeros((1, 2), jnp.int32))["params"]


def pretraining(
    model_config: RemBertConfig,
    *,
    execution: Execution,
    data: DataConfig,
    optimizer: OptimizerConfig,
    training: TrainingConfig,
    seed: int,
    mesh: Mesh,
) -> Program:
    """Masked-language modelling, of which evaluation takes the same sums without dropout."""
    model = RemBertForMaskedLM(model_config, execution)
    objective = objectives.masked_lm(model, training.z_loss)
    rows, length, slots = training.batch_size, data.seq_length, data.predictions
    row: Shapes = dict.fromkeys(("input_ids", "segment_ids", "position_ids"), ((length,), jnp.int32))
    row |= {"masked_positions": ((slots,), jnp.int32), "masked_labels": ((slots,), jnp.int32)}
    row |= {"masked_weights": ((slots,), jnp.float32)}
    return Program(
        model=model,
        objective=objective,
        outputs=lambda params, batch: objective(params, batch, None),
        batch=_abstract_batch(row, rows, mesh),
        optimizer=optimizer,
        total_steps=training.steps,
        step_flops=model_config.training_flops(rows, length, slots),
        seed=seed,
        mesh=mesh,
    )


def fine_tuning(
    model_config: RemBertConfig,
    *,
    num_labels: int,
    total_steps: int,
    execution: Execution,
    task: TaskConfig,
    optimizer: OptimizerConfig,
    training: TrainingConfig,
    seed: int,
    mesh: Mesh,
) -> Program:
    """A task as its family has it: model, loss, and what evaluation takes."""
    kind = family(task.kind)
    model: Any = RemBertBackbone if kind.model == "base" else MODELS[kind.model]
    labels = {"num_labels": num_labels} if "num_labels" in model.__dataclass_fields__ else {}
    model = model(model_config, execution=execution, **labels)
    length = task.max_length
    outputs: Callable[[Params, Batch], Any]
    if kind.outputs:
        outputs = objectives.task_outputs(model, kind.outputs)
    else:
        outputs = objectives.sentence_vectors(model, range(model_config.num_hidden_layers + 1), "mean")
    row: Shapes = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), ((length,), jnp.int32))
    row |= dict.fromkeys(kind.row_targets, ((), jnp.int32)) | dict.fromkeys(kind.token_targets, ((length,), jnp.int32))
    return Program(
        model=model,
        objective=objectives.task(model, kind.loss),
        outputs=outputs,
        batch=_abstract_batch(row, training.batch_size, mesh),
        optimizer=optimizer,
        total_steps=total_steps,
        step_flops=model_config.training_flops(training.batch_size, length, 0),
        seed=seed,
        mesh=mesh,
    )


def _abstract_batch(row: Shapes, rows: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    place = sharding.batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=place) for name, (shape, dtype) in row.items()}
