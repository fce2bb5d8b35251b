"""Parts of speech from CoNLL-U by two protocols: the tokens of XTREME's own preprocessing, and syntactic words.

`official` follows google-research/xtreme: words that share a surface token are fused into it (ud-conversion-tools,
`--replace_subtokens_with_fused_forms`), and its tag is that of the word highest in the graph of basic and enhanced
dependencies. `hf_compat` keeps syntactic words, as the datasets of TFDS and Hugging Face do. The number of tokens differs, so
scores by one protocol cannot be compared with those by the other.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from rembert_jax.xtreme.files import FileError, read_lines

Protocol = Literal["official", "hf_compat"]
PROTOCOLS = ("official", "hf_compat")

_DEFAULT_RANKS = "VERB NOUN PROPN PRON ADJ NUM ADV INTJ AUX ADP DET PART CCONJ SCONJ X PUNCT"
RANKS = {
    "es": "VERB AUX PRON ADP DET",
    "fr": "VERB AUX PRON NOUN ADJ ADV ADP DET PART SCONJ CONJ",
    "it": "VERB AUX ADV PRON ADP DET INTJ",
}
"""Which tag a fused token gets where several of its words are equally high; another list for some languages."""


@dataclasses.dataclass
class Word:
    """A row of CoNLL-U: a syntactic word."""

    form: str
    upos: str
    heads: list[int]
    """By basic and enhanced dependencies; 0 is the root."""


@dataclasses.dataclass
class Sentence:
    """Words by number from 1, and surface tokens by the first and last word they hold."""

    where: str
    words: dict[int, Word]
    ranges: dict[tuple[int, int], str]


def read(path: pathlib.Path, language: str, protocol: Protocol) -> list[dict[str, object]]:
    """Sentences as {"tokens", "tags", "where"} by a protocol.

    Raises:
      FileError: with file and line of what is not CoNLL-U.
    """
    convert = official_tokens if protocol == "official" else _syntactic_words
    examples = []
    for sentence in sentences(path):
        tokens, tags = convert(sentence, language)
        if tokens:
            examples.append({"tokens": tokens, "tags": tags, "where": sentence.where})
    return examples


def sentences(path: pathlib.Path) -> Iterator[Sentence]:
    """The sentences of a file; empty nodes ("8.1") are passed over."""
    sentence = Sentence("", {}, {})
    for number, line in enumerate([*read_lines(path), ""], start=1):
        if not line.strip():
            if sentence.words:
                yield sentence
            sentence = Sentence("", {}, {})
        elif not line.startswith("#"):
            sentence.where = sentence.where or f"{path}:{number}"
            _add_row(sentence, line.split("\t"), f"{path}, line {number}")


def _add_row(sentence: Sentence, columns: Sequence[str], where: str) -> None:
    if len(columns) != 10:
        raise FileError(f"{where}: found {len(columns)} columns, expected the 10 of CoNLL-U")
    name = columns[0]
    if name.isdecimal():
        heads = [columns[6], *(dependency.partition(":")[0] for dependency in columns[8].split("|"))]
        sentence.words[int(name)] = Word(columns[1], columns[3], [int(head) for head in heads if head.isdecimal()])
    elif "-" in name:
        first, _, last = name.partition("-")
        if not (first.isdecimal() and last.isdecimal()):
            raise FileError(f"{where}: found {name!r}, expected the number of a word, or two with a hyphen between")
        sentence.ranges[int(first), int(last)] = columns[1]


def _syntactic_words(sentence: Sentence, language: str) -> tuple[list[str], list[str]]:
    words = [word for word in sentence.words.values() if "_" not in (word.form, word.upos)]
    return [word.form for word in words], [word.upos for word in words]


def official_tokens(sentence: Sentence, language: str) -> tuple[list[str], list[str]]:
    """Surface tokens and their tags; nothing where all forms, or all but one, are "_" (text that may not be passed on)."""
    chosen = {span: _head(sentence, span, language) for span in sentence.ranges}
    tokens, tags, skip = [], [], 0
    fused = {first: (last, form, chosen[first, last]) for (first, last), form in sentence.ranges.items()}
    for number, word in sentence.words.items():
        if number in fused:
            skip, form, head = fused[number]
            tokens.append(_clean(form))
            tags.append(sentence.words[head].upos)
        elif number > skip:
            tokens.append(_clean(word.form))
            tags.append(word.upos)
    hidden = sum(token == "_" for token in tokens)
    if hidden and hidden >= len(tokens) - 1:
        return [], []
    return tokens, tags


def _clean(form: str) -> str:
    """Without zero-width non-joiners and spaces inside of a token."""
    return form.replace("\u200c", "").replace(" ", "")


def _head(sentence: Sentence, span: tuple[int, int], language: str) -> int:
    """The word of a surface token that has the fewest ancestors; of several the one whose tag ranks first."""
    numbers = [number for number in range(span[0], span[1] + 1) if number in sentence.words]
    heights = {number: len(_ancestors(sentence, number)) for number in numbers}
    highest = [number for number in numbers if heights[number] == min(heights.values())]
    ranks = RANKS.get(language, _DEFAULT_RANKS).split()
    return min(highest, key=lambda number: _rank(sentence.words[number].upos, ranks))


def _rank(upos: str, ranks: Sequence[str]) -> int:
    return ranks.index(upos) if upos in ranks else len(ranks)


def _ancestors(sentence: Sentence, number: int) -> set[int]:
    found: set[int] = set()
    waiting: Iterable[int] = [number]
    while waiting:
        heads = {head for one in waiting if one in sentence.words for head in sentence.words[one].heads}
        waiting = heads - found
        found |= heads
    return found - {number}
