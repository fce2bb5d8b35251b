"""Writes SentencePiece models piece by piece, so that tests know every id, and crafted ones that no trainer would make."""

from __future__ import annotations

import struct
from collections.abc import Sequence

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# Ids as transformers' class for RemBERT presupposes them: <unk> is 2.
SPECIAL = [("<pad>", 0.0, CONTROL), ("<s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN)]
SPECIAL += [(piece, 0.0, CONTROL) for piece in ("[CLS]", "[SEP]", "[MASK]")]
PAD, BOS, UNK, CLS, SEP, MASK = range(6)
# Pieces of the small vocabulary, from id 6.
WORDS = ["▁", "▁the", "▁cat", "▁sat", "s", '"', "▁on", "▁mat", "."]
SPACE, THE, CAT, SAT, S, QUOTE, ON, MAT, DOT = range(6, 15)
URL = 15


def varint(number: int) -> bytes:
    """A whole number on the wire."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def message(field: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    """A field that holds a whole number."""
    return varint(field << 3) + varint(value)


def piece(text: str | bytes, score: float = -1.0, kind: int = NORMAL) -> bytes:
    """An entry of the vocabulary."""
    raw = text.encode() if isinstance(text, str) else text
    return message(1, message(1, raw) + varint(2 << 3 | 5) + struct.pack("<f", score) + number(3, kind))


def model(
    pieces: Sequence[bytes], *, trainer: bytes = b"", normalizer: bytes = b"", charsmap: bytes | None = None
) -> bytes:
    """A serialised unigram model; `trainer` and `normalizer` are more fields of its settings."""
    rules = message(2, charsmap) if charsmap is not None else b""
    return b"".join(pieces) + message(2, number(3, 1) + trainer) + message(3, rules + normalizer)


def small_model(**changes: bytes) -> bytes:
    """The small vocabulary, without normalisation rules."""
    words = [piece(word, -1.0 - i / 10) for i, word in enumerate(WORDS)]
    return model([*(piece(*entry) for entry in SPECIAL), *words, piece("<url>", 0.0, USER_DEFINED)], **changes)
