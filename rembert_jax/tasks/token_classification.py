"""Tagging of words: the first sub-word of a word carries its tag."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from rembert_jax.tasks.base import IGNORED_LABEL, Example, Features, Guess, Prediction, Task, TaskError, place
from rembert_jax.xtreme import spans


class TokenClassification(Task):
    """[CLS] words [SEP]; positions without a tag are labelled `IGNORED_LABEL`.

    A sentence that is longer than a row goes on in the next one, as in XTREME's preprocessing, and its tags are joined again.
    Words are encoded one by one, and SentencePiece puts a space before each. Where that space is a piece of its own, it is
    dropped: it would carry the tag but says nothing of the word, and running text in a script without spaces, on which the
    encoder was trained, has no such piece.
    """

    model, loss, outputs = "token_classification", "labels", "classes"
    token_targets = ("labels",)
    metric_names = ("accuracy", "f1", "precision", "recall")

    def check_examples(self, examples: Sequence[Example]) -> None:
        """That every word has a tag, and every tag is known."""
        for example in examples:
            self._tagged_words(example)

    def rows(self, example: Example) -> list[Features]:
        """As many rows as the sentence fills; `labels` is [length]."""
        room = self.config.max_length - 2
        parts: list[tuple[list[int], list[int]]] = [([], [])]
        for word, label in self._tagged_words(example):
            pieces = self._word_pieces(word)[:room]
            if len(parts[-1][0]) + len(pieces) > room:
                parts.append(([], []))
            parts[-1][0].extend(pieces)
            parts[-1][1].extend([label, *[IGNORED_LABEL] * (len(pieces) - 1)])
        return [self._row(ids, labels) for ids, labels in parts]

    def _row(self, ids: Sequence[int], labels: Sequence[int]) -> Features:
        ids = [self.tokenizer.cls_token_id, *ids, self.tokenizer.sep_token_id]
        targets = np.array([IGNORED_LABEL, *labels, IGNORED_LABEL], np.int32)
        return {**self.inputs(ids, [0] * len(ids)), "labels": targets}

    def _word_pieces(self, word: str) -> list[int]:
        pieces = self.encode(word)
        if len(pieces) > 1 and pieces[0] == self.tokenizer.space_token_id:
            return pieces[1:]
        # A word that vanishes in normalisation still takes a place, so that tags stay aligned.
        return pieces or [self.tokenizer.unk_token_id]

    def _tagged_words(self, example: Example) -> list[tuple[str, int]]:
        words, tags = example[self.config.text_fields[0]], example[self.config.label_field]
        if len(words) != len(tags):
            raise TaskError(
                f"{place(example)}: {len(words)} words but {len(tags)} tags; expected one tag for each word"
            )
        return [(word, self.check_label(tag, place(example))) for word, tag in zip(words, tags, strict=True)]

    def merge(self, example: Example, rows: Sequence[Features], outputs: Sequence[Features]) -> list[str]:
        """The name of a tag for each word."""
        return [
            self.labels[int(found)]
            for row, output in zip(rows, outputs, strict=True)
            for found, label in zip(output["classes"], row["labels"], strict=False)
            if label != IGNORED_LABEL
        ]

    def metrics(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], language: str
    ) -> dict[str, float]:
        """Accuracy of words, and F1, precision and recall of spans as XTREME's script has them (`xtreme.spans`)."""
        gold = [[self.labels[label] for _, label in self._tagged_words(example)] for example in examples]
        found = spans.metrics(spans.counts(gold, predictions).sum(0))
        return {name: float(found[name]) for name in self.metric_names}

    def baseline(self, train: Sequence[Example]) -> Guess:
        """Each word's most frequent training tag; unseen words get the most frequent tag of all."""
        seen: dict[str, Counter[int]] = defaultdict(Counter)
        for example in train:
            for word, label in self._tagged_words(example):
                seen[word][label] += 1
        overall = sum(seen.values(), Counter()).most_common(1)[0][0]
        best = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
        return lambda example: [self.labels[best.get(word, overall)] for word, _ in self._tagged_words(example)]

    def to_text(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
        """A tag a line, a blank line between sentences."""
        return "\n".join("".join(f"{tag}\n" for tag in tags) for tags in predictions)
