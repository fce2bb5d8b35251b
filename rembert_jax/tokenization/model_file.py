"""Reading vocabulary files that nobody vouches for: size limits, a hash, and a first load in a child process.

A `.model` file is parsed by C++ and a `tokenizer.json` by Rust, and a crafted file has crashed either before
(sentencepiece issues 1263 and 1269). So this process reads a file once, and gives a child exactly these bytes to load,
normalise and encode with; only if the child ends well does this process do the same. A file that this process wrote
itself, or has checked before, is known by its sha256 and loaded at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import pathlib
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import sentencepiece

from rembert_jax.errors import RemBertError

logger = logging.getLogger(__name__)

# RemBERT's own files of 250,300 pieces have 5 MB (.model) and 15 MB (tokenizer.json).
MAX_MODEL_BYTES = 64 << 20
MAX_JSON_BYTES = 256 << 20
MAX_PIECE_BYTES = 1 << 12  # SentencePiece learns pieces of 16 characters; user-defined ones are words or tags.
TYPE_USER_DEFINED = b"\x18\x04"  # Field 3, value 4.
PROBE_SECONDS = 120.0
PROBE = pathlib.Path(__file__).with_name("probe.py")

_known: set[str] = set()


class TokenizerError(RemBertError):
    """A vocabulary file, or what is asked of a tokenizer, cannot be used."""


def read_file(path: pathlib.Path, limit: int, expected: str) -> bytes:
    """The content of a plain file of at most `limit` bytes; `expected` says in errors what it should be."""
    if not path.is_file():
        raise TokenizerError(f"{path}: no such vocabulary; expected {expected}")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise TokenizerError(f"{path}: larger than {limit:,} bytes; expected {expected} of at most that size")
    if not content:
        raise TokenizerError(f"{path}: the file is empty; expected {expected}")
    return content


def trust(content: bytes) -> str:
    """Remembers content that this process made itself or has seen a child load; returns its sha256."""
    digest = hashlib.sha256(content).hexdigest()
    _known.add(digest)
    return digest


def check_in_child(path: pathlib.Path, kind: str, content: bytes, charsmap: bytes = b"") -> str:
    """Has a child process load `content` ("model" or "json") unless it is known; returns the sha256, which it logs.

    Raises:
      TokenizerError: if the child refuses the file, crashes or takes too long; this process is unharmed.
    """
    digest = hashlib.sha256(content).hexdigest()
    logger.info("%s: sha256 %s, %s", path, digest, "known" if digest in _known else "unknown, loading it in a child")
    if digest in _known:
        return digest
    # -P: a module beside the vocabulary must not stand in for the real one.
    command = [sys.executable, "-P", str(PROBE), kind]
    given = struct.pack("<Q", len(charsmap)) + charsmap + content
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise TokenizerError(
            f"{path} (sha256 {digest}): not loaded after {PROBE_SECONDS:g} seconds; do not use this file, "
            "or get it anew from its source"
        ) from None
    if done.returncode != 0:
        raise TokenizerError(
            f"{path} (sha256 {digest}): {_what_happened(done)}; the file is damaged, truncated or crafted: "
            "compare its hash with the source's and get it anew"
        )
    _known.add(digest)
    return digest


def _what_happened(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        return f"loading it crashed a child process ({signal.Signals(-done.returncode).name})"
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    return f"not a SentencePiece model or tokenizer ({last[0] if last else f'exit status {done.returncode}'})"


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A SentencePiece `.model` file that has been checked.

    Attributes:
      path, content, sha256: where it was read from, its bytes and their hash.
      unigram: whether the model is a unigram model.
      byte_fallback: whether unknown characters become byte pieces.
      space_at_end: whether a word's space goes to its end instead of its beginning.
      prefix: whether a text gets a space at its beginning.
      charsmap: compiled normalisation rules; empty where there are none.
      user_defined: ids of pieces that a user defined; SentencePiece itself does not tell which these are.
    """

    path: pathlib.Path
    content: bytes = dataclasses.field(repr=False)
    sha256: str
    unigram: bool
    byte_fallback: bool
    space_at_end: bool
    prefix: bool
    charsmap: bytes = dataclasses.field(repr=False)
    user_defined: tuple[int, ...]

    def processor(self) -> sentencepiece.SentencePieceProcessor:
        """SentencePiece over this model."""
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=self.content)
        except RuntimeError as error:  # A child loaded it, so memory has run out or the like.
            raise TokenizerError(f"{self.path}: not a SentencePiece model ({error})") from error


def read_model(path: pathlib.Path) -> ModelFile:
    """Reads and checks a `.model` file.

    Raises:
      TokenizerError: if there is no such file, or it is too large, empty, no SentencePiece model, or fails in a child.
    """
    content = read_file(path, MAX_MODEL_BYTES, "a SentencePiece .model file")
    try:
        trainer, normalizer, user_defined = _sections(content)
        fields: dict[str, Any] = {
            "unigram": _last(trainer, 3, 1) == 1,
            "space_at_end": bool(_last(trainer, 24, 0)),
            "byte_fallback": bool(_last(trainer, 35, 0)),
            "prefix": bool(_last(normalizer, 3, 1)),
            "charsmap": _last(normalizer, 2, b""),
        }
    except (IndexError, ValueError) as error:
        raise TokenizerError(
            f"{path}: not a SentencePiece model ({error}); the file is damaged or something else: get it anew"
        ) from None
    digest = check_in_child(path, "model", content, fields["charsmap"])
    return ModelFile(path, content, digest, user_defined=tuple(user_defined), **fields)


def _sections(content: bytes) -> tuple[bytes, bytes, list[int]]:
    """Trainer and normaliser settings of a ModelProto, each as its serialised message; ids of user-defined pieces."""
    found: dict[int, list[bytes]] = {2: [], 3: []}
    user_defined, pieces = [], 0
    for number, value in _fields(content):
        if number in (1, 2, 3) and not isinstance(value, bytes):
            raise ValueError(f"field {number} is no message")
        if number == 1 and isinstance(value, bytes):
            if len(value) > MAX_PIECE_BYTES:
                raise ValueError(f"piece {pieces} has {len(value):,} bytes, expected at most {MAX_PIECE_BYTES:,}")
            if TYPE_USER_DEFINED in value and _last(value, 3, 1) == 4:
                user_defined.append(pieces)
            pieces += 1
        elif number in found and isinstance(value, bytes):
            found[number].append(value)
    # A message given in parts is the parts one after the other.
    return b"".join(found[2]), b"".join(found[3]), user_defined


def _last(data: bytes, number: int, default: int | bytes) -> int | bytes:
    """The last value of a field, which is the one that counts."""
    values = [value for found, value in _fields(data) if found == number]
    if values and type(values[-1]) is not type(default):
        raise ValueError(f"field {number} has a value of another kind")
    return values[-1] if values else default


_FIXED = {1: 8, 5: 4}  # Bytes of the wire types of fixed width.


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a serialised protocol-buffer message; numbers of fixed width stay bytes."""
    at, end = 0, len(data)
    while at < end:
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
