"""Where text comes from: random-access sequences of strings, one text each.

Every source has `len()` and `source[i]`, so that shuffling, mixing and resuming are arithmetic on indices.
"""

from __future__ import annotations

import glob
import gzip
import json
import logging
import mmap
import pathlib
import re
import zlib
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from rembert_jax.data import synthetic
from rembert_jax.errors import RemBertError

logger = logging.getLogger(__name__)

OnInvalid = Literal["fail", "skip"]


class SourceError(RemBertError):
    """A text source is missing, empty or unreadable."""


class SyntheticText(Sequence[str]):
    """Documents of an artificial language (`rembert_jax.data.synthetic`)."""

    def __init__(self, language: str, split: str, size: int, config: synthetic.SyntheticConfig) -> None:
        self.language, self.split, self.size, self.config = language, split, size, config

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index):
        return synthetic.document(self.language, self.split, range(self.size)[index], self.config)


def _read(path: pathlib.Path) -> bytes | mmap.mmap:
    kind = "gzip" if path.suffix == ".gz" else "text"
    try:
        if kind == "gzip":
            with gzip.open(path) as file:
                return file.read()
        with path.open("rb") as file:
            empty = path.stat().st_size == 0  # Which cannot be mapped.
            return b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SourceError(
            f"{path}: cannot be read ({reason}); expected a complete {kind} file: replace it, or move it out of the way"
        ) from error


class LineFiles(Sequence[str]):
    """Lines of plain or gzipped UTF-8 files; blank lines are left out.

    Plain files are memory-mapped and only 32 bytes a line are held; gzipped ones are held in memory.
    """

    def __init__(
        self,
        paths: Sequence[pathlib.Path],
        *,
        on_invalid: OnInvalid = "fail",
        parse: Callable[[str, str], str] | None = None,
    ) -> None:
        """Indexes the files.

        Args:
          paths: files in order; names ending in `.gz` are decompressed.
          on_invalid: what to do with a line that is not UTF-8 (or that `parse` refuses): raise, or skip it and say so.
          parse: maps (line, "file:line") to its text; identity by default.

        Raises:
          SourceError: naming the file that cannot be read, or file and line of the first invalid line when `on_invalid`
            is "fail".
        """
        self.paths = list(paths)
        self.parse = parse
        self._buffers: dict[int, bytes | mmap.mmap] = {}
        spans = array("q")
        for number, path in enumerate(self.paths):
            self._index(number, path, on_invalid, spans)
        self._spans = np.array(spans, np.int64).reshape(-1, 4)  # file, start, end, line number

    def _buffer(self, number: int) -> bytes | mmap.mmap:
        if number not in self._buffers:
            self._buffers[number] = _read(self.paths[number])
        return self._buffers[number]

    def __getstate__(self):
        return {**self.__dict__, "_buffers": {}}  # Worker processes map the files themselves.

    def _index(self, number: int, path: pathlib.Path, on_invalid: OnInvalid, spans: array[int]) -> None:
        buffer = self._buffer(number)
        start, line, skipped = 0, 0, 0
        while start < len(buffer):
            end = buffer.find(b"\n", start)
            end = len(buffer) if end < 0 else end
            line += 1
            raw = bytes(buffer[start:end])
            if raw.strip():
                try:
                    if self._text(raw, f"{path}:{line}").strip():
                        spans.extend((number, start, end, line))
                except SourceError as error:
                    if on_invalid == "fail":
                        raise
                    skipped += 1
                    logger.warning("skipped: %s", error)
            start = end + 1
        if skipped:
            logger.warning("%s: skipped %d of %d lines", path, skipped, line)

    def _text(self, raw: bytes, where: str) -> str:
        try:
            text = raw.decode("utf-8").strip("\r\n \t\ufeff")
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{where}: not valid UTF-8 at byte {error.start} of the line ({error.reason}); "
                'fix the file, or set data.on_invalid="skip" to leave such lines out'
            ) from error
        return text if self.parse is None else self.parse(text, where)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index):
        number, start, end, line = self._spans[index].tolist()
        return self._text(bytes(self._buffer(number)[start:end]), f"{self.paths[number]}:{line}")


class GroupedLines(Sequence[str]):
    """Joins runs of `size` consecutive texts, for files that hold one sentence a line."""

    def __init__(self, lines: Sequence[str], size: int) -> None:
        self.lines, self.size = lines, size

    def __len__(self) -> int:
        return -(-len(self.lines) // self.size)

    def __getitem__(self, index):
        first = range(len(self))[index] * self.size
        return " ".join(self.lines[i] for i in range(first, min(first + self.size, len(self.lines))))


def to_python(value: Any) -> Any:
    """A TFDS value as str, number, or a list or dict of them."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [to_python(item) for item in value]
    if isinstance(value, dict):
        return {key: to_python(item) for key, item in value.items()}
    return value.item() if isinstance(value, np.generic) else value


class TfdsText(Sequence[str]):
    """One text feature of a TFDS dataset read through `as_data_source` (array_record; needs no TensorFlow)."""

    def __init__(self, name: str, split: str, data_dir: str, field: str) -> None:
        import tensorflow_datasets as tfds  # Slow to import; only this source needs it.

        try:
            builder: Any = tfds.builder(name, data_dir=data_dir or None)
            self.records = builder.as_data_source(split)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]  # TFDS goes on with a list of all datasets it knows.
            raise SourceError(
                f"TFDS dataset {name!r}, split {split!r} under data_dir={data_dir!r}: {reason} Prepare it with "
                'builder.download_and_prepare(file_format="array_record")'
            ) from error
        self.name, self.field = name, field

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index):
        record = self.records[range(len(self))[index]]
        if self.field not in record:
            raise SourceError(
                f"{self.name}: no feature {self.field!r}; it has {', '.join(record)}; set data.text_field"
            )
        return record[self.field].decode("utf-8")


def json_text(field: str) -> Callable[[str, str], str]:
    """A parser of JSON lines that takes the string under `field`."""

    def parse(line: str, where: str) -> str:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{where}: not JSON ({error})") from error
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            raise SourceError(f"{where}: no string under {field!r}; set data.text_field to the right key")
        try:
            record[field].encode("utf-8")  # JSON can write half of a surrogate pair, which is no character.
        except UnicodeEncodeError as error:
            raise SourceError(
                f"{where}: half of a surrogate pair at character {error.start} of {field!r}; fix the file, or set "
                'data.on_invalid="skip" to leave such lines out'
            ) from error
        return record[field]

    return parse


def fill_pattern(pattern: str, key: str, **values: str) -> str:
    """`pattern` with its placeholders filled in.

    Args:
      pattern: for example "text/{language}/{split}.txt".
      key: configuration key that holds the pattern, named in errors.
      **values: what each placeholder stands for.

    Raises:
      SourceError: if the pattern has another placeholder or a single brace.
    """
    try:
        return pattern.format(**values)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        known = " and ".join(f"{{{name}}}" for name in values)
        raise SourceError(
            f"{key}={pattern}: cannot fill in ({error!r}); expected no placeholder but {known}; double other braces"
        ) from error


def find_files(pattern: str, language: str, split: str, key: str = "data.path", **others: str) -> list[pathlib.Path]:
    """Files of a language: `pattern` (of configuration key `key`) with {language}, {split} and others, wildcards allowed.

    Raises:
      SourceError: if there is none, or if the pattern has another placeholder.
    """
    filled = fill_pattern(pattern, key, language=language, split=split, **others)
    paths = [pathlib.Path(path) for path in sorted(glob.glob(filled))]
    if not paths:
        raise SourceError(
            f"no file for language {language!r}, split {split!r}: nothing matches {filled}; "
            f"check {key} and the name of the language"
        )
    return paths


def discover_languages(pattern: str) -> list[str]:
    """Languages for which files exist: what stands for {language} in the paths that match `pattern`, without dots.

    Raises:
      SourceError: if the folder is missing or nothing in it matches.
    """
    root = pathlib.Path(re.split(r"[{*?\[]", pattern)[0] + "x").parent
    if not root.is_dir():
        raise SourceError(f"data.path={pattern}: the folder {root} does not exist")
    # glob.translate would do, but it is new in Python 3.13.
    wildcards = {"{language}": r"(?P<language>[^/.]+)", "{split}": "[^/]+", "*": "[^/]*", "?": "[^/]"}
    parts = [wildcards.get(part, re.escape(part)) for part in re.split(r"(\{language\}|\{split\}|\*|\?)", pattern)]
    first = "".join(parts).replace(wildcards["{language}"], "(?P=language)")
    shape = re.compile(first.replace("(?P=language)", wildcards["{language}"], 1))
    matches = [shape.fullmatch(path) for path in glob.glob(fill_pattern(pattern, "data.path", language="*", split="*"))]
    found = sorted({match["language"] for match in matches if match and "language" in match.groupdict()})
    if not found:
        raise SourceError(f"data.path={pattern}: no language found under {root}; name them in data.languages")
    return found
