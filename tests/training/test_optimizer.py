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
from rembert_jax.training.optimizer import (
    OptimizerConfig,
    check_names,
    decayed,
    frozen,
    learning_rate_schedule,
    make_optimizer,
    matrices,
)

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
        ({"learning_rate_factors": {"dense": -1.0}}, r"learning_rate_factors\['dense'\]=-1\.0: expected at least 0"),
        ({"weight_decay_factors": {"dense": float("inf")}}, r"weight_decay_factors\['dense'\]=inf"),
    ],
)
def test_wrong_values_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**{"learning_rate": 1e-3, **changes})


def test_values_at_their_least_are_taken():
    least = {"b1": 0.0, "b2": 0.0, "weight_decay": 0.0, "clip_norm": 0.0, "warmup_steps": 0, "accumulation": 1}
    config = OptimizerConfig(learning_rate=1e-9, learning_rate_factors={"dense": 0.0}, **least)
    assert {name: getattr(config, name) for name in least} == least


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


def two_updates(name, parameter, gradients):
    """The second update of one parameter, without decay and clipping of the gradient, at a learning rate of 1."""
    config = OptimizerConfig(
        learning_rate=1.0, decay="constant", name=name, b1=0.8, b2=0.9, weight_decay=0.0, clip_norm=0.0
    )
    tx = make_optimizer(config, 10)
    params = {"dense": {"kernel": jnp.asarray(parameter, jnp.float32)}}
    updates, state = params, tx.init(params)
    for gradient in gradients:
        updates, state = tx.update({"dense": {"kernel": jnp.asarray(gradient, jnp.float32)}}, state, params)
    return np.asarray(updates["dense"]["kernel"])


def test_lamb_is_the_direction_of_adam_as_long_as_the_parameter():
    parameter, gradients = np.array([[3.0, 4.0]]), np.array([[[1.0, 1.0]], [[1.0, -2.0]]])
    first = (0.8 * 0.2 * gradients[0] + 0.2 * gradients[1]) / (1 - 0.8**2)
    second = (0.9 * 0.1 * gradients[0] ** 2 + 0.1 * gradients[1] ** 2) / (1 - 0.9**2)
    direction = first / (np.sqrt(second) + 1e-6)
    expected = -5.0 * direction / np.linalg.norm(direction)  # The parameter is 5 long.
    np.testing.assert_allclose(two_updates("lamb", parameter, gradients), expected, rtol=1e-5)


def test_adafactor_limits_the_root_mean_square_of_an_update_to_one():
    # Moments of the second step: a share of 2 ** -0.8 = 0.574 is new.
    for small, expected in ((10.0, 1.0), (0.1, 0.1 / np.sqrt(0.4257 + 0.5743 * 0.01))):
        updates = two_updates("adafactor", np.ones((2, 3)), [np.ones((2, 3)), np.full((2, 3), small)])
        np.testing.assert_allclose(updates, -expected, rtol=1e-3)  # Of 10, 10 / sqrt(0.43 + 57.4) would be 1.31.


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "muon"])
def test_without_gradient_only_matrices_decay(name):
    tx = make_optimizer(OptimizerConfig(learning_rate=0.1, name=name, weight_decay=0.5), 10)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), PARAMS)
    # LAMB rescales its update to the norm of the parameter, so there the decay's own factor cancels.
    factor = {"adamw": 0.1 * 0.5, "lamb": 0.1, "adafactor": 0.1 * 0.5, "muon": 0.1 * 0.5}[name]
    np.testing.assert_allclose(updates["dense"]["kernel"], -factor * PARAMS["dense"]["kernel"], rtol=1e-6)
    for layer, leaf in (("dense", "bias"), ("LayerNorm", "scale"), ("LayerNorm", "bias")):
        np.testing.assert_array_equal(updates[layer][leaf], 0.0)


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "muon"])
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


def one_update(params, gradients, **changes):
    tx = make_optimizer(OptimizerConfig(**{"learning_rate": 0.1, "decay": "constant", "clip_norm": 0.0, **changes}), 10)
    return tx.update(gradients, tx.init(params), params)[0]


def test_muon_levels_the_singular_values_of_a_matrix_and_leaves_the_rest_to_adam():
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(48, 16)))
    right, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    gradient = (left * np.geomspace(1.0, 0.05, 16)) @ right.T
    params = {"rembert": {"pooler": {"kernel": jnp.zeros((48, 16)), "bias": jnp.zeros(16)}},
              "cls": {"decoder": {"embedding": jnp.zeros((48, 16))}},
              "classifier": {"dense": {"kernel": jnp.zeros((48, 16))}}}  # fmt: skip
    gradients = jax.tree.map(lambda leaf: jnp.asarray(gradient[0] if leaf.ndim == 1 else gradient, jnp.float32), params)
    muon = one_update(params, gradients, name="muon", weight_decay=0.0)
    adam = one_update(params, gradients, name="adamw", weight_decay=0.0)
    assert jax.tree.leaves(matrices(params)) == [False, False, False, True]  # classifier, decoder, bias, kernel
    assert jax.tree.leaves(matrices({"qa_outputs": {"kernel": jnp.zeros((48, 2))}})) == [False]

    # -U V^T, each singular value of which the iteration leaves between 0.68 and 1.13 (Jordan 2024), times
    # 0.2 sqrt(max(48, 16)), so that the root mean square of the update is that of Adam, and times the learning rate.
    inner = -left.T @ np.asarray(muon["rembert"]["pooler"]["kernel"], np.float64) @ right / (0.1 * 0.2 * np.sqrt(48))
    assert np.diag(inner).min() > 0.6 and np.diag(inner).max() < 1.2
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 0.01
    for path in (("rembert", "pooler", "bias"), ("cls", "decoder", "embedding"), ("classifier", "dense", "kernel")):
        one, other = muon, adam
        for name in path:
            one, other = one[name], other[name]
        np.testing.assert_array_equal(one, other, err_msg=str(path))


def test_muon_of_a_transposed_problem_is_the_transposed_update():
    kernel = jax.random.normal(jax.random.key(0), (24, 10))
    updates = one_update({"a": {"kernel": kernel}}, {"a": {"kernel": kernel}}, name="muon", weight_decay=0.0)
    other = one_update({"a": {"kernel": kernel.T}}, {"a": {"kernel": kernel.T}}, name="muon", weight_decay=0.0)
    np.testing.assert_allclose(updates["a"]["kernel"], other["a"]["kernel"].T, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "muon"])
def test_frozen_parameters_stay_and_the_others_learn_as_without_them(name):
    params, gradients = ({"rembert": tree, "other": tree} for tree in (PARAMS, GRADIENTS))
    changes = {"name": name, "weight_decay": 0.1, "clip_norm": 0.5}
    updates = one_update(params, gradients, freeze=("rembert/dense", "other"), **changes)
    for leaf in jax.tree.leaves((updates["other"], updates["rembert"]["dense"])):
        np.testing.assert_array_equal(leaf, 0.0)
    # They neither count in the norm that is clipped.
    alone = one_update({"LayerNorm": PARAMS["LayerNorm"]}, {"LayerNorm": GRADIENTS["LayerNorm"]}, **changes)
    jax.tree.map(np.testing.assert_array_equal, updates["rembert"]["LayerNorm"], alone["LayerNorm"])
    assert np.abs(updates["rembert"]["LayerNorm"]["bias"]).min() > 0


def test_a_frozen_parameter_has_no_moments():
    def size(freeze):
        tx = make_optimizer(OptimizerConfig(learning_rate=0.1, freeze=freeze), 10)
        return sum(leaf.size for leaf in jax.tree.leaves(tx.init(PARAMS)))

    assert size(()) - size(("dense",)) == 2 * 6


def test_factors_scale_the_update_and_the_decay_of_what_they_name():
    still = jax.tree.map(jnp.zeros_like, PARAMS)
    factors = {"dense": 2.0, "kernel": 7.0, "dense/kernel": 0.5, "dense/bias": 3.0}  # The longest name counts.
    plain, scaled = (one_update(PARAMS, GRADIENTS, weight_decay=0.3, learning_rate_factors=f) for f in ({}, factors))
    for path, factor in ((("dense", "kernel"), 0.5), (("dense", "bias"), 3.0), (("LayerNorm", "bias"), 1.0)):
        np.testing.assert_allclose(scaled[path[0]][path[1]], factor * plain[path[0]][path[1]], rtol=1e-6)
    decay = one_update(PARAMS, still, weight_decay=0.3, weight_decay_factors={"kernel": 0.5, "LayerNorm": 7.0})
    np.testing.assert_allclose(decay["dense"]["kernel"], -0.1 * 0.3 * 0.5 * PARAMS["dense"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(decay["LayerNorm"]["scale"], 0.0)  # Layer norms do not decay, whatever the factor.


def test_names_are_whole_parts_of_a_path():
    params = {"rembert": {"layer_1": {"kernel": 1.0}, "layer_10": {"kernel": 1.0}}}
    config = OptimizerConfig(learning_rate=0.1, freeze=("layer_1",))
    assert frozen(config, params) == {"rembert": {"layer_1": {"kernel": True}, "layer_10": {"kernel": False}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": ("dens",)}, r"optimizer\.freeze: no parameter has 'dens' in its path; there are LayerNorm, dense"),
        ({"learning_rate_factors": {"encoder": 0.1}}, r"optimizer\.learning_rate_factors: no parameter has 'encoder'"),
        ({"weight_decay_factors": {"encoder": 0.1}}, r"optimizer\.weight_decay_factors: no parameter has 'encoder'"),
        ({"freeze": ("dense", "LayerNorm")}, "leaves no parameter to train"),
    ],
)
def test_names_that_fit_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check_names(OptimizerConfig(learning_rate=0.1, **changes), PARAMS)
