"""The sorted tables of LevelDB, in which TensorFlow keeps the index of a checkpoint, and CRC-32C checksums.

Every length is checked before it is believed, and every checksum is compared. Sources: LevelDB's table_format.md,
Snappy's format_description.txt, RFC 3720 (CRC-32C).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

TABLE_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER = 48  # Bytes: two block handles, padding, magic.
INDEX_LIMIT = 1 << 26  # Bytes of an index, and of what it unpacks to; RemBERT's with its Adam slots has about 10**5.
KEY_LIMIT, VALUE_LIMIT = 1 << 14, 1 << 20  # Bytes of a name, and of what is said of one tensor.


class DamagedError(Exception):
    """What is wrong with a piece of a file; whoever knows the file's name turns it into an error for the user."""


def _crc_table(bits: int) -> np.ndarray:
    table = np.arange(1 << bits, dtype=np.uint32)
    for _ in range(bits):
        table = (table >> 1) ^ (table & 1) * np.uint32(0x82F63B78)
    return table


_CRC_BYTE, _CRC_PAIR = _crc_table(8).tolist(), _crc_table(16)
_BITS = np.arange(32, dtype=np.uint32)


def _advance(power: np.ndarray, states: np.ndarray) -> np.ndarray:
    """States (n,) after the run of zero bytes that takes the state `1 << i` to `power[i]`."""
    return np.bitwise_xor.reduce((states[:, None] >> _BITS & 1) * power, axis=1)


def crc32c(data: np.ndarray, crc: int = 0) -> int:
    """CRC-32C of bytes (n,) uint8 that follow bytes with checksum `crc`, at hundreds of megabytes a second.

    The bytes are cut into equal lanes, which advance together. A checksum is linear: the one of two joined lanes is the
    first lane's, advanced over as many zeros as the second is long, plus the second's. 32 further lanes of zeros
    yield that advance.
    """
    lanes = 2 << data.size.bit_length() // 2
    head, state = data.size % (2 * lanes), crc ^ 0xFFFFFFFF
    for byte in data[:head].tolist():
        state = _CRC_BYTE[(state ^ byte) & 0xFF] ^ state >> 8
    columns = np.zeros(((data.size - head) // (2 * lanes), lanes + 32), np.uint16)
    columns[:, :lanes] = data[head:].reshape(lanes, -1).view("<u2").T
    states = np.concatenate([np.zeros(lanes, np.uint32), np.uint32(1) << _BITS])
    states[0] = state
    for pairs in columns:
        states = _CRC_PAIR.take(states.astype(np.uint16) ^ pairs) ^ states >> 16
    states, power = states[:lanes], states[lanes:]
    while states.size > 1:
        states = _advance(power, states[::2]) ^ states[1::2]
        power = _advance(power, power)
    return int(states[0]) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """The form in which checksums are stored, so that the checksum of a checksum is none of a kind."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number of seven bits a byte at `at`, and the place behind it."""
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value & (1 << 64) - 1, at + i + 1
    raise DamagedError(f"a number at byte {at} of {len(data)} does not end")


def take(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    """`size` bytes from `at` on, and the place behind them."""
    if size > len(data) - at:
        raise DamagedError(f"{size} bytes are announced at byte {at} of {len(data)}")
    return data[at : at + size], at + size


def _unsnappy(data: bytes) -> bytes:
    size, at = varint(data, 0)
    if size > min(64 * len(data), INDEX_LIMIT):
        raise DamagedError(f"{len(data)} compressed bytes claim to hold {size}")
    out = bytearray()
    while at < len(data):
        kind, length = data[at] & 3, data[at] >> 2
        at += 1
        if kind == 0:  # Literal bytes; 60 to 63 mean that the length follows in one to four.
            if length >= 60:
                raw, at = take(data, at, length - 59)
                length = int.from_bytes(raw, "little")
            raw, at = take(data, at, length + 1)
            out += raw
        else:  # A copy, from `back` bytes before the end, which may reach into itself.
            raw, at = take(data, at, (1, 2, 4)[kind - 1])
            back = int.from_bytes(raw, "little") | (length >> 3 << 8 if kind == 1 else 0)
            length = (length & 7) + 4 if kind == 1 else length + 1
            if not 0 < back <= len(out):
                raise DamagedError(f"a compressed block copies from {back} bytes back where it has {len(out)}")
            for _ in range(length):
                out.append(out[-back])
        if len(out) > size:
            break
    if len(out) != size:
        raise DamagedError(f"a compressed block holds {len(out)} bytes or more, expected {size}")
    return bytes(out)


def _block(data: bytes, offset: int, size: int) -> bytes:
    """The contents of a block, behind which come its compression (one byte) and a checksum of both (four)."""
    raw, _ = take(data, offset, size + 5)
    if masked(crc32c(np.frombuffer(raw[:-4], np.uint8))) != int.from_bytes(raw[-4:], "little"):
        raise DamagedError(f"the checksum of the block at byte {offset} is wrong")
    if raw[-5] > 1:
        raise DamagedError(f"the block at byte {offset} has compression {raw[-5]}, expected 0 (none) or 1 (Snappy)")
    return _unsnappy(raw[:-5]) if raw[-5] else raw[:-5]


def _items(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key leaves out what it shares with the one before."""
    restarts = int.from_bytes(block[-4:], "little")
    end, at, key = len(block) - 4 - 4 * restarts, 0, b""
    if len(block) < 4 or end < 0:
        raise DamagedError(f"a block of {len(block)} bytes claims {restarts} restart points")
    block = block[:end]
    while at < end:
        shared, at = varint(block, at)
        rest, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or shared + rest > KEY_LIMIT or size > VALUE_LIMIT:
            raise DamagedError(
                f"a key of {rest} bytes and {shared} of the {len(key)} before, with {size} bytes of value; expected "
                f"{KEY_LIMIT} and {VALUE_LIMIT} at most"
            )
        suffix, at = take(block, at, rest)
        value, at = take(block, at, size)
        key = key[:shared] + suffix
        yield key, value


def read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values of the table, in rising order of the keys."""
    if len(data) < FOOTER or data[-8:] != TABLE_MAGIC:
        raise DamagedError(f"the {len(data)} bytes do not end like an index")
    body, footer, at = data[:-FOOTER], data[-FOOTER:-8], 0
    for _ in range(2):  # Place of the block for metadata, which TensorFlow leaves empty.
        _, at = varint(footer, at)
    offset, at = varint(footer, at)
    behind, last, total = 0, None, 0
    for _, handle in _items(_block(body, offset, varint(footer, at)[0])):
        offset, at = varint(handle, 0)
        size, _ = varint(handle, at)
        if offset < behind:  # No block twice, or a small file could hold as much as it likes.
            raise DamagedError(f"the block at byte {offset} begins before byte {behind}, where the one before ends")
        behind = offset + size + 5
        for key, value in _items(_block(body, offset, size)):
            if last is not None and key <= last:
                raise DamagedError(f"the key {key[:100]!r} comes after {last[:100]!r}")
            total += len(key) + len(value)
            if total > INDEX_LIMIT:
                raise DamagedError(f"the index unpacks to more than {INDEX_LIMIT} bytes")
            last = key
            yield key, value
