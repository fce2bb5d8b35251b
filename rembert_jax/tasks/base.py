"""What a labelled task is: examples in, features for the model, predictions to metrics."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rembert_jax.errors import RemBertError
from rembert_jax.tokenization import RemBertTokenizer

Example = dict[str, Any]
Features = dict[str, np.ndarray]


class TaskError(RemBertError):
    """Labelled data, or what the configuration says of it, is missing or wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Section `task` of a fine-tuning config.

    Attributes:
      kind: "sequence_classification" (one text or a pair) or "token_classification".
      source: "tfds" or "conllu".
      path: TFDS name with {language}, or a file pattern with {language} and {split}.
      data_dir: TFDS data folder.
      train_language: the only language whose training and development sets are used.
      test_languages: languages to evaluate on.
      train_split, dev_split, test_split: names of the splits.
      text_fields: features that hold the text or the two texts; for token classification the one that holds the words.
      label_field: feature that holds the label or the tags.
      max_length: tokens of an example with [CLS] and [SEP]; longer ones are cut.
      max_train_examples: use only the first ones; 0 uses all.
      max_eval_examples: likewise for development and test sets.
    """

    kind: Literal["sequence_classification", "token_classification"]
    source: Literal["tfds", "conllu"]
    path: str
    data_dir: str = ""
    train_language: str
    test_languages: tuple[str, ...]
    train_split: str = "train"
    dev_split: str = "validation"
    test_split: str = "test"
    text_fields: tuple[str, ...] = ("sentence1", "sentence2")
    label_field: str = "label"
    max_length: int = 128
    max_train_examples: int = 0
    max_eval_examples: int = 0

    def __post_init__(self) -> None:
        fields = len(self.text_fields)
        tagging = self.kind == "token_classification"
        if self.source == "conllu" and not tagging:
            raise TaskError(
                f"kind={self.kind}, source=conllu: CoNLL-U holds tagged words; expected token_classification"
            )
        if fields not in ((1,) if tagging else (1, 2)):
            expected = "the one that holds the words" if tagging else "one or two"
            raise TaskError(f"text_fields={self.text_fields}: found {fields} for kind={self.kind}, expected {expected}")
        # [CLS], a token of each text, and its [SEP].
        if self.max_length < 1 + 2 * fields:
            raise TaskError(f"max_length={self.max_length}: expected at least {1 + 2 * fields} for {fields} text(s)")
        if not self.test_languages:
            raise TaskError("test_languages is empty; name at least one language, for example train_language")
        for name in ("max_train_examples", "max_eval_examples"):
            if getattr(self, name) < 0:
                raise TaskError(f"{name}={getattr(self, name)}: expected 0 (all of them) or more")


def place(example: Example) -> str:
    """Where an example comes from, for errors: "file:line", or dataset and index."""
    return str(example.get("where", "example"))


class Task(abc.ABC):
    """A task over a labelled dataset.

    Attributes:
      config: section `task`.
      labels: names of the classes; a label is an index into them.
    """

    def __init__(self, config: TaskConfig, tokenizer: RemBertTokenizer, labels: Sequence[str]) -> None:
        self.config, self.tokenizer, self.labels = config, tokenizer, tuple(labels)

    @abc.abstractmethod
    def features(self, example: Example) -> Features:
        """`input_ids`, `attention_mask`, `token_type_ids` [max_length] and `labels` of one example."""

    @abc.abstractmethod
    def metrics(self, predictions: np.ndarray, labels: np.ndarray, examples: Sequence[Example]) -> dict[str, float]:
        """Metrics in [0, 1] from predicted and true label ids of all examples; `accuracy` is always among them."""

    @abc.abstractmethod
    def context_free_baseline(
        self, train: Sequence[Example], tests: Mapping[str, Sequence[Example]]
    ) -> dict[str, float]:
        """Accuracy in each of `tests` of the best guess that looks at no context; reads `train` once."""

    def check_label(self, label: Any, where: str) -> int:
        """The label as an index.

        Raises:
          TaskError: naming the place, if it is neither a known name nor a whole number within the range.
        """
        if isinstance(label, str):
            if label not in self.labels:
                raise TaskError(f"{where}: unknown label {label!r}; expected one of {', '.join(self.labels)}")
            return self.labels.index(label)
        if not isinstance(label, (int, np.integer)) or not 0 <= label < len(self.labels):
            raise TaskError(
                f"{where}: label {label} is no whole number in 0 … {len(self.labels) - 1} ({', '.join(self.labels)})"
            )
        return int(label)

    def encode(self, text: str) -> list[int]:
        """Piece ids of a text without [CLS] and [SEP]; the names of special pieces are plain text in it."""
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def pad(self, ids: Sequence[int], types: Sequence[int]) -> Features:
        """Token ids and types filled up to `max_length` with padding."""
        length = self.config.max_length
        filler = (0, length - len(ids))
        return {
            "input_ids": np.pad(np.array(ids, np.int32), filler, constant_values=self.tokenizer.pad_token_id),
            "attention_mask": np.pad(np.ones(len(ids), np.int32), filler),
            "token_type_ids": np.pad(np.array(types, np.int32), filler),
        }
