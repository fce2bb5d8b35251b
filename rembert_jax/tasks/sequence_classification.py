"""Classification of one text or of a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from rembert_jax.tasks.base import Example, Features, Task, place


def truncate_pair(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cuts token by token from the end of the longer text until both fit into `room` (google-research/bert)."""
    while len(first) + len(second) > room:
        longer = first if len(first) > len(second) else second
        longer.pop()
    return first, second


class SequenceClassification(Task):
    """[CLS] A [SEP] or [CLS] A [SEP] B [SEP]; token type 0 up to the first [SEP], then 1."""

    def features(self, example: Example) -> Features:
        """`labels` is a scalar."""
        texts = [self.encode(example[field]) for field in self.config.text_fields]
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        if len(texts) == 1:
            ids = [cls, *texts[0][: self.config.max_length - 2], sep]
            types = [0] * len(ids)
        else:
            first, second = truncate_pair(texts[0], texts[1], self.config.max_length - 3)
            ids = [cls, *first, sep, *second, sep]
            types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        return {**self.pad(ids, types), "labels": np.array(self._label(example), np.int32)}

    def _label(self, example: Example) -> int:
        return self.check_label(example[self.config.label_field], place(example))

    def metrics(self, predictions: np.ndarray, labels: np.ndarray, examples: Sequence[Example]) -> dict[str, float]:
        """Accuracy."""
        return {"accuracy": float(np.mean(predictions == labels))}

    def context_free_baseline(
        self, train: Sequence[Example], tests: Mapping[str, Sequence[Example]]
    ) -> dict[str, float]:
        """Accuracy of always answering the most frequent training label."""
        common = Counter(map(self._label, train)).most_common(1)[0][0]
        return {
            name: float(np.mean([self._label(example) == common for example in test])) for name, test in tests.items()
        }
