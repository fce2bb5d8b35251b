"""The official files of predictions and labels: `TASK/test-LANGUAGE.tsv` or `.json`, read strictly.

Every error names file, line and what was expected, because a file that is off by one line scores like a bad model.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from rembert_jax.errors import RemBertError
from rembert_jax.xtreme.benchmark import Task
from rembert_jax.xtreme.retrieval import Pair


class FileError(RemBertError):
    """A file is not what its name says."""


def read_lines(path: pathlib.Path) -> list[str]:
    """The lines of a UTF-8 file without their ends; only "\\n" and "\\r\\n" end a line.

    Raises:
      FileError: with the line that is not UTF-8.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        begin = len(data) - len(error.object)  # A byte order mark.
        line, byte = error.object.count(b"\n", 0, error.start) + 1, begin + error.start
        raise FileError(f"{path}, line {line}: byte {byte} is not UTF-8; save the file as UTF-8") from None
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def read_labels(path: pathlib.Path, labels: Sequence[str]) -> list[str]:
    """A label a line."""
    found = read_lines(path)
    for number, label in enumerate(found, start=1):
        if label not in labels:
            raise FileError(f"{path}, line {number}: found {label!r}, expected one of {', '.join(labels)}")
    return found


def read_tags(path: pathlib.Path, labels: Sequence[str]) -> list[list[str]]:
    """A tag a line, a blank line between sentences."""
    sentences: list[list[str]] = [[]]
    known = set(labels)
    for number, line in enumerate(read_lines(path), start=1):
        tag = line.strip()
        if not tag:
            if sentences[-1]:
                sentences.append([])
        elif tag not in known:
            columns = len(tag.split("\t"))
            what = f"{columns} columns" if columns > 1 else repr(tag)
            raise FileError(f"{path}, line {number}: found {what}, expected a tag alone, one of {', '.join(labels)}")
        else:
            sentences[-1].append(tag)
    return sentences if sentences[-1] else sentences[:-1]


def read_pairs(path: pathlib.Path) -> set[Pair]:
    """Ids of a sentence and of its English translation a line, with a tab between."""
    pairs: dict[Pair, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split("\t")
        if len(columns) != 2 or not all(columns):
            raise FileError(f"{path}, line {number}: found {len(columns)} columns, expected two ids with a tab between")
        pair = (columns[0], columns[1])
        if pair in pairs:
            raise FileError(f"{path}, line {number}: the pair {' '.join(pair)} stands in line {pairs[pair]} already")
        pairs[pair] = number
    return set(pairs)


def read_indices(path: pathlib.Path) -> list[int]:
    """The number of the nearest line, from 0, a line."""
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip().isdecimal():
            raise FileError(f"{path}, line {number}: found {line!r}, expected the number of a line, from 0")
        found.append(int(line))
    return found


def _read_json(path: pathlib.Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise FileError(f"{path}: {twice!r} stands there more than once")
        return found

    text = "\n".join(read_lines(path))
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise FileError(f"{path}, line {error.lineno}: no JSON ({error.msg})") from error


def read_answers(path: pathlib.Path) -> dict[str, str]:
    """{"id of a question": "answer"}."""
    found = _read_json(path)
    if not isinstance(found, dict):
        raise FileError(f"{path}: found a {type(found).__name__}, expected an object from ids of questions to answers")
    for question, answer in found.items():
        if not isinstance(answer, str):
            raise FileError(
                f"{path}, question {question}: found a {type(answer).__name__}, expected the answer as text"
            )
    return found


def read_gold_answers(path: pathlib.Path) -> dict[str, list[str]]:
    """The answers of each question of a file in the form of SQuAD 1.1."""
    content = _read_json(path)
    gold: dict[str, list[str]] = {}
    try:
        for article in content["data"] if isinstance(content, dict) else content:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = [answer["text"] for answer in question["answers"]]
                    if question["id"] in gold:
                        raise FileError(f"{path}: question {question['id']} stands there more than once")
                    if not answers:
                        raise FileError(f"{path}, question {question['id']}: no answer, expected at least one")
                    gold[question["id"]] = answers
    except (TypeError, KeyError) as error:
        raise FileError(
            f"{path}: not in the form of SQuAD 1.1 (data, paragraphs, qas, id, answers, text): {error!r}"
        ) from error
    return gold


def read_predictions(path: pathlib.Path, task: Task) -> Any:
    """Predictions in the form of a task."""
    if task.kind == "answers":
        return read_answers(path)
    return read_gold(path, task)


def read_gold(path: pathlib.Path, task: Task) -> Any:
    """Labels in the form of a task."""
    if task.kind == "answers":
        return read_gold_answers(path)
    if task.kind == "pairs":
        return read_pairs(path)
    if task.kind == "indices":
        return read_indices(path)
    return (read_tags if task.kind == "tags" else read_labels)(path, task.labels)


def find(folder: pathlib.Path, task: Task) -> dict[str, pathlib.Path]:
    """The files of a task by language, those that are there: in TASK/ or, of runs, in TASK/predictions/ at any depth.

    Raises:
      FileError: for a file whose language the task does not have, or several files for one language.
    """
    plain = (folder / task.name).glob(f"test-*.{task.suffix}")
    of_runs = folder.glob(f"**/{task.name}/predictions/test-*.{task.suffix}")
    found: dict[str, pathlib.Path] = {}
    for path in sorted([*plain, *of_runs]):
        language = path.stem.removeprefix("test-")
        if language in found:
            raise FileError(f"{path}: {found[language]} is of {task.name} in {language!r} too; leave one in the folder")
        found[language] = path
    for language, path in found.items():
        if language not in task.languages:
            raise FileError(f"{path}: {task.name} has no language {language!r}; it has {', '.join(task.languages)}")
    return {language: found[language] for language in task.languages if language in found}
