"""XTREME's kinds of tasks in artificial languages, with labels that the grammar gives.

What each asks for cannot be had without the context: whether a sentence follows from another that has no content word in common
with it; what a name names, which its neighbour tells; a number or a name out of a text, drawn anew for each text. Sentences for
retrieval are those of `synthetic.translations`.

Everything is a pure function of its arguments; `seed` is that of the world.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rembert_jax.data.synthetic import Speaker, draw, sentence_pair, tagged_sentence, to_text
from rembert_jax.data.synthetic_world import TOPICS, Token, generator, language

RELATIONS = ("contradiction", "entailment", "neutral")
Record = dict[str, Any]


class _Claimant(Speaker):
    """Says that somebody does something, or does not."""

    def claim(self, negated: bool) -> str:
        noun = self.phrase(self.concept("NOUN"), self.pick(["object", "plural"]))
        words = [self.content(self.concept("VERB"), self.pick(["", "past"]))]
        if negated:
            words = [self.word("not"), *words]
        return to_text(self.tongue.clause([self.word("they")], words, noun, []))


def entailment(code: str, split: str, index: int, seed: int = 0) -> Record:
    """Two claims of different words: the same one, the same one denied, or one about another topic; either may be denied."""
    rng, tongue = generator(seed, code, split, "entailment", index), language(code, seed)

    def make() -> Record:
        label, topic, synonym = RELATIONS[int(rng.integers(3))], int(rng.integers(TOPICS)), int(rng.integers(2))
        first, second = (int(number) for number in rng.integers(1 << 30, size=2))
        negated = [bool(value) for value in rng.integers(2, size=2)]
        other = topic
        if label == "neutral":
            other = (topic + int(rng.integers(1, TOPICS))) % TOPICS
        else:
            second, negated[1] = first, negated[0] != (label == "contradiction")
        claims = (
            _Claimant(tongue, about, np.random.default_rng(choices), synonym=words).claim(denied)
            for about, choices, words, denied in zip(
                (topic, other), (first, second), (synonym, 1 - synonym), negated, strict=True
            )
        )
        return dict(zip(("sentence1", "sentence2"), claims, strict=True)) | {"label": label}

    return draw((split,), make, lambda record: [record["sentence1"], record["sentence2"]])


def paraphrase(code: str, split: str, index: int, seed: int = 0) -> Record:
    """`synthetic.sentence_pair` with labels as PAWS-X has them."""
    first, second, label = sentence_pair(code, split, index, seed)
    return {"sentence1": first, "sentence2": second, "label": str(label)}


def parts_of_speech(code: str, split: str, index: int, seed: int = 0) -> Record:
    """`synthetic.tagged_sentence`."""
    tokens, tags = tagged_sentence(code, split, index, seed)
    return {"tokens": tokens, "tags": tags}


class _Reporter(Speaker):
    """Tags names: two of a person are his, a family's and a city's are a firm, a city's alone is a place."""

    def name(self) -> list[Token]:
        given, family = self.pick(self.world.people[self.topic])
        if self.chance(0.5):
            return [(given, "B-PER"), (family, "I-PER")]
        return [(family, "B-ORG"), (self.pick(self.world.cities[self.topic]), "I-ORG")]

    def place(self) -> list[Token]:
        return [(form, "B-LOC" if kind == "PROPN" else kind) for form, kind in super().place()]


def entities(code: str, split: str, index: int, seed: int = 0) -> Record:
    """A sentence with names, tagged as PAN-X does."""
    rng, tongue = generator(seed, code, split, "entities", index), language(code, seed)

    def make() -> list[Token]:
        reporter = _Reporter(tongue, int(rng.integers(TOPICS)), rng)
        return reporter.pick([reporter.does, reporter.owns, reporter.lives])()

    tokens = draw((split,), make, lambda tokens: [to_text(tokens)])
    return {"tokens": [form for form, _ in tokens], "tags": [tag if tag[1] == "-" else "O" for _, tag in tokens]}


def question(code: str, split: str, index: int, seed: int = 0) -> Record:
    """What something costs, or who lives somewhere, and a text that says so of several."""
    rng, tongue = generator(seed, code, split, "question", index), language(code, seed)

    def make() -> Record:
        speaker = Speaker(tongue, int(rng.integers(TOPICS)), rng, synonym=0)
        nouns = [speaker.definite([speaker.content(noun)]) for noun in speaker.world.of_topic(speaker.topic, "NOUN")]
        prices = [str(number) for number in rng.choice(np.arange(100, 1000), len(nouns), replace=False)]
        people = [speaker.pick(names) for names in speaker.world.people[speaker.topic]]
        cities = [speaker.world.cities[speaker.topic][place] for place in rng.permutation(len(people))]
        costs, lives = [speaker.word("costs")], [speaker.word("lives")]
        places = [[speaker.word("in"), (city, "PROPN")] for city in cities]
        said = [
            tongue.clause(noun, costs, [(price, "NUM"), speaker.word("unit")], [])
            for noun, price in zip(nouns, prices, strict=True)
        ]
        said += [tongue.clause([(name, "PROPN")], lives, place, []) for name, place in zip(people, places, strict=True)]
        asked = [tongue.clause(noun, costs, [], []) for noun in nouns]
        asked += [tongue.clause([], lives, place, []) for place in places]
        context = " ".join(to_text(said[number]) for number in rng.permutation(len(said)))
        chosen = int(rng.integers(len(asked)))
        answer = [*prices, *people][chosen]
        (found,) = re.finditer(rf"\b{answer}\b", context)
        return {
            "id": f"{code}-{split}-{index}",
            "question": to_text(asked[chosen]).removesuffix("."),
            "context": context,
            "answers": [{"text": answer, "answer_start": found.start()}],
        }

    return draw((split,), make, lambda record: [record["context"]])


def corpora(english: Sequence[str], others: Sequence[str], pairs: int, seed: int) -> tuple[list[Record], list[Record]]:
    """Two shuffled corpora as of BUCC, of sentences that translate each other; all but `pairs` of them stand in one of the two.

    Returns:
      Records of the other language, and of English ones with their `translations`.
    """
    singles = range(pairs, len(english))
    rng = generator(seed, "corpora")
    sources = rng.permutation([*range(pairs), *singles[::2]])
    targets = rng.permutation([*range(pairs), *singles[1::2]])
    names = {int(number): f"xx-{place:09}" for place, number in enumerate(sources, start=1)}
    records = [{"id": names[int(number)], "text": others[number]} for number in sources]
    translated = [
        {
            "id": f"en-{place:09}",
            "text": english[number],
            "translations": [names[int(number)]] if number < pairs else [],
        }
        for place, number in enumerate(targets, start=1)
    ]
    return records, translated
