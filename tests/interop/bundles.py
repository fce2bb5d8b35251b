"""An encoder of TensorFlow checkpoints that shares no code with the reader, and one bundle with each kind of entry."""

import struct

import ml_dtypes
import numpy as np


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


# A bundle of each kind of entry.

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
