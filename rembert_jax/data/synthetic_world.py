"""Artificial languages over one shared world: what there is to say, and how each language says it.

The world has topics (think of bakery, harbour, orchestra). A topic has people (each with two names), cities and concepts
(nouns, verbs, adjectives), and every concept has a characteristic number: a price, an hour, a grade. Languages say the same
kinds of things about this world with different scripts and lexicons, word orders (SVO, SOV, VSO) and morphology. They share
what real texts share: digits, punctuation and proper names. Each concept has two synonyms in each language, and one stem of
each topic serves as noun and as verb.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from typing import Literal

import numpy as np

from rembert_jax.errors import RemBertError

TOPICS = 6
NOUNS, VERBS, ADJECTIVES, PEOPLE, CITIES = 3, 2, 1, 2, 2
"""Of each topic."""
UPOS = (
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM",
    "PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X",
)  # fmt: skip
FUNCTION_WORDS = {
    "the": "DET", "in": "ADP", "at": "ADP", "of": "ADP", "with": "ADP", "and": "CCONJ", "is": "AUX", "not": "PART",
    "they": "PRON", "today": "ADV", "often": "ADV", "costs": "VERB", "lives": "VERB", "unit": "NOUN",
}  # fmt: skip
FORMS = ("object", "past", "plural", "degree")


@dataclasses.dataclass(frozen=True)
class LanguageSpec:
    """The grammar of a language.

    Attributes:
      code: ISO 639 code from the range reserved for local use (qaa to qtz).
      letters: consonants and vowels of its script, in pairs of strings.
      order: order of subject, verb and object.
      articles: whether there is a definite article.
      inflection: how case, number, tense and degree are marked: by suffixes, by prefixes, or by doubling the word.
      documents: size of its text; languages differ in how much there is.
    """

    code: str
    letters: tuple[str, str]
    order: Literal["SVO", "SOV", "VSO"]
    articles: bool
    inflection: Literal["suffix", "prefix", "reduplication"]
    documents: int


LANGUAGES = {
    spec.code: spec
    for spec in (
        LanguageSpec("qaa", ("bdfgklmnprstvz", "aeiou"), "SVO", True, "suffix", 16000),
        LanguageSpec("qab", ("бвгджзклмнпрст", "аеиоу"), "SVO", False, "prefix", 12000),
        LanguageSpec("qac", ("βγδζθκλμνξπρστ", "αεηιο"), "SOV", True, "suffix", 9000),
        LanguageSpec("qad", ("բգդզթլխկմնպսվտ", "աեիոու"), "VSO", True, "reduplication", 6000),
    )
}
LABELLED_LANGUAGE = "qaa"


@dataclasses.dataclass(frozen=True)
class Concept:
    """A noun, verb or adjective of a topic with its characteristic number (two digits)."""

    index: int
    upos: str
    topic: int
    number: int


Person = tuple[str, str]
"""The given name and the family name; either may stand alone."""


Token = tuple[str, str]
"""A surface form and its universal part of speech."""


def generator(seed: int, *parts: str | int) -> np.random.Generator:
    """Random numbers that depend on nothing but the arguments."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    return np.random.default_rng([seed, *words])


class World:
    """Concepts and people, a pure function of the seed."""

    def __init__(self, seed: int) -> None:
        rng = generator(seed, "world")
        kinds = ["NOUN"] * NOUNS + ["VERB"] * VERBS + ["ADJ"] * ADJECTIVES
        numbers = 10 + rng.permutation(90)
        self.concepts = [
            Concept(i, kinds[i % len(kinds)], i // len(kinds), int(numbers[i])) for i in range(TOPICS * len(kinds))
        ]
        names = _unique_words(rng, ("bdfgklmnprst", "aeiou"), TOPICS * (2 * PEOPLE + CITIES), syllables=2)
        new = (name.capitalize() for name in names)
        self.people: list[list[Person]] = [[(next(new), next(new)) for _ in range(PEOPLE)] for _ in range(TOPICS)]
        self.cities = [[next(new) for _ in range(CITIES)] for _ in range(TOPICS)]

    def of_topic(self, topic: int, upos: str) -> list[Concept]:
        """The concepts of a topic with a part of speech."""
        return [concept for concept in self.concepts if concept.topic == topic and concept.upos == upos]


def _unique_words(rng: np.random.Generator, letters: tuple[str, str], count: int, syllables: int) -> list[str]:
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choice(list(group)) for _ in range(syllables) for group in letters)] = None
    return list(words)


class Language:
    """Lexicon and grammar of one language: turns meanings into tagged tokens, a pure function of (seed, code)."""

    def __init__(self, code: str, seed: int) -> None:
        if code not in LANGUAGES:
            raise RemBertError(f"unknown synthetic language {code!r}: expected one of {', '.join(LANGUAGES)}")
        self.spec, self.seed, self.world = LANGUAGES[code], seed, world(seed)
        rng = generator(seed, code, "lexicon")
        letters = self.spec.letters
        stems = _unique_words(rng, letters, 2 * len(self.world.concepts), syllables=2)
        self.synonyms = {c.index: [stems[2 * c.index], stems[2 * c.index + 1]] for c in self.world.concepts}
        short = _unique_words(rng, letters, len(FUNCTION_WORDS) + len(FORMS), syllables=1)
        self.function = dict(zip(FUNCTION_WORDS, short, strict=False))
        self.affixes: dict[str, str] = dict(zip(FORMS, short[len(FUNCTION_WORDS) :], strict=True))
        for topic in range(TOPICS):  # One stem a topic is noun and verb: only the context tells which.
            noun, verb = self.world.of_topic(topic, "NOUN")[0], self.world.of_topic(topic, "VERB")[0]
            self.synonyms[verb.index][1] = self.synonyms[noun.index][1]

    def word(self, name: str) -> Token:
        """A function word."""
        return self.function[name], FUNCTION_WORDS[name]

    def lexeme(self, concept: Concept, synonym: int, form: str = "") -> Token:
        """A content word: one of the two synonyms of a concept, as it stands or inflected for one of `FORMS`."""
        stem = self.synonyms[concept.index][synonym]
        if not form:
            return stem, concept.upos
        affix = self.affixes[form]
        surface = {"suffix": stem + affix, "prefix": affix + stem, "reduplication": stem + stem}[self.spec.inflection]
        return surface, concept.upos

    def has(self, name: str) -> bool:
        """Whether the language uses a function word: not all have articles."""
        return name != "the" or self.spec.articles

    def clause(self, subject: list[Token], verb: list[Token], rest: list[Token], adjuncts: list[Token]) -> list[Token]:
        """Subject, verb, object or predicate, and adjuncts in this language's order, with the full stop."""
        parts = {"S": subject, "V": verb, "O": rest}
        body = [token for letter in self.spec.order for token in parts[letter]]
        ordered = [*body[:-1], *adjuncts, body[-1]] if self.spec.order == "SOV" else [*body, *adjuncts]
        return [*ordered, (".", "PUNCT")]


@functools.cache
def world(seed: int) -> World:
    """The world of a seed."""
    return World(seed)


@functools.cache
def language(code: str, seed: int) -> Language:
    """The language `code` of a seed."""
    return Language(code, seed)
