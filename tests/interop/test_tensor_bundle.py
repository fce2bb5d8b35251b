"""TensorFlow checkpoints against TensorFlow itself, and against the encoder of interop/bundles.py."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest
from interop.bundles import (
    HEADER,
    INDEX,
    ITEMS,
    assert_same,
    assert_whole,
    changed,
    encoded_entry,
    encoded_table,
    field,
    masked_crc,
    plain,
    snappy,
    varint,
    written,
)

from rembert_jax.interop import sorted_table, tensor_bundle
from rembert_jax.interop.tensor_bundle import TensorBundle, TensorBundleError


@pytest.mark.parametrize("per_block", [1, 4, 100])
@pytest.mark.parametrize("pack", [plain, snappy])
def test_every_tensor_is_read(tmp_path, per_block, pack):
    bundle = TensorBundle(written(tmp_path, encoded_table(ITEMS, per_block, pack)))
    assert_whole(bundle)
    assert bundle.entries["split\0"].shape == (2, 3) and bundle.entries["split\0"].nbytes == 24


def test_what_is_read_is_a_new_array(tmp_path):
    bundle = TensorBundle(written(tmp_path))
    bundle.read("global_step")[...] = 0
    assert bundle.read("global_step") == 7


@pytest.mark.parametrize(
    "path",
    ["model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001", ""],
)
def test_the_prefix_may_be_one_of_the_files_or_the_folder(tmp_path, path):
    written(tmp_path / "run")
    assert_whole(TensorBundle(str(tmp_path / "run" / path)))


@pytest.mark.parametrize(
    "named",
    [b"model.ckpt", b"/where/it/was/trained/model.ckpt", b"model\\056ckpt", b"{folder}/model.ckpt"],
)
def test_the_state_file_names_one_of_several(tmp_path, named):
    written(tmp_path)
    (tmp_path / "older.index").write_bytes(b"")
    named = named.replace(b"{folder}", bytes(tmp_path))
    state = b'model_checkpoint_path: "%b"\nall_model_checkpoint_paths: "older"\n' % named
    (tmp_path / "checkpoint").write_bytes(state)
    assert_whole(TensorBundle(tmp_path))


def test_paths_that_are_no_checkpoint_are_explained(tmp_path):
    with pytest.raises(TensorBundleError, match=r"expected one checkpoint in this folder, found none"):
        TensorBundle(tmp_path)
    with pytest.raises(
        TensorBundleError, match=r"nothing: no TensorFlow checkpoint, .*nothing\.index; pass the prefix"
    ):
        TensorBundle(tmp_path / "nothing")
    for path in ("gs://b/model", "a\0b"):
        with pytest.raises(TensorBundleError, match=r"^'.*': not a local path; copy"):
            TensorBundle(path)
    for name in ("a.index", "b.index"):
        (tmp_path / name).write_bytes(INDEX)
    with pytest.raises(TensorBundleError, match=r"found a, b; pass a prefix"):
        TensorBundle(tmp_path)
    for state in (
        b"all_model_checkpoint_paths: 'a'\n",
        b"",
        b"\n " * (1 << 19),
        b'model_checkpoint_path: "' + b"\\" * 99,
    ):
        (tmp_path / "checkpoint").write_bytes(state)
        with pytest.raises(TensorBundleError, match=r"checkpoint: no line model_checkpoint_path"):
            TensorBundle(tmp_path)
    (tmp_path / "checkpoint").write_bytes(b'model_checkpoint_path: "gone\\000"\n')
    with pytest.raises(TensorBundleError, match=r"gone: no TensorFlow checkpoint"):
        TensorBundle(tmp_path)
    (tmp_path / "folder.index").mkdir()
    with pytest.raises(TensorBundleError, match=r"no TensorFlow checkpoint"):
        TensorBundle(tmp_path / "folder")
    with pytest.raises(TensorBundleError, match=r"check the path"):
        TensorBundle(tmp_path / ("x" * 5000))


@pytest.mark.parametrize("name", ["model.ckpt", "model.ckpt-00000-of-00002"])
def test_format_v1_is_explained(tmp_path, name):
    (tmp_path / name).write_bytes(INDEX)
    with pytest.raises(TensorBundleError, match=r"model\.ckpt: .*format V1 .*Saver\(write_version=.*V2\)"):
        TensorBundle(tmp_path / "model.ckpt")


def test_other_types_are_listed_but_not_read(tmp_path):
    bundle = TensorBundle(written(tmp_path))
    assert (bundle.entries["names"].type_name, bundle.entries["names"].dtype) == ("string", np.dtype(object))
    with pytest.raises(
        TensorBundleError, match=r"'names' is of type string, expected one of .*bfloat16.*; leave it out"
    ):
        bundle.read("names")
    bundle = TensorBundle(written(tmp_path, encoded_table(changed(b"names", encoded_entry(99, (), 0)))))
    with pytest.raises(TensorBundleError, match=r"of type number 99"):
        bundle.read("names")


def test_a_wrong_name_gets_a_suggestion(tmp_path):
    bundle = TensorBundle(written(tmp_path))
    with pytest.raises(TensorBundleError, match=r"no tensor 'bert/poolr'; did you mean bert/pooler"):
        bundle.read("bert/poolr")
    with pytest.raises(TensorBundleError, match=r"no tensor '!'; did you mean see the 9 entries"):
        bundle.read("!")


def test_big_endian_and_future_versions_are_refused(tmp_path):
    with pytest.raises(TensorBundleError, match=r"written on a big-endian machine"):
        TensorBundle(written(tmp_path, encoded_table(changed(b"", HEADER + field(2, 1)))))
    with pytest.raises(TensorBundleError, match=r"readers of version 2, expected 1"):
        TensorBundle(written(tmp_path, encoded_table(changed(b"", HEADER + field(3, field(2, 2))))))


def test_copies_in_compressed_blocks():
    #                    3 literal   4 from 3 back  6 from 1 back    4 from 11 back            4 literal
    packed = varint(21) + b"\x08abc" + b"\x01\x03" + b"\x16\x01\x00" + b"\x0f\x0b\x00\x00\x00" + b"\x0c end"
    assert sorted_table._unsnappy(packed) == b"abcabca" + b"aaaaaa" + b"cabc" + b" end"
    long = bytes(range(256)) * 2
    assert sorted_table._unsnappy(varint(517) + b"\xf4\xff\x01" + long + b"\x25\x2c") == long + long[212:217]


@pytest.mark.parametrize("length", [*range(0, 70), 1000, 4096, 70_001])
def test_checksum(length):
    data = np.random.default_rng(length).integers(0, 256, length).astype(np.uint8)
    whole = sorted_table.crc32c(data)
    assert sorted_table.masked(whole) == masked_crc(data.tolist())
    assert sorted_table.crc32c(data[length // 3 :], sorted_table.crc32c(data[: length // 3])) == whole


def test_memory_is_that_of_the_tensor_read(tmp_path):
    raw = bytes(8 << 20)
    crc = sorted_table.masked(sorted_table.crc32c(np.frombuffer(raw, np.uint8)))
    entries = [(b"t%d" % i, encoded_entry(1, (2, 1 << 20), len(raw), i * len(raw), crc=crc)) for i in range(4)]
    bundle = TensorBundle(written(tmp_path, encoded_table([(b"", HEADER), *entries]), raw * 4))
    tracemalloc.start()
    tensor = bundle.read("t2")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not tensor.any() and peak < len(raw) + 3 * tensor_bundle.CHUNK


# TensorFlow.

WRITER = """
    import json, pathlib, sys
    import numpy as np
    import tensorflow as tf

    v1 = tf.compat.v1
    root = pathlib.Path(sys.argv[1])
    rng = np.random.default_rng(0)

    def save(case, build, **options):
        (root / case).mkdir()
        prefix = str(root / case / "model.ckpt")
        with tf.Graph().as_default():
            build()
            config = v1.ConfigProto(device_count={"CPU": 3}, intra_op_parallelism_threads=1)
            with v1.Session(config=config) as session:
                session.run(v1.global_variables_initializer())
                saver = v1.train.Saver(v1.global_variables(), **options)
                saver.save(session, prefix, write_meta_graph=False)
        reader, arrays, types = tf.train.load_checkpoint(prefix), {}, {}
        for name in reader.get_variable_to_shape_map():
            array = np.asarray(reader.get_tensor(name))
            types[name] = array.dtype.name
            if array.dtype != object:
                arrays[name] = np.frombuffer(array.tobytes(), np.uint8)
                types[name] = [types[name], array.shape]
        np.savez(root / case / "expected.npz", **arrays)
        (root / case / "expected.json").write_text(json.dumps(types))

    def variable(name, value, dtype=None):
        value = tf.constant(value, dtype)
        v1.get_variable(name, initializer=value)

    def many():
        for layer in range(150):
            for name in ("attention/self/query/kernel", "attention/output/LayerNorm/gamma", "output/dense/bias"):
                # Blocks have 256 KiB, so that it takes long names to fill several.
                full = f"bert/encoder/layer_{layer}/{name}/{rng.bytes(700).hex()}"
                variable(full, rng.normal(size=(3, layer % 4 + 1)).astype(np.float32))
        variable("wide", rng.normal(size=(700, 333)).astype(np.float32))

    def types():
        for dtype in ("float16", "bfloat16", "float32", "float64"):
            variable(dtype, rng.normal(size=(5, 3)), dtype)
        for dtype in ("int8", "int16", "int32", "int64", "uint8"):
            variable(dtype, rng.integers(0, 100, size=(5, 3)), dtype)
        variable("bool", rng.integers(0, 2, size=(5, 3)).astype(bool))
        variable("scalar", np.float32(-2.5))
        variable("empty", np.zeros((0, 4), np.float32))
        variable("text", ["a", "longer"])
        variable("complex64", np.ones(2, np.complex64))

    def partitioned():
        for name, shape, axis, count in (
            ("rows", (1000, 3), 0, 7), ("columns", (4, 900), 1, 5), ("last", (2, 3, 40_000), 2, 3), ("one", (4, 3), 0, 1)
        ):
            v1.get_variable(
                name, shape, initializer=v1.random_normal_initializer(seed=1),
                partitioner=tf.compat.v1.fixed_size_partitioner(count, axis),
            )
        variable("plain", np.arange(5, dtype=np.int32))

    def sharded():
        for i in range(9):
            with tf.device(f"/cpu:{i % 3}"):
                variable(f"v{i}", rng.normal(size=(i, 4)))
        for i in range(2):
            with tf.device(f"/cpu:{i + 1}"):
                v1.get_variable(
                    f"parts{i}", (6, 4), initializer=v1.random_normal_initializer(seed=1),
                    partitioner=tf.compat.v1.fixed_size_partitioner(3, i),
                )

    save("many", many)
    save("types", types)
    save("partitioned", partitioned)
    save("sharded", sharded, sharded=True)
    save("v1", lambda: variable("a", [1.0]), write_version=v1.train.SaverDef.V1)
"""


@pytest.fixture(scope="module")
def by_tensorflow(made_once):
    """A folder of checkpoints that TensorFlow has written and read, in a process of its own."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed: pip install '.[tensorflow]'")

    def write(folder):
        command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    return made_once("tensor_bundle", write)


@pytest.mark.parametrize(
    ("case", "shards", "blocks"), [("many", 1, 3), ("types", 1, 1), ("partitioned", 1, 1), ("sharded", 3, 1)]
)
def test_checkpoints_of_tensorflow(by_tensorflow, case, shards, blocks):
    folder: pathlib.Path = by_tensorflow / case
    types = json.loads((folder / "expected.json").read_text())
    assert len(list(folder.glob("*.data-*"))) == shards
    assert (folder / "model.ckpt.index").stat().st_size // (1 << 18) == blocks - 1
    bundle = TensorBundle(folder)
    assert list(bundle.entries) == sorted(types)
    with np.load(folder / "expected.npz") as expected:
        for name, about in types.items():
            if name in ("text", "complex64"):
                with pytest.raises(TensorBundleError, match=r"is of type (string|complex64)"):
                    bundle.read(name)
                continue
            array = expected[name].view(bundle.entries[name].dtype).reshape(about[1])
            assert about[0] == bundle.entries[name].type_name
            assert_same(bundle.read(name), array)


def test_the_cases_by_tensorflow_are_what_they_should_be(by_tensorflow):
    partitioned = TensorBundle(by_tensorflow / "partitioned").entries
    assert {name: len(entry.slices) for name, entry in partitioned.items()} == {
        **{"columns": 5, "last": 3, "one": 0, "plain": 0, "rows": 7}
    }
    names = set(TensorBundle(by_tensorflow / "types").entries)
    assert names >= set(tensor_bundle.READABLE) | {"scalar", "empty", "text"}
    assert {entry.shard for entry in TensorBundle(by_tensorflow / "sharded").entries.values()} == {0, 1, 2}


def test_format_v1_by_tensorflow_is_explained(by_tensorflow):
    with pytest.raises(TensorBundleError, match="format V1"):
        TensorBundle(by_tensorflow / "v1")
