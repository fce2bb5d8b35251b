"""The loss over a huge vocabulary against float64, in one piece, in tiles and on meshes; what it never keeps in memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rembert_jax import sharding
from rembert_jax.errors import RemBertError
from rembert_jax.ops import vocabulary_loss as ops
from rembert_jax.ops.split import Split
from rembert_jax.ops.vocabulary_loss import vocabulary_loss

SPLIT = Split(rows=("data", "fsdp"), vocabulary="tensor", width="fsdp")
WIDTH = 8


def problem(positions, vocabulary, weights=None):
    """Features, table, bias, labels (the last word among them) and weights, one of five 0."""
    rng = np.random.default_rng(positions + vocabulary)
    features = rng.standard_normal((positions, WIDTH)).astype(np.float32)
    table = rng.standard_normal((vocabulary, WIDTH)).astype(np.float32)
    bias = rng.standard_normal(vocabulary).astype(np.float32)
    labels = rng.integers(0, vocabulary, positions).astype(np.int32)
    labels[-1] = vocabulary - 1
    if weights is None:
        weights = (np.arange(positions) % 5 != 3).astype(np.float32)
    weights = np.broadcast_to(np.float32(weights), positions)
    return tuple(map(jnp.asarray, (features, table, bias, labels, weights)))


def reference(features, table, bias, labels, weights, z_loss=0.0):
    """Sums, and the gradients of loss and penalty together, in float64, a hundred positions at a time."""
    wide, labels = [np.asarray(x, np.float64) for x in (features, table, bias, weights)], np.asarray(labels)
    loss = correct = penalty = 0.0
    gradients = [np.zeros(x.shape) for x in wide[:3]]
    for start in range(0, len(labels), 100):
        part = slice(start, start + 100)
        logits = wide[0][part] @ wide[1].T + wide[2]
        normaliser = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
        rows, weight = np.arange(len(logits)), wide[3][part]
        loss += float(((normaliser - logits[rows, labels[part]]) * weight).sum())
        correct += float(((logits.argmax(1) == labels[part]) * weight).sum())
        penalty += float(z_loss * (normaliser**2 * weight).sum())
        by_logits = np.exp(logits - normaliser[:, None]) * (weight * (1 + 2 * z_loss * normaliser))[:, None]
        by_logits[rows, labels[part]] -= weight
        gradients[0][part] = by_logits @ wide[1]
        gradients[1] += by_logits.T @ wide[0][part]
        gradients[2] += by_logits.sum(0)
    return (loss, correct, penalty), gradients


def found(features, table, bias, labels, weights, z_loss=0.0):
    def loss(*learnt):
        sums = vocabulary_loss(*learnt, labels, weights, z_loss, SPLIT)
        return sums.loss, sums

    (_, sums), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(features, table, bias)
    plain = jax.jit(lambda *learnt: vocabulary_loss(*learnt, labels, weights, z_loss, SPLIT))(features, table, bias)
    for one, other in zip(sums, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    return tuple(map(float, sums)), gradients


def assert_agrees(arguments, z_loss=0.0):
    (sums, gradients), (expected, wanted) = found(*arguments, z_loss), reference(*arguments, z_loss)
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients, wanted, strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other)


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize(("positions", "tile"), [(1, 1), (77, 77), (8519, 8519), (77, 128), (8519, 256)])
def test_it_equals_float64_in_one_piece_and_in_tiles(positions, tile, z_loss, monkeypatch):
    monkeypatch.setattr(ops, "TILE_LOGITS", tile * 1300)
    assert_agrees(problem(positions, 1300), z_loss)


def test_it_equals_float64_over_the_released_vocabulary():
    assert_agrees(problem(77, 250_300))


@pytest.mark.parametrize("weights", [0.0, 1.0, 0.5])
def test_all_weights_are_alike(weights):
    arguments = problem(77, 1300, weights)
    assert_agrees(arguments)
    if weights == 0.0:
        sums, gradients = found(*arguments)
        assert sums == (0.0, 0.0, 0.0) and not any(np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("tile", [128, 100_000], ids=["chunked", "dense"])
@pytest.mark.parametrize(
    ("shape", "vocabulary"),
    [((8, 1, 1), 1300), ((1, 8, 1), 1300), ((1, 1, 8), 1304), ((2, 2, 2), 1300), ((2, 2, 2), 1301), ((1, 2, 4), 1303)],
    ids=str,
)
def test_it_equals_float64_on_a_mesh_also_where_words_do_not_divide(shape, vocabulary, tile, monkeypatch):
    monkeypatch.setattr(ops, "TILE_LOGITS", tile * 1300)
    arguments = problem(2000, vocabulary)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    with jax.set_mesh(mesh):
        assert_agrees(arguments, 0.01)


def test_of_equal_logits_the_first_word_counts_on_a_mesh_too():
    features, table, bias, _, weights = problem(16, 64)
    equal = (0 * features, table, 0 * bias, jnp.arange(16, dtype=jnp.int32) % 2, weights)
    with jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=1, tensor=4))):
        sums, _ = found(*equal)
    assert sums[1] == float(weights[::2].sum())


def test_positions_that_do_not_divide_are_refused():
    with jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2))):
        with pytest.raises(RemBertError, match=r"12 predicted positions .* mesh axes dataxfsdp=8; choose a batch"):
            vocabulary_loss(*problem(12, 64), split=SPLIT)


def sizes(jaxpr):
    """The number of values of every array that a program makes, with the programs inside it."""
    for equation in jaxpr.eqns:
        yield from (math.prod(v.aval.shape) for v in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def test_memory_is_that_of_a_tile_however_many_positions_there_are(monkeypatch):
    monkeypatch.setattr(ops, "TILE_LOGITS", 128 * 1300)

    def largest(positions):
        features, table, bias, labels, weights = problem(positions, 1300)
        loss = lambda *learnt: vocabulary_loss(*learnt, labels, weights).loss  # noqa: E731
        return max(sizes(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(features, table, bias).jaxpr))

    assert largest(1000) == largest(8519) == 128 * 1300


@pytest.mark.parametrize(
    ("positions", "vocabulary", "rows"),
    [(77, 1300, 77), (2464, 250_300, 1024), (1024, 250_300, 1024), (100_000, 30_000, 8832), (5000, 10_000_000, 128)],
)
def test_tiles_are_as_large_as_fits_whatever_the_positions(positions, vocabulary, rows):
    assert ops.tile_rows(positions, vocabulary) == rows
