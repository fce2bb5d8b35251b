import contextlib
import dataclasses
import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rembert_jax import sharding
from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.errors import RemBertError
from rembert_jax.modeling.heads import PredictionHead
from rembert_jax.modeling.models import RemBertForMaskedLM
from rembert_jax.sharding import MeshConfig
from rembert_jax.training import objectives, train_state
from rembert_jax.training.optimizer import OptimizerConfig, learning_rate_schedule, make_optimizer
from rembert_jax.training.train_step import make_train_step

# A large eps, as Adam's first update of a parameter is otherwise the sign of its gradient, be that rounding noise.
OPTIMIZER = OptimizerConfig(learning_rate=0.01, eps=1e-3)
IDS = jax.ShapeDtypeStruct((1, 4), jnp.int32)


def mesh_of(data, fsdp, tensor):
    return sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: data * fsdp * tensor])


@contextlib.contextmanager
def on(mesh):
    with jax.set_mesh(mesh), nn.logical_axis_rules(list(sharding.LOGICAL_RULES)):
        yield


def abstract_init(config):
    return lambda key: RemBertForMaskedLM(config).init(key, jnp.ones((1, 4), jnp.int32))["params"]


def leaf(tree, path):
    for name in path.split("/"):
        tree = tree[name]
    return tree


@pytest.fixture(scope="module")
def one_step(tiny_config, random_params):
    """Builds and updates a state on a mesh the way the trainer does, from the same parameters on every mesh."""
    model = RemBertForMaskedLM(tiny_config)
    values = random_params(model, IDS)
    tx, schedule = make_optimizer(OPTIMIZER, 10), learning_rate_schedule(OPTIMIZER, 10)

    def init(key):
        boxed = jax.eval_shape(model.init, key, IDS)["params"]
        is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
        return jax.tree.map(lambda box, value: box.replace_boxed(value), boxed, values, is_leaf=is_box)

    results = {}

    def run(shape, batch):
        if shape not in results:
            mesh = mesh_of(*shape)
            with on(mesh):
                shardings = train_state.state_shardings(init, tx, mesh)
                state = train_state.create(init, tx, 0, shardings)
                step = make_train_step(objectives.masked_lm(model), tx, seed=0, accumulation=1, schedule=schedule)
                step = jax.jit(step, out_shardings=(shardings, None))
                new, sums = step(state, sharding.to_global(batch, mesh))
            results[shape] = (state, new, sums)
        return results[shape]

    return run


def test_eight_devices():
    assert len(jax.devices()) == 8


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1), (2, 2, 2)], ids=str)
def test_a_training_step_is_the_same_on_every_mesh(one_step, tiny_batch, shape):
    _, alone, alone_sums = one_step((1, 1, 1), tiny_batch)
    state, new, sums = one_step(shape, tiny_batch)
    assert float(sums["weight"]) == 12.0
    assert float(sums["loss"]) == pytest.approx(float(alone_sums["loss"]), rel=1e-6)
    assert float(sums["correct"]) == float(alone_sums["correct"])
    assert float(sums["grad_norm"]) == pytest.approx(float(alone_sums["grad_norm"]), rel=1e-5)
    # A gradient off by 1e-7 moves a parameter by at most learning_rate * 1e-7 / eps = 1e-6.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), new.params, alone.params)
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), new.params, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_no_device_holds_more_than_its_part(one_step, tiny_batch):
    state, *_ = one_step((2, 2, 2), tiny_batch)
    for path, part in (
        ("rembert/embeddings/word_embeddings/embedding", (24, 4)),
        ("cls/decoder/embedding", (24, 12)),
        ("rembert/encoder/layer/intermediate/kernel", (2, 8, 16)),
    ):
        for tree in (state.params, state.opt_state[1][0].mu, state.opt_state[1][0].nu):
            assert {shard.data.shape for shard in leaf(tree, path).addressable_shards} == {part}, path


def test_parts_of_every_kind_of_parameter_follow_the_rules(tiny_config):
    # fsdp=2 and tensor=4, so that a part's shape tells which axis split which dimension.
    mesh = mesh_of(1, 2, 4)
    boxed = jax.eval_shape(abstract_init(tiny_config), jax.random.key(0))
    shardings = sharding.param_shardings(boxed, mesh)
    shapes = sharding.unbox(boxed)
    layer = "rembert/encoder/layer"
    for path, whole, part in (
        ("rembert/embeddings/word_embeddings/embedding", (48, 8), (12, 4)),
        ("rembert/embeddings/position_embeddings/embedding", (12, 8), (12, 4)),
        ("rembert/embeddings/LayerNorm/scale", (8,), (8,)),
        ("rembert/encoder/embedding_hidden_mapping_in/kernel", (8, 16), (4, 4)),
        (f"{layer}/attention/query/kernel", (2, 16, 16), (2, 8, 4)),
        (f"{layer}/attention/query/bias", (2, 16), (2, 4)),
        (f"{layer}/attention/output/kernel", (2, 16, 16), (2, 4, 8)),
        (f"{layer}/attention/output/bias", (2, 16), (2, 8)),
        (f"{layer}/intermediate/kernel", (2, 16, 32), (2, 8, 8)),
        (f"{layer}/output/kernel", (2, 32, 16), (2, 8, 8)),
        (f"{layer}/output_LayerNorm/bias", (2, 16), (2, 16)),
        ("cls/dense/kernel", (16, 24), (8, 6)),
        ("cls/decoder/embedding", (48, 24), (12, 12)),
        ("cls/decoder/bias", (48,), (12,)),
    ):
        assert leaf(shapes, path).shape == whole, path
        assert leaf(shardings, path).shard_shape(whole) == part, path


@pytest.mark.parametrize(("name", "copies"), [("adamw", 2), ("lamb", 2), ("adafactor", 1)])
def test_moments_lie_where_their_parameters_do(tiny_config, name, copies):
    # At these sizes Adafactor keeps whole second moments.
    mesh, init = mesh_of(2, 2, 2), abstract_init(tiny_config)
    tx = make_optimizer(OptimizerConfig(learning_rate=0.1, name=name), 10)
    shardings = train_state.state_shardings(init, tx, mesh)
    params = sharding.unbox(jax.eval_shape(init, jax.random.key(0)))
    state = jax.eval_shape(tx.init, params)
    for path in ("cls/decoder/embedding", "rembert/encoder/layer/attention/query/kernel", "cls/LayerNorm/scale"):
        keys = tuple(path.split("/"))
        found = [
            place
            for (where, moment), place in zip(
                jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(shardings.opt_state), strict=True
            )
            if tuple(getattr(key, "key", None) for key in where)[-len(keys) :] == keys
            and moment.shape == leaf(params, path).shape
        ]
        assert found == [leaf(shardings.params, path)] * copies, path
    assert shardings.step.spec == shardings.healthy.spec == PartitionSpec()


def test_factored_moments_of_adafactor_are_replicated():
    config = RemBertConfig.named("small", num_hidden_layers=1)
    tx = make_optimizer(OptimizerConfig(learning_rate=0.1, name="adafactor"), 10)
    init = abstract_init(config)
    shardings = train_state.state_shardings(init, tx, mesh_of(2, 2, 2))
    state = jax.eval_shape(tx.init, sharding.unbox(jax.eval_shape(init, jax.random.key(0))))
    name = "rembert/embeddings/word_embeddings/embedding"
    factors, places = state[1][0][0], shardings.opt_state[1][0][0]
    assert {leaf(factors.v_row, name).shape, leaf(factors.v_col, name).shape} == {(16_000,), (128,)}
    assert leaf(places.v_row, name).is_fully_replicated and leaf(places.v_col, name).is_fully_replicated
    assert not leaf(shardings.params, name).is_fully_replicated


def test_initial_values_do_not_depend_on_the_mesh(tiny_config):
    head, hidden = PredictionHead(tiny_config, Execution()), jnp.zeros((1, tiny_config.hidden_size))

    def init(key):
        return head.init(key, hidden)["params"]

    def create(shape):
        tx, mesh = make_optimizer(OPTIMIZER, 10), mesh_of(*shape)
        with on(mesh):
            return train_state.create(init, tx, 5, train_state.state_shardings(init, tx, mesh))

    alone, spread = create((1, 1, 1)), create((2, 2, 2))
    assert {shard.data.shape for shard in spread.params["decoder"]["embedding"].addressable_shards} == {(24, 12)}
    jax.tree.map(np.testing.assert_array_equal, spread.params, alone.params)
    assert (int(spread.step), bool(spread.healthy)) == (0, True)


def test_batches_are_split_over_data_and_fsdp():
    rows = np.arange(16, dtype=np.int32).reshape(8, 2)
    for size in (None, 8):
        array = sharding.to_global({"rows": rows}, mesh_of(2, 2, 2), size)["rows"]
        np.testing.assert_array_equal(array, rows)
        assert {shard.data.shape for shard in array.addressable_shards} == {(2, 2)}
        np.testing.assert_array_equal(sharding.from_global(array), rows)


def test_minus_one_takes_the_remaining_devices():
    assert dict(sharding.make_mesh(MeshConfig()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(sharding.make_mesh(MeshConfig(data=2, fsdp=-1, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(data=3), "needs 3 devices, found 8; change mesh.data, mesh.fsdp or mesh.tensor"),
        (MeshConfig(data=-1, fsdp=3), "needs a multiple of 3 devices, found 8"),
        (MeshConfig(data=-1, fsdp=-1), "expected positive sizes and at most one -1"),
        (MeshConfig(data=8, tensor=0), "expected positive sizes and at most one -1"),
        (MeshConfig(data=-2), "expected positive sizes and at most one -1"),
    ],
)
def test_mesh_that_does_not_fit_the_devices_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(config)


def test_a_vocabulary_that_does_not_divide_is_split_by_width(tiny_config):
    config = dataclasses.replace(tiny_config, vocab_size=47)
    shardings = sharding.param_shardings(jax.eval_shape(abstract_init(config), jax.random.key(0)), mesh_of(2, 2, 2))
    for path, whole, part in (
        ("rembert/embeddings/word_embeddings/embedding", (47, 8), (47, 2)),
        ("cls/decoder/embedding", (47, 24), (47, 6)),
        ("cls/decoder/bias", (47,), (47,)),
        ("rembert/embeddings/position_embeddings/embedding", (12, 8), (12, 4)),
    ):
        assert leaf(shardings, path).shard_shape(whole) == part, path


def test_parameter_that_does_not_divide_is_named():
    config = RemBertConfig.named("tiny", output_embedding_size=1002)
    boxed = jax.eval_shape(abstract_init(config), jax.random.key(0))
    sharding.param_shardings(boxed, mesh_of(4, 1, 2))
    message = r"cls/dense/(bias|kernel) of shape \(.*1002.*\): 1002 is not divisible by mesh axis tensor=4"
    with pytest.raises(ValueError, match=message):
        sharding.param_shardings(boxed, mesh_of(2, 1, 4))


@pytest.mark.parametrize(("heads", "tensor"), [(18, 4), (18, 8), (4, 8)])
def test_heads_are_never_split(heads, tensor):
    legal = {18: "1, 2, 3, 6, 9, 18", 4: "1, 2, 4"}[heads]
    with pytest.raises(
        RemBertError, match=rf"mesh\.tensor={tensor} would split .*_heads={heads}; choose one of {legal}$"
    ):
        sharding.check_heads(heads, mesh_of(1, 1, tensor))
    sharding.check_heads(heads, mesh_of(1, 1, 2))


def test_batch_that_does_not_divide_is_refused():
    mesh = mesh_of(2, 2, 2)
    sharding.check_batch(24, mesh, accumulation=3)
    with pytest.raises(ValueError, match=r"batch_size=20 is not divisible .* = 2 x 2 x 3; use a multiple of 12"):
        sharding.check_batch(20, mesh, accumulation=3)


class _Mesh:
    """What is read of the mesh of a process that has some of the devices."""

    def __init__(self, monkeypatch, places):
        def indices(shape):
            return {number: (slice(*place),) for number, place in enumerate(places)}

        split = types.SimpleNamespace(addressable_devices_indices_map=indices)
        monkeypatch.setattr(sharding, "batch_sharding", lambda mesh: split)


@pytest.mark.parametrize(
    ("places", "rows"),
    [
        ([(None,)], range(8)),
        ([(0, 2), (0, 2), (2, 4)], range(4)),  # Copies of a row over "tensor".
        ([(6, 8), (0, 2)], [0, 1, 6, 7]),  # Devices need not lie beside each other.
    ],
)
def test_a_process_makes_the_rows_that_its_devices_hold(monkeypatch, places, rows):
    assert sharding.local_rows(8, _Mesh(monkeypatch, places)).tolist() == list(rows)


def test_rows_of_a_process_go_where_their_numbers_say(monkeypatch):
    monkeypatch.setattr(sharding, "local_rows", lambda size, mesh: np.array([0, 1, 6, 7]))
    asked = {}

    def make(shape, split, part):
        asked["shape"] = shape
        return [part((slice(*place),)).tolist() for place in ((6, 8), (0, 2), (1, 2))]

    monkeypatch.setattr(jax, "make_array_from_callback", make)
    found = sharding.to_global({"x": np.array([10, 11, 16, 17])}, mesh_of(2, 2, 2), 8)
    assert found == {"x": [[16, 17], [10, 11], [11]]} and asked["shape"] == (8,)


def test_released_model_divides_on_a_pod():
    shapes = jax.eval_shape(abstract_init(RemBertConfig()), jax.random.key(0))
    parts = sharding.param_shardings(shapes, mesh_of(1, 2, 4))
    plain = sharding.unbox(shapes)
    held = sum(
        math.prod(place.shard_shape(value.shape))
        for value, place in zip(jax.tree.leaves(plain), jax.tree.leaves(parts), strict=True)
    )
    # Everything but position and type embeddings, layer norms and a few biases is split eight ways.
    assert held / 993_263_548 == pytest.approx(1 / 8, rel=0.01)
