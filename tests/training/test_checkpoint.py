"""Checkpoints: bit-identical, in any sharding, partial only where the output head is dropped."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY_MODEL
from jax.sharding import PartitionSpec

from rembert_jax import sharding
from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.data.pipeline import example_batches
from rembert_jax.modeling.encoder import stack_layers, unstack_layers
from rembert_jax.modeling.models import RemBertForMaskedLM, RemBertForSequenceClassification
from rembert_jax.training import checkpoint, train_state
from rembert_jax.training.checkpoint import CheckpointError, CheckpointStore
from rembert_jax.training.feed import Feed
from rembert_jax.training.optimizer import OptimizerConfig, make_optimizer

CONFIG = RemBertConfig(**TINY_MODEL | {"num_hidden_layers": 1}, vocab_size=48, bos_token_id=1, eos_token_id=2)
LOOP = Execution(scan_layers=False)
TX = make_optimizer(OptimizerConfig(learning_rate=1e-3), 10)


def _state(model=None, seed=0, mesh=None):
    model = model or RemBertForMaskedLM(CONFIG, LOOP)
    mesh = mesh or sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])

    def init(key):
        return model.init({"params": key}, jnp.zeros((1, 2), jnp.int32))["params"]

    shardings = train_state.state_shardings(init, TX, mesh)
    abstract = jax.eval_shape(lambda: train_state.create(init, TX, seed, shardings))
    rng = np.random.default_rng(seed)

    def fill(leaf, place):  # Without compiling an initialisation for each test.
        value = np.ones(leaf.shape, bool) if leaf.dtype == bool else rng.normal(size=leaf.shape).astype(leaf.dtype)
        return jax.device_put(value, place)

    return jax.tree.map(fill, abstract, shardings)


def _classifier(**changes):
    return RemBertForSequenceClassification(RemBertConfig(**CONFIG.to_dict() | changes), 3, LOOP)


def _feed():
    def features(number):
        return {"x": np.array(number), "attention_mask": np.array([1])}

    mesh = sharding.make_mesh(sharding.MeshConfig(data=2), jax.devices()[:2])
    return Feed(example_batches([features(number) for number in range(20)], batch_size=4, seed=0), 4, CONFIG, mesh)


def _saved(folder, state, *steps, keep=2, manifest=None):
    store = CheckpointStore(folder / "checkpoints", keep)
    for step in steps:
        store.save(step, state, None, manifest or {"step": step})
    store.close()
    return folder


def _assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=jax.tree_util.keystr(path))
        assert one.dtype == other.dtype


def _assert_equal(left, right):
    assert left == right


def test_state_position_and_manifest_come_back(tmp_path):
    state, stream = _state(seed=3), _feed()
    for _ in range(7):
        next(stream)
    store = CheckpointStore(tmp_path / "checkpoints", 2)
    manifest = {"model": CONFIG.to_dict(), "tokenizer_sha256": "abc"}
    store.save(7, state, stream.position, manifest)
    expected = [next(stream)["x"] for _ in range(3)]  # The save must hold the stream as it stood before these.
    store.close()

    again, fresh = CheckpointStore(tmp_path / "checkpoints", 2), _feed()
    assert again.latest_step == 7
    restored, position = again.restore(_state(seed=4), fresh.position)
    fresh.restore(position)
    assert again.manifest() == json.loads(json.dumps(manifest))
    again.close()
    _assert_same(restored, state)
    np.testing.assert_array_equal([next(fresh)["x"] for _ in range(3)], expected)


def test_saving_what_all_devices_hold_compiles_nothing(tmp_path, caplog):
    """Cutting small arrays up among the devices would be one program for each shape and device."""
    state = _state(mesh=sharding.make_mesh(sharding.MeshConfig()))
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(state.params))
    with jax.log_compiles():
        jax.jit(jnp.sin)(1.0)
        assert caplog.text.count("Finished XLA compilation") == 1
        _saved(tmp_path, state, 1)
    assert caplog.text.count("Finished XLA compilation") == 1


def test_state_saved_on_one_mesh_comes_back_on_another(tmp_path):
    meshes = [sharding.make_mesh(sharding.MeshConfig(data=d, fsdp=f, tensor=t)) for d, f, t in ((8, 1, 1), (1, 4, 2))]
    state, target = _state(mesh=meshes[0]), _state(seed=1, mesh=meshes[1])
    _saved(tmp_path, state, 1)
    store = CheckpointStore(tmp_path / "checkpoints", 2)
    restored, _ = store.restore(target, None)
    store.close()
    _assert_same(restored, state)
    shardings = [leaf.sharding for leaf in jax.tree.leaves(restored.params)]
    assert shardings == [leaf.sharding for leaf in jax.tree.leaves(target.params)]
    assert any(spec.spec != PartitionSpec() for spec in shardings), "the second mesh does split something"


def test_only_the_newest_are_kept(tmp_path):
    state = _state()
    _saved(tmp_path, state, 1, 2, 5, 9, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()) == ["5", "9"]


def test_empty_folder_has_no_step(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", 2)
    assert store.latest_step is None
    store.close()


def test_interrupted_save_is_ignored(tmp_path):
    state = _state()
    _saved(tmp_path, state, 1, 2)
    folder = tmp_path / "checkpoints"
    # What a killed process leaves: a folder under the temporary name, without the files that commit it.
    unfinished = folder / "4.orbax-checkpoint-tmp"
    shutil.copytree(folder / "2", unfinished)
    for name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
        (unfinished / name).unlink(missing_ok=True)
    assert checkpoint.find(tmp_path) == folder / "2"
    store = CheckpointStore(folder, 2)
    assert store.latest_step == 2
    _assert_same(store.restore(_state(seed=1), None)[0], state)
    store.save(3, state, None, {})
    store.close()
    assert checkpoint.find(tmp_path) == folder / "3" and not unfinished.exists()


def test_find_takes_the_newest_step_and_prefers_the_best(tmp_path):
    state = _state()
    _saved(tmp_path, state, 8, 9, 10)
    assert checkpoint.find(tmp_path).name == "10", "numbers are compared, not texts"
    assert checkpoint.find(tmp_path / "checkpoints").name == "10"
    assert checkpoint.find(str(tmp_path / "checkpoints" / "9")).name == "9"
    shutil.copytree(tmp_path / "checkpoints" / "9", tmp_path / "best" / "4")
    assert checkpoint.find(tmp_path) == tmp_path / "best" / "4"


@pytest.mark.parametrize("content", ["nothing", "empty", "file"])
def test_missing_checkpoint_is_explained(tmp_path, content):
    path = tmp_path / "run"
    if content == "empty":
        (path / "checkpoints").mkdir(parents=True)
    elif content == "file":
        path.write_text("x")
    with pytest.raises(CheckpointError, match=r"init_from=.*run: no checkpoint found there; expected a run's workdir"):
        checkpoint.find(path)


def test_manifest_is_read_from_the_step_folder(tmp_path):
    _saved(tmp_path, _state(), 1, manifest={"model": CONFIG.to_dict()})
    assert RemBertConfig.from_dict(checkpoint.read_manifest(checkpoint.find(tmp_path))["model"]) == CONFIG


def test_fine_tuning_takes_the_encoder_and_drops_the_output_head(tmp_path):
    state = _state(seed=5)
    step = checkpoint.find(_saved(tmp_path, state, 1))
    before = _state(_classifier()).params
    params, report = checkpoint.load_pretrained(step, before)
    counts = CONFIG.parameter_counts()
    assert sum(report.dropped.values()) == counts["output_head"]
    assert all(name.startswith("cls/") for name in report.dropped)
    assert sum(report.loaded.values()) == counts["pre_training"] - counts["output_head"]
    assert sum(report.fresh.values()) == counts["pooler"] + 16 * 3 + 3
    assert {name.split("/")[0] + "/" + name.split("/")[1] for name in report.fresh} == {
        "rembert/pooler", *(name for name in map("/".join, [n.split("/")[:2] for n in report.fresh]) if "classifier" in name)
    }  # fmt: skip
    found, source, old = (checkpoint.flatten(tree) for tree in (params, state.params, before))
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, source[name] if name in report.loaded else old[name], err_msg=name)
    assert set(report.loaded) | set(report.fresh) == set(found) == set(old)


def test_loading_into_a_masked_lm_takes_the_output_head_too(tmp_path):
    state = _state(seed=5)
    params, report = checkpoint.load_pretrained(checkpoint.find(_saved(tmp_path, state, 1)), _state().params)
    assert not report.dropped and not report.fresh
    _assert_same(params, state.params)


def test_report_says_what_happened(tmp_path, caplog):
    step = checkpoint.find(_saved(tmp_path, _state(), 1))
    with caplog.at_level("INFO", logger="rembert_jax"):
        _, report = checkpoint.load_pretrained(step, _state(_classifier()).params)
        report.log()
    dropped = next(line for line in caplog.messages if line.startswith("dropped"))
    assert f"{CONFIG.parameter_counts()['output_head']:,} parameters" in dropped
    assert [line.split()[0] for line in caplog.messages] == ["parameters", "loaded", "dropped", "initialised"]
    assert caplog.messages[0] == f"parameters of {tmp_path / 'checkpoints'}, step 1"


def test_report_sums_what_stands_under_two_parts_of_a_name(caplog):
    sizes = {"cls/dense/kernel": 1000, "cls/dense/bias": 24, "cls/decoder/bias": 3}
    with caplog.at_level("INFO", logger="rembert_jax"):
        checkpoint.LoadReport(loaded={}, dropped=sizes, fresh={}).log()
    assert caplog.messages[0] == "loaded 0 arrays, 0 parameters: nothing"
    assert caplog.messages[1] == "dropped 3 arrays, 1,027 parameters: cls/dense 1,024, cls/decoder 3"


def test_other_shape_is_named_with_both_shapes(tmp_path):
    step = checkpoint.find(_saved(tmp_path, _state(), 1))
    other = _state(_classifier(intermediate_size=48)).params
    with pytest.raises(CheckpointError, match="shapes differ; make section `model` equal") as error:
        checkpoint.load_pretrained(step, other)
    lines = str(error.value).splitlines()[1:]
    assert any("checkpoint (16, 32), this model (16, 48)" in line for line in lines)
    assert any("checkpoint (32, 16), this model (48, 16)" in line for line in lines)


def test_other_number_of_layers_is_explained(tmp_path):
    step = checkpoint.find(_saved(tmp_path, _state(), 1))
    with pytest.raises(CheckpointError, match=r"only one of checkpoint and model has .*make section `model`"):
        checkpoint.load_pretrained(step, _state(_classifier(num_hidden_layers=2)).params)


@pytest.mark.parametrize("stacked", [True, False])
def test_separate_layers_are_stacked_and_stacked_ones_separated(tmp_path, stacked):
    config = RemBertConfig(**CONFIG.to_dict() | {"num_hidden_layers": 2})
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2), jax.devices()[:2])
    stored, target = (
        _state(RemBertForMaskedLM(config, Execution(scan_layers=scan)), seed, mesh)
        for seed, scan in ((5, stacked), (6, not stacked))
    )
    params, report = checkpoint.load_pretrained(checkpoint.find(_saved(tmp_path, stored, 1)), target.params)
    assert not report.fresh and not report.dropped
    encoder = stored.params["rembert"]["encoder"]
    _assert_same(params["rembert"]["encoder"], unstack_layers(encoder) if stacked else stack_layers(encoder))
    _assert_same(params["cls"], stored.params["cls"])
    jax.tree.map(lambda found, wanted: _assert_equal(found.sharding, wanted.sharding), params, target.params)


@pytest.mark.parametrize("scanned", [True, False])
@pytest.mark.parametrize("stacked", [True, False])
def test_top_layers_are_dropped_and_the_lower_ones_kept_in_order(tmp_path, stacked, scanned):
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2), jax.devices()[:2])
    # Eleven layers: sorted by their names as text, layer_10 would come before layer_2.
    config, shallow = (RemBertConfig(**CONFIG.to_dict() | {"num_hidden_layers": n}) for n in (11, 3))
    stored = _state(RemBertForMaskedLM(config, Execution(scan_layers=stacked)), 5, mesh)
    target = _state(RemBertForSequenceClassification(shallow, 3, Execution(scan_layers=scanned)), 6, mesh)
    step = checkpoint.find(_saved(tmp_path, stored, 1))
    with pytest.raises(CheckpointError):
        checkpoint.load_pretrained(step, target.params)
    params, report = checkpoint.load_pretrained(step, target.params, drop_top_layers=8)
    found, wanted = params["rembert"]["encoder"], stored.params["rembert"]["encoder"]
    found, wanted = (unstack_layers(tree) if "layer" in tree else tree for tree in (found, wanted))
    for number in range(3):
        _assert_same(found[f"layer_{number}"], wanted[f"layer_{number}"])
    assert f"layer_{3}" not in found
    one = sum(leaf.size for leaf in jax.tree.leaves(wanted["layer_0"]))
    assert sum(size for name, size in report.dropped.items() if "/layer" in name) == 8 * one
    jax.tree.map(lambda found, wanted: _assert_equal(found.sharding, wanted.sharding), params, target.params)
    with pytest.raises(CheckpointError):
        checkpoint.load_pretrained(step, target.params, drop_top_layers=7)


def test_each_task_starts_with_its_own_classifier(tmp_path):
    stored, target = _state(_classifier(), seed=5), _state(_classifier(), seed=6)
    params, report = checkpoint.load_pretrained(checkpoint.find(_saved(tmp_path, stored, 1)), target.params)
    assert (
        {name.split("/")[0] for name in report.dropped}
        == {name.split("/")[0] for name in report.fresh}
        == {"classifier"}
    )
    _assert_same(params["classifier"], target.params["classifier"])
    _assert_same(params["rembert"], stored.params["rembert"])


def test_state_is_restored_from_shapes_alone(tmp_path):
    state = _state(seed=3)
    _saved(tmp_path, state, 1)
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    store = CheckpointStore(tmp_path / "checkpoints", 2)
    _assert_same(store.restore(abstract, None)[0], state)
    store.close()


def test_unhealthy_state_is_not_saved():
    state = _state()
    checkpoint.check_state(state)
    with pytest.raises(CheckpointError, match="non-finite"):
        checkpoint.check_state(state.replace(healthy=np.zeros((), bool)))


def test_parameters_are_saved_over_what_a_killed_conversion_left(tmp_path):
    left = tmp_path / "checkpoints" / "0" / "state"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half of it")
    checkpoint.save_params(tmp_path, {"rembert/a": np.arange(3.0, dtype=np.float32)}, {"step": 0})
    found = checkpoint.load_params(checkpoint.find(tmp_path))["rembert/a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [0.0, 1.0, 2.0])
    assert not (left / "half").exists()
    with pytest.raises(checkpoint.CheckpointError, match="holds the checkpoints of a run already"):
        checkpoint.save_params(tmp_path, {"rembert/a": np.zeros(3, np.float32)}, {"step": 0})
