"""The official data files of XTREME's tasks, as their owners publish them and as XTREME's own preprocessing leaves them.

Every reader returns records as plain dicts:
- sentence pairs: `sentence1`, `sentence2`, `label` (a name);
- tagging: `tokens`, `tags`;
- question answering: `id`, `question`, `context`, `answers` (each `text` and `answer_start`);
- retrieval: `id`, `text`, and of English sentences `translations`, ids of the sentences that they translate.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rembert_jax.xtreme import files
from rembert_jax.xtreme.benchmark import IOB2
from rembert_jax.xtreme.files import FileError, read_lines

Record = dict[str, Any]

QUOTED = re.compile(r'"[^"]*""(?:[^"]|"")*"')
"""A field as Python's csv writer makes it of text with a quotation mark, unless it is told not to quote. One in quotes without
a doubled mark inside is none: the writer leaves text without a quotation mark as it is."""

# Header of a published file to the columns of language (None: not in the file), first and second sentence, and label.
HEADERS: dict[tuple[str, ...], tuple[int | None, int, int, int]] = {
    ("language", "gold_label"): (0, 6, 7, 1),  # XNLI-1.0
    ("premise", "hypo", "label"): (None, 0, 1, 2),  # XNLI-MT-1.0
    ("id", "sentence1", "sentence2", "label"): (None, 1, 2, 3),  # PAWS-X
}


def read_pairs(path: pathlib.Path, labels: Sequence[str], language: str = "") -> tuple[list[Record], list[str]]:
    """Sentence pairs of XNLI or PAWS-X, from a published file or from one of three columns without a header.

    Tabs separate columns and quotation marks are text. XTREME's preprocessing used to write such files with Python's csv
    module, which puts fields with a quotation mark in quotes and doubles it; where every such field of a file looks like that,
    it is undone and said so.

    Args:
      path: of the file.
      labels: names that a label may have; "contradictory" is read as "contradiction".
      language: which rows to take of a file for several languages.

    Returns:
      The records, and remarks on how the file was read.

    Raises:
      FileError: with file and line, for another number of columns or another label.
    """
    rows = [line.split("\t") for line in read_lines(path)]
    header = next((key for key in HEADERS if rows and tuple(cell.strip() for cell in rows[0][: len(key)]) == key), None)
    language_column, first, second, label_column = HEADERS[header] if header else (None, 0, 1, 2)
    columns = len(rows[0]) if header else 3
    start = 2 if header else 1
    rows = rows[1:] if header else rows
    remarks: list[str] = []
    quoted = [cell for row in rows for cell in row if '"' in cell]
    undouble = bool(quoted) and all(QUOTED.fullmatch(cell) for cell in quoted)
    if undouble:
        remarks.append(
            f"{len(quoted)} fields were in quotes with their quotation marks doubled, as a csv writer does; undone"
        )
    records = []
    for number, row in enumerate(rows, start=start):
        if len(row) != columns:
            raise FileError(f"{path}, line {number}: found {len(row)} columns, expected {columns}")
        if language_column is not None and row[language_column] != language:
            continue
        one, other, label = (
            (_undoubled(row[i]) if undouble else row[i]).strip() for i in (first, second, label_column)
        )
        label = "contradiction" if label == "contradictory" else label
        if label not in labels:
            raise FileError(f"{path}, line {number}: found label {label!r}, expected one of {', '.join(labels)}")
        records.append({"sentence1": one, "sentence2": other, "label": label})
    if placeholders := sum("NS" in (record["sentence1"], record["sentence2"]) for record in records):
        remarks.append(f"{placeholders} pairs hold 'NS' for a sentence that was not translated; XTREME keeps them")
    return records, remarks


def _undoubled(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if cell.startswith('"') else cell


def read_panx(path: pathlib.Path) -> list[Record]:
    """Sentences of PAN-X (WikiAnn): "LANGUAGE:token<TAB>tag" or "token<TAB>tag" a line, a blank line between sentences.

    Raises:
      FileError: with file and line, for another number of columns or another tag.
    """
    records = read_tagged(path, IOB2)
    for record in records:
        record["tokens"] = [re.sub(r"^[a-z-]{2,12}:", "", token, count=1).strip() for token in record["tokens"]]
    return records


def read_tagged(path: pathlib.Path, labels: Sequence[str]) -> list[Record]:
    """Sentences of "token<TAB>tag" a line, a blank line between sentences.

    Raises:
      FileError: with file and line, for another number of columns or another tag.
    """
    records: list[Record] = [{"tokens": [], "tags": []}]
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            if records[-1]["tokens"]:
                records.append({"tokens": [], "tags": []})
            continue
        columns = line.split("\t")
        if len(columns) != 2:
            raise FileError(f"{path}, line {number}: found {len(columns)} columns, expected a token and its tag")
        token, tag = columns[0], columns[1].strip()
        if tag not in labels:
            raise FileError(f"{path}, line {number}: found tag {tag!r}, expected one of {', '.join(labels)}")
        records[-1]["tokens"].append(token)
        records[-1]["tags"].append(tag)
    return records if records[-1]["tokens"] else records[:-1]


def read_squad(path: pathlib.Path, language: str = "") -> list[Record]:
    """Questions of XQuAD, MLQA, TyDiQA-GoldP or SQuAD.

    Args:
      path: a file in the form of SQuAD 1.1.
      language: of a file for several languages (TyDiQA's training set), the name that its ids begin with, as "english".

    Raises:
      FileError: for another form, an id that stands there twice, or an answer that is not at its place in the context.
    """
    try:
        content = json.loads("\n".join(read_lines(path)))
        questions = list(_questions(content, path))
    except json.JSONDecodeError as error:
        raise FileError(f"{path}, line {error.lineno}: no JSON ({error.msg})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path}: not in the form of SQuAD 1.1, {error!r} is missing or of another kind") from error
    if language:
        questions = [question for question in questions if question["id"].startswith(f"{language}-")]
    ids = [question["id"] for question in questions]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise FileError(f"{path}: question {twice} stands there more than once")
    return questions


def _questions(content: Any, path: pathlib.Path) -> Iterator[Record]:
    for article in content["data"] if isinstance(content, dict) else content:
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            for question in paragraph["qas"]:
                answers = [{"text": one["text"], "answer_start": one["answer_start"]} for one in question["answers"]]
                for answer in answers:
                    start, text = answer["answer_start"], answer["text"]
                    if context[start : start + len(text)] != text:
                        raise FileError(
                            f"{path}, question {question['id']}: the context has {context[start : start + len(text)]!r} at "
                            f"{start}, expected the answer {text!r}"
                        )
                yield {"id": question["id"], "question": question["question"], "context": context, "answers": answers}


def read_bucc(path: pathlib.Path) -> list[Record]:
    """Sentences of BUCC 2018, "id<TAB>sentence" a line.

    Raises:
      FileError: with file and line, for a line without a tab or an id that stands there twice.
    """
    records, seen = [], {}
    for number, line in enumerate(read_lines(path), start=1):
        name, tab, text = line.partition("\t")
        if not tab or not name:
            raise FileError(f"{path}, line {number}: expected an id, a tab and a sentence")
        if name in seen:
            raise FileError(f"{path}, line {number}: id {name} stands in line {seen[name]} already")
        seen[name] = number
        records.append({"id": name, "text": text.strip()})
    return records


def add_translations(sources: list[Record], english: list[Record], gold: pathlib.Path) -> None:
    """Gives each English sentence of BUCC `translations`, the ids of those whose translation it is, as a file of pairs says.

    Raises:
      FileError: for an id that the sentences do not have.
    """
    known, by_id = {record["id"] for record in sources}, {record["id"]: record for record in english}
    for record in english:
        record["translations"] = []
    for source, target in sorted(files.read_pairs(gold)):
        if source not in known or target not in by_id:
            strange = source if source not in known else target
            raise FileError(f"{gold}: the pair {source} {target}: no sentence has the id {strange}")
        by_id[target]["translations"].append(source)


def read_tatoeba(source: pathlib.Path, target: pathlib.Path) -> tuple[list[Record], list[Record]]:
    """Sentences of LASER's Tatoeba files and their English translations, line by line; ids are the numbers of lines from 0.

    Raises:
      FileError: if the two files have not the same number of lines.
    """
    sides = [
        [{"id": str(number), "text": line.strip()} for number, line in enumerate(read_lines(path))]
        for path in (source, target)
    ]
    if len(sides[0]) != len(sides[1]):
        raise FileError(f"{source} has {len(sides[0])} lines and {target} {len(sides[1])}; expected the same number")
    return sides[0], sides[1]
