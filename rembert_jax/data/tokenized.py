"""Texts whose token ids lie in files, so that they are tokenised once.

The files are mapped into memory: one document from a random place takes 10 µs, and takes no thread. From array_record 0.8.3 it
took 500 µs (85 in batches of 64; the same two cores), and 64 threads for each file, which 110 languages would have had each.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import filelock
import numpy as np

from rembert_jax.errors import RemBertError
from rembert_jax.tokenization import RemBertTokenizer

logger = logging.getLogger(__name__)

MOST_TEXTS = 5_000_000
"""Of a language. At some 10,000 sentences a second they take eight minutes; of more, a run may need only a part."""
CHUNK = 10_000


def encode(tokenizer: RemBertTokenizer, text: str) -> list[int]:
    """Token ids of a text of a corpus, in which the names of special pieces are plain text."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


class TokenizedError(RemBertError):
    """Files of token ids are missing or are of another vocabulary."""


class TokenizedTexts(Sequence[list[int]]):
    """The token ids of texts, mapped from a folder that `write` has filled: only what is asked for is read.

    Attributes:
      vocabulary: sha256 of the vocabulary that they are ids of.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Opens the folder.

        Raises:
          TokenizedError: if it is not there, or not complete.
        """
        self._folder = pathlib.Path(folder)
        self._open()

    def _open(self) -> None:
        try:
            self.vocabulary: str = json.loads((self._folder / "about.json").read_text())["vocabulary"]
            self._ends = np.load(self._folder / "ends.npy", mmap_mode="r")
            self._ids = (
                np.memmap(self._folder / "ids.bin", np.uint32, "r") if self._ends[-1] else np.zeros(0, np.uint32)
            )
        except (OSError, ValueError, KeyError) as error:
            raise TokenizedError(
                f"{self._folder}: no token ids there ({error}); make them with python -m rembert_jax.tools.tokenize"
            ) from error

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        start = self._ends[index - 1] if index else 0
        return self._ids[start : self._ends[index]].tolist()

    def __getstate__(self) -> dict[str, Any]:  # Other processes map the files themselves.
        return {"_folder": self._folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._open()


def ranges(texts: Sequence[str]) -> list[tuple[int, int]]:
    """From where to where the chunks of texts go that are encoded in one go."""
    return [(start, min(start + CHUNK, len(texts))) for start in range(0, len(texts), CHUNK)]


def encode_range(texts: Sequence[str], tokenizer: RemBertTokenizer, start: int, stop: int) -> tuple[np.ndarray, ...]:
    """Lengths, and token ids one after the other, of `texts[start:stop]`."""
    chunk = [encode(tokenizer, texts[index]) for index in range(start, stop)]
    return np.array([len(ids) for ids in chunk], np.int64), np.fromiter(itertools.chain.from_iterable(chunk), np.uint32)


def write(
    texts: Sequence[str],
    tokenizer: RemBertTokenizer,
    folder: pathlib.Path,
    chunks: Iterable[tuple[np.ndarray, ...]] | None = None,
) -> None:
    """Writes the token ids of texts into a folder, which is there only when it is complete.

    Args:
      texts, tokenizer: what is encoded.
      folder: to write.
      chunks: what `encode_range` makes of each of `ranges(texts)`, if another has done it.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    lengths = []
    with (partial / "ids.bin").open("wb") as file:
        for sizes, ids in chunks or (encode_range(texts, tokenizer, *one) for one in ranges(texts)):
            lengths.append(sizes)
            ids.tofile(file)
    np.save(partial / "ends.npy", np.cumsum(np.concatenate(lengths)))
    (partial / "about.json").write_text(json.dumps({"vocabulary": tokenizer.sha256, "texts": len(texts)}))
    partial.rename(folder)


def check_vocabulary(texts: Mapping[str, Any], tokenizer: RemBertTokenizer) -> None:
    """Checks that token ids are those of a vocabulary; texts are passed over.

    Raises:
      TokenizedError: naming the language whose are not.
    """
    for language, source in texts.items():
        if isinstance(source, TokenizedTexts) and source.vocabulary != tokenizer.sha256:
            raise TokenizedError(
                f"language {language!r}: its token ids are of the vocabulary {source.vocabulary[:12]}, and the run has "
                f"{tokenizer.sha256[:12]}; set tokenizer.path to the vocabulary that lies with them"
            )


def shared(
    texts: Mapping[str, Sequence[str]], tokenizer: RemBertTokenizer, origin: Mapping[str, Any], folder: pathlib.Path
) -> dict[str, Sequence[Any]]:
    """The token ids of each language's texts, from files in `folder` that are made where they are missing.

    Args:
      texts: language to texts.
      tokenizer: theirs.
      origin: everything that the texts depend on, as plain values; with the vocabulary it names the files.
      folder: of all runs that may use them.

    Returns:
      Language to token ids; the texts themselves where there are more than `MOST_TEXTS`.
    """
    result: dict[str, Sequence[Any]] = {}
    for language, source in texts.items():
        if len(source) > MOST_TEXTS:
            logger.info("%s: %d texts are tokenised as they are read, as they are more than %d", language, len(source),
                        MOST_TEXTS)  # fmt: skip
            result[language] = source
            continue
        recipe = {"origin": origin, "language": language, "texts": len(source), "tokenizer": tokenizer.sha256}
        target = folder / f"tokens-{language}-{digest(recipe)}"
        with made_once(target) as missing:
            if missing:
                logger.info("%s: tokenising %d texts for this run and those like it", language, len(source))
                write(source, tokenizer, target)
        result[language] = TokenizedTexts(target)
    return result


def digest(recipe: Mapping[str, Any]) -> str:
    """A short name for plain values."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def made_once(target: pathlib.Path) -> Iterator[bool]:
    """For a file or folder that several processes want: True for the first one, which makes it while the others wait."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{target}.lock"):
        yield not target.exists()
