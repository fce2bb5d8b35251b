"""What a family of labelled tasks is: examples to rows for the model, its outputs to predictions, and how these are judged.

A family is one module with one subclass of `Task`. Its name is the `kind` of a config: that of a module of this package, or the
full name of a module of yours ("my_tasks.slots").
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from rembert_jax import schema
from rembert_jax.errors import RemBertError
from rembert_jax.tokenization import RemBertTokenizer

Example = dict[str, Any]
Features = dict[str, np.ndarray]
Prediction = Any
"""What a family predicts for an example: the name of a label, a tag for each word, the text of an answer."""
Guess = Callable[[Example], Prediction]

IGNORED_LABEL = -100
"""Label of tokens that count neither in the loss nor in a metric: later sub-words, special tokens, padding."""


class TaskError(RemBertError):
    """Labelled data, or what the configuration says of it, is missing or wrong."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Section `task` of a fine-tuning config.

    Attributes:
      kind: the family: "sequence_classification" (one text or a pair), "token_classification",
        "question_answering", "retrieval", or a module of yours.
      options: what the family has settings for; see the class `Options` of its module.
      source: "tfds", or files: "conllu", "jsonl" (an object a line) or "array_record" (an object a record, as
        `tools.prepare_xtreme` writes them).
      path: TFDS name with {language}, or a file pattern with {language} and {split}, of retrieval also {side}.
      data_dir: TFDS data folder.
      train_language: the only language whose training and development sets are used.
      test_languages: languages to evaluate on.
      train_split, dev_split, test_split: names of the splits; without a `dev_split` the last parameters are tested.
      text_fields: features that hold the texts: the text or the pair of texts; the words; question and context.
      label_field: feature that holds the label, the tags, the answers, the ids of translations.
      labels: names of the classes in order; empty takes those that the dataset declares.
      metric: the one by which the best parameters are chosen and which the report shows; empty takes the family's.
      max_length: tokens of a row with [CLS] and [SEP].
      max_train_examples: use only the first ones; 0 uses all.
      max_eval_examples: likewise for development and test sets.
    """

    kind: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: Literal["tfds", "conllu", "jsonl", "array_record"]
    path: str
    data_dir: str = ""
    train_language: str
    test_languages: tuple[str, ...]
    train_split: str = "train"
    dev_split: str = "validation"
    test_split: str = "test"
    text_fields: tuple[str, ...] = ("sentence1", "sentence2")
    label_field: str = "label"
    labels: tuple[str, ...] = ()
    metric: str = ""
    max_length: int = 128
    max_train_examples: int = 0
    max_eval_examples: int = 0

    def __post_init__(self) -> None:
        task = family(self.kind)
        if len(self.text_fields) not in task.text_fields:
            expected = " or ".join(map(str, task.text_fields))
            found = len(self.text_fields)
            raise TaskError(f"text_fields={self.text_fields}: found {found} for kind={self.kind}, expected {expected}")
        if not self.test_languages:
            raise TaskError("test_languages is empty; name at least one language, for example train_language")
        for name in ("max_train_examples", "max_eval_examples"):
            if getattr(self, name) < 0:
                raise TaskError(f"{name}={getattr(self, name)}: expected 0 (all of them) or more")
        if self.metric and self.metric not in task.metric_names:
            raise TaskError(f"metric={self.metric}: expected one of {', '.join(task.metric_names)}")
        task.check(self, schema.from_mapping(task.Options, self.options, "task.options"))


def families() -> list[str]:
    """Names of the families of this package."""
    package = importlib.import_module("rembert_jax.tasks")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if _classes(importlib.import_module(f"rembert_jax.tasks.{name}"))]


def family(kind: str) -> type[Task]:
    """The class of a family.

    Raises:
      TaskError: if there is no such module, or if it does not hold exactly one family.
    """
    name = kind if "." in kind else f"rembert_jax.tasks.{kind}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # The module is there, and something that it needs is not.
        raise TaskError(
            f"kind={kind!r}: no module {name}; expected one of {', '.join(families())}, or the full name of a module"
        ) from error
    found = _classes(module)
    if len(found) != 1:
        raise TaskError(f"kind={kind!r}: {name} defines {len(found)} subclasses of Task, expected one")
    return found[0]


def _classes(module: Any) -> list[type[Task]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Task)
        and value is not Task
        and value.__module__ == module.__name__
    ]


def place(example: Example) -> str:
    """Where an example comes from, for errors: "file:line", or dataset and index."""
    return str(example.get("where", "example"))


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """Of a family without settings of its own."""


class Task(abc.ABC):
    """A family of tasks, all that training, evaluation and reports know of it.

    Class attributes:
      Options: dataclass of its settings.
      model: of which kind its model is (`modeling.models.MODELS`); "base" is the encoder without a pooler.
      loss: what is trained for (`training.objectives.LOSSES`); empty for a family that trains nothing.
      outputs: what evaluation takes from the model (`training.objectives.OUTPUTS`); empty for vectors of sentences.
      sides: of a task that looks texts up in others ({side} of the path): what is looked up, and where. Such a task is a
        `tasks.retrieval.Retrieval`.
      row_targets, token_targets: names of what the loss needs of a row beside its tokens, scalars and [length].
      one_row: whether an example always is one row.
      text_fields: how many of them it may have.
      metric_names: what `metrics` gives; the first one is the one to select by where the config names none.
      suffix: of its files of predictions.

    Attributes:
      config: section `task`.
      options: what it says for this family.
      labels: names of the classes; a label is an index into them.
    """

    Options: ClassVar[type] = NoOptions
    model: ClassVar[str]
    loss: ClassVar[str] = ""
    outputs: ClassVar[str] = ""
    sides: ClassVar[tuple[str, ...]] = ("",)
    row_targets: ClassVar[tuple[str, ...]] = ()
    token_targets: ClassVar[tuple[str, ...]] = ()
    one_row: ClassVar[bool] = False
    text_fields: ClassVar[tuple[int, ...]] = (1,)
    metric_names: ClassVar[tuple[str, ...]]
    suffix: ClassVar[str] = "tsv"

    def __init__(self, config: TaskConfig, tokenizer: RemBertTokenizer, labels: Sequence[str]) -> None:
        self.config, self.tokenizer, self.labels = config, tokenizer, tuple(labels)
        self.options: Any = schema.from_mapping(self.Options, config.options, "task.options")

    @classmethod
    def check(cls, config: TaskConfig, options: Any) -> None:
        """Raises `TaskError` for settings that make no sense; [CLS] and, of each text, a token and its [SEP] must fit."""
        least = 1 + 2 * len(config.text_fields)
        if config.max_length < least:
            raise TaskError(
                f"max_length={config.max_length}: expected at least {least} for {len(config.text_fields)} text(s)"
            )

    @abc.abstractmethod
    def check_examples(self, examples: Sequence[Example]) -> None:
        """Raises `TaskError` for what is wrong with labels, before training."""

    @property
    def metric(self) -> str:
        """The metric by which parameters are chosen, and which is reported."""
        return self.config.metric or self.metric_names[0]

    @abc.abstractmethod
    def rows(self, example: Example) -> list[Features]:
        """What the model gets for an example, a row or several.

        Returns:
          For each row `input_ids`, `attention_mask` and `token_type_ids` [length] with length <= max_length, and the targets.
        """

    @abc.abstractmethod
    def merge(self, example: Example, rows: Sequence[Features], outputs: Sequence[Features]) -> Prediction:
        """The prediction for an example.

        Args:
          example, rows: it and its rows.
          outputs: for each row what the model gave, by name; values for each token may go on behind the row's.
        """

    @abc.abstractmethod
    def metrics(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], language: str
    ) -> dict[str, float]:
        """`metric_names` as shares, of the predictions for all examples of a language."""

    @abc.abstractmethod
    def baseline(self, train: Sequence[Example]) -> Guess:
        """The best guess that looks at no context, learnt from the training set; reads it once."""

    @abc.abstractmethod
    def to_text(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
        """A file of predictions in the form that XTREME's scorer takes."""

    def details(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
        """More of the predictions than `to_text` holds, for people; empty if there is no more."""
        return ""

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

    def inputs(self, ids: Sequence[int], types: Sequence[int]) -> Features:
        """`input_ids`, `attention_mask` and `token_type_ids` of a row."""
        return {
            "input_ids": np.array(ids, np.int32),
            "attention_mask": np.ones(len(ids), np.int32),
            "token_type_ids": np.array(types, np.int32),
        }

    def pad(self, row: Features, length: int) -> Features:
        """A row filled up to a length, with `IGNORED_LABEL` in targets."""
        fill = {"input_ids": self.tokenizer.pad_token_id, "attention_mask": 0, "token_type_ids": 0}
        return {
            name: np.pad(value, (0, length - len(value)), constant_values=fill.get(name, IGNORED_LABEL))
            if value.ndim
            else value
            for name, value in row.items()
        }


class Rows(Sequence[Features]):
    """All rows of all examples, padded to the task's length, as training takes them; made when they are asked for."""

    def __init__(self, task: Task, examples: Sequence[Example]) -> None:
        self._task, self._examples = task, examples
        counts = [1] * len(examples) if task.one_row else [len(task.rows(example)) for example in examples]
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Any:
        example = int(np.searchsorted(self._ends, index, side="right"))
        row = self._task.rows(self._examples[example])[index - int(self._ends[example])]
        return self._task.pad(row, self._task.config.max_length)
