"""XTREME's tasks from TFDS, with what is wrong in its datasets worked around, or refused with the reason.

Looked up in TFDS 4.9.10. Datasets are read as `as_data_source`, without TensorFlow; they must have been prepared with
`download_and_prepare(file_format="array_record")`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rembert_jax.data.sources import to_python
from rembert_jax.errors import RemBertError
from rembert_jax.xtreme.conllu import Protocol
from rembert_jax.xtreme.readers import Record


class TfdsError(RemBertError):
    """A dataset is not there, or does not hold what XTREME asks for."""


Convert = Callable[[Mapping[str, Any], Mapping[str, list[str]], str], Record | None]
"""From an example, names of labels by feature, and language, to a record; None for one that is not wanted."""


def _xnli(example: Mapping[str, Any], names: Mapping[str, list[str]], language: str) -> Record:
    hypothesis = dict(zip(example["hypothesis"]["language"], example["hypothesis"]["translation"], strict=True))
    label = names["label"][example["label"]]
    return {"sentence1": example["premise"][language], "sentence2": hypothesis[language], "label": label}


def _multi_nli(example: Mapping[str, Any], names: Mapping[str, list[str]], language: str) -> Record:
    label = names["label"][example["label"]]
    return {"sentence1": example["premise"], "sentence2": example["hypothesis"], "label": label}


def _paws_x(example: Mapping[str, Any], names: Mapping[str, list[str]], language: str) -> Record:
    return {
        "sentence1": example["sentence1"],
        "sentence2": example["sentence2"],
        "label": str(example["label"]),
    }


def _wikiann(example: Mapping[str, Any], names: Mapping[str, list[str]], language: str) -> Record:
    return {"tokens": example["tokens"], "tags": [names["tags"][tag] for tag in example["tags"]]}


def _words(example: Mapping[str, Any], names: Mapping[str, list[str]], language: str) -> Record | None:
    tags = [names["upos"][tag] for tag in example["upos"]]
    kept = [(token, tag) for token, tag in zip(example["tokens"], tags, strict=True) if "_" not in (token, tag)]
    return {"tokens": [token for token, _ in kept], "tags": [tag for _, tag in kept]} if kept else None


def _squad(example: Mapping[str, Any], names: Mapping[str, list[str]], language: str) -> Record:
    answers = example["answers"]
    pairs = zip(answers["text"], answers["answer_start"], strict=True)
    return {
        "id": example["id"],
        "question": example["question"],
        "context": example["context"],
        "answers": [{"text": text, "answer_start": start} for text, start in pairs],
    }


def _english_tydi(example: Mapping[str, Any], names: Mapping[str, list[str]], language: str) -> Record | None:
    # The training set holds nine languages; XTREME trains on English.
    return _squad(example, names, language) if example["id"].startswith("english-") else None


# (task, split) to dataset, its split, and how an example becomes a record.
SOURCES: dict[tuple[str, str], tuple[str, str, Convert]] = {
    ("xnli", "train"): ("multi_nli", "train", _multi_nli),
    ("xnli", "dev"): ("xnli", "validation", _xnli),
    ("xnli", "test"): ("xnli", "test", _xnli),
    ("pawsx", "train"): ("paws_x_wiki/{lang}", "train", _paws_x),
    ("pawsx", "dev"): ("paws_x_wiki/{lang}", "validation", _paws_x),
    ("pawsx", "test"): ("paws_x_wiki/{lang}", "test", _paws_x),
    ("panx", "train"): ("wikiann/{lang}", "train", _wikiann),
    ("panx", "dev"): ("wikiann/{lang}", "validation", _wikiann),
    ("panx", "test"): ("wikiann/{lang}", "test", _wikiann),
    ("udpos", "train"): ("xtreme_pos/xtreme_pos_{lang}", "train", _words),
    ("udpos", "dev"): ("xtreme_pos/xtreme_pos_{lang}", "dev", _words),
    ("udpos", "test"): ("xtreme_pos/xtreme_pos_{lang}", "test", _words),
    ("squad", "train"): ("squad/v1.1", "train", _squad),
    ("squad", "dev"): ("squad/v1.1", "validation", _squad),
    ("xquad", "test"): ("xquad/{lang}", "test", _squad),
    ("mlqa", "dev"): ("mlqa/{lang}", "validation", _squad),
    ("mlqa", "test"): ("mlqa/{lang}", "test", _squad),
    ("tydiqa", "train"): ("tydi_qa/goldp", "train", _english_tydi),
    ("tydiqa", "test"): ("tydi_qa/goldp", "validation-{lang}", _squad),
}

SWAPPED = {"ta": "tl", "tl": "ta"}
"""`xtreme_pos` has Tagalog under ta and Tamil under tl."""

MIXED = {
    "el": "Ancient Greek",
    "zh": "Classical Chinese",
    "ru": "Old Russian",
    "fr": "Old French",
    "de": "Swiss German",
}
"""What `xtreme_pos` mixes into a language, since it looks for treebanks by a part of their names. Of the Hindi-English one,
which it puts into both, every word is hidden, so that nothing is left of it here."""


def read(task: str, split: str, language: str, data_dir: str, protocol: Protocol) -> tuple[list[Record], list[str]]:
    """The records of a task, split and language, and remarks.

    Raises:
      TfdsError: if the dataset is not prepared, or cannot serve XTREME.
    """
    name, source_split, convert, remarks = _source(task, split, language, protocol)
    builder = _builder(name, source_split, data_dir)
    names = {key: labels for key in builder.info.features if (labels := _label_names(builder.info.features[key]))}
    converted = (
        convert({key: _plain(value) for key, value in example.items()}, names, language)
        for example in builder.as_data_source(source_split)
    )
    return [record for record in converted if record is not None], [f"from {builder.info.full_name}", *remarks]


def read_tatoeba(language: str, data_dir: str) -> tuple[list[Record], list[Record], list[str]]:
    """Sentences, their English translations in the same order, and remarks.

    Raises:
      TfdsError: if the dataset is not prepared.
    """
    builder = _builder(f"tatoeba/tatoeba_{language}", "train", data_dir)  # All of it lies in a split of this name.
    rows = [{key: _plain(value) for key, value in example.items()} for example in builder.as_data_source("train")]
    sides = [
        [{"id": str(number), "text": row[key]} for number, row in enumerate(rows)]
        for key in ("source_sentence", "target_sentence")
    ]
    return sides[0], sides[1], [f"from {builder.info.full_name}"]


def _builder(name: str, split: str, data_dir: str) -> Any:
    """A prepared dataset that has a split."""
    import tensorflow_datasets as tfds  # Slow to import; files do without it.

    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except Exception as error:  # Of many kinds, each with a list of all that TFDS knows.
        raise TfdsError(f"TFDS dataset {name!r}: {str(error).strip().splitlines()[0]}") from error
    if split not in builder.info.splits:
        found = ", ".join(builder.info.splits) or "none, it is not prepared"
        raise TfdsError(
            f"TFDS dataset {name!r} under {data_dir or 'its own data_dir'}: no split {split!r}; it has {found}. Prepare it "
            'with tfds.builder(…).download_and_prepare(file_format="array_record")'
        )
    return builder


def _source(task: str, split: str, language: str, protocol: Protocol) -> tuple[str, str, Convert, list[str]]:
    """Dataset, split, conversion and remarks, or the reason why TFDS cannot serve."""
    if task == "bucc2018":
        raise TfdsError("TFDS's bucc holds only the gold pairs, not the sentences they are found among; use the files")
    if task == "udpos" and protocol == "official":
        raise TfdsError(
            "TFDS's xtreme_pos holds words and not surface tokens; use CoNLL-U files, or --protocol hf_compat"
        )
    if task == "udpos" and language in MIXED:
        raise TfdsError(f"TFDS's xtreme_pos mixes {MIXED[language]} into {language}; use CoNLL-U files")
    if (task, split) not in SOURCES:
        raise TfdsError(f"TFDS has no {split} set of {task} in the form that XTREME needs; use the files")
    name, source_split, convert = SOURCES[task, split]
    code, remarks = language, []
    if task == "udpos" and language in SWAPPED:
        code = SWAPPED[language]
        remarks.append(f"read from the configuration {code!r}, since TFDS has {language} under that name")
    return name.format(lang=code), source_split.format(lang=language), convert, remarks


def _label_names(feature: Any) -> list[str]:
    return list(getattr(getattr(feature, "feature", feature), "names", None) or [])


def _plain(value: Any) -> Any:
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else to_python(value)
