"""Tagging of words: the first sub-word of a word carries its tag."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from rembert_jax.tasks.base import Example, Features, Task, TaskError

IGNORED_LABEL = -100
"""Label of later sub-words, special tokens and padding."""


class TokenClassification(Task):
    """[CLS] words [SEP]; positions without a tag are labelled `IGNORED_LABEL`."""

    def features(self, example: Example) -> Features:
        """`labels` is [max_length]."""
        words, tags = self._words(example), example[self.config.label_field]
        where = str(example.get("where", "example"))
        if len(words) != len(tags):
            raise TaskError(f"{where}: {len(words)} words but {len(tags)} tags")
        ids, labels = [self.tokenizer.cls_token_id], [IGNORED_LABEL]
        for word, tag in zip(words, tags, strict=True):
            # A word that vanishes in normalisation still takes a place, so that tags stay aligned.
            pieces = self.tokenizer.encode(word) or [self.tokenizer.unk_token_id]
            ids += pieces
            labels += [self.check_label(tag, where), *[IGNORED_LABEL] * (len(pieces) - 1)]
        room = self.config.max_length - 1
        ids, labels = [*ids[:room], self.tokenizer.sep_token_id], [*labels[:room], IGNORED_LABEL]
        filled = np.full(self.config.max_length, IGNORED_LABEL, np.int32)
        filled[: len(labels)] = labels
        return {**self.pad(ids, [0] * len(ids)), "labels": filled}

    def _words(self, example: Example) -> list[str]:
        return example[self.config.text_fields[0]]

    def metrics(self, predictions: np.ndarray, labels: np.ndarray, examples: Sequence[Example]) -> dict[str, float]:
        """Accuracy over all words; words beyond `max_length` count as wrong and their share is `truncated`."""
        words = sum(len(self._words(example)) for example in examples)
        counted = labels != IGNORED_LABEL
        correct = int(np.sum((predictions == labels) & counted))
        return {"accuracy": correct / words, "truncated": 1.0 - int(np.sum(counted)) / words}

    def context_free_baseline(self, train: Sequence[Example], test: Sequence[Example]) -> float:
        """Accuracy of each word's most frequent training tag; unseen words get the most frequent tag of all."""
        field = self.config.label_field
        seen: dict[str, Counter[int]] = defaultdict(Counter)
        for example in train:
            for word, tag in zip(self._words(example), example[field], strict=True):
                seen[word][self.check_label(tag, "train")] += 1
        overall = sum(seen.values(), Counter()).most_common(1)[0][0]
        best = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
        hits = [
            best.get(word, overall) == self.check_label(tag, "test")
            for example in test
            for word, tag in zip(self._words(example), example[field], strict=True)
        ]
        return float(np.mean(hits))
