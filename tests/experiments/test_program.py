"""What a run computes, made without data: the shapes it expects are those that come, and its step is the trainer's."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments.runs import FINE_TUNING
from helpers import TINY_PRETRAINING, with_changes

from rembert_jax import sharding
from rembert_jax.experiments import architecture, run, settings, stages
from rembert_jax.training import program as programs
from rembert_jax.training.feed import Feed


@pytest.fixture
def started(tmp_path, one_device, monkeypatch):
    """The program, the feed and the first state that a run gives to the loop."""

    def start(config):
        given = []
        monkeypatch.setattr(
            run.trainer, "train", lambda program, feed, state, hooks: given.append((program, feed, state)) or state
        )
        closed = Feed.close
        monkeypatch.setattr(Feed, "close", lambda feed: None)
        monkeypatch.setattr(run, "_finish", lambda *arguments: {})
        run.run(config, tmp_path / "run")
        monkeypatch.setattr(Feed, "close", closed)
        return given[0]

    return start


def like(tree):
    """Shape, dtype and place of each array."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding.spec), tree)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_step_of_a_run_is_that_of_its_program_without_data(started, accumulation):
    config = with_changes(TINY_PRETRAINING, {"optimizer.accumulation": accumulation})
    program, feed, state = started(config)
    batch = next(feed)
    feed.close()
    resolved = settings.resolve(config)
    model = architecture.expected_model(resolved, {})
    alone = stages.make_program(resolved, model, sharding.make_mesh(resolved.mesh))
    assert like(batch) == like(alone.batch) and like(state) == like(alone.state)
    with program.on_mesh():
        trained = program.step.lower(state, batch).as_text()
    assert alone.lower().as_text() == trained


def test_parameters_are_drawn_where_they_lie_and_are_those_of_the_first_state():
    config = settings.resolve(with_changes(TINY_PRETRAINING, {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}}))
    program = stages.make_program(config, architecture.expected_model(config, {}), sharding.make_mesh(config.mesh))
    with program.on_mesh():
        drawn, state = program.initial_params(), program.create()
    assert like(drawn) == like(program.state.params) and like(state) == like(program.state)
    assert state.step.dtype == jnp.int32, "float32 counts to 16,777,216"
    assert "fsdp" in str(like(drawn)) and "tensor" in str(like(drawn))
    jax.tree.map(np.testing.assert_array_equal, drawn, state.params)


@pytest.mark.parametrize(
    "task",
    [
        {},
        {
            "kind": "token_classification",
            "path": "synthetic_pos/{language}-0-64",
            "text_fields": ("tokens",),
            "label_field": "upos",
        },
    ],
)
def test_the_batches_of_a_task_are_what_its_program_expects(started, pretrained, task):
    changes = {f"task.{name}": value for name, value in task.items()}
    program, feed, _ = started(with_changes(FINE_TUNING | {"model_from": str(pretrained[0])}, changes))
    batch = next(feed)
    feed.close()
    assert like(batch) == like(program.batch)


def test_the_gradient_of_a_run_has_no_part_in_what_is_frozen(one_device):
    """Its norm decides about clipping."""

    def norm(freeze):
        config = settings.resolve(with_changes(TINY_PRETRAINING, {"optimizer.freeze": freeze}))
        program = stages.make_program(config, architecture.expected_model(config, {}), sharding.make_mesh(config.mesh))
        ones = {
            name: jax.device_put(np.ones(leaf.shape, leaf.dtype), leaf.sharding) for name, leaf in program.batch.items()
        }
        with program.on_mesh():
            return float(program.step(program.create(), ones)[1]["grad_norm"])

    assert 0.0 < norm(("word_embeddings", "cls/decoder")) < 0.9 * norm(())


def test_a_task_is_predicted_by_its_largest_logit(monkeypatch):
    logits = jnp.array([[0.1, 0.7, 0.2], [3.0, -1.0, 2.0]])
    output = SimpleNamespace(logits=logits)
    monkeypatch.setattr(programs.objectives, "task_output", lambda model, params, batch, key: output)
    config = settings.resolve(FINE_TUNING | {"model_from": "x"})
    program = programs.fine_tuning(
        architecture.RemBertConfig(),
        num_labels=3,
        total_steps=1,
        execution=config.execution,
        task=config.task,
        optimizer=config.optimizer,
        training=config.training,
        seed=0,
        mesh=sharding.make_mesh(config.mesh, jax.devices()[:1]),
    )
    np.testing.assert_array_equal(program.predict({}, {})["classes"], [1, 0])
    assert program.step_flops == architecture.RemBertConfig().training_flops(8, 24, 0), "of the encoder alone"


@pytest.mark.parametrize(
    ("kind", "fields", "label"),
    [
        ("sequence_classification", ("sentence1", "sentence2"), "label"),
        ("token_classification", ("tokens",), "upos"),
        ("question_answering", ("question", "context"), "answers"),
    ],
)
def test_every_task_has_a_loss_and_outputs_of_its_batch(tiny_config, kind, fields, label):
    task = {
        "kind": kind, "source": "jsonl", "path": "{language}", "train_language": "en", "test_languages": ("de",),
        "text_fields": fields, "label_field": label, "max_length": 12,
    }  # fmt: skip
    if kind == "question_answering":
        task["options"] = {"doc_stride": 2, "max_query_length": 4}
    else:
        task["labels"] = ("A", "B")
    shared = {"optimizer": {"learning_rate": 1e-3}, "training": {"batch_size": 4, "steps": 1}}
    config = settings.resolve({"model_from": "x", "task": task, **shared})
    program = stages.make_program(config, tiny_config, sharding.make_mesh(config.mesh, jax.devices()[:1]))
    with program.on_mesh():
        sums = jax.eval_shape(lambda p, b: program.objective(p, b, None), program.state.params, program.batch)
        outputs = jax.eval_shape(program.outputs, program.state.params, program.batch)
    assert {"loss", "weight"} <= set(sums) and sums["loss"].shape == ()
    assert outputs and all(leaf.shape[0] == 4 for leaf in outputs.values())


def test_a_search_is_estimated_by_the_vectors_of_every_layer(tiny_config):
    task = {
        "kind": "retrieval", "source": "jsonl", "path": "{language}-{side}", "train_language": "en", "test_languages": ("de",),
        "text_fields": ("text",), "label_field": "translations", "max_length": 8, "options": {"method": "margin"},
    }  # fmt: skip
    config = settings.resolve({"predict_with": "x", "task": task, "training": {"batch_size": 4}})
    program = stages.make_program(config, tiny_config, sharding.make_mesh(config.mesh, jax.devices()[:1]))
    with program.on_mesh():
        found = jax.eval_shape(program.outputs, program.state.params, program.batch)
    assert found["vectors"].shape == (4, 1 + tiny_config.num_hidden_layers, tiny_config.hidden_size)


@pytest.mark.parametrize("kind", ["pretraining", "fine_tuning"])
def test_models_are_executed_as_the_config_says(started, pretrained, kind):
    config = TINY_PRETRAINING if kind == "pretraining" else FINE_TUNING | {"init_from": str(pretrained[0])}
    execution = {"compute_dtype": "bfloat16", "remat": "dots", "attention": "xla", "scan_layers": False}
    program, _, state = started(with_changes(config, {"execution": execution}))
    assert dataclasses.asdict(program.model.execution) == execution
    assert {f"layer_{number}" for number in range(2)} <= set(state.params["rembert"]["encoder"])


def test_no_device_holds_more_than_its_part_of_the_vocabulary():
    config = settings.resolve(with_changes(TINY_PRETRAINING, {"mesh": {"data": 2, "tensor": 2}}))
    model = architecture.expected_model(config, {})
    compiled = stages.make_program(config, model, sharding.make_mesh(config.mesh, jax.devices()[:4])).lower().compile()
    sizes = {int(size) for shape in re.findall(r"\[([\d,]+)\]", compiled.as_text()) for size in shape.split(",")}
    assert model.vocab_size // 2 in sizes and model.vocab_size not in sizes


def test_a_step_never_sums_a_whole_table_over_the_parts_of_its_width():
    # What is summed over "fsdp" is cut at once, and rows that are looked up go to where they are wanted.
    config = settings.resolve(with_changes(TINY_PRETRAINING, {"mesh": {"data": 1, "fsdp": 4}}))
    model = architecture.expected_model(config, {})
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:4])
    compiled = stages.make_program(config, model, mesh).lower().compile().as_text()
    tables = {f"{model.vocab_size},{width}" for width in (model.input_embedding_size, model.output_embedding_size)}
    summed = set(re.findall(r"f32\[(\d+,\d+)\]\S* all-reduce\(", compiled))
    assert not summed & tables
    assert f"{model.vocab_size},{model.output_embedding_size // 4}" in set(
        re.findall(r"f32\[(\d+,\d+)\]\S* reduce-scatter\(", compiled)
    )
