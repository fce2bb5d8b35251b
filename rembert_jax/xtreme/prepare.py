"""From the files that the owners of XTREME's tasks publish, or those of its own preprocessing, to one layout.

OUTPUT/TASK/SPLIT-LANGUAGE.array_record   records as JSON (see `readers`); of retrieval two files, .source and .english
OUTPUT/labels/TASK/test-LANGUAGE.tsv      or .json: what `tools.xtreme_score` scores against
OUTPUT/manifest.json                      of each file number, expected number, sha256, origin and remarks; all problems
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from rembert_jax.xtreme import conllu, expected, origins, readers, tfds_sources
from rembert_jax.xtreme.benchmark import LASER_CODES, TASKS
from rembert_jax.xtreme.files import FileError
from rembert_jax.xtreme.readers import Record

TYDI_NAMES = {
    "ar": "arabic", "bn": "bengali", "en": "english", "fi": "finnish", "id": "indonesian", "ko": "korean", "ru": "russian",
    "sw": "swahili", "te": "telugu",
}  # fmt: skip

# Where the files of a task and split may lie below the input folder, the first that is there counts: XTREME's own
# preprocessing, the archives of their owners, one folder for each language. A file for several languages is read for each.
PATTERNS: dict[tuple[str, str], tuple[str, ...]] = {
    ("xnli", "train"): ("xnli/train-{lang}.tsv", "**/multinli/multinli.train.{lang}.tsv", "xnli/{lang}/train.tsv"),
    ("xnli", "dev"): ("xnli/dev-{lang}.tsv", "**/XNLI-1.0/xnli.dev.tsv", "xnli/{lang}/dev.tsv"),
    ("xnli", "test"): ("xnli/test-{lang}.tsv", "**/XNLI-1.0/xnli.test.tsv", "xnli/{lang}/test.tsv"),
    ("pawsx", "train"): ("pawsx/train-{lang}.tsv", "**/x-final/{lang}/train.tsv", "pawsx/{lang}/train.tsv"),
    ("pawsx", "dev"): ("pawsx/dev-{lang}.tsv", "**/x-final/{lang}/dev_2k.tsv", "pawsx/{lang}/dev.tsv"),
    ("pawsx", "test"): ("pawsx/test-{lang}.tsv", "**/x-final/{lang}/test_2k.tsv", "pawsx/{lang}/test.tsv"),
    **{
        ("panx", split): (
            f"panx/{split}-{{lang}}.tsv", f"panx/{{lang}}-{split}", f"panx/{{lang}}/{split}", f"ner/{{lang}}/{split}.tsv",
        )
        for split in ("train", "dev", "test")
    },
    **{
        ("udpos", split): (
            f"**/UD_*/{{lang}}_*-ud-{split}.conllu", f"udpos/{{lang}}/{split}.conllu", f"udpos/{split}-{{lang}}.tsv",
        )
        for split in ("train", "dev", "test")
    },
    ("squad", "train"): ("**/train-v1.1.json",),
    ("squad", "dev"): ("**/dev-v1.1.json",),
    ("xquad", "test"): ("**/xquad.{lang}.json", "xquad/{lang}/test.json"),
    ("mlqa", "dev"): ("**/dev-context-{lang}-question-{lang}.json", "mlqa/{lang}/dev.json"),
    ("mlqa", "test"): ("**/test-context-{lang}-question-{lang}.json", "mlqa/{lang}/test.json"),
    ("tydiqa", "train"): ("**/tydiqa*.{lang}.train.json", "**/tydiqa-goldp-v1.1-train.json", "tydiqa/{lang}/train.json"),
    # XTREME tests on the development set.
    ("tydiqa", "test"): ("**/tydiqa.{lang}.dev.json", "**/tydiqa-goldp-dev-{name}.json", "tydiqa/{lang}/dev.json"),
    # XTREME's names, and those of the shared task.
    ("bucc2018", "dev"): ("**/{lang}-en.dev.{lang}", "**/{lang}-en.sample.{lang}"),
    ("bucc2018", "test"): ("**/{lang}-en.test.{lang}", "**/{lang}-en.training.{lang}"),
    ("tatoeba", "test"): ("**/tatoeba.{code}-eng.{code}",),
}  # fmt: skip

TRAINED_ON = ("train",)
"""Splits that are wanted in English only."""


@dataclasses.dataclass
class File:
    """A prepared file: its records, and what is said of them."""

    name: str
    records: list[Record]
    sources: list[pathlib.Path]
    remarks: list[str]


def prepare(
    source: pathlib.Path,
    output: pathlib.Path,
    tasks: Sequence[str] = (),
    protocol: conllu.Protocol = "official",
    tfds_data_dir: str | None = None,
) -> dict[str, Any]:
    """Brings whatever is found below `source` into the layout, and returns the manifest.

    Args:
      source: folder with the files as they were unpacked.
      output: folder to write; files that are there are replaced.
      tasks: which; empty for all of XTREME and SQuAD, its training data.
      protocol: of parts of speech.
      tfds_data_dir: folder of datasets that TFDS has prepared, to take what is not found as a file; empty is TFDS's own, None
        does without TFDS.

    Raises:
      FileError: for a file that is not in its form, or if nothing is found.
    """
    found: dict[str, dict[str, Any]] = {}
    problems: dict[str, list[str]] = {}
    for task in tasks or ("squad", *TASKS):
        wrong, missing = [], []
        for split in (split for name, split in PATTERNS if name == task):
            for language in _languages(task, split):
                needed = _is_needed(task, split, language)
                if paths := _find(source, task, split, language):
                    prepared = _read(task, split, language, paths, protocol)
                elif tfds_data_dir is not None and needed:
                    try:
                        prepared = _read_tfds(task, split, language, tfds_data_dir, protocol)
                    except tfds_sources.TfdsError as error:
                        wrong.append(f"{split}-{language}: no file, and {error}")
                        continue
                else:
                    missing += [f"{split}-{language}"] * needed
                    continue
                for file in prepared:
                    found[file.name] = write(file, output, expected.count(task, split, language))
                    wrong += _problems(file, found[file.name]["expected"])
                if split == "test":
                    _write_labels(task, language, prepared, output)
        if missing:
            wrong.append(f"nothing found for {', '.join(missing)}")
        if wrong:
            problems[task] = [*wrong, f"comes from {origin_of(task)}"]
    if not found:
        patterns = ", ".join(pattern for names in PATTERNS.values() for pattern in names[:1])
        raise FileError(f"{source}: no file of XTREME found; looked for {patterns} and others (docs/xtreme.md)")
    manifest = {"protocol": protocol, "files": found, "problems": problems}
    (output / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def origin_of(task: str) -> str:
    """Where the data of a task comes from, in words."""
    known = origins.origins()
    names = {"xnli": ("xnli", "multinli")}.get(task, (task,))
    texts = []
    for origin in (known[name] for name in names):
        first, *others = [address for address, _ in origin.files]
        more = f" and {len(others)} more" if others else ""
        texts.append(f"{first}{more} ({', '.join(filter(None, [origin.licence, origin.note]))})")
    return "; ".join(texts)


def _languages(task: str, split: str) -> tuple[str, ...]:
    return ("en",) if task == "squad" or split in TRAINED_ON else TASKS[task].languages


def _is_needed(task: str, split: str, language: str) -> bool:
    """Whether the benchmark needs a file: what is chosen by is English, and the pairs that BUCC's threshold is fitted on."""
    return split != "dev" or language == "en" or task == "bucc2018"


def _find(source: pathlib.Path, task: str, split: str, language: str) -> list[pathlib.Path]:
    values = {"lang": language, "code": LASER_CODES.get(language, language), "name": TYDI_NAMES.get(language, language)}
    for pattern in PATTERNS[task, split]:
        if paths := sorted(source.glob(pattern.format(**values))):
            return paths
    return []


def _read(task: str, split: str, language: str, paths: Sequence[pathlib.Path], protocol: conllu.Protocol) -> list[File]:
    name = f"{task}/{split}-{language}"
    if task == "bucc2018":
        english, gold = (paths[0].with_suffix(suffix) for suffix in (".en", ".gold"))
        sources, translations = readers.read_bucc(paths[0]), readers.read_bucc(english)
        if gold.is_file():
            readers.add_translations(sources, translations, gold)
        return [
            File(f"{name}.source", sources, [paths[0]], []),
            File(f"{name}.english", translations, [english, *([gold] if gold.is_file() else [])], []),
        ]
    if task == "tatoeba":
        english = paths[0].with_suffix(".eng")
        return _tatoeba_files(name, *readers.read_tatoeba(paths[0], english), [[paths[0]], [english]], [])
    records: list[Record] = []
    remarks: list[str] = []
    for path in paths:
        rows, said = _read_file(task, path, language, protocol)
        records += rows
        remarks += said
    return [File(name, records, list(paths), remarks)]


def _read_tfds(task: str, split: str, language: str, data_dir: str, protocol: conllu.Protocol) -> list[File]:
    name = f"{task}/{split}-{language}"
    if task == "tatoeba":
        sources, translations, remarks = tfds_sources.read_tatoeba(language, data_dir)
        return _tatoeba_files(name, sources, translations, [[], []], remarks)
    records, remarks = tfds_sources.read(task, split, language, data_dir, protocol)
    return [File(name, records, [], remarks)]


def _tatoeba_files(
    name: str, sources: list[Record], translations: list[Record], paths: list[list[pathlib.Path]], remarks: list[str]
) -> list[File]:
    said = [*remarks, "sorted, as XTREME hands them out"]
    labelled = [{**record, "translations": [record["id"]]} for record in _sorted(translations)]
    return [
        File(f"{name}.source", sources, paths[0], remarks),
        File(f"{name}.english", labelled, paths[1], said),
    ]


def _sorted(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record["text"])


def _read_file(
    task: str, path: pathlib.Path, language: str, protocol: conllu.Protocol
) -> tuple[list[Record], list[str]]:
    if task in ("xnli", "pawsx"):
        return readers.read_pairs(path, TASKS[task].labels, language)
    if task == "panx":
        return readers.read_panx(path), []
    if task == "udpos":
        if path.suffix == ".conllu":
            return [{key: one[key] for key in ("tokens", "tags")} for one in conllu.read(path, language, protocol)], []
        if protocol != "official":
            raise FileError(f"{path}: XTREME's own files hold tokens of its protocol; prepare {protocol} from CoNLL-U")
        return readers.read_tagged(path, TASKS[task].labels), []
    several = path.name == "tydiqa-goldp-v1.1-train.json"
    return readers.read_squad(path, TYDI_NAMES[language] if several else ""), []


def write(file: File, output: pathlib.Path, number: int | None) -> dict[str, Any]:
    """Writes a file and returns its entry in the manifest."""
    path = output / f"{file.name}.array_record"
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in file.records:
        data = json.dumps(record, ensure_ascii=False).encode()
        digest.update(data + b"\n")
        writer.write(data)
    writer.close()
    return {
        "records": len(file.records),
        "expected": number,
        "sha256_of_records": digest.hexdigest(),
        "from": [{"path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in file.sources],
        "remarks": file.remarks,
    }


def read_records(path: pathlib.Path) -> list[Record]:
    """The records of a prepared file."""
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        return [json.loads(data) for data in reader.read_all()]
    finally:
        reader.close()


def _problems(file: File, number: int | None) -> list[str]:
    found = []
    if not file.records:
        found.append("is empty")
    elif number is not None and len(file.records) != number:
        found.append(f"has {len(file.records)} records, expected {number}")
    labels: Counter[str] = Counter()
    for record in file.records:
        labels.update([record["label"]] if "label" in record else record.get("tags", []))
    if len(labels) == 1 and sum(labels.values()) > 1:
        found.append(f"has only the label {next(iter(labels))!r}: a file whose labels are hidden")
    if file.records and "answers" in file.records[0]:
        empty = sum(not any(answer["text"] for answer in record["answers"]) for record in file.records)
        if empty:
            found.append(f"has {empty} questions without an answer: a file whose answers are hidden")
    english = file.name.startswith("bucc2018") and file.name.endswith("english")
    if english and not any("translations" in record for record in file.records):
        found.append("says of no sentence whose translation it is: the file of pairs (.gold) is not there")
    return [f"{file.name} {text}" for text in found]


def _write_labels(task: str, language: str, prepared: Sequence[File], output: pathlib.Path) -> None:
    """What a test set is scored against, in the official layout."""
    target = output / "labels" / task / f"test-{language}.{TASKS[task].suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    # Of retrieval the English side; of Tatoeba its ids are the numbers of the lines before it was sorted.
    if task == "bucc2018" and not all("translations" in record for record in prepared[-1].records):
        return  # Its pairs are not there.
    target.write_text(LABEL_WRITERS[TASKS[task].kind](prepared[-1].records), encoding="utf-8")


def _squad_form(records: Sequence[Record]) -> str:
    questions = [{key: record[key] for key in ("id", "question", "answers")} for record in records]
    paragraphs = [{"context": "", "qas": questions}]
    return json.dumps({"data": [{"title": "", "paragraphs": paragraphs}]}, ensure_ascii=False) + "\n"


LABEL_WRITERS: Mapping[str, Callable[[Sequence[Record]], str]] = {
    "labels": lambda records: "".join(f"{record['label']}\n" for record in records),
    "tags": lambda records: "\n".join("".join(f"{tag}\n" for tag in record["tags"]) for record in records),
    "answers": _squad_form,
    "indices": lambda records: "".join(f"{record['id']}\n" for record in records),
    "pairs": lambda records: "".join(
        sorted(f"{source}\t{record['id']}\n" for record in records for source in record["translations"])
    ),
}
