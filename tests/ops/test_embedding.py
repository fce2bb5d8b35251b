"""Lookup in a table that is split over a mesh: what it gives, its gradient, and that the table stays where it is."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rembert_jax import sharding
from rembert_jax.ops.embedding import lookup
from rembert_jax.ops.split import Split

SPLIT = Split(rows=("data", "fsdp"), vocabulary="tensor", width="fsdp")
POSITIONS = Split(rows=("data", "fsdp"), width="fsdp")
MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 2, 4), (4, 2, 1)]
WIDTH = 16


def arguments(words):
    rng = np.random.default_rng(words)
    table = rng.standard_normal((words, WIDTH)).astype(np.float32)
    ids = rng.integers(0, words, (8, 5)).astype(np.int32)
    ids[0] = words - 1
    return table, ids


def on_mesh(shape, function, table, ids, split):
    """The function's result and its compiled text, with table and ids placed as in training."""
    mesh = sharding.make_mesh(sharding.MeshConfig(**dict(zip(sharding.AXES, shape, strict=True))))
    stored = PartitionSpec(split.vocabulary, split.width)
    if split.vocabulary and table.shape[0] % mesh.shape[split.vocabulary]:
        stored = PartitionSpec(None, (split.width, split.vocabulary))
    with jax.set_mesh(mesh):
        table = jax.device_put(table, NamedSharding(mesh, stored))
        ids = jax.device_put(ids, NamedSharding(mesh, PartitionSpec(split.rows)))
        compiled = jax.jit(function, out_shardings=None).lower(table, ids).compile()
        return jax.device_get(compiled(table, ids)), compiled.as_text()


@pytest.mark.parametrize(("words", "split"), [(24, SPLIT), (23, SPLIT), (12, POSITIONS)], ids=str)
@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_rows_and_gradient_are_those_of_one_device(shape, words, split):
    table, ids = arguments(words)
    weights = np.random.default_rng(0).standard_normal((*ids.shape, WIDTH)).astype(np.float32)

    def run(table, ids):
        def loss(table):
            rows = lookup(table, ids, split)
            return jnp.sum(rows * weights), rows

        return jax.grad(loss, has_aux=True)(table)

    (gradient, rows), _ = on_mesh(shape, run, table, ids, split)
    np.testing.assert_array_equal(rows, table[ids])
    expected = np.zeros_like(table)
    np.add.at(expected, ids, weights)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("words", [24, 23])
@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2)], ids=str)
def test_no_table_is_sent(shape, words):
    table, ids = arguments(words)

    def run(table, ids):
        return jax.grad(lambda table: jnp.sum(lookup(table, ids, SPLIT) ** 2))(table)

    _, text = on_mesh(shape, run, table, ids, SPLIT)
    sent = re.findall(r"= \(?f32\[([\d,]+)\]\S* (all-gather|all-to-all|collective-permute)\(", text)
    assert all(int(sizes.split(",")[0]) < 12 for sizes, _ in sent), sent


def test_rows_that_the_mesh_does_not_divide_are_found_too():
    table, ids = arguments(24)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        rows = jax.jit(lambda table, ids: lookup(table, ids, SPLIT))(table, ids[:3])
    np.testing.assert_array_equal(rows, table[ids[:3]])
