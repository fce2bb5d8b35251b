"""Classification of one text or of a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rembert_jax.tasks.base import Example, Features, Guess, Prediction, Task, place


def truncate_pair(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cuts token by token from the end of the longer text until both fit into `room` (google-research/bert)."""
    while len(first) + len(second) > room:
        longer = first if len(first) > len(second) else second
        longer.pop()
    return first, second


class SequenceClassification(Task):
    """[CLS] A [SEP] or [CLS] A [SEP] B [SEP]; token type 0 up to the first [SEP], then 1. What is too long is cut."""

    model, loss, outputs = "sequence_classification", "labels", "classes"
    row_targets = ("labels",)
    one_row = True
    text_fields = (1, 2)
    metric_names = ("accuracy",)

    def rows(self, example: Example) -> list[Features]:
        """One row; `labels` is a scalar."""
        texts = [self.encode(example[field]) for field in self.config.text_fields]
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        if len(texts) == 1:
            ids = [cls, *texts[0][: self.config.max_length - 2], sep]
            types = [0] * len(ids)
        else:
            first, second = truncate_pair(texts[0], texts[1], self.config.max_length - 3)
            ids = [cls, *first, sep, *second, sep]
            types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        return [{**self.inputs(ids, types), "labels": np.array(self._label(example), np.int32)}]

    def check_examples(self, examples: Sequence[Example]) -> None:
        """That every label is known."""
        for example in examples:
            self._label(example)

    def _label(self, example: Example) -> int:
        return self.check_label(example[self.config.label_field], place(example))

    def merge(self, example: Example, rows: Sequence[Features], outputs: Sequence[Features]) -> str:
        """The name of the most probable class."""
        return self.labels[int(outputs[0]["classes"])]

    def metrics(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], language: str
    ) -> dict[str, float]:
        """Accuracy."""
        right = [self.labels[self._label(one)] == found for one, found in zip(examples, predictions, strict=True)]
        return {"accuracy": float(np.mean(right))}

    def baseline(self, train: Sequence[Example]) -> Guess:
        """The most frequent training label."""
        common = self.labels[Counter(map(self._label, train)).most_common(1)[0][0]]
        return lambda example: common

    def to_text(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
        """A label a line."""
        return "".join(f"{label}\n" for label in predictions)
