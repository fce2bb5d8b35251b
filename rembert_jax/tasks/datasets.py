"""Labelled datasets: TFDS through `as_data_source`, and files of CoNLL-U, JSON lines, and JSON objects in array_record."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from rembert_jax.data import sources, synthetic_world
from rembert_jax.tasks.base import Example, Task, TaskConfig, TaskError, family
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.xtreme import conllu
from rembert_jax.xtreme.files import read_lines


class _TfdsExamples(Sequence[Example]):
    def __init__(self, records: Any, name: str, limit: int) -> None:
        self.records, self.name = records, name
        self.size = min(len(records), limit) if limit else len(records)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index):
        position = range(self.size)[index]
        record = {key: sources.to_python(value) for key, value in self.records[position].items()}
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


class _JsonExamples(Sequence[Example]):
    """Objects in JSON with the numbers of their lines, read when they are asked for."""

    def __init__(self, path: pathlib.Path, lines: Sequence[tuple[int, str | bytes]]) -> None:
        self.path, self.lines = path, lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _JsonExamples(self.path, self.lines[index])
        number, text = self.lines[index]
        try:
            found = json.loads(text)
        except ValueError as error:
            raise TaskError(f"{self.path}:{number}: no JSON ({error}); expected an object a line") from error
        if not isinstance(found, dict):
            raise TaskError(f"{self.path}:{number}: found a {type(found).__name__}, expected an object with fields")
        return {**found, "where": f"{self.path}:{number}"}


def _json_lines(path: pathlib.Path, language: str) -> Sequence[Example]:
    return _JsonExamples(path, [pair for pair in enumerate(read_lines(path), start=1) if pair[1].strip()])


def _array_record(path: pathlib.Path, language: str) -> Sequence[Example]:
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        records = reader.read_all()
        reader.close()
    except RuntimeError as error:
        raise TaskError(f"{path}: no array_record ({error}); make it again") from error
    return _JsonExamples(path, list(enumerate(records, start=1)))


def _conllu(path: pathlib.Path, language: str) -> Sequence[Example]:
    """Syntactic words and `upos`; empty nodes and surface tokens of several words are passed over."""
    return [{**row, "upos": row["tags"]} for row in conllu.read(path, language, "hf_compat")]


FILES: dict[str, Callable[[pathlib.Path, str], Sequence[Example]]] = {
    "conllu": _conllu,
    "jsonl": _json_lines,
    "array_record": _array_record,
}
"""Source to what reads a file of it in a language."""


def _read_file(config: TaskConfig, path: pathlib.Path, language: str) -> Sequence[Example]:
    try:
        return FILES[config.source](path, language)
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror}); check task.path") from error


def _missing_field(config: TaskConfig, field: str, found: Sequence[str]) -> str:
    return f"{config.path}: no field {field!r}, found {', '.join(found)}; set task.text_fields and task.label_field"


def open_task(config: TaskConfig, tokenizer: RemBertTokenizer) -> Task:
    """The task of a config, with the names of its labels: those of the config, or else of the dataset.

    Raises:
      TaskError: if the dataset or its label field is missing, or there are no names of labels.
    """
    kind = family(config.kind)
    classes = "labels" in kind.row_targets + kind.token_targets
    return kind(config, tokenizer, _label_names(config) if classes else ())


def _label_names(config: TaskConfig) -> Sequence[str]:
    if config.labels:
        return config.labels
    if config.source == "conllu":
        return synthetic_world.UPOS
    if config.source != "tfds":
        raise TaskError(f"task.labels is empty; name the classes, which files of source {config.source} do not")
    features = _tfds_builder(config, config.train_language).info.features
    if config.label_field not in features:
        raise TaskError(_missing_field(config, config.label_field, list(features)))
    feature = features[config.label_field]
    if labels := getattr(getattr(feature, "feature", feature), "names", None):
        return labels
    raise TaskError(
        f"{config.path}: field {config.label_field!r} is {feature}, expected a ClassLabel with names or a sequence of "
        "them; set task.label_field"
    )


def _files(config: TaskConfig, language: str, split: str, side: str) -> list[pathlib.Path]:
    try:
        return sources.find_files(config.path, language, split, key="task.path", **({"side": side} if side else {}))
    except sources.SourceError as error:
        raise TaskError(str(error)) from error


def check_examples(config: TaskConfig, *, train: bool) -> None:
    """Raises `TaskError` if a language lacks a split that the run needs; looks for files and does not read them."""
    sides = family(config.kind).sides
    learnt = [(config.train_language, split) for split in (config.train_split, config.dev_split)] if train else []
    looked_up = [(lang, config.dev_split) for lang in config.test_languages] if len(sides) > 1 else []
    tested = [(lang, config.test_split) for lang in config.test_languages]
    for language, split in filter(lambda pair: pair[1], [*learnt, *looked_up, *tested]):
        if config.source != "tfds":
            for side in sides:
                _files(config, language, split, side)
        elif not config.path.startswith("synthetic_"):
            _open_tfds(config, language, split, 0)
        elif language not in synthetic_world.LANGUAGES:  # The others are written when they are opened.
            known = ", ".join(synthetic_world.LANGUAGES)
            raise TaskError(f"{config.path}: unknown synthetic language {language!r}; expected one of {known}")


def open_examples(config: TaskConfig, language: str, split: str, limit: int = 0, side: str = "") -> Sequence[Example]:
    """Labelled examples of a language and split, the first `limit` of them if not 0; of a side, if the family has sides.

    Raises:
      TaskError: if the data is missing, or a field that the task reads is.
    """
    if config.source == "tfds":
        examples: Sequence[Example] = _open_tfds(config, language, split, limit)
    else:
        parts = [_read_file(config, path, language) for path in _files(config, language, split, side)]
        examples = parts[0] if len(parts) == 1 else [example for part in parts for example in part]
        examples = examples[:limit] if limit else examples
    if not len(examples):
        raise TaskError(f"{config.path}: no example for language {language!r}, split {split!r}")
    labelled = side == family(config.kind).sides[0]
    for field in (*config.text_fields, *((config.label_field,) if labelled else ())):
        if field not in examples[0]:
            raise TaskError(_missing_field(config, field, [key for key in examples[0] if key != "where"]))
    return examples
