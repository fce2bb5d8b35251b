"""The few fields of a SentencePiece model that its library does not tell, read from the serialised message itself.

Files come from strangers, and this runs in the caller's process: it goes over each byte once, and has a largest number of
fields for each message.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_PIECES = 1 << 20  # RemBERT has 250,300.
MAX_PIECE_BYTES = 1 << 12  # SentencePiece learns pieces of 16 characters; user-defined ones are words or tags.
MAX_PIECE_FIELDS = 16  # There are three.
MAX_SETTINGS_FIELDS = 1 << 17  # The trainer's settings repeat each symbol and each input file.
USER_DEFINED = 4
TYPE_USER_DEFINED = b"\x18\x04"  # Field 3, value 4.


def read_model_parts(content: bytes) -> dict[str, Any]:
    """Fields of `model_file.ModelFile` by name, from a serialised ModelProto.

    Raises:
      ValueError, IndexError: if it is none, or larger than any that was ever trained.
    """
    settings: dict[int, list[bytes]] = {2: [], 3: []}
    user_defined, pieces = [], 0
    for number, value in _fields(content, MAX_PIECES):
        if number not in (1, 2, 3):
            continue
        if not isinstance(value, bytes):
            raise ValueError(f"field {number} is no message")
        if number > 1:
            settings[number].append(value)
            continue
        if len(value) > MAX_PIECE_BYTES:
            raise ValueError(f"piece {pieces} has {len(value):,} bytes, expected at most {MAX_PIECE_BYTES:,}")
        if TYPE_USER_DEFINED in value and _value(dict(_fields(value, MAX_PIECE_FIELDS)), 3, 1) == USER_DEFINED:
            user_defined.append(pieces)
        pieces += 1
    # A message given in parts is the parts one after the other, and the last value of a field is the one that counts.
    trainer, normalizer = (dict(_fields(b"".join(parts), MAX_SETTINGS_FIELDS)) for parts in settings.values())
    return {
        "unigram": _value(trainer, 3, 1) == 1,
        "space_at_end": bool(_value(trainer, 24, 0)),
        "byte_fallback": bool(_value(trainer, 35, 0)),
        "prefix": bool(_value(normalizer, 3, 1)),
        "charsmap": _value(normalizer, 2, b""),
        "user_defined": tuple(user_defined),
    }


def _value(fields: dict[int, int | bytes], number: int, default: int | bytes) -> int | bytes:
    value = fields.get(number, default)
    if type(value) is not type(default):
        raise ValueError(f"field {number} has a value of another kind")
    return value


_FIXED = {1: 8, 5: 4}  # Bytes of the wire types of fixed width.


def _fields(data: bytes, most: int) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a serialised protocol-buffer message; numbers of fixed width stay bytes."""
    at, end, count = 0, len(data), 0
    while at < end:
        count += 1
        if count > most:
            raise ValueError(f"more than {most:,} fields in one message")
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if size > end - at:
            raise ValueError(f"{size - (end - at):,} bytes are missing at the end")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The whole number that begins at `at`, and where it ends."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while byte >= 0x80:
        at += 1
        if shift > 63:
            raise ValueError(f"a number without end at byte {at}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
    return value, at + 1
