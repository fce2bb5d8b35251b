"""Reads TensorFlow checkpoints of format V2 ("tensor bundles") without TensorFlow, one tensor at a time.

`prefix.index` is a sorted table as LevelDB writes it: it maps each name to a protobuf message with the tensor's type,
shape and place in `prefix.data-0000i-of-0000n`, which holds the raw bytes. Every length in the files is checked before it
is believed, and every checksum is compared. Sources: TensorFlow's tensor_bundle.proto, tensor_slice.proto, types.proto and
ordered_code.h.
"""

from __future__ import annotations

import difflib
import glob
import math
import os
import pathlib
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from rembert_jax.errors import RemBertError
from rembert_jax.interop import sorted_table
from rembert_jax.interop.sorted_table import DamagedError, crc32c, masked, read_table, take, varint

CHUNK = 1 << 22  # Bytes between two looks at a tensor's checksum.

# By number in types.proto.
TYPE_NAMES = (
    *("invalid", "float32", "float64", "int32", "uint8", "int16", "int8", "string", "complex64", "int64", "bool"),
    *("qint8", "quint8", "qint32", "bfloat16", "qint16", "quint16", "uint16", "complex128", "float16", "resource"),
    *("variant", "uint32", "uint64"),
)
READABLE = {
    name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    for name in ("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")
}


class TensorBundleError(RemBertError):
    """A TensorFlow checkpoint is missing, incomplete, damaged, or of a kind that is not read."""


@dataclass(frozen=True)
class Entry:
    """What the index says of one tensor.

    `dtype` is `object` for the types that `read` refuses; `type_name` names those too. `slices` holds, for each part of
    a partitioned variable, (start, length) along every axis; its bytes are those of its parts.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    type_name: str
    shard: int
    offset: int
    size: int
    checksum: int
    slices: tuple[tuple[tuple[int, int], ...], ...] = ()

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _message(data: bytes) -> dict[int, list[int | bytes]]:
    """Values of a protobuf message by number of their field."""
    fields, at = {}, 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            value, at = varint(data, at)
        elif tag & 7 in (1, 2, 5):
            size, at = varint(data, at) if tag & 7 == 2 else (8 if tag & 7 == 1 else 4, at)
            value, at = take(data, at, size)
        else:
            raise DamagedError(f"a message holds a field of wire type {tag & 7}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(message: dict[int, list[int | bytes]], field: int, default: int = 0) -> int:
    if field not in message:
        return default
    value = message[field][-1]
    if isinstance(value, bytes):
        return int.from_bytes(take(value, 0, 4)[0], "little")  # fixed32
    return value - (value >> 63 << 64)


def _messages(message: dict[int, list[int | bytes]], field: int) -> list[dict[int, list[int | bytes]]]:
    found = [value for value in message.get(field, []) if isinstance(value, bytes)]
    if len(found) != len(message.get(field, [])):
        raise DamagedError(f"field {field} of a message is a number, expected a message")
    return [_message(value) for value in found]


def _extents(message: dict[int, list[int | bytes]]) -> tuple[tuple[int, int], ...]:
    """(start, length) along each axis; a length that is left out, which means all of the axis, becomes -1."""
    return tuple((_number(extent, 1), _number(extent, 2, -1)) for extent in _messages(message, 1))


def _entry(value: bytes) -> Entry:
    message = _message(value)
    number = _number(message, 1)
    name = TYPE_NAMES[number] if 0 < number < len(TYPE_NAMES) else f"number {number}"
    dtype = READABLE.get(name, np.dtype(object))
    shape = tuple(_number(dim, 1) for part in _messages(message, 2)[-1:] for dim in _messages(part, 2))
    slices = tuple(_extents(part) for part in _messages(message, 7))
    shard, offset, size, checksum = (_number(message, field) for field in (3, 4, 5, 6))
    entry = Entry(shape, dtype, name, shard, offset, size, checksum, slices)
    if len(shape) > 32:
        raise DamagedError(f"it has {len(shape)} dimensions, expected 32 at most")
    if min(shape, default=0) < 0 or math.prod(max(dim, 1) for dim in shape) >= 1 << 59:
        raise DamagedError(f"its shape is {shape}, expected no negative size and less than 2**59 elements")
    if name in READABLE and not slices and entry.size != entry.nbytes:
        raise DamagedError(f"it has {entry.size} bytes, expected {entry.nbytes} for {name} {shape}")
    return entry


def _part_key(name: str, extents: tuple[tuple[int, int], ...]) -> bytes:
    """Key of a part of a partitioned variable: 0, name, rank, and start and length along each axis in ordered code."""
    # A number has its count of bytes before it. A string escapes zeros (and 255, which UTF-8 has not) and ends in 0, 1.
    key = b"\0" + name.encode().replace(b"\0", b"\0\xff") + b"\0\x01" + bytes([1, len(extents)])
    for value in (number for extent in extents for number in extent):
        # A signed number of n bytes is its two's complement of 7n bits after n bits and a sign that are all flipped.
        size = (value if value >= 0 else ~value).bit_length() // 7 + 1
        ones = (1 << size) - 1 << 7 * size
        key += (value % (1 << 8 * size) ^ ones).to_bytes(size, "big")
    return key


def _layout(entry: Entry) -> tuple[int, list[tuple[int, int]]]:
    """The axis along which a variable is partitioned, and (start, length) along it of every part, in stored order.

    TensorFlow partitions along one axis only, so that parts fit if each starts where one ends.
    """
    if any(len(part) != len(entry.shape) for part in entry.slices) or not entry.shape:
        raise DamagedError(f"its parts have another rank than its shape {entry.shape}")
    spans = [
        [(start, dim if size == -1 else size) for (start, size), dim in zip(part, entry.shape, strict=True)]
        for part in entry.slices
    ]
    axes = {axis for part in spans for axis, span in enumerate(part) if span != (0, entry.shape[axis])}
    if len(axes) > 1:
        raise DamagedError(f"it is partitioned along the axes {sorted(axes)}, expected one")
    axis, end = (axes or {0}).pop(), 0
    for start, size in sorted(part[axis] for part in spans):
        if start != end or size < 0:
            raise DamagedError(f"a part starts at {start} of axis {axis}, expected {end}")
        end += size
    if end != entry.shape[axis]:
        raise DamagedError(f"its parts end at {end} of axis {axis}, expected {entry.shape[axis]}")
    return axis, [part[axis] for part in spans]


def _latest(state: pathlib.Path) -> pathlib.Path:
    """The prefix that a `checkpoint` file names, taken from its own folder if that is where the files are now."""
    with state.open("rb") as file:
        text = file.read(1 << 20)
    match = re.search(rb'^[ \t]*model_checkpoint_path[ \t]*:[ \t]*"((?:[^"\\\n]|\\.)*)"', text, re.MULTILINE)
    if match is None:
        raise TensorBundleError(
            f'{state}: no line model_checkpoint_path: "..."; pass the prefix of a checkpoint instead'
        )
    raw = re.sub(rb"\\(?:([0-7]{1,3})|(.))", lambda m: m[2] or bytes([int(m[1], 8) & 255]), match[1])
    named = state.parent / os.fsdecode(raw.replace(b"\0", b""))
    beside = state.parent / named.name
    return beside if pathlib.Path(f"{beside}.index").is_file() else named


def _find(path: str) -> str:
    """The prefix that is meant by a prefix, a folder, or the path of one of a checkpoint's files."""
    if "://" in path or "\0" in path:
        raise TensorBundleError(
            f"{path!r}: not a local path; copy the checkpoint's files here first and pass their prefix"
        )
    folder = pathlib.Path(path)
    if folder.is_dir() and not pathlib.Path(f"{path}.index").is_file():
        if (folder / "checkpoint").is_file():
            return str(_latest(folder / "checkpoint"))
        found = sorted(folder.glob("*.index"))
        if len(found) != 1:
            names = ", ".join(file.stem for file in found[:10]) or "none"
            raise TensorBundleError(f"{path}: expected one checkpoint in this folder, found {names}; pass a prefix")
        path = str(found[0])
    return re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path)


def _no_index(prefix: str) -> TensorBundleError:
    if pathlib.Path(prefix).is_file() or glob.glob(f"{glob.escape(prefix)}-?????-of-?????"):
        return TensorBundleError(
            f"{prefix}: a checkpoint of TensorFlow's format V1 (there is no {prefix}.index); convert it to V2: restore it "
            "with TensorFlow and save it by tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V2)"
        )
    return TensorBundleError(
        f"{prefix}: no TensorFlow checkpoint, for there is no {prefix}.index; pass the prefix of "
        "PREFIX.index and PREFIX.data-00000-of-0000N, or the folder of one checkpoint"
    )


class TensorBundle:
    """A TensorFlow checkpoint of format V2.

    `entries` maps names to what the index says of the tensors, sorted by name. Partitioned variables are whole there;
    their parts are not among the names.
    """

    entries: Mapping[str, Entry]

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        """Reads the index and holds it against the sizes of the data files.

        Args:
          prefix: path without `.index`; or that of one of the checkpoint's files; or a folder that holds one checkpoint,
            or a file `checkpoint` that names the latest.

        Raises:
          TensorBundleError: if there is no such checkpoint, or one of its files is missing, truncated or damaged.
        """
        try:
            self.prefix = _find(os.fspath(prefix))
            path = pathlib.Path(f"{self.prefix}.index")
            if not path.is_file():
                raise _no_index(self.prefix)
            with path.open("rb") as file:
                data = file.read(sorted_table.INDEX_LIMIT + 1)
            entries = self._parse(data)
            self._sizes = {entry.shard: self._size(entry.shard) for entry in entries.values() if not entry.slices}
            for key, entry in entries.items():
                self._check_place(key, entry)
        except DamagedError as error:
            raise self._damaged(f"{self.prefix}.index", error) from None
        except OSError as error:
            raise TensorBundleError(
                f"{error.filename}: {error.strerror}; check the path and who may read it"
            ) from error
        # Keys of parts begin with a zero; no variable's name does.
        self._parts = {key: entry for key, entry in entries.items() if key[:1] == b"\0"}
        self.entries = types.MappingProxyType(
            {key.decode(): entry for key, entry in entries.items() if key[:1] != b"\0"}
        )

    def _parse(self, data: bytes) -> dict[bytes, Entry]:
        if len(data) > sorted_table.INDEX_LIMIT:
            raise DamagedError(f"more than {sorted_table.INDEX_LIMIT} bytes, expected an index, which is small")
        table = dict(read_table(data))
        if b"" not in table:
            raise DamagedError("no header")
        header = _message(table.pop(b""))
        self._shards = _number(header, 1)
        if _number(header, 2):
            raise TensorBundleError(
                f"{self.prefix}.index: written on a big-endian machine; save the checkpoint again on a little-endian one"
            )
        for version in _messages(header, 3):
            if _number(version, 2) > 1:
                raise TensorBundleError(
                    f"{self.prefix}.index: asks for readers of version {_number(version, 2)}, expected 1 at most; save the "
                    "checkpoint again with TensorFlow 2.21 or older"
                )
        return {key: self._named(key, value) for key, value in table.items()}

    @staticmethod
    def _named(key: bytes, value: bytes) -> Entry:
        try:
            if key[:1] != b"\0":
                key.decode()
            return _entry(value)
        except (DamagedError, UnicodeDecodeError) as error:
            raise DamagedError(f"entry {key[:100]!r}: {error}") from None

    def _check_place(self, key: bytes, entry: Entry) -> None:
        if entry.slices:
            return  # Its parts have places.
        held = self._sizes[entry.shard]
        if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > held:
            raise TensorBundleError(
                f"{self._shard(entry.shard)}: {held} bytes, expected {entry.offset + entry.size} or more, for {key!r} lies "
                f"at byte {entry.offset}; the file is incomplete, or belongs to another index: copy it again"
            )

    def _shard(self, shard: int) -> str:
        return f"{self.prefix}.data-{shard:05d}-of-{self._shards:05d}"

    def _size(self, shard: int) -> int:
        if not 0 <= shard < self._shards:
            raise DamagedError(f"an entry lies in data file {shard} of {self._shards}")
        path = pathlib.Path(self._shard(shard))
        if not path.is_file():
            raise TensorBundleError(f"{path}: no such file, though the index names it; copy it to where the index is")
        return path.stat().st_size

    @staticmethod
    def _damaged(path: str, reason: object) -> TensorBundleError:
        return TensorBundleError(f"{path}: {reason}; the file is incomplete or damaged: copy it again")

    def read(self, name: str) -> np.ndarray:
        """One tensor, whole, as a new array; its checksum is compared.

        Memory: the array, and for a partitioned variable one of its parts besides.

        Raises:
          TensorBundleError: if there is no such tensor, its type is not one of `READABLE`, or its bytes are damaged.
        """
        entry = self.entries.get(name)
        if entry is None:
            close = ", ".join(difflib.get_close_matches(name, self.entries)) or f"see the {len(self.entries)} entries"
            raise TensorBundleError(f"{self.prefix}: no tensor {name!r}; did you mean {close}?")
        if entry.type_name not in READABLE:
            raise TensorBundleError(
                f"{self.prefix}: {name!r} is of type {entry.type_name}, expected one of {', '.join(READABLE)}; leave it out"
            )
        try:
            return self._assemble(name, entry) if entry.slices else self._load(entry)
        except DamagedError as error:
            raise self._damaged(self.prefix, f"{name!r}: {error}") from None
        except OSError as error:
            raise TensorBundleError(
                f"{error.filename}: {error.strerror}; check the path and who may read it"
            ) from error

    def _load(self, entry: Entry) -> np.ndarray:
        data, crc, path = np.empty(entry.size, np.uint8), 0, self._shard(entry.shard)
        with open(path, "rb") as file:
            file.seek(entry.offset)
            for start in range(0, entry.size, CHUNK):
                chunk = data[start : start + CHUNK]
                if file.readinto(chunk.data) != chunk.size:
                    raise DamagedError(f"{path} ends before byte {entry.offset + entry.size}")
                crc = crc32c(chunk, crc)
        if masked(crc) != entry.checksum:
            raise DamagedError(
                f"the checksum of bytes {entry.offset} to {entry.offset + entry.size} of {path} is wrong"
            )
        return data.view(entry.dtype).reshape(entry.shape)

    def _assemble(self, name: str, entry: Entry) -> np.ndarray:
        axis, spans = _layout(entry)
        if entry.nbytes > sum(self._sizes.values()):
            raise DamagedError(f"it has {entry.nbytes} bytes, more than all data files")
        whole = np.empty(entry.shape, entry.dtype)
        for extents, (start, size) in zip(entry.slices, spans, strict=True):
            part = self._parts.get(_part_key(name, extents))
            shape = (*entry.shape[:axis], size, *entry.shape[axis + 1 :])
            if part is None or part.slices or (part.shape, part.type_name) != (shape, entry.type_name):
                raise DamagedError(f"the part from {start} of axis {axis} is missing or has another shape or type")
            whole[(slice(None),) * axis + (slice(start, start + size),)] = self._load(part)
        return whole
