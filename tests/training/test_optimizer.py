import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from rembert_jax.config import Execution
from rembert_jax.modeling.encoder import unstack_layers
from rembert_jax.modeling.models import RemBertForMaskedLM, RemBertForSequenceClassification
from rembert_jax.training.optimizer import OptimizerConfig, decayed, learning_rate_schedule, make_optimizer

PARAMS = {
    "dense": {"kernel": jnp.array([[1.0, -2.0], [0.5, 4.0]]), "bias": jnp.array([1.0, 3.0])},
    "LayerNorm": {"scale": jnp.array([1.5, 1.0]), "bias": jnp.array([-1.0, 2.0])},
}
GRADIENTS = {
    "dense": {"kernel": jnp.array([[0.3, -0.1], [0.0, 2.0]]), "bias": jnp.array([0.2, -0.4])},
    "LayerNorm": {"scale": jnp.array([0.1, 0.0]), "bias": jnp.array([-0.5, 0.6])},
}


def rates(steps, **changes):
    schedule = learning_rate_schedule(OptimizerConfig(learning_rate=2.0, **changes), steps)
    return [float(schedule(count)) for count in range(steps + 1)]


def test_linear_schedule_rises_from_its_first_step_and_falls_to_zero():
    expected = [0.5, 1.0, 1.5, 2.0, 1.6, 1.2, 0.8, 0.4, 0.0]
    assert rates(8, warmup_steps=3) == pytest.approx(expected, abs=1e-6)


def test_cosine_schedule():
    expected = [1.0, 2.0, 1.7071068, 1.0, 0.2928932, 0.0]
    assert rates(5, warmup_steps=1, decay="cosine") == pytest.approx(expected, abs=1e-6)


def test_constant_schedule():
    assert rates(5, warmup_steps=1, decay="constant") == pytest.approx([1.0, 2.0, 2.0, 2.0, 2.0, 2.0], abs=1e-6)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_without_warm_up_the_first_update_has_the_peak_and_the_last_is_near_zero(decay):
    values = rates(200, decay=decay)
    assert values[0] == 2.0
    assert 0.0 < values[199] <= 2.0 / 200 * 1.001
    assert all(earlier > later for earlier, later in itertools.pairwise(values))


@pytest.mark.parametrize("steps", [3, 2])
def test_warm_up_that_fills_the_run_is_refused(steps):
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=3)
    with pytest.raises(ValueError, match=rf"optimizer\.warmup_steps=3 is not shorter than the run of {steps} steps"):
        make_optimizer(config, steps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, r"learning_rate=0\.0: expected a positive number"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"accumulation": 0}, "accumulation=0"),
        ({"b1": 1.0}, r"b1=1\.0: expected a number in \[0, 1\)"),
        ({"b2": -0.1}, r"b2=-0\.1: expected a number in \[0, 1\)"),
        ({"eps": 0.0}, r"eps=0\.0: expected a positive number"),
        ({"weight_decay": -0.01}, r"weight_decay=-0\.01: expected at least 0"),
        ({"clip_norm": -1.0}, r"clip_norm=-1\.0: expected at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: expected a positive number"),
        ({"eps": float("nan")}, "eps=nan: expected a positive number"),
        ({"weight_decay": float("nan")}, "weight_decay=nan: expected at least 0"),
        ({"clip_norm": float("nan")}, "clip_norm=nan: expected at least 0"),
    ],
)
def test_wrong_values_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**{"learning_rate": 1e-3, **changes})


def test_two_adamw_steps_equal_numpy():
    config = OptimizerConfig(
        learning_rate=0.1, warmup_steps=1, decay="constant", b1=0.8, b2=0.9, eps=0.01, weight_decay=0.5, clip_norm=0.0
    )
    tx = make_optimizer(config, 10)
    params, state = PARAMS, tx.init(PARAMS)
    for gradients in (GRADIENTS, PARAMS):
        updates, state = tx.update(gradients, state, params)
        params = optax.apply_updates(params, updates)

    for layer, name, decay in (("dense", "kernel", 0.5), ("dense", "bias", 0.0), ("LayerNorm", "scale", 0.0)):
        value = np.asarray(PARAMS[layer][name], np.float64)
        first, second = np.zeros_like(value), np.zeros_like(value)
        for step, (rate, tree) in enumerate(((0.05, GRADIENTS), (0.1, PARAMS)), start=1):
            gradient = np.asarray(tree[layer][name], np.float64)
            first = 0.8 * first + 0.2 * gradient
            second = 0.9 * second + 0.1 * gradient**2
            corrected = (first / (1 - 0.8**step)) / (np.sqrt(second / (1 - 0.9**step)) + 0.01)
            value = value - rate * (corrected + decay * value)
        np.testing.assert_allclose(params[layer][name], value, rtol=1e-6, err_msg=f"{layer}/{name}")


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor"])
def test_without_gradient_only_matrices_decay(name):
    tx = make_optimizer(OptimizerConfig(learning_rate=0.1, name=name, weight_decay=0.5), 10)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), PARAMS)
    # LAMB rescales its update to the norm of the parameter, so there the decay's own factor cancels.
    factor = {"adamw": 0.1 * 0.5, "lamb": 0.1, "adafactor": 0.1 * 0.5}[name]
    np.testing.assert_allclose(updates["dense"]["kernel"], -factor * PARAMS["dense"]["kernel"], rtol=1e-6)
    for layer, leaf in (("dense", "bias"), ("LayerNorm", "scale"), ("LayerNorm", "bias")):
        np.testing.assert_array_equal(updates[layer][leaf], 0.0)


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor"])
def test_stacked_layers_are_updated_like_separate_ones(name):
    # Of sizes that Adafactor factors, and of layers whose norms differ, so that a norm over all of them shows.
    rng, sizes = np.random.default_rng(0), np.array([1.0, 100.0, 0.01], np.float32)
    tx = make_optimizer(OptimizerConfig(learning_rate=0.1, name=name, clip_norm=0.0), 10)

    def tree(scale):
        kernel = rng.normal(size=(3, 128, 160)).astype(np.float32) * scale[:, None, None]
        bias = rng.normal(size=(3, 160)).astype(np.float32) * scale[:, None]
        return {"rembert": {"encoder": {"layer": {"output": {"kernel": kernel, "bias": bias}}}}}

    def separate(tree):
        return {"rembert": {"encoder": unstack_layers(tree["rembert"]["encoder"])}}

    def two_updates(params, *gradients):
        state = tx.init(params)
        for gradient in gradients:
            updates, state = jax.jit(tx.update)(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    params, *gradients = tree(sizes), tree(sizes[::-1]), tree(sizes)
    stacked = separate(two_updates(params, *gradients))
    loose = two_updates(separate(params), *map(separate, gradients))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), stacked, loose)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_decay_spares_exactly_the_vectors_of_a_real_model(tiny_config, scan_layers):
    from_axes, from_mask = set(), set()
    execution = Execution(scan_layers=scan_layers)
    ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    for model in (
        RemBertForMaskedLM(tiny_config, execution),
        RemBertForSequenceClassification(tiny_config, 3, execution),
    ):
        boxed = jax.eval_shape(model.init, jax.random.key(0), ids)["params"]
        axes = jax.tree.leaves(nn.get_partition_spec(boxed), is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))
        mask = jax.tree_util.tree_leaves_with_path(decayed(nn.unbox(boxed)))
        for (path, is_decayed), spec in zip(mask, axes, strict=True):
            key = jax.tree_util.keystr(path, simple=True, separator="/")
            if len([axis for axis in spec if axis != "layers"]) == 1:
                from_axes.add(key)
            if not is_decayed:
                from_mask.add(key)
    assert from_mask == from_axes
    assert {"rembert/embeddings/LayerNorm/scale", "cls/decoder/bias", "classifier/dense/bias"} <= from_mask


def test_gradients_are_clipped_to_the_global_norm_and_not_below():
    # With eps=1 Adam's update depends on the size of the gradient.
    def update(gradients, clip_norm):
        config = OptimizerConfig(learning_rate=0.1, eps=1.0, weight_decay=0.0, clip_norm=clip_norm)
        tx = make_optimizer(config, 10)
        return tx.update(gradients, tx.init(PARAMS), PARAMS)[0]["dense"]["kernel"]

    norm = float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(GRADIENTS))))
    shrunk = jax.tree.map(lambda leaf: leaf * (0.5 / norm), GRADIENTS)
    np.testing.assert_allclose(update(GRADIENTS, 0.5), update(shrunk, 0.0), rtol=1e-5)
    np.testing.assert_array_equal(update(GRADIENTS, norm * 1.01), update(GRADIENTS, 0.0))
    assert np.abs(update(GRADIENTS, 0.5) - update(GRADIENTS, 0.0)).max() > 0.01


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor"])
def test_each_optimizer_minimises_a_parabola(name):
    tx = make_optimizer(OptimizerConfig(learning_rate=0.1, name=name, weight_decay=0.0), 40)

    def distance(params):
        return sum(jnp.sum((leaf - 2.0) ** 2) for leaf in jax.tree.leaves(params))

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(distance)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, length=40))((PARAMS, tx.init(PARAMS)))
    assert float(distance(params)) < 0.5 * float(distance(PARAMS))
