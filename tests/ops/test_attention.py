"""Attention: worked examples, agreement of its implementations, documents that do not see each other, what is refused."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rembert_jax import sharding
from rembert_jax.config import Execution
from rembert_jax.errors import RemBertError
from rembert_jax.modeling.models import RemBertForMaskedLM
from rembert_jax.ops import attention
from rembert_jax.ops.attention import Visible


def visible(keys, segments=None, causal=False):
    return Visible(keys=jnp.array(keys) > 0, segments=None if segments is None else jnp.array(segments), causal=causal)


# Worked by hand.


def test_mask_of_padding():
    mask = visible([[1, 1, 0], [1, 0, 0]]).mask(3)
    assert mask.shape == (2, 1, 3, 3)
    np.testing.assert_array_equal(mask[0, 0].astype(int), [[1, 1, 0], [1, 1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(mask[1, 0].astype(int), [[1, 0, 0], [1, 0, 0], [1, 0, 0]])


def test_mask_of_segments_and_of_a_decoder():
    padding, segments = [[1, 1, 1, 1, 0]], [[1, 1, 2, 2, 0]]
    np.testing.assert_array_equal(
        visible(padding, segments).mask(5)[0, 0].astype(int),
        [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]],
    )
    np.testing.assert_array_equal(
        visible(padding, segments, causal=True).mask(5)[0, 0].astype(int),
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]],
    )


def test_mask_of_a_cache():
    slots = Visible(keys=jnp.array([[True, False, True, True, True]]), length=jnp.int32(2))
    np.testing.assert_array_equal(slots.mask(2)[0, 0].astype(int), [[1, 0, 1, 0, 0], [1, 0, 1, 1, 0]])


def test_probabilities_of_a_worked_example():
    # Head width 4, so scores are halved: 2 ln 3 and 0 become ln 3 and 0, that is 3:1. The second row sees no key.
    query = jnp.zeros((2, 1, 1, 4)).at[..., 0].set(2 * math.log(3))
    key = jnp.broadcast_to(jnp.array([[1.0, 0, 0, 0], [0.0, 0, 0, 0], [9.0, 0, 0, 0]])[None, :, None, :], (2, 3, 1, 4))
    found = attention.probabilities(query, key, visible([[1, 1, 0], [0, 0, 0]]))
    np.testing.assert_allclose(found[:, 0, 0], [[0.75, 0.25, 0.0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


def test_scores_of_bfloat16_queries_are_float32():
    # Scores 256 and 257 times 1/sqrt 2; bfloat16 has no 257, and both would be the same.
    query = jnp.array([256.0, 1.0], jnp.bfloat16)[None, None, None]
    keys = jnp.array([[1.0, 0.0], [1.0, 1.0]], jnp.bfloat16)[None, :, None]
    found = attention.probabilities(query, keys, visible([[1, 1]]))
    assert found.dtype == jnp.float32
    odds = np.exp(1 / np.sqrt(2.0))
    np.testing.assert_allclose(found.ravel(), [1 / (1 + odds), odds / (1 + odds)], rtol=1e-5)


def test_probabilities_are_dropped_before_they_weigh_the_values():
    # Two keys of equal score and values 1 and 3; of the probabilities only the second is kept, and doubled.
    keys, values = jnp.zeros((1, 2, 1, 4)), jnp.broadcast_to(jnp.array([1.0, 3.0])[None, :, None, None], (1, 2, 1, 4))
    drop = lambda weights: weights * jnp.array([0.0, 2.0])[None, None, None]  # noqa: E731
    found = attention.attention(keys, keys, values, visible([[1, 1]]), dropout=drop)
    np.testing.assert_allclose(found, 3.0)
    np.testing.assert_allclose(attention.attention(keys, keys, values, visible([[1, 1]])), 2.0)


# The TPU's kernel, interpreted.

LENGTH = 256


@pytest.fixture(scope="module")
def packed():
    """Two rows of 256 tokens, the first of three documents and padding: query, key, value and what may be seen."""
    rng = np.random.default_rng(0)
    heads = [jnp.asarray(rng.standard_normal((2, LENGTH, 3, 24)), jnp.float32) for _ in range(3)]
    segments = np.repeat([[1, 2, 3, 0], [1, 1, 1, 2]], LENGTH // 4, axis=1)
    segments[0, 50:64] = 2  # Documents end anywhere.
    return *heads, Visible(keys=jnp.asarray(segments > 0), segments=jnp.asarray(segments))


def value_and_gradients(function, packed):
    *heads, seen = packed
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(heads[0].shape), jnp.float32)
    weights = weights * (seen.segments > 0)[:, :, None, None]  # What padding attends to means nothing.

    def loss(*heads):
        found = function(*heads, seen)
        return jnp.sum(found * weights), found

    gradients, found = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*heads)
    real = np.asarray(seen.segments > 0)
    return np.asarray(found)[real], gradients


@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_for_tpus_agrees(packed, causal):
    packed = (*packed[:3], packed[3].replace(causal=causal))
    expected, wanted = value_and_gradients(attention.attention, packed)
    found, gradients = value_and_gradients(partial(attention._splash, interpret=True), packed)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for one, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_kernel_for_tpus_agrees_on_a_mesh(packed):
    expected, _ = value_and_gradients(attention.attention, packed)
    heads = [jnp.concatenate([x, x[:, :, :1]], axis=2) for x in packed[:3]]  # Four heads, two on a device.
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    with jax.set_mesh(mesh):
        split = PartitionSpec(("data", "fsdp"), None, "tensor")
        kernel = attention._on_mesh(partial(attention._splash, interpret=True), split)
        found = jax.jit(kernel)(*heads, packed[3])
    real = np.asarray(packed[3].segments > 0)
    np.testing.assert_allclose(np.asarray(found)[real][:, :3], expected, atol=1e-5)


def splash(*arguments):
    return attention._splash(*arguments, interpret=True)


@pytest.mark.parametrize("function", [attention.attention, splash], ids=["xla", "splash"])
def test_no_gradient_passes_from_one_document_to_another(packed, function):
    query, key, value, seen = packed
    second = np.asarray(seen.segments[0] == 2)

    def loss(key, value):
        return jnp.sum(function(query, key, value, seen)[0] ** 2 * second[:, None, None])

    for gradient in map(np.asarray, jax.jit(jax.grad(loss, argnums=(0, 1)))(key, value)):
        assert (gradient[1] == 0).all() and (gradient[0][~second] == 0).all()
        assert (np.abs(gradient[0][second]).max(axis=(1, 2)) > 0).all()


def test_a_row_that_sees_nothing_attends_evenly(packed):
    query, key, value, _ = packed
    nothing = Visible(keys=jnp.zeros((2, LENGTH), bool))
    for function in (attention.attention, splash):
        found = jax.jit(function)(query, key, value, nothing)
        np.testing.assert_allclose(found, np.broadcast_to(value.mean(1, keepdims=True), found.shape), atol=1e-5)


def test_the_kernels_for_tpus_save_nothing_of_the_size_of_the_probabilities(packed):
    *heads, seen = packed
    _, back = jax.eval_shape(lambda *heads: jax.vjp(lambda *h: splash(*h, seen), *heads), *heads)
    largest = max(math.prod(leaf.shape) for leaf in jax.tree.leaves(back))
    assert largest <= heads[0].size < 2 * LENGTH * LENGTH


# Which one is taken.


def shapes(length=128, width=64, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct((2, length, 4, width), dtype)


SEEN = Visible(keys=jnp.ones((2, 128), bool))


@pytest.mark.parametrize(
    ("platform", "query", "seen", "dropout", "expected"),
    [
        ("tpu", shapes(), SEEN, False, "splash"),
        ("tpu", shapes(dtype=jnp.float32, width=24), SEEN, False, "splash"),
        ("tpu", shapes(length=100), SEEN, False, "xla"),
        ("tpu", shapes(), SEEN, True, "xla"),
        ("tpu", shapes(), SEEN.replace(length=jnp.int32(0)), False, "xla"),
        ("gpu", shapes(), SEEN, False, "cudnn"),
        ("cuda", shapes(length=100), SEEN, False, "cudnn"),
        ("gpu", shapes(length=101), SEEN, False, "xla"),
        ("gpu", shapes(width=12), SEEN, False, "xla"),
        ("gpu", shapes(width=256), SEEN, False, "xla"),
        ("gpu", shapes(dtype=jnp.float32), SEEN, False, "xla"),
        ("gpu", shapes(), SEEN, True, "xla"),
        ("cpu", shapes(), SEEN, False, "xla"),
    ],
)
def test_the_fused_one_of_the_platform_is_taken_where_it_can(monkeypatch, platform, query, seen, dropout, expected):
    monkeypatch.setattr(attention, "platform", lambda: platform)
    assert attention.choose(query, query, seen, dropout=dropout) == expected
    assert attention.choose(query, query, seen, "xla", dropout) == "xla"


def test_the_platform_is_that_of_the_mesh(monkeypatch):
    with jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])):
        monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
        assert attention.platform() == "cpu"
    assert attention.platform() == "tpu"


def test_the_kernel_for_tpus_takes_rows_and_heads_that_the_mesh_divides(monkeypatch):
    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    split = PartitionSpec(("data", "fsdp"), None, "tensor")
    query = jax.ShapeDtypeStruct((4, 128, 6, 64), jnp.float32)
    for sizes, expected in (((2, 2, 2), "splash"), ((4, 1, 2), "splash"), ((8, 1, 1), "xla"), ((2, 1, 4), "xla")):
        with jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(**dict(zip(sharding.AXES, sizes, strict=True))))):
            assert attention.choose(query, query, SEEN, split=split) == expected
            if expected == "xla":
                message = r"needs rows and heads that are multiples of \d and \d, .* and has 4 and 6; take auto or xla"
                with pytest.raises(RemBertError, match=message):
                    attention.choose(query, query, SEEN, "splash", split=split)
    assert attention.choose(query, query, SEEN, split=split) == "splash", "without a mesh"


@pytest.mark.parametrize("name", ["splash", "cudnn"])
def test_parameters_are_made_whatever_attention_is_asked_for(tiny_config, name):
    model = RemBertForMaskedLM(tiny_config, Execution(attention=name))
    ids = jnp.ones((1, 2), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), ids)
    with pytest.raises(RemBertError, match=f"attention='{name}' runs on"):
        jax.eval_shape(model.apply, params, ids)


@pytest.mark.parametrize(
    ("name", "platform", "length", "message"),
    [
        ("splash", "cpu", 128, r"attention='splash' runs on tpu, and this is cpu; take auto or xla"),
        ("cudnn", "cpu", 128, r"attention='cudnn' runs on cuda and gpu, and this is cpu; take auto or xla"),
        (
            "splash",
            "tpu",
            100,
            r"attention='splash' needs as many .* a multiple of 128, and has 100 and 100; take auto",
        ),
        ("cudnn", "gpu", 99, r"attention='cudnn' needs an even number of queries and keys and has 99 and 99"),
        ("flash", "tpu", 128, r"attention='flash': expected one of auto, splash, cudnn, xla"),
    ],
)
def test_what_is_asked_for_by_name_and_cannot_be_is_refused(monkeypatch, name, platform, length, message):
    monkeypatch.setattr(attention, "platform", lambda: platform)
    with pytest.raises(RemBertError, match=message):
        attention.choose(shapes(length), shapes(length), SEEN, name)
