"""The same sentences in several languages, to measure whether an encoder finds translations."""

from __future__ import annotations

import glob
import pathlib
from collections.abc import Sequence

from rembert_jax.data import sources


def keyed_files(pattern: str, languages: Sequence[str]) -> dict[str, pathlib.Path]:
    """Language to the file that `pattern`, with {language} in it, names; languages without one are left out.

    Raises:
      SourceError: if fewer than two languages have a file, or one has several.
    """
    found = {}
    for language in languages:
        matches = sorted(glob.glob(sources.fill_pattern(pattern, "data.parallel", language=language)))
        if len(matches) > 1:
            raise sources.SourceError(f"data.parallel={pattern}: {' and '.join(matches[:2])} for language {language!r}")
        if matches:
            found[language] = pathlib.Path(matches[0])
    if len(found) < 2:
        raise sources.SourceError(
            f"data.parallel={pattern}: files of {len(found)} of the languages {', '.join(languages)}, expected two or more"
        )
    return found


def _read(path: pathlib.Path) -> dict[str, str]:
    sentences = {}
    for line in sources.LineFiles([path]):
        key, tab, sentence = line.partition("\t")
        if not tab or not sentence.strip():
            raise sources.SourceError(f"{path}: the line {line[:40]!r} is not of the form key<TAB>sentence")
        sentences[key] = sentence.strip()
    return sentences


def keyed_sentences(pattern: str, languages: Sequence[str], count: int) -> dict[str, list[str]]:
    """Language to sentences whose key all its files have, at most `count`, spread evenly over the first file.

    Raises:
      SourceError: for files that are missing, lines without a key, or files without a common key.
    """
    files = {language: _read(path) for language, path in keyed_files(pattern, languages).items()}
    common = set.intersection(*map(set, files.values()))
    keys = [key for key in next(iter(files.values())) if key in common]
    if not keys:
        raise sources.SourceError(f"data.parallel={pattern}: the files of {', '.join(files)} have no key in common")
    size = min(count, len(keys))
    chosen = [keys[index * len(keys) // size] for index in range(size)]
    return {language: [sentences[key] for key in chosen] for language, sentences in files.items()}
