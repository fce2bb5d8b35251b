"""TensorFlow checkpoints that are cut, changed, or made to do harm."""

import random

import pytest
from interop.bundles import (
    DATA,
    INDEX,
    ITEMS,
    PART,
    TENSORS,
    assert_same,
    assert_whole,
    changed,
    encoded_entry,
    encoded_table,
    field,
    ordered,
    plain,
    snappy,
    varint,
    written,
)

from rembert_jax.interop import sorted_table
from rembert_jax.interop.tensor_bundle import TensorBundle, TensorBundleError

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
