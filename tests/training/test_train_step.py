import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rembert_jax.modeling.models import RemBertForMaskedLM
from rembert_jax.training import objectives
from rembert_jax.training.optimizer import OptimizerConfig, learning_rate_schedule, make_optimizer
from rembert_jax.training.train_state import TrainState
from rembert_jax.training.train_step import make_train_step, summed_gradients, with_frozen

CONFIG = OptimizerConfig(learning_rate=0.1, warmup_steps=1, eps=0.1)
TX = make_optimizer(CONFIG, 10)
PARAMS = {"kernel": jnp.array([0.5, -1.0, 2.0])}
KEY = jax.random.key(0)
# Weights by micro-batch of two (rows 0, 2, 4 and 1, 3, 5): 1 and 12. A mean of means would not be the mean.
BATCH = {
    "x": jnp.array([[1.0, 2, 3], [0, 1, 0], [4, 0, 1], [2, 2, 2], [1, 0, 0], [0, 3, 1]]),
    "y": jnp.array([1.0, 0, 2, -1, 3, 1]),
    "weight": jnp.array([1.0, 3, 0, 4, 0, 5]),
}


def regression(params, batch, key):
    error = (batch["x"] @ params["kernel"] - batch["y"]) ** 2
    weight = batch["weight"].sum()
    return {"loss": (error * batch["weight"]).sum(), "weight": weight, "correct": jnp.zeros(())}


def noise(params, batch, key):
    loss = jax.random.uniform(key) * params["kernel"].sum() + 0.0 * batch["x"].sum()
    return {"loss": loss, "weight": jnp.ones(()), "correct": jnp.zeros(())}


def new_state(params=PARAMS, tx=TX):
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params), healthy=jnp.ones((), bool)
    )


def step_of(objective, tx=TX, seed=0, accumulation=1):
    schedule = learning_rate_schedule(CONFIG, 10)
    return jax.jit(make_train_step(objective, tx, seed=seed, accumulation=accumulation, schedule=schedule))


@pytest.mark.parametrize("accumulation", [2, 3])
def test_accumulated_micro_batches_of_unequal_weight_equal_one_batch(accumulation):
    whole, whole_sums = step_of(regression)(new_state(), BATCH)
    parts, parts_sums = step_of(regression, accumulation=accumulation)(new_state(), BATCH)
    assert float(parts_sums["weight"]) == 13.0
    for name in ("loss", "grad_norm", "learning_rate"):
        np.testing.assert_allclose(parts_sums[name], whole_sums[name], rtol=1e-6)
    np.testing.assert_allclose(parts.params["kernel"], whole.params["kernel"], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), parts.opt_state, whole.opt_state)


def test_sums_and_gradient_norm_of_a_worked_batch():
    batch = {"x": jnp.array([[1.0, 0, 0], [0, 1, 0]]), "y": jnp.array([0.0, 0.0]), "weight": jnp.array([1.0, 3.0])}
    _, sums = step_of(regression)(new_state(), batch)
    # Errors 0.25 and 1 of weights 1 and 3; the gradient of their weighted mean is (2*0.5, 3*2*-1, 0) / 4.
    assert float(sums["loss"]) == 3.25
    assert float(sums["weight"]) == 4.0
    assert float(sums["grad_norm"]) == pytest.approx(np.hypot(0.25, 1.5), rel=1e-6)
    assert float(sums["learning_rate"]) == pytest.approx(0.05, rel=1e-6)
    assert bool(sums["finite"])


def test_micro_batches_take_every_row_once_and_draw_their_own_noise():
    seen = []

    def objective(params, batch, key):
        jax.debug.callback(lambda x: seen.append(tuple(x.tolist())), batch["y"])
        return noise(params, batch, key)

    gradients, sums = summed_gradients(objective, PARAMS, BATCH, KEY, 2)
    jax.effects_barrier()
    assert sorted(seen) == [(0.0, -1.0, 1.0), (1.0, 2.0, 3.0)]
    draws = [float(jax.random.uniform(jax.random.fold_in(KEY, i))) for i in range(2)]
    assert draws[0] != draws[1]
    np.testing.assert_allclose(gradients["kernel"], sum(draws), rtol=1e-6)
    assert float(sums["weight"]) == 2.0


def test_noise_differs_by_step_and_seed_and_is_the_same_when_repeated():
    step = step_of(noise, tx=optax.set_to_zero())
    state = new_state(tx=optax.set_to_zero())
    losses = []
    for _ in range(3):
        _, again = step(state, BATCH)
        state, sums = step(state, BATCH)
        assert float(sums["loss"]) == float(again["loss"])
        losses.append(float(sums["loss"]))
    assert int(state.step) == 3
    assert len(set(losses)) == 3
    _, other_seed = step_of(noise, tx=optax.set_to_zero(), seed=1)(new_state(tx=optax.set_to_zero()), BATCH)
    assert float(other_seed["loss"]) not in losses


def infinite_loss(batch):
    return {**batch, "x": batch["x"].at[1, 1].set(jnp.inf)}


def infinite_gradient(batch):
    # The squared error stays below 3.4e38 while its gradient, error times x, does not.
    return {**batch, "x": batch["x"].at[1].set(jnp.array([0.0, 0.0, 1e19])) * 0.9, "weight": batch["weight"] / 12}


def infinite_rate(batch):
    return batch


@pytest.mark.parametrize("spoil", [infinite_loss, infinite_gradient, infinite_rate])
def test_a_value_that_is_not_finite_stops_all_learning(spoil):
    step = step_of(regression)
    good, _ = step(new_state(), BATCH)
    if spoil is infinite_rate:
        step = jax.jit(make_train_step(regression, TX, seed=0, accumulation=1, schedule=lambda step: jnp.inf))
    spoilt, sums = step(good, spoil(BATCH))
    if spoil is not infinite_loss:
        assert np.isfinite(sums["loss"])
    assert np.isfinite(sums["grad_norm"]) == (spoil is infinite_rate)
    assert not bool(sums["finite"]) and not bool(spoilt.healthy)
    later, sums = step(spoilt, BATCH)
    assert not bool(later.healthy), "a good batch does not heal"
    assert bool(sums["finite"]) == (spoil is not infinite_rate)
    for state in (spoilt, later):
        for before, after in zip(
            jax.tree.leaves(good), jax.tree.leaves(state.replace(healthy=good.healthy)), strict=True
        ):
            np.testing.assert_array_equal(before, after)


@pytest.fixture
def optimised():
    """The compiler as a run has it."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def test_parameters_and_moments_are_updated_in_place(optimised):
    """Beside them there is only the gradient."""
    step = make_train_step(regression, TX, seed=0, accumulation=1, schedule=learning_rate_schedule(CONFIG, 10))
    state = jax.eval_shape(lambda: new_state({"kernel": jnp.zeros(2**20)}))
    batch = {"x": jnp.zeros((2, 2**20)), "y": jnp.zeros(2), "weight": jnp.ones(2)}
    memory = jax.jit(step, donate_argnums=0).lower(state, batch).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1.1 * 4 * 2**20


def test_a_batch_without_predictions_gives_a_zero_gradient():
    _, sums = step_of(regression)(new_state(), {**BATCH, "weight": jnp.zeros(6)})
    assert (float(sums["loss"]), float(sums["weight"]), float(sums["grad_norm"])) == (0.0, 0.0, 0.0)
    assert bool(sums["finite"])


def test_a_tiny_model_learns_its_batch(tiny_config, tiny_batch, random_params):
    model = RemBertForMaskedLM(tiny_config)
    config = OptimizerConfig(learning_rate=0.01)
    tx, schedule = make_optimizer(config, 30), learning_rate_schedule(config, 30)
    step = jax.jit(make_train_step(objectives.masked_lm(model), tx, seed=0, accumulation=1, schedule=schedule))
    params = random_params(model, jax.ShapeDtypeStruct((1, 4), jnp.int32))
    state = new_state(jax.tree.map(lambda leaf: 0.3 * leaf, params), tx)
    batch = {name: jnp.asarray(value) for name, value in tiny_batch.items()}
    means = []
    for _ in range(30):
        state, sums = step(state, batch)
        means.append(float(sums["loss"]) / float(sums["weight"]))
    assert 3.0 < means[0] < 6.0  # Chance is ln 48 = 3.9.
    assert means[-1] < 0.5 * means[0]
    assert int(state.step) == 30 and bool(state.healthy)


def test_a_penalty_is_learnt_from_and_reported_by_itself():
    def objective(params, batch, key):
        return {**regression(params, batch, key), "penalty": 13.0 * params["kernel"].sum()}

    (plain, plain_sums), (other, sums) = (step_of(one)(new_state(), BATCH) for one in (regression, objective))
    assert float(sums["loss"]) == float(plain_sums["loss"])
    assert float(sums["penalty"]) == pytest.approx(13.0 * 1.5)
    # The weights of the batch sum to 13, so each gradient is larger by 1.
    gradients = [summed_gradients(one, PARAMS, BATCH, KEY, 2)[0]["kernel"] for one in (regression, objective)]
    np.testing.assert_allclose(gradients[1] - gradients[0], 2 * 13.0, rtol=1e-5)  # Once in each micro-batch.
    assert (np.asarray(plain.params["kernel"]) != np.asarray(other.params["kernel"])).any()


def test_frozen_parameters_leave_dropout_on():
    held = with_frozen(noise, lambda params: {"kernel": False})
    gradients = [summed_gradients(held, PARAMS, BATCH, jax.random.key(seed), 1)[0]["kernel"] for seed in (0, 1)]
    assert gradients[0][0] != gradients[1][0]


def test_a_batch_with_a_single_prediction_counts_as_one():
    batch = {"x": jnp.array([[1.0, 0, 0]]), "y": jnp.array([0.0]), "weight": jnp.array([1.0])}
    _, sums = step_of(regression)(new_state(), batch)
    assert float(sums["grad_norm"]) == pytest.approx(2 * 0.5)


def test_frozen_parameters_have_no_gradient_and_no_part_in_its_norm():
    params = {"kernel": PARAMS["kernel"], "scale": jnp.array(2.0)}

    def objective(params, batch, key):
        return regression({"kernel": params["kernel"] * params["scale"]}, batch, key)

    held = with_frozen(objective, lambda params: {name: name == "scale" for name in params})
    whole, part = (summed_gradients(one, params, BATCH, KEY, 1)[0] for one in (objective, held))
    assert float(part["scale"]) == 0.0 and float(whole["scale"]) != 0.0
    np.testing.assert_array_equal(part["kernel"], whole["kernel"])
    _, sums = step_of(held, make_optimizer(CONFIG, 10))(new_state(params), BATCH)
    assert float(sums["grad_norm"]) == pytest.approx(float(jnp.linalg.norm(whole["kernel"])) / 13.0, rel=1e-5)
