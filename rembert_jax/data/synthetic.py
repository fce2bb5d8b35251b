"""Artificial languages over one shared world, so that every stage runs anywhere, offline, with gold labels.

The world has topics (think of bakery, harbour, orchestra). A topic has people (each with two names), cities and concepts
(nouns, verbs, adjectives), and every concept has a characteristic number: a price, an hour, a grade. Languages say the same
kinds of things about this world with different scripts and lexicons, word orders (SVO, SOV, VSO) and morphology. They share
what real texts share: digits, punctuation, proper names; and, as on the web, some documents are pages of a dictionary.

A document is about one topic, so a hidden word can be predicted from its context, and only from it: each concept has two
synonyms, some stems serve as noun and as verb, and facts are sometimes stated wrongly.

Labels come from the grammar: a part of speech for each token, and for sentence pairs whether both are about the same topic.
The second sentence of a pair repeats neither a content word nor a name of the first, so comparing strings does not help.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from rembert_jax.errors import RemBertError

TOPICS = 6
NOUNS, VERBS, ADJECTIVES, PEOPLE, CITIES = 3, 2, 1, 2, 2
"""Of each topic."""
DICTIONARIES = 0.1
"""Share of documents that are pages of a dictionary."""
SPLITS = ("train", "validation", "test")
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


def _rng(seed: int, *parts: str | int) -> np.random.Generator:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    return np.random.default_rng([seed, *words])


class World:
    """Concepts and people, a pure function of the seed."""

    def __init__(self, seed: int) -> None:
        rng = _rng(seed, "world")
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
        rng = _rng(seed, code, "lexicon")
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

    def noun_phrase(self, noun: Token, adjective: Token | None = None, definite: bool = True) -> list[Token]:
        """Article, adjective and noun."""
        core = [noun] if adjective is None else [adjective, noun]
        return [self.word("the"), *core] if self.spec.articles and definite else core

    def preposition(self, name: str, phrase: list[Token]) -> list[Token]:
        """A phrase under a preposition."""
        return [self.word(name), *phrase]

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


class _Speaker:
    """Says things about one topic; every choice comes from `rng`."""

    def __init__(self, tongue: Language, topic: int, rng: np.random.Generator) -> None:
        self.tongue, self.world, self.topic, self.rng = tongue, tongue.world, topic, rng

    def pick(self, items: Sequence[Any]) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def content(self, concept: Concept, form: str = "") -> Token:
        return self.tongue.lexeme(concept, self.pick((0, 1)), form)

    def concept(self, upos: str) -> Concept:
        return self.pick(self.world.of_topic(self.topic, upos))

    def number(self, concept: Concept) -> list[Token]:
        """The characteristic number of a concept and a unit; one time in ten another number, of two or three digits."""
        value = int(self.rng.integers(10, 1000)) if self.chance(0.1) else concept.number
        return [(str(value), "NUM"), self.tongue.word("unit")]

    def name(self) -> list[Token]:
        return [(self.pick(self.pick(self.world.people[self.topic])), "PROPN")]

    def phrase(self, noun: Concept, form: str = "") -> list[Token]:
        adjective = self.content(self.concept("ADJ")) if self.chance(0.3) else None
        return self.tongue.noun_phrase(self.content(noun, form), adjective)

    def place(self) -> list[Token]:
        return self.tongue.preposition("in", [(self.pick(self.world.cities[self.topic]), "PROPN")])

    def adjuncts(self, *phrases: list[Token]) -> list[Token]:
        """Adjunct phrases with a comma between them."""
        joined: list[Token] = []
        for phrase in phrases:
            joined += [*([(",", "PUNCT")] if joined else []), *phrase]
        return joined

    def deed(self, verb: Concept) -> list[Token]:
        words = [self.content(verb, self.pick(["", "past"]))]
        if self.chance(0.2):
            words = [self.tongue.word("not"), *words]
        if self.chance(0.2):
            words = [self.tongue.word(self.pick(["today", "often"])), *words]
        return words

    def does(self) -> list[Token]:
        verb = self.concept("VERB")
        subject = self.name() if self.chance(0.5) else [self.tongue.word("they")]
        when = [self.tongue.preposition("at", self.number(verb))] if self.chance(0.6) else []
        where = [self.place()] if self.chance(0.3) else []
        noun = self.phrase(self.concept("NOUN"), self.pick(["object", "plural"]))
        return self.tongue.clause(subject, self.deed(verb), noun, self.adjuncts(*where, *when))

    def costs(self) -> list[Token]:
        noun = self.concept("NOUN")
        return self.tongue.clause(self.phrase(noun), [self.tongue.word("costs")], self.number(noun), [])

    def quality(self) -> list[Token]:
        noun, adjective = self.concept("NOUN"), self.concept("ADJ")
        subject = self.tongue.noun_phrase(self.content(noun))
        grade = [self.tongue.preposition("with", self.number(adjective))] if self.chance(0.7) else []
        predicate = [self.content(adjective, self.pick(["", "degree"]))]
        return self.tongue.clause(subject, [self.tongue.word("is")], predicate, self.adjuncts(*grade))

    def owns(self) -> list[Token]:
        first, second = self.concept("NOUN"), self.concept("NOUN")
        subject = [
            *self.tongue.noun_phrase(self.content(first, "plural")),
            *self.tongue.preposition("of", self.name()),
            self.tongue.word("and"),
            *self.tongue.noun_phrase(self.content(second)),
        ]
        return self.tongue.clause(subject, self.deed(self.concept("VERB")), self.place(), [])

    def lives(self) -> list[Token]:
        subject = self.pick(
            [
                self.name(),
                [*self.name(), (",", "PUNCT"), *self.name()],
                [*self.name(), self.tongue.word("and"), *self.name()],
            ]
        )
        return self.tongue.clause(subject, [self.tongue.word("lives")], self.place(), [])

    def sentence(self) -> list[Token]:
        twice = [self.does, self.costs, self.quality]
        kinds = [*twice, *twice, self.does, self.owns, self.lives]
        return self.pick(kinds)()


def to_text(tokens: list[Token]) -> str:
    """Tokens as running text: spaces between words, none before punctuation."""
    return " ".join(form for form, _ in tokens).replace(" .", ".").replace(" ,", ",")


def _dictionary_page(tongue: Language, topic: int, rng: np.random.Generator) -> str:
    """Words of a topic, each with its translations into all other languages."""
    concepts = [concept for concept in tongue.world.concepts if concept.topic == topic]
    entries = []
    for index in rng.permutation(len(concepts)):
        word, *translations = [
            language(code, tongue.seed).lexeme(concepts[index], int(rng.integers(2)))[0]
            for code in (tongue.spec.code, *(code for code in LANGUAGES if code != tongue.spec.code))
        ]
        entries.append(f"{word} ({', '.join(translations)}).")
    return " ".join(entries)


def document(code: str, split: str, index: int, seed: int = 0) -> str:
    """Document `index` of a split: four to seven sentences about one topic, or its page in a dictionary.

    A pure function of its arguments.
    """
    rng = _rng(seed, code, split, "document", index)
    tongue, topic = language(code, seed), int(rng.integers(TOPICS))
    if rng.random() < DICTIONARIES:
        return _dictionary_page(tongue, topic, rng)
    speaker = _Speaker(tongue, topic, rng)
    return " ".join(to_text(speaker.sentence()) for _ in range(int(rng.integers(4, 8))))


SPLIT_OF_HASH = ("validation", "test", "train", "train")


def _draw(split: str, make: Callable[[np.random.Generator], Any], seed: int, *parts: str | int) -> Any:
    """What `make` draws, drawn again until its hash belongs to the split, so that no two splits share an example."""
    if split not in SPLITS:
        raise RemBertError(f"unknown split {split!r} of a synthetic language: expected one of {', '.join(SPLITS)}")
    rng = _rng(seed, *parts)
    while True:
        result = make(rng)
        if SPLIT_OF_HASH[zlib.crc32(repr(result).encode()) % len(SPLIT_OF_HASH)] == split:
            return result


def tagged_sentence(code: str, split: str, index: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Tokens and universal parts of speech of one sentence. A pure function of its arguments."""
    tongue = language(code, seed)

    def make(rng: np.random.Generator) -> list[Token]:
        return _Speaker(tongue, int(rng.integers(TOPICS)), rng).sentence()

    tokens = _draw(split, make, seed, code, split, "tagged", index)
    return [form for form, _ in tokens], [upos for _, upos in tokens]


def _story(
    tongue: Language, topic: int, variant: int, kind: str, adjective: bool, rng: np.random.Generator
) -> list[Token]:
    """A sentence of one kind about a topic in one of two variants that share no name, city or content word."""

    def word(upos: str, form: str = "") -> Token:
        concepts = tongue.world.of_topic(topic, upos)
        return tongue.lexeme(concepts[int(rng.integers(len(concepts)))], variant, form)

    people = tongue.world.people[topic]
    name = (people[int(rng.integers(PEOPLE))][variant], "PROPN")
    if kind == "home":
        place = tongue.preposition("in", [(tongue.world.cities[topic][variant], "PROPN")])
        return tongue.clause([name], [tongue.word("lives")], place, [])
    subject = name if kind == "deed by name" else tongue.word("they")
    noun = tongue.noun_phrase(word("NOUN", "object"), word("ADJ") if adjective else None)
    return tongue.clause([subject], [word("VERB", "past")], noun, [])


def sentence_pair(code: str, split: str, index: int, seed: int = 0) -> tuple[str, str, int]:
    """Two sentences and 1 if they are about the same topic, else 0. A pure function of its arguments.

    The sentences share no name, city or content word: they use different names of people and different synonyms. Only one
    who knows what belongs together can tell. Kind and length of the sentences are independent of the label.
    """
    tongue = language(code, seed)

    def make(rng: np.random.Generator) -> tuple[str, str, int]:
        topic, label, variant = int(rng.integers(TOPICS)), int(rng.integers(2)), int(rng.integers(2))
        other = topic if label else (topic + int(rng.integers(1, TOPICS))) % TOPICS
        first = _story(tongue, topic, variant, "deed by name", bool(rng.integers(2)), rng)
        kind = ("deed by name", "deed", "home")[int(rng.integers(3))]
        second = _story(tongue, other, 1 - variant, kind, bool(rng.integers(2)), rng)
        return to_text(first), to_text(second), label

    return _draw(split, make, seed, code, split, "pair", index)
