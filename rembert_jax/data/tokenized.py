"""Texts whose token ids lie in a file, so that several runs tokenise them once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import filelock
import numpy as np

from rembert_jax.tokenization import RemBertTokenizer

logger = logging.getLogger(__name__)

MOST_TEXTS = 5_000_000
"""Of a language. At some 10,000 sentences a second they take eight minutes; of more, a run may need only a part."""
CHUNK = 10_000


def encode(tokenizer: RemBertTokenizer, text: str) -> list[int]:
    """Token ids of a text of a corpus, in which the names of special pieces are plain text."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


class TokenizedTexts(Sequence[list[int]]):
    """The token ids of texts, read from a folder that `write` has filled."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = pathlib.Path(folder)
        self._open()

    def _open(self) -> None:
        self._ends = np.load(self._folder / "ends.npy", mmap_mode="r")
        self._ids = np.memmap(self._folder / "ids.bin", np.uint32, "r") if self._ends[-1] else np.zeros(0, np.uint32)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        start = self._ends[index - 1] if index else 0
        return self._ids[start : self._ends[index]].tolist()

    def __getstate__(self) -> dict[str, Any]:  # For worker processes, which map the files themselves.
        return {"_folder": self._folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._open()


def write(texts: Sequence[str], tokenizer: RemBertTokenizer, folder: pathlib.Path) -> None:
    """Writes the token ids of texts into a folder, which is there only when it is complete."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    lengths = np.zeros(len(texts), np.int64)
    with (partial / "ids.bin").open("wb") as file:
        for start in range(0, len(texts), CHUNK):
            chunk = [encode(tokenizer, texts[index]) for index in range(start, min(start + CHUNK, len(texts)))]
            lengths[start : start + len(chunk)] = [len(ids) for ids in chunk]
            np.concatenate([np.array(ids, np.uint32) for ids in chunk]).tofile(file)
    np.save(partial / "ends.npy", np.cumsum(lengths))
    partial.rename(folder)


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
