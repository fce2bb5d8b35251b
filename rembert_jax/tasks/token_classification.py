"""Tagging of words: the first sub-word of a word carries its tag."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from rembert_jax.tasks.base import Example, Features, Task, TaskError, place

IGNORED_LABEL = -100
"""Label of later sub-words, special tokens and padding."""


class TokenClassification(Task):
    """[CLS] words [SEP]; positions without a tag are labelled `IGNORED_LABEL`.

    Words are encoded one by one, and SentencePiece puts a space before each. Where that space is a piece of its own, it is
    dropped: it would carry the tag but says nothing of the word, and running text in a script without spaces, on which the
    encoder was trained, has no such piece.
    """

    def features(self, example: Example) -> Features:
        """`labels` is [max_length]."""
        ids, labels = [self.tokenizer.cls_token_id], [IGNORED_LABEL]
        for word, label in self._tagged_words(example):
            pieces = self._word_pieces(word)
            ids += pieces
            labels += [label, *[IGNORED_LABEL] * (len(pieces) - 1)]
        room = self.config.max_length - 1
        ids, labels = [*ids[:room], self.tokenizer.sep_token_id], [*labels[:room], IGNORED_LABEL]
        filled = np.full(self.config.max_length, IGNORED_LABEL, np.int32)
        filled[: len(labels)] = labels
        return {**self.pad(ids, [0] * len(ids)), "labels": filled}

    def _word_pieces(self, word: str) -> list[int]:
        pieces = self.encode(word)
        if len(pieces) > 1 and pieces[0] == self.tokenizer.space_token_id:
            return pieces[1:]
        # A word that vanishes in normalisation still takes a place, so that tags stay aligned.
        return pieces or [self.tokenizer.unk_token_id]

    def _words(self, example: Example) -> list[str]:
        return example[self.config.text_fields[0]]

    def _tagged_words(self, example: Example) -> list[tuple[str, int]]:
        words, tags = self._words(example), example[self.config.label_field]
        if len(words) != len(tags):
            raise TaskError(
                f"{place(example)}: {len(words)} words but {len(tags)} tags; expected one tag for each word"
            )
        return [(word, self.check_label(tag, place(example))) for word, tag in zip(words, tags, strict=True)]

    def metrics(self, predictions: np.ndarray, labels: np.ndarray, examples: Sequence[Example]) -> dict[str, float]:
        """Accuracy over all words; words beyond `max_length` count as wrong and their share is `truncated`."""
        words = sum(len(self._words(example)) for example in examples)
        counted = labels != IGNORED_LABEL
        correct = int(np.sum((predictions == labels) & counted))
        return {"accuracy": correct / words, "truncated": 1.0 - int(np.sum(counted)) / words}

    def context_free_baseline(
        self, train: Sequence[Example], tests: Mapping[str, Sequence[Example]]
    ) -> dict[str, float]:
        """Accuracy of each word's most frequent training tag; unseen words get the most frequent tag of all."""
        seen: dict[str, Counter[int]] = defaultdict(Counter)
        for example in train:
            for word, label in self._tagged_words(example):
                seen[word][label] += 1
        overall = sum(seen.values(), Counter()).most_common(1)[0][0]
        best = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}

        def accuracy(test: Sequence[Example]) -> float:
            tagged = [pair for example in test for pair in self._tagged_words(example)]
            return float(np.mean([best.get(word, overall) == label for word, label in tagged]))

        return {name: accuracy(test) for name, test in tests.items()}
