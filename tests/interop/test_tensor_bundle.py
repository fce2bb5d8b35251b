"""TensorFlow checkpoints: against TensorFlow itself, and against an encoder written here, whole and damaged."""

import importlib.util
import json
import pathlib
import random
import struct
import subprocess
import sys
import textwrap
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from rembert_jax.interop import sorted_table, tensor_bundle
from rembert_jax.interop.tensor_bundle import TensorBundle, TensorBundleError

# The encoder. It shares no code with the reader.


def varint(value):
    value %= 1 << 64
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def after_zero_bits(crc, bits=8):
    for _ in range(bits):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


CRC_TABLE = [after_zero_bits(byte) for byte in range(256)]


def masked_crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def encoded_entry(number, shape, size, offset=0, shard=0, crc=0, slices=()):
    dims = b"".join(field(2, field(1, dim)) for dim in shape)
    parts = b"".join(field(7, b"".join(field(1, extent) for extent in part)) for part in slices)
    place = field(3, shard) + field(4, offset) + field(5, size)
    return field(1, number) + field(2, dims) + place + varint(6 << 3 | 5) + struct.pack("<I", crc) + parts


HEADER = field(1, 1) + field(3, field(1, 1))


def encoded_block(items, interval=3):
    """Contents of a block, with a restart point every `interval` keys."""
    out, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(items):
        shared = 0
        if i % interval == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def plain(contents):
    return contents + b"\0"


def encoded_table(items, per_block=4, pack=plain):
    """A table of (key, value) in this order; `pack` takes a block's contents to what is stored, with its type byte."""
    items, out, handles = list(items), b"", []

    def store(contents):
        nonlocal out
        stored = pack(contents)
        handle = varint(len(out)) + varint(len(stored) - 1)
        out += stored + struct.pack("<I", masked_crc(stored))
        return handle

    for i in range(0, len(items), per_block):
        chunk = items[i : i + per_block]
        handles.append((chunk[-1][0], store(encoded_block(chunk))))
    footer = store(encoded_block([])) + store(encoded_block(handles, interval=1))
    return out + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def ordered(*numbers):
    """Small signed numbers in ordered code."""
    return b"".join(bytes([0x80 ^ number & 0xFF]) for number in numbers)


TENSORS = {
    "bert/embeddings/word_embeddings": np.arange(35, dtype=np.float32).reshape(7, 5),
    "bert/encoder/layer_0/bias": np.array([-1.5, 2], ml_dtypes.bfloat16),
    "bert/encoder/layer_0/kernel": np.array([[1, -2]], np.float64),
    "bert/encoder/layer_1/bias": np.zeros((0, 3), np.float16),
    "bert/pooler": np.array([True, False, True]),
    "global_step": np.array(7, np.int64),
    "zähler": np.array([3, 4], np.int8),
}
NUMBERS = {"float32": 1, "float64": 2, "int8": 6, "int64": 9, "bool": 10, "bfloat16": 14, "float16": 19}
PART = b"\0" + b"split\0\xff" + b"\0\x01" + b"\x01\x02"  # 0, "split\\0", 2: a part's key as far as its extents.


def encoded_bundle():
    """The table's items and the data of `TENSORS`, a string, and "split\\0", (2, 3) in parts of 1 and 2 columns."""
    data, items = b"", {}

    def add(key, array):
        nonlocal data
        raw = array.tobytes()
        items[key] = encoded_entry(NUMBERS[array.dtype.name], array.shape, len(raw), len(data), crc=masked_crc(raw))
        data += raw

    for name, array in TENSORS.items():
        add(name.encode(), array)
    items[b"names"] = encoded_entry(7, (2,), 5, 0)
    # Extents of the first axis are given in full, or left out, which means all of it.
    items[b"split\0"] = encoded_entry(
        1, (2, 3), 0, slices=[[b"", field(2, 1)], [field(2, 2), field(1, 1) + field(2, 2)]]
    )
    add(PART + ordered(0, -1, 0, 1), np.array([[1], [4]], np.float32))
    add(PART + ordered(0, 2, 1, 2), np.array([[2, 3], [5, 6]], np.float32))
    return [(b"", HEADER), *sorted(items.items())], data


ITEMS, DATA = encoded_bundle()
INDEX = encoded_table(ITEMS)
SPLIT = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def written(folder, index=INDEX, data=DATA):
    folder.mkdir(exist_ok=True)
    (folder / "model.ckpt.index").write_bytes(index)
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(data)
    return folder / "model.ckpt"


def changed(key, value):
    """`ITEMS` with another value for a key, or without the key."""
    items = {**dict(ITEMS), key: value}
    return sorted((key, value) for key, value in items.items() if value is not None)


def assert_same(found, expected):
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def assert_whole(bundle):
    assert list(bundle.entries) == sorted([*TENSORS, "names", "split\0"])
    for name, expected in TENSORS.items():
        assert bundle.entries[name].shape == expected.shape and bundle.entries[name].dtype == expected.dtype
        assert_same(bundle.read(name), expected)
    assert_same(bundle.read("split\0"), SPLIT)


def snappy(contents):
    """Snappy's format without any copy, in literals of the three shortest forms, and its type byte."""
    out, at = varint(len(contents)), 0
    for size, head in ((60, b"\xec"), (200, b"\xf0\xc7"), (300, b"\xf4\x2b\x01")):
        while len(contents) - at >= size and (size == 300 or at == 0):
            out += head + contents[at : at + size]
            at += size
    for i in range(at, len(contents), 60):
        out += bytes([len(contents[i : i + 60]) - 1 << 2]) + contents[i : i + 60]
    return out + b"\1"


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


# Damage.

BAD_VALUES = {
    "size of another shape": (b"global_step", encoded_entry(9, (2,), 8), "has 8 bytes, expected 16 for int64"),
    "negative dimension": (b"global_step", encoded_entry(9, (-1,), 8), r"its shape is \(-1,\)"),
    "huge dimensions": (b"global_step", encoded_entry(9, (1 << 40, 1 << 40), 8), "its shape is"),
    "huge but empty": (b"global_step", encoded_entry(9, (0, 1 << 62), 0), "its shape is"),
    "many dimensions": (b"global_step", encoded_entry(9, (1,) * 33, 8), "33 dimensions, expected 32"),
    "very many dimensions": (b"global_step", encoded_entry(9, (1 << 60,) * 20_000, 8), "20000 dimensions"),
    "long value": (b"global_step", bytes(1 << 20) + b"\0", "1048577 bytes of value; expected 16384 and 1048576"),
    "beyond the data": (b"global_step", encoded_entry(9, (), 8, offset=1 << 40), "expected 1099511627784 or more"),
    "negative place": (b"global_step", encoded_entry(9, (), 8, offset=-8), "belongs to another index"),
    "negative size": (b"names", encoded_entry(7, (), -8), "belongs to another index"),
    "huge tensor": (b"global_step", encoded_entry(9, (1 << 40,), 1 << 43), "expected 8796093022208 or more"),
    "no such shard": (b"global_step", encoded_entry(9, (), 8, shard=1), "lies in data file 1 of 1"),
    "negative shard": (b"global_step", encoded_entry(9, (), 8, shard=-1), "lies in data file -1 of 1"),
    "shape is a number": (b"global_step", field(2, 5), "is a number, expected a message"),
    "type is a message": (b"global_step", field(1, b"\0"), "announced"),
    "group": (b"global_step", b"\x0b\x0c", "wire type 3"),
    "cut message": (b"global_step", field(1, 9) + b"\x12", "does not end"),
    "name is not UTF-8": (b"\xff", encoded_entry(9, (), 8), r"b'\\xff'.*utf-8"),
    "no header": (b"", None, "no header"),
    "no shards": (b"", field(3, field(1, 1)), "data file 0 of 0"),
    "header is garbage": (b"", b"\xff" * 20, "does not end"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_entries_are_refused_on_opening(tmp_path, case):
    key, value, message = BAD_VALUES[case]
    with pytest.raises(TensorBundleError, match=rf"model\.ckpt\.\S+: .*{message}"):
        TensorBundle(written(tmp_path, encoded_table(changed(key, value))))


def split_entry(*parts, shape=(2, 3)):
    slices = [[b"".join(field(i + 1, number) for i, number in enumerate(extent)) for extent in part] for part in parts]
    return encoded_entry(1, shape, 0, slices=slices)


FIRST, SECOND = [(), (0, 1)], [(0, 2), (1, 2)]
BAD_SPLITS = {
    "overlap": (split_entry(FIRST, FIRST, SECOND), "starts at 0 of axis 1, expected 1"),
    "gap at the end": (split_entry(FIRST), "end at 1 of axis 1, expected 3"),
    "gap at the start": (split_entry(SECOND), "starts at 1 of axis 1, expected 0"),
    "too long": (split_entry(FIRST, SECOND, shape=(2, 2)), "end at 3 of axis 1, expected 2"),
    "no such part": (split_entry([(), (0, 2)], [(), (2, 1)]), "part from 0 of axis 1 is missing"),
    "part of another shape": (split_entry(FIRST, SECOND, shape=(5, 3)), "axes"),
    "two axes": (split_entry([(0, 1), (0, 1)], FIRST, SECOND), r"along the axes \[0, 1\]"),
    "other rank": (split_entry([(0, 1)]), "another rank"),
    "rank 300": (split_entry([(0, 1)] * 300), "another rank"),
    "scalar": (split_entry([], shape=()), "another rank"),
    "negative length": (split_entry([(), (0, 4)], [(), (4, -2)]), "starts at 4 of axis 1, expected 4"),
    "larger than the files": (split_entry([(0, 1 << 50), (0, 3)], shape=(1 << 50, 3)), "more than all data files"),
}


@pytest.mark.parametrize("case", BAD_SPLITS)
def test_parts_that_do_not_fit_are_refused(tmp_path, case):
    value, message = BAD_SPLITS[case]
    bundle = TensorBundle(written(tmp_path, encoded_table(changed(b"split\0", value))))
    with pytest.raises(TensorBundleError, match=rf"'split\\x00': .*{message}"):
        bundle.read("split\0")
    assert_same(bundle.read("global_step"), TENSORS["global_step"])


def test_part_of_another_type_is_refused(tmp_path):
    items = changed(PART + ordered(0, -1, 0, 1), encoded_entry(3, (2, 1), 8))
    with pytest.raises(TensorBundleError, match=r"part from 0 of axis 1 .* another shape or type"):
        TensorBundle(written(tmp_path, encoded_table(items))).read("split\0")


def test_damaged_data_is_noticed(tmp_path):
    prefix = written(tmp_path, data=bytes([DATA[0] ^ 1]) + DATA[1:])
    bundle = TensorBundle(prefix)
    with pytest.raises(TensorBundleError, match=r"word_embeddings.*checksum of bytes 0 to 140 .*copy it again"):
        bundle.read("bert/embeddings/word_embeddings")
    assert_same(bundle.read("global_step"), TENSORS["global_step"])


def test_truncated_and_missing_data_files_are_named(tmp_path):
    for length in range(len(DATA)):
        prefix = written(tmp_path, data=DATA[:length])
        with pytest.raises(TensorBundleError, match=rf"data-00000-of-00001: {length} bytes, expected \d+ or more"):
            TensorBundle(prefix)
    bundle = TensorBundle(written(tmp_path))
    shard = tmp_path / "model.ckpt.data-00000-of-00001"
    shard.write_bytes(DATA[:-1])
    with pytest.raises(TensorBundleError, match=r"ends before byte"):
        bundle.read("split\0")
    shard.unlink()
    with pytest.raises(TensorBundleError, match=r"data-00000-of-00001: No such file"):
        bundle.read("global_step")
    with pytest.raises(TensorBundleError, match=r"data-00000-of-00001: no such file, though the index names it"):
        TensorBundle(prefix)


def outcome(prefix):
    """None if the bundle is refused in the way it should be; else what it holds, as far as it can be read."""
    try:
        bundle = TensorBundle(prefix)
    except TensorBundleError:
        return None
    for name in bundle.entries:
        try:
            assert bundle.read(name).nbytes <= len(DATA)
        except TensorBundleError:
            pass
    return bundle


def test_truncated_indexes_are_refused(tmp_path):
    for length in range(len(INDEX)):
        prefix = written(tmp_path, INDEX[:length])
        with pytest.raises(TensorBundleError, match=r"model\.ckpt\.index: .*copy it again"):
            TensorBundle(prefix)


def test_any_flipped_byte_is_noticed_or_does_not_matter(tmp_path):
    for at in range(len(INDEX)):
        index = INDEX[:at] + bytes([INDEX[at] ^ 1 << at % 8]) + INDEX[at + 1 :]
        if (bundle := outcome(written(tmp_path, index))) is not None:
            assert_whole(bundle)


def test_garbage_is_refused(tmp_path):
    rng = random.Random(0)
    footer = INDEX[-48:]
    for i in range(200):
        garbage = rng.randbytes(rng.randrange(100)) + (footer if i % 2 else b"")
        assert outcome(written(tmp_path, garbage)) is None


@pytest.mark.parametrize("pack", [plain, snappy])
def test_damage_behind_a_right_checksum_does_no_harm(tmp_path, pack):
    """Blocks and messages are changed before the checksum is taken, so that all that reads them meets nonsense."""
    rng = random.Random(0)

    def spoiled(data):
        data = bytearray(data)
        for _ in range(rng.choice((0, 0, 0, 0, 1, 2)) if data else 0):
            data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        return bytes(data)

    for i in range(300):
        if i % 2:
            index = encoded_table(ITEMS, pack=lambda contents: spoiled(pack(contents)))
        else:
            index = encoded_table([(spoiled(key), spoiled(value)) for key, value in ITEMS], pack=pack)
        outcome(written(tmp_path, index))


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (varint(1 << 60) + b"\0a", "claim to hold"),
        (varint(70) + b"\0a" + b"\xfe\x01\x00", "holds 65 bytes or more, expected 70"),
        (varint(3) + b"\0a" + b"\xfe\x01\x00", "holds 65 bytes or more, expected 3"),
        (varint(9) + b"\0a" + b"\x01\x00", "copies from 0 bytes back"),
        (varint(9) + b"\0a" + b"\x01\x02", "copies from 2 bytes back"),
        (varint(9) + b"\x20a", "announced"),
        (varint(9) + b"\xfc\xff", "announced"),
        (b"\x80", "does not end"),
    ],
)
def test_bad_compression_is_refused(tmp_path, packed, message):
    with pytest.raises(TensorBundleError, match=rf"model\.ckpt\.index: .*{message}"):
        TensorBundle(written(tmp_path, encoded_table(ITEMS, pack=lambda _: packed + b"\1")))


def test_tables_that_would_grow_without_bound_are_refused(tmp_path, monkeypatch):
    with pytest.raises(TensorBundleError, match=r"comes after"):
        TensorBundle(written(tmp_path, encoded_table([*ITEMS, ITEMS[-1]])))
    with pytest.raises(TensorBundleError, match=r"a key of 20000 bytes"):
        TensorBundle(written(tmp_path, encoded_table([*ITEMS, ("ÿ".encode() * 10_000, b"")])))
    monkeypatch.setattr(sorted_table, "INDEX_LIMIT", len(INDEX))
    assert_whole(TensorBundle(written(tmp_path)))
    wide = [("ÿ".encode() * 250 + bytes([i]), encoded_entry(9, (), 8)) for i in range(10)]
    index = encoded_table([*ITEMS, *wide], per_block=50)
    monkeypatch.setattr(sorted_table, "INDEX_LIMIT", len(index))
    with pytest.raises(TensorBundleError, match=rf"unpacks to more than {len(index)} bytes"):
        TensorBundle(written(tmp_path, index))
    monkeypatch.setattr(sorted_table, "INDEX_LIMIT", len(INDEX) - 1)
    with pytest.raises(TensorBundleError, match=r"expected an index, which is small"):
        TensorBundle(written(tmp_path))


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
