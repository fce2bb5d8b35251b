"""Labelled datasets: TFDS through `as_data_source`, and CoNLL-U files."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from rembert_jax.data import sources, synthetic
from rembert_jax.tasks.base import Example, Task, TaskConfig, TaskError
from rembert_jax.tasks.sequence_classification import SequenceClassification
from rembert_jax.tasks.token_classification import TokenClassification
from rembert_jax.tokenization import RemBertTokenizer

KINDS: dict[str, type[Task]] = {
    "sequence_classification": SequenceClassification,
    "token_classification": TokenClassification,
}


class _TfdsExamples(Sequence[Example]):
    def __init__(self, records: Any, name: str, limit: int) -> None:
        self.records, self.name = records, name
        self.size = min(len(records), limit) if limit else len(records)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index):
        from rembert_jax.data.synthetic_tfds import to_python

        position = range(self.size)[index]
        record = {key: to_python(value) for key, value in self.records[position].items()}
        return {**record, "where": f"{self.name}[{position}]"}


def _tfds_builder(config: TaskConfig, language: str) -> Any:
    import tensorflow_datasets as tfds  # Slow to import; CoNLL-U tasks do without it.

    from rembert_jax.data import synthetic_tfds

    name = config.path.format(language=language)
    try:
        if name.startswith("synthetic_"):
            synthetic_tfds.prepare(name, config.data_dir)
        return tfds.builder(name, data_dir=config.data_dir or None)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]  # TFDS goes on with a list of all datasets it knows.
        raise TaskError(
            f"TFDS dataset {name!r} under task.data_dir={config.data_dir!r}: {reason} Check task.path, and prepare it with "
            'builder.download_and_prepare(file_format="array_record")'
        ) from error


def read_conllu(path: pathlib.Path) -> list[Example]:
    """Sentences of a CoNLL-U file as {"tokens", "upos", "where"}: syntactic words, without empty nodes and ranges.

    Raises:
      TaskError: naming file and line of a row with another number of columns than ten.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not valid UTF-8 at byte {error.start}") from error
    examples: list[Example] = []
    tokens: list[str] = []
    upos: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        if not line.strip():
            if tokens:
                examples.append({"tokens": tokens, "upos": upos, "where": f"{path}:{number}"})
            tokens, upos = [], []
        elif not line.startswith("#"):
            columns = line.rstrip("\r").split("\t")
            if len(columns) != 10:
                raise TaskError(f"{path}:{number}: {len(columns)} columns, expected the 10 of CoNLL-U")
            if columns[0].isdigit() and columns[3] != "_":
                tokens.append(columns[1])
                upos.append(columns[3])
    return examples


def _missing_field(config: TaskConfig, field: str, found: Sequence[str]) -> str:
    return f"{config.path}: no field {field!r}, found {', '.join(found)}; set task.text_fields and task.label_field"


def open_task(config: TaskConfig, tokenizer: RemBertTokenizer) -> Task:
    """The task object of a config, with label names read from the dataset."""
    if config.source == "conllu":
        labels: Sequence[str] = synthetic.UPOS
    else:
        features = _tfds_builder(config, config.train_language).info.features
        if config.label_field not in features:
            raise TaskError(_missing_field(config, config.label_field, list(features)))
        feature = features[config.label_field]
        labels = getattr(feature, "feature", feature).names
    return KINDS[config.kind](config, tokenizer, labels)


def open_examples(config: TaskConfig, language: str, split: str, limit: int = 0) -> Sequence[Example]:
    """Labelled examples of a language and split, the first `limit` of them if not 0.

    Raises:
      TaskError: if the data is missing, or a field that the task reads is.
    """
    if config.source == "conllu":
        try:
            paths = sources.find_files(config.path, language, split)
        except sources.SourceError as error:
            raise TaskError(str(error).replace("data.path and data.languages", "task.path")) from error
        everything = [example for path in paths for example in read_conllu(path)]
        examples: Sequence[Example] = everything[:limit] if limit else everything
    else:
        builder = _tfds_builder(config, language)
        if split not in builder.info.splits:
            known = ", ".join(builder.info.splits)
            raise TaskError(f"{builder.info.full_name}: no split {split!r}; it has {known}")
        examples = _TfdsExamples(builder.as_data_source(split), f"{builder.info.full_name}/{split}", limit)
    if not len(examples):
        raise TaskError(f"{config.path}: no example for language {language!r}, split {split!r}")
    for field in (*config.text_fields, config.label_field):
        if field not in examples[0]:
            raise TaskError(_missing_field(config, field, [key for key in examples[0] if key != "where"]))
    return examples
