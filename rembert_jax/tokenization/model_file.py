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
import weakref

import sentencepiece

from rembert_jax.errors import RemBertError
from rembert_jax.tokenization import probe, protobuf

logger = logging.getLogger(__name__)

# RemBERT's own files of 250,300 pieces have 5 MB (.model) and 15 MB (tokenizer.json).
MAX_MODEL_BYTES = 64 << 20
MAX_JSON_BYTES = 64 << 20
# That file has 0.75 million commas and brackets; Python needs up to a hundred bytes for what stands between two of them.
MAX_JSON_PARTS = 4 << 20
PROBE_SECONDS = 120.0
PROBE = pathlib.Path(probe.__file__)
# What a parser that has lost its way ends with. Any other signal comes from outside.
CRASHES = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGTRAP")

_known: set[str] = set()
# Models in use, by their hash: a file that is opened again is neither loaded in a child nor parsed again.
_open_models: weakref.WeakValueDictionary[str, ModelFile] = weakref.WeakValueDictionary()


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
      TokenizerError: if the child refuses the file, crashes or takes too long, in which case this process is unharmed; or
        if there is no child to try it in, which is not the file's fault.
    """
    digest = hashlib.sha256(content).hexdigest()
    logger.info("%s: sha256 %s, %s", path, digest, "known" if digest in _known else "unknown, loading it in a child")
    if digest not in _known:
        reason = _try_in_child(kind, struct.pack("<Q", len(charsmap)) + charsmap + content)
        if reason:
            raise TokenizerError(f"{path} (sha256 {digest}): {reason}")
        _known.add(digest)
    return digest


def _try_in_child(kind: str, given: bytes) -> str:
    """Why a file is not to be loaded; empty where the child has loaded it."""
    if not sys.executable:
        return (
            "not checked, since sys.executable does not name the Python program that would do it in a child process; "
            "set sys.executable to it, as a program that embeds Python must"
        )
    # -P: else the child would look for every module beside probe.py first, among files of this package.
    command = [sys.executable, "-P", str(PROBE), kind]
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return (
            f"not loaded after {PROBE_SECONDS:g} seconds; do not use this file, or get it anew from its source, "
            "unless the machine is so busy that this tells nothing: then try again"
        )
    except OSError as error:
        return (
            f"not checked, since {sys.executable} could not be started ({error}); this says nothing of the file: "
            "see that there is memory and room for a process, and that sys.executable names a Python program"
        )
    return _explain(done)


def _explain(done: subprocess.CompletedProcess[bytes]) -> str:
    """Why the child did not load the file, and whose fault that is; empty where it did."""
    if done.returncode == 0 and done.stdout.strip() == probe.LOADED:
        return ""
    last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    if done.returncode == 0:
        return (
            f"not checked, since {sys.executable} did not run {PROBE.name}; this says nothing of the file: "
            "set sys.executable to a Python program"
        )
    if done.returncode == probe.NOT_INSTALLED:
        return (
            f"not checked, since {sys.executable} lacks what it needs ({last}); this says nothing of the file: install "
            "it there, or name its folder in PYTHONPATH"
        )
    advice = "the file is damaged, truncated or crafted: compare its hash with the source's and get it anew"
    if done.returncode > 0:
        return f"not a SentencePiece model or tokenizer ({last}); {advice}"
    name = next((item.name for item in signal.Signals if item == -done.returncode), f"signal {-done.returncode}")
    if name in CRASHES:
        return f"loading it crashed a child process ({name}); {advice}"
    return (
        f"not checked, since the child process that loaded it was ended from outside ({name}); SIGKILL is most often the "
        "system's answer to a lack of memory: see that some GB are free and try again, and do not use the file if that "
        "repeats"
    )


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
    found = _open_models.get(hashlib.sha256(content).hexdigest())
    if found is None:
        try:
            parts = protobuf.read_model_parts(content)
        except (IndexError, ValueError) as error:
            raise TokenizerError(
                f"{path}: not a SentencePiece model ({error}); the file is damaged or something else: get it anew"
            ) from None
        digest = check_in_child(path, "model", content, parts["charsmap"])
        found = ModelFile(path, content, digest, **parts)
    else:
        logger.info("%s: sha256 %s, in use already", path, found.sha256)
        found = dataclasses.replace(found, path=path)
    _open_models[found.sha256] = found
    return found


def check_json_size(path: pathlib.Path, content: bytes) -> None:
    """Refuses a file whose values would need much more memory than its bytes, such as one of empty lists."""
    parts = sum(content.count(mark) for mark in (b",", b"[", b"{"))
    if parts > MAX_JSON_PARTS:
        raise TokenizerError(
            f"{path}: {parts:,} commas and brackets; expected at most {MAX_JSON_PARTS:,}, RemBERT's own has 750,000: "
            "this is no tokenizer of RemBERT, get it anew"
        )
