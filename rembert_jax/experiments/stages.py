"""The stages of an experiment: reading them, and all checks that can be made before the first one starts."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rembert_jax import schema, sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.data import pipeline
from rembert_jax.errors import RemBertError
from rembert_jax.experiments import fine_tuning, pretraining, settings
from rembert_jax.experiments.architecture import expected_model
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.ops import attention
from rembert_jax.reports import report
from rembert_jax.tasks.datasets import check_examples
from rembert_jax.training import train_state
from rembert_jax.training.optimizer import check_names, learning_rate_schedule
from rembert_jax.training.program import Program
from rembert_jax.training.settings import TrainingError


def parse(config: Mapping[str, Any]) -> tuple[dict[str, ExperimentConfig], list[report.Comparison]]:
    """The stages by name, in order, and what to compare; a config without stages is one stage without a name.

    Raises:
      schema.SchemaError: naming the key that is unknown, missing or of a wrong value.
    """
    if "stages" not in config:
        return {"": settings.resolve(config)}, []
    unknown = set(config) - {"stages", "order", "report"}
    if unknown:
        raise schema.SchemaError(
            f"config: unknown key {sorted(unknown)[0]!r} beside stages; known: order, report, stages"
        )
    order = config.get("order", [])
    if sorted(order) != sorted(config["stages"]):
        raise schema.SchemaError(f"config.order {list(order)} does not name each of {list(config['stages'])} once")
    stages = {name: schema.from_mapping(ExperimentConfig, config["stages"][name], name) for name in order}
    comparisons = [schema.from_mapping(report.Comparison, item, "report") for item in config.get("report", {}).values()]
    strange = {name for item in comparisons for name in (item.pretrained, item.scratch)} - set(stages)
    if strange:
        raise schema.SchemaError(f"config.report: no stage {sorted(strange)[0]!r}; expected one of {', '.join(stages)}")
    return stages, comparisons


def make_program(config: ExperimentConfig, model_config: RemBertConfig, mesh: Mesh) -> Program:
    """What a stage computes, as far as it is known without its data."""
    make = pretraining.make_program if config.data else fine_tuning.make_program
    return make(config, model_config, mesh)


def check_stages(stages: Mapping[pathlib.Path, ExperimentConfig], several: bool = True) -> None:
    """Checks stages before the first one starts: a mistake in the last must not cost the time of the others.

    What only the data can tell (numbers of texts and examples, labels, pieces of the vocabulary) is checked when a stage
    starts.

    Args:
      stages: folder of each stage that is to be trained to its config, in order.
      several: whether they have names.

    Raises:
      RemBertError: naming the stage, if it has a name.
    """
    models: dict[pathlib.Path, RemBertConfig] = {}
    for folder, config in stages.items():
        try:
            models[folder] = _check_stage(config, models)
        except RemBertError as error:
            if not several:
                raise
            raise TrainingError(f"stage {folder.name}: {error}") from error


def _check_stage(config: ExperimentConfig, models: Mapping[pathlib.Path, RemBertConfig]) -> RemBertConfig:
    model = expected_model(config, models)
    check_shapes(config, model, sharding.make_mesh(config.mesh))
    if config.data:
        pipeline.check_sources(config.data)
    else:
        assert config.task is not None
        check_examples(config.task, train=not config.predict_with)
    return model


def check_shapes(config: ExperimentConfig, model: RemBertConfig, mesh: Mesh) -> None:
    """Checks what needs no data: that batch and heads can be divided, that names are of parameters, lengths, attention.

    Raises:
      RemBertError: naming the setting.
    """
    training = config.training
    sharding.check_batch(training.batch_size, mesh, config.optimizer.accumulation)
    if training.eval_batch_size:
        sharding.check_batch(training.eval_batch_size, mesh, name="training.eval_batch_size")
    if training.steps:
        learning_rate_schedule(config.optimizer, training.steps)
    sharding.check_heads(model.num_attention_heads, mesh)
    if config.optimizer.freeze or config.optimizer.learning_rate_factors or config.optimizer.weight_decay_factors:
        init = make_program(config, model, mesh).init
        check_names(config.optimizer, sharding.unbox(train_state.abstract_params(init)))
    name, length = "data.seq_length", config.data.seq_length if config.data else 0
    if config.task:
        name, length = "task.max_length", config.task.max_length
    if length > model.max_position_embeddings:
        raise TrainingError(
            f"{name}={length} exceeds model.max_position_embeddings={model.max_position_embeddings}; "
            f"shorten {name} or give the model more positions"
        )
    _check_attention(config, model, length, mesh)


def _check_attention(config: ExperimentConfig, model: RemBertConfig, length: int, mesh: jax.sharding.Mesh) -> None:
    """Whether the devices and these shapes have the implementation that is asked for by name."""
    shape = (1, length, model.num_attention_heads, model.head_dim)
    query = jax.ShapeDtypeStruct(shape, config.execution.compute_dtype)
    seen = attention.Visible(keys=jnp.ones((1, length), bool))
    with jax.set_mesh(mesh):
        attention.choose(query, query, seen, config.execution.attention, model.attention_probs_dropout_prob > 0)
