"""The scanned model, which is what a pod runs: loss and every gradient on meshes of eight devices against one device."""

import contextlib
import dataclasses
import re

import flax.linen as nn
import jax
import numpy as np
import pytest

from rembert_jax import sharding, tree
from rembert_jax.config import Execution
from rembert_jax.modeling.models import RemBertForMaskedLM, RemBertForSequenceClassification
from rembert_jax.sharding import MeshConfig
from rembert_jax.training import objectives
from rembert_jax.training.train_step import summed_gradients

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2)]
REMAT = ["none", "dots", "full"]
CASES = [
    pytest.param(
        *(shape, remat, accumulation),
        id=f"{shape}-{remat}-{accumulation}",
        marks=[] if (i + j + accumulation) % 2 else pytest.mark.slow,
    )
    for i, shape in enumerate(MESHES)
    for j, remat in enumerate(REMAT)
    for accumulation in (1, 2)
]
"""All of them, of which each change is tried on every mesh with every kind of rematerialisation."""
ROWS = 16
IDS = jax.ShapeDtypeStruct((1, 4), np.int32)


def pretraining_batch(config):
    rng = np.random.default_rng(1)
    return {
        "input_ids": rng.integers(3, config.vocab_size, (ROWS, 10)).astype(np.int32),
        "segment_ids": np.tile(np.array([1, 1, 1, 1, 2, 2, 2, 2, 0, 0], np.int32), (ROWS, 1)),
        "position_ids": np.tile(np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 0], np.int32), (ROWS, 1)),
        "masked_positions": np.stack([rng.choice(8, 3, replace=False) for _ in range(ROWS)]).astype(np.int32),
        "masked_labels": rng.integers(0, config.vocab_size, (ROWS, 3)).astype(np.int32),
        "masked_weights": rng.integers(0, 2, (ROWS, 3)).astype(np.float32),
    }


def classification_batch(config):
    rng = np.random.default_rng(2)
    lengths = rng.integers(3, 11, (ROWS, 1))
    return {
        "input_ids": rng.integers(3, config.vocab_size, (ROWS, 10)).astype(np.int32),
        "attention_mask": (np.arange(10)[None] < lengths).astype(np.int32),
        "token_type_ids": (np.arange(10)[None] >= 2).astype(np.int32) * np.ones((ROWS, 1), np.int32),
        "labels": rng.integers(0, 3, ROWS).astype(np.int32),
    }


def classifier(config, execution):
    return RemBertForSequenceClassification(config, execution=execution, num_labels=3)


KINDS = {
    "pre-training": (RemBertForMaskedLM, objectives.masked_lm, pretraining_batch),
    "classification": (classifier, objectives.task, classification_batch),
}


@contextlib.contextmanager
def on(shape):
    mesh = sharding.make_mesh(
        MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]), jax.devices()[: np.prod(shape)]
    )
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(sharding.LOGICAL_RULES)):
        yield mesh


def gradients(config, params, kind, shape, execution, accumulation):
    """Of the summed loss, with the sums, computed on a mesh of this shape from parameters that lie as in training."""
    with on(shape) as mesh:
        compiled, *arguments = compile_gradients(config, params, kind, mesh, execution, accumulation)
        return jax.device_get(compiled(*arguments))


def compile_gradients(config, params, kind, mesh, execution, accumulation):
    """The compiled function, and its arguments on the mesh."""
    model_class, make_objective, make_batch = KINDS[kind]
    model = model_class(config, execution=execution)
    places = sharding.param_shardings(jax.eval_shape(model.init, jax.random.key(0), IDS)["params"], mesh)
    run = jax.jit(
        lambda params, batch: summed_gradients(make_objective(model), params, batch, jax.random.key(0), accumulation),
        out_shardings=(places, None),
    )
    arguments = jax.device_put(params, places), sharding.to_global(make_batch(config), mesh)
    return run.lower(*arguments).compile(), *arguments


@pytest.fixture(scope="module", params=KINDS)
def alone(request, tiny_config, random_params):
    """The kind of model, its config, its parameters and what one device computes, in one piece and keeping all activations."""
    config = dataclasses.replace(tiny_config, classifier_dropout_prob=0.0)
    model = KINDS[request.param][0](config, execution=Execution())
    assert model.execution.scan_layers, "the default"
    params = random_params(model, IDS)
    return request.param, config, params, gradients(config, params, request.param, (1, 1, 1), Execution(), 1)


@pytest.mark.parametrize(("shape", "remat", "accumulation"), CASES)
def test_loss_and_every_gradient_are_those_of_one_device(alone, shape, remat, accumulation):
    kind, config, params, expected = alone
    found = gradients(config, params, kind, shape, Execution(remat=remat), accumulation)
    assert_same(found, expected)


def test_a_vocabulary_that_does_not_divide_is_split_by_width_and_computes_the_same(tiny_config, random_params):
    config = dataclasses.replace(tiny_config, vocab_size=47)
    params = random_params(RemBertForMaskedLM(config), IDS)
    run = lambda shape: gradients(config, params, "pre-training", shape, Execution(), 1)  # noqa: E731
    expected = run((1, 1, 1))
    assert expected[0]["cls"]["decoder"]["embedding"].shape == (47, 24)
    assert_same(run((2, 2, 2)), expected)
    assert_same(run((2, 1, 4)), expected)


@pytest.mark.long
def test_dropout_of_micro_batches_does_not_depend_on_the_mesh(tiny_config, random_params):
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    params = random_params(RemBertForMaskedLM(config), IDS)
    expected = gradients(config, params, "pre-training", (1, 1, 1), Execution(), 2)
    for shape in MESHES:
        assert_same(gradients(config, params, "pre-training", shape, Execution(), 2), expected)
    without = gradients(tiny_config, params, "pre-training", (1, 1, 1), Execution(), 2)
    assert abs(expected[1]["loss"] - without[1]["loss"]) > 0.1


def test_copies_of_the_model_are_summed_once_and_not_in_every_micro_batch(tiny_config, random_params):
    params = random_params(RemBertForMaskedLM(tiny_config), IDS)
    with on((8, 1, 1)) as mesh:
        compiled, *_ = compile_gradients(tiny_config, params, "pre-training", mesh, Execution(), 2)
    inside, outside = collectives(compiled.as_text())
    assert not inside and outside == {"all-reduce"}
    with on((1, 8, 1)) as mesh:  # Here parameters are gathered for each micro-batch: the test sees what is in loops.
        compiled, *_ = compile_gradients(tiny_config, params, "pre-training", mesh, Execution(), 2)
    assert "all-gather" in collectives(compiled.as_text())[0]


def collectives(text):
    """Names of the operations between devices that a compiled program has inside and outside of loops."""
    blocks = {}
    for block in re.split(r"\n(?=\S)", text):
        if name := re.match(r"(?:ENTRY )?%?([\w.\-]+) ", block):
            blocks[name[1]] = block
    looped, left = set(), re.findall(r"body=%?([\w.\-]+)", text)
    while left:
        name = left.pop()
        if name not in looped:
            looped.add(name)
            left += re.findall(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)", blocks[name])
    inside, outside = set(), set()
    for name, block in blocks.items():
        found = re.findall(r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)\(", block)
        (inside if name in looped else outside).update(found)
    return inside, outside


def assert_same(found, expected):
    """Sums to 1e-6, and gradients to 1e-5 of the largest of their layer: a key's bias has none but rounding."""
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-6, err_msg=name)
    found, expected = tree.flatten(found[0]), tree.flatten(expected[0])
    assert found.keys() == expected.keys()
    for layer in {name.rpartition("/")[0] for name in expected}:
        own = [name for name in expected if name.rpartition("/")[0] == layer]
        largest = max(np.abs(expected[name]).max() for name in own)
        assert largest > 1e-3, layer
        for name in own:
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5 * largest, err_msg=name)
