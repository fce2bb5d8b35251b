"""Labelled datasets: TFDS through `as_data_source`, and CoNLL-U files."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rembert_jax.data import sources, synthetic_world
from rembert_jax.tasks.base import Example, Task, TaskConfig, TaskError
from rembert_jax.tasks.sequence_classification import SequenceClassification
from rembert_jax.tasks.token_classification import TokenClassification
from rembert_jax.tokenization import RemBertTokenizer

KINDS: dict[str, type[Task]] = {
    "sequence_classification": SequenceClassification,
    "token_classification": TokenClassification,
}


def to_python(value: Any) -> Any:
    """A TFDS value as str, int or a list of them."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [to_python(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


class _TfdsExamples(Sequence[Example]):
    def __init__(self, records: Any, name: str, limit: int) -> None:
        self.records, self.name = records, name
        self.size = min(len(records), limit) if limit else len(records)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index):
        position = range(self.size)[index]
        record = {key: to_python(value) for key, value in self.records[position].items()}
        return {**record, "where": f"{self.name}[{position}]"}


def _tfds_builder(config: TaskConfig, language: str) -> Any:
    import tensorflow_datasets as tfds  # Slow to import; CoNLL-U tasks do without it.

    from rembert_jax.data import synthetic_tfds

    try:
        name = sources.fill_pattern(config.path, "task.path", language=language)
    except sources.SourceError as error:
        raise TaskError(str(error)) from error
    try:
        if name.startswith("synthetic_"):
            return synthetic_tfds.prepare(name, config.data_dir)
        return tfds.builder(name, data_dir=config.data_dir or None)
    except Exception as error:
        raise _tfds_error(config, name, error) from error


def _tfds_error(config: TaskConfig, name: str, reason: object) -> TaskError:
    # TFDS goes on with a list of all datasets it knows, or of possible root causes.
    first_line = str(reason).strip().partition("\n")[0].removesuffix(" Possible root causes:")
    return TaskError(
        f"TFDS dataset {name!r} under task.data_dir={config.data_dir!r}: {first_line.removesuffix('.')}. Check task.path and "
        'task.data_dir, and prepare it with builder.download_and_prepare(file_format="array_record")'
    )


def _open_tfds(config: TaskConfig, language: str, split: str, limit: int) -> _TfdsExamples:
    builder = _tfds_builder(config, language)
    name = builder.info.full_name
    if not builder.info.splits:
        raise _tfds_error(config, name, "it is not prepared")
    if split not in builder.info.splits:
        raise TaskError(f"{name}: no split {split!r}; it has {', '.join(builder.info.splits)}")
    try:
        records = builder.as_data_source(split)
    except Exception as error:  # NotImplementedError for tfrecord files.
        raise _tfds_error(config, name, error) from error
    return _TfdsExamples(records, f"{name}/{split}", limit)


def read_conllu(path: pathlib.Path) -> list[Example]:
    """Sentences of a CoNLL-U file as {"tokens", "upos", "where"}: syntactic words, without empty nodes and ranges.

    `where` is "file:line" of the sentence's first row.

    Raises:
      TaskError: naming the file that cannot be read, or file and line of what is not UTF-8 or has not ten columns.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror}); check task.path") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise TaskError(f"{path}:{line}: not valid UTF-8 ({error.reason}); fix the file") from error
    examples: list[Example] = []
    tokens: list[str] = []
    upos: list[str] = []
    first = 0
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        if not line.strip():
            if tokens:
                examples.append({"tokens": tokens, "upos": upos, "where": f"{path}:{first}"})
            tokens, upos, first = [], [], 0
        elif not line.startswith("#"):
            first = first or number
            columns = line.split("\t")
            if len(columns) != 10:
                raise TaskError(f"{path}:{number}: {len(columns)} columns, expected the 10 of CoNLL-U")
            if columns[0].isdigit() and columns[3] != "_":
                tokens.append(columns[1])
                upos.append(columns[3])
    return examples


def _missing_field(config: TaskConfig, field: str, found: Sequence[str]) -> str:
    return f"{config.path}: no field {field!r}, found {', '.join(found)}; set task.text_fields and task.label_field"


def open_task(config: TaskConfig, tokenizer: RemBertTokenizer) -> Task:
    """The task object of a config, with label names read from the dataset.

    Raises:
      TaskError: if the dataset or its label field is missing, or the field has no class names.
    """
    if config.source == "conllu":
        labels: Sequence[str] = synthetic_world.UPOS
    else:
        features = _tfds_builder(config, config.train_language).info.features
        if config.label_field not in features:
            raise TaskError(_missing_field(config, config.label_field, list(features)))
        feature = features[config.label_field]
        labels = getattr(getattr(feature, "feature", feature), "names", None) or ()
        if not labels:
            raise TaskError(
                f"{config.path}: field {config.label_field!r} is {feature}, expected a ClassLabel with names or a sequence of "
                "them; set task.label_field"
            )
    return KINDS[config.kind](config, tokenizer, labels)


def _conllu_files(config: TaskConfig, language: str, split: str) -> list[pathlib.Path]:
    try:
        return sources.find_files(config.path, language, split, key="task.path")
    except sources.SourceError as error:
        raise TaskError(str(error)) from error


def check_examples(config: TaskConfig) -> None:
    """Raises `TaskError` if a language lacks a split that the run needs; looks for files and does not read them."""
    train = [(config.train_language, split) for split in (config.train_split, config.dev_split)]
    for language, split in [*train, *((language, config.test_split) for language in config.test_languages)]:
        if config.source == "conllu":
            _conllu_files(config, language, split)
        elif not config.path.startswith("synthetic_"):
            _open_tfds(config, language, split, 0)
        elif language not in synthetic_world.LANGUAGES:  # The others are written when they are opened.
            known = ", ".join(synthetic_world.LANGUAGES)
            raise TaskError(f"{config.path}: unknown synthetic language {language!r}; expected one of {known}")


def open_examples(config: TaskConfig, language: str, split: str, limit: int = 0) -> Sequence[Example]:
    """Labelled examples of a language and split, the first `limit` of them if not 0.

    Raises:
      TaskError: if the data is missing, or a field that the task reads is.
    """
    if config.source == "conllu":
        everything = [row for path in _conllu_files(config, language, split) for row in read_conllu(path)]
        examples: Sequence[Example] = everything[:limit] if limit else everything
    else:
        examples = _open_tfds(config, language, split, limit)
    if not len(examples):
        raise TaskError(f"{config.path}: no example for language {language!r}, split {split!r}")
    for field in (*config.text_fields, config.label_field):
        if field not in examples[0]:
            raise TaskError(_missing_field(config, field, [key for key in examples[0] if key != "where"]))
    return examples
