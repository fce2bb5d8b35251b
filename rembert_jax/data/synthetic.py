"""Texts and labelled examples in artificial languages (`synthetic_world`), so that every stage runs anywhere, offline.

Training text holds what text from the web holds: documents about one topic in one language, so that a hidden word can be
predicted from its context, and only from it; documents in which words of other languages stand in the sentences of one;
pages of a dictionary; and, where a config asks for them, documents that say twice what is true in them alone. Held-out text
holds documents in one language only.

Labels come from the grammar: a part of speech for each token; the topic of a sentence; whether two sentences are about the
same topic. Sentences whose topic is asked hold no name and no number, which all languages share, and those of a pair have no
content word in common, so comparing strings does not help.

Everything is a pure function of its arguments; `seed` is that of the world.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from rembert_jax.data.synthetic_world import FUNCTION_WORDS, LANGUAGES, TOPICS, Concept, Language, Token, language
from rembert_jax.data.synthetic_world import generator as _rng
from rembert_jax.errors import RemBertError

SPLITS = ("train", "validation", "test")
SPLIT_OF_HASH = ("validation", "test", "train", "train")
FOREIGN = 0.5
"""Share of words that a mixed document takes from other languages."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Section `data.synthetic`: the world, and what its training text is made of.

    Attributes:
      seed: of the world: its concepts and names, and the words of its languages.
      mixed: share of training documents that mix languages: order of words and use of articles of one, half of the
        words from others, as speakers of several languages talk. They align the languages.
      dictionary: share of training documents that are pages of a dictionary.
      retold: share of training documents that say everything twice, often in other words and another order, with numbers
        that hold in one document only. They teach to look up what the context says, as questions about a text need it.
      documents: share of each language's training documents that the text has; less for a quick try.
    """

    seed: int = 0
    mixed: float = 0.5
    dictionary: float = 0.1
    retold: float = 0.0
    documents: float = 1.0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise RemBertError(f"seed={self.seed}: expected 0 or more")
        for name in ("mixed", "dictionary", "retold", "documents"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise RemBertError(f"{name}={getattr(self, name)}: expected a share between 0 and 1")
        if self.mixed + self.dictionary + self.retold > 1.0:
            shares = f"mixed={self.mixed}, dictionary={self.dictionary}, retold={self.retold}"
            raise RemBertError(f"{shares}: expected shares whose sum is at most 1")


class Speaker:
    """Says things about one topic; every choice comes from `rng`, and none depends on the language.

    Attributes:
      others: languages that lend words (`FOREIGN` of them); empty for none.
      synonym: which synonym of each concept to use; None takes either.
      invented: how often a number is not the characteristic one of its concept.
    """

    def __init__(
        self,
        tongue: Language,
        topic: int,
        rng: np.random.Generator,
        *,
        others: Sequence[Language] = (),
        synonym: int | None = None,
        invented: float = 0.1,
    ) -> None:
        self.tongue, self.world, self.topic, self.rng = tongue, tongue.world, topic, rng
        self.others, self.synonym, self.invented = others, synonym, invented

    def pick(self, items: Sequence[Any]) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def speaks(self) -> Language:
        """The language of the next word."""
        return self.pick(self.others) if self.others and self.chance(FOREIGN) else self.tongue

    def word(self, name: str) -> Token:
        tongue = self.speaks()
        return (tongue if tongue.has(name) else self.tongue).word(name)

    def content(self, concept: Concept, form: str = "") -> Token:
        return self.speaks().lexeme(concept, self.pick((0, 1)) if self.synonym is None else self.synonym, form)

    def preposition(self, name: str, phrase: list[Token]) -> list[Token]:
        return [self.word(name), *phrase]

    def concept(self, upos: str) -> Concept:
        return self.pick(self.world.of_topic(self.topic, upos))

    def number(self, concept: Concept) -> list[Token]:
        """The characteristic number of a concept and a unit; or another number, of two or three digits (`invented`)."""
        value = int(self.rng.integers(10, 1000)) if self.chance(self.invented) else concept.number
        return [(str(value), "NUM"), self.word("unit")]

    def name(self) -> list[Token]:
        return [(self.pick(self.pick(self.world.people[self.topic])), "PROPN")]

    def phrase(self, noun: Concept, form: str = "") -> list[Token]:
        adjective = [self.content(self.concept("ADJ"))] if self.chance(0.3) else []
        return self.definite([*adjective, self.content(noun, form)])

    def definite(self, phrase: list[Token]) -> list[Token]:
        """A phrase with its article, where the language has one."""
        return [self.word("the"), *phrase] if self.tongue.has("the") else phrase

    def place(self) -> list[Token]:
        return self.preposition("in", [(self.pick(self.world.cities[self.topic]), "PROPN")])

    def adjuncts(self, *phrases: list[Token]) -> list[Token]:
        """Adjunct phrases with a comma between them."""
        joined: list[Token] = []
        for phrase in phrases:
            joined += [*([(",", "PUNCT")] if joined else []), *phrase]
        return joined

    def deed(self, verb: Concept) -> list[Token]:
        words = [self.content(verb, self.pick(["", "past"]))]
        if self.chance(0.2):
            words = [self.word("not"), *words]
        if self.chance(0.2):
            words = [self.word(self.pick(["today", "often"])), *words]
        return words

    def does(self) -> list[Token]:
        verb = self.concept("VERB")
        subject = self.name() if self.chance(0.5) else [self.word("they")]
        when = [self.preposition("at", self.number(verb))] if self.chance(0.6) else []
        where = [self.place()] if self.chance(0.3) else []
        noun = self.phrase(self.concept("NOUN"), self.pick(["object", "plural"]))
        return self.tongue.clause(subject, self.deed(verb), noun, self.adjuncts(*where, *when))

    def costs(self) -> list[Token]:
        noun = self.concept("NOUN")
        return self.tongue.clause(self.phrase(noun), [self.word("costs")], self.number(noun), [])

    def quality(self, plain: bool = False) -> list[Token]:
        noun, adjective = self.concept("NOUN"), self.concept("ADJ")
        subject = self.definite([self.content(noun)])
        graded = not plain and self.chance(0.7)
        grade = [self.preposition("with", self.number(adjective))] if graded else []
        predicate = [self.content(adjective, self.pick(["", "degree"]))]
        return self.tongue.clause(subject, [self.word("is")], predicate, self.adjuncts(*grade))

    def owns(self) -> list[Token]:
        first, second = self.concept("NOUN"), self.concept("NOUN")
        subject = [
            *self.definite([self.content(first, "plural")]),
            *self.preposition("of", self.name()),
            self.word("and"),
            *self.definite([self.content(second)]),
        ]
        return self.tongue.clause(subject, self.deed(self.concept("VERB")), self.place(), [])

    def lives(self) -> list[Token]:
        subject = self.pick(
            [
                self.name(),
                [*self.name(), (",", "PUNCT"), *self.name()],
                [*self.name(), self.word("and"), *self.name()],
            ]
        )
        return self.tongue.clause(subject, [self.word("lives")], self.place(), [])

    def sentence(self) -> list[Token]:
        twice = [self.does, self.costs, self.quality]
        kinds = [*twice, *twice, self.does, self.owns, self.lives]
        return self.pick(kinds)()

    def plain_sentence(self) -> list[Token]:
        """A sentence without names and numbers: what somebody did, or, one time in four, how something is."""
        if self.chance(0.25):
            return self.quality(plain=True)
        noun = self.phrase(self.concept("NOUN"), self.pick(["object", "plural"]))
        return self.tongue.clause([self.word("they")], self.deed(self.concept("VERB")), noun, [])


def to_text(tokens: list[Token]) -> str:
    """Tokens as running text: spaces between words, none before punctuation."""
    return " ".join(form for form, _ in tokens).replace(" .", ".").replace(" ,", ",")


def _others(code: str, seed: int) -> list[Language]:
    return [language(other, seed) for other in LANGUAGES if other != code]


def _dictionary_page(tongue: Language, topic: int, rng: np.random.Generator) -> str:
    """Words with their translations into all other languages: those of a topic, and one function word for each three."""
    tongues = [tongue, *_others(tongue.spec.code, tongue.seed)]
    concepts = [concept for concept in tongue.world.concepts if concept.topic == topic]
    entries = [[each.lexeme(concept, int(rng.integers(2)))[0] for each in tongues] for concept in concepts]
    known = [name for name in FUNCTION_WORDS if tongue.has(name)]
    for name in map(str, rng.choice(known, len(concepts) // 3, replace=False)):
        entries.append([each.word(name)[0] for each in tongues if each.has(name)])
    shuffled = [entries[i] for i in rng.permutation(len(entries))]
    return " ".join(f"{word} ({', '.join(translations)})." for word, *translations in shuffled)


T = TypeVar("T")


def split_of(sentence: str) -> str:
    """The split that a sentence belongs to. It occurs in no other one, neither in text nor in labelled examples."""
    return SPLIT_OF_HASH[zlib.crc32(sentence.encode()) % len(SPLIT_OF_HASH)]


def draw(splits: Sequence[str], make: Callable[[], T], sentences: Callable[[T], Sequence[str]]) -> T:
    """What `make` draws, drawn again until every sentence in it belongs to one of the splits."""
    for split in splits:
        if split not in SPLITS:
            raise RemBertError(f"unknown split {split!r} of a synthetic language: expected one of {', '.join(SPLITS)}")
    while True:
        result = make()
        if all(split_of(sentence) in splits for sentence in sentences(result)):
            return result


def _retold(tongue: Language, topic: int, rng: np.random.Generator) -> str:
    """Two sentences of training text, and what they say once more."""

    def tellings() -> list[str]:
        choices = int(rng.integers(1 << 30))
        speakers = (
            Speaker(tongue, topic, np.random.default_rng(choices), synonym=int(rng.integers(2)), invented=1.0)
            for _ in range(2)
        )
        return [to_text(speaker.sentence()) for speaker in speakers]

    facts = [draw(("train",), tellings, lambda texts: texts) for _ in range(2)]
    return " ".join(facts[int(which)][telling] for telling in range(2) for which in rng.permutation(2))


@functools.lru_cache(
    maxsize=2**16
)  # A training run reads each several times, and to make one takes longer than to read it.
def document(code: str, split: str, index: int, config: SyntheticConfig = SyntheticConfig()) -> str:
    """Document `index` of a split: three or four sentences about one topic; in training text also the other kinds."""
    rng = _rng(config.seed, code, split, "document", index)
    tongue, topic = language(code, config.seed), int(rng.integers(TOPICS))
    kind = rng.random() if split == "train" else 1.0
    if kind < config.dictionary:
        return _dictionary_page(tongue, topic, rng)
    if kind < config.dictionary + config.retold:
        return _retold(tongue, topic, rng)
    mixed = kind < config.dictionary + config.retold + config.mixed
    speaker = Speaker(tongue, topic, rng, others=_others(code, config.seed) if mixed else ())
    sentences = [
        draw((split,), lambda: to_text(speaker.sentence()), lambda text: [text]) for _ in range(int(rng.integers(3, 5)))
    ]
    return " ".join(sentences)


def translations(count: int, seed: int = 0) -> dict[str, list[str]]:
    """`count` sentences without names and numbers in every language: by language, those of one index mean the same.

    They are distinct in each language, and none of them stands in training text. They serve to measure whether the
    representations of languages agree.

    Raises:
      RemBertError: if the world is too small for so many.
    """
    rng = _rng(seed, "translations")

    def make() -> tuple[str, ...]:
        topic, choices = int(rng.integers(TOPICS)), int(rng.integers(1 << 30))
        return tuple(
            to_text(Speaker(language(code, seed), topic, np.random.default_rng(choices)).plain_sentence())
            for code in LANGUAGES
        )

    found: dict[str, tuple[str, ...]] = {}  # By the sentence in the first language.
    taken: set[str] = set()
    for _ in range(count * 20):
        sentences = draw(("validation", "test"), make, lambda sentences: sentences)
        if not taken & set(sentences):
            found[sentences[0]] = sentences
            taken |= set(sentences)
        if len(found) == count:
            return dict(zip(LANGUAGES, map(list, zip(*found.values(), strict=True)), strict=True))
    raise RemBertError(f"only {len(found)} sentences of world {seed} differ in every language, expected {count}")


def tagged_sentence(code: str, split: str, index: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Tokens and universal parts of speech of one sentence."""
    rng = _rng(seed, code, split, "tagged", index)

    def make() -> list[Token]:
        return Speaker(language(code, seed), int(rng.integers(TOPICS)), rng).sentence()

    tokens = draw((split,), make, lambda tokens: [to_text(tokens)])
    return [form for form, _ in tokens], [upos for _, upos in tokens]


def topic_sentence(code: str, split: str, index: int, seed: int = 0) -> tuple[str, int]:
    """A sentence without names and numbers, and its topic."""
    rng = _rng(seed, code, split, "topic", index)

    def make() -> tuple[str, int]:
        topic = int(rng.integers(TOPICS))
        return to_text(Speaker(language(code, seed), topic, rng).plain_sentence()), topic

    return draw((split,), make, lambda example: example[:1])


def sentence_pair(code: str, split: str, index: int, seed: int = 0) -> tuple[str, str, int]:
    """Two sentences without names and numbers, and 1 if they are about the same topic, else 0.

    They use different synonyms of every concept, so they share no content word. Only one who knows what belongs together can
    tell. Kind and length of the sentences are independent of the label.
    """
    rng, tongue = _rng(seed, code, split, "pair", index), language(code, seed)

    def make() -> tuple[str, str, int]:
        topic, label, synonym = int(rng.integers(TOPICS)), int(rng.integers(2)), int(rng.integers(2))
        other = topic if label else (topic + int(rng.integers(1, TOPICS))) % TOPICS
        first = Speaker(tongue, topic, rng, synonym=synonym).plain_sentence()
        second = Speaker(tongue, other, rng, synonym=1 - synonym).plain_sentence()
        return to_text(first), to_text(second), label

    return draw((split,), make, lambda example: example[:2])
