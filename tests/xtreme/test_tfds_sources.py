"""TFDS's datasets, written here as array_record under their own names and features, and read through TFDS."""

import contextlib
import importlib.util
import io
from typing import Any, ClassVar

import pytest
import tensorflow_datasets as tfds

from rembert_jax.xtreme import prepare, tfds_sources
from rembert_jax.xtreme.benchmark import TASKS
from rembert_jax.xtreme.tfds_sources import TfdsError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TFDS's own code of these datasets imports TensorFlow"
)


def question(name):
    return {
        "id": name,
        "title": "t",
        "context": "a cat",
        "question": "?",
        "answers": [{"text": "cat", "answer_start": 2}],
    }


def words(text):
    tokens, tags = zip(*(item.split("/") for item in text.split()), strict=True)
    return {"tokens": list(tokens), "upos": list(tags)}


LANGUAGES = TASKS["xnli"].languages
XNLI = {
    "premise": {language: f"eins {language}" for language in LANGUAGES},
    "hypothesis": {language: f"zwei {language}" for language in LANGUAGES},
    "label": "neutral",
}
DATASETS: dict[str, dict[str, list[Any]]] = {
    "xnli": {"test": [XNLI]},
    "multi_nli": {"train": [{"premise": "a", "hypothesis": "b", "label": "contradiction"}]},
    "paws_x_wiki/de": {"test": [{"sentence1": "a", "sentence2": "b", "label": 1}]},
    "wikiann/de": {
        "test": [{"tokens": ["Bonn", "."], "tags": ["B-LOC", "O"], "langs": ["de"] * 2, "spans": ["LOC: Bonn"]}]
    },
    "xtreme_pos/xtreme_pos_tl": {"test": [words("tamil/NOUN _/X x/_ ./PUNCT"), words("_/_")]},
    "xtreme_pos/xtreme_pos_es": {"train": [words("hola/INTJ")], "test": [words("hola/INTJ")]},
    "xquad/de": {"test": [question("q1")]},
    "tydi_qa/goldp": {
        "train": [question("finnish-1"), question("english-2")],
        "validation-fi": [question("finnish-3")],
    },
    "tatoeba/tatoeba_de": {
        "train": [
            {"source_sentence": one, "target_sentence": two, "source_language": "de", "target_language": "en"}
            for one, two in (("zwei", "two"), ("eins", "one"))
        ]
    },
}


def write(name, splits, data_dir):
    """Writes a dataset where TFDS looks for the one that it has under this name, with the features of that one."""
    dataset, _, config = name.partition("/")
    real = tfds.builder(name, data_dir=data_dir)
    version, features = str(real.version), real.info.features

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(rows) for split, rows in splits.items()}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    Builder.name = dataset
    builder = Builder(data_dir=data_dir, **({"config": config} if config else {}))
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP),
        )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    for name, splits in DATASETS.items():
        write(name, splits, folder)
    return str(folder)


ANSWERS = {"question": "?", "context": "a cat", "answers": [{"text": "cat", "answer_start": 2}]}


@pytest.mark.parametrize(
    ("task", "split", "language", "expected"),
    [
        ("xnli", "test", "de", [{"sentence1": "eins de", "sentence2": "zwei de", "label": "neutral"}]),
        ("xnli", "train", "en", [{"sentence1": "a", "sentence2": "b", "label": "contradiction"}]),
        ("pawsx", "test", "de", [{"sentence1": "a", "sentence2": "b", "label": "1"}]),
        ("panx", "test", "de", [{"tokens": ["Bonn", "."], "tags": ["B-LOC", "O"]}]),
        ("xquad", "test", "de", [{"id": "q1", **ANSWERS}]),
        ("tydiqa", "test", "fi", [{"id": "finnish-3", **ANSWERS}]),
    ],
)
def test_datasets_become_the_records_of_the_files(data_dir, task, split, language, expected):
    records, remarks = tfds_sources.read(task, split, language, data_dir, "official")
    assert records == expected
    assert remarks[0].startswith("from ") and "/" in remarks[0]


def test_tydiqa_trains_on_english_only(data_dir):
    records, _ = tfds_sources.read("tydiqa", "train", "en", data_dir, "official")
    assert [record["id"] for record in records] == ["english-2"]


def test_tamil_is_where_tagalog_should_be_and_hidden_words_are_dropped(data_dir):
    records, remarks = tfds_sources.read("udpos", "test", "ta", data_dir, "hf_compat")
    assert records == [{"tokens": ["tamil", "."], "tags": ["NOUN", "PUNCT"]}]
    assert remarks[1] == "read from the configuration 'tl', since TFDS has ta under that name"


@pytest.mark.parametrize(
    ("task", "split", "language", "protocol", "message"),
    [
        ("udpos", "test", "ru", "hf_compat", "xtreme_pos mixes Old Russian into ru; use CoNLL-U files"),
        (
            "udpos",
            "test",
            "es",
            "official",
            "holds words and not surface tokens; use CoNLL-U files, or --protocol hf_compat",
        ),
        ("bucc2018", "dev", "de", "official", "bucc holds only the gold pairs"),
        (
            "pawsx",
            "train",
            "en",
            "official",
            "TFDS dataset 'paws_x_wiki/en'.*no split 'train'; it has none, it is",
        ),
        ("xquad", "dev", "de", "official", "TFDS has no dev set of xquad in the form that XTREME needs"),
    ],
)
def test_what_tfds_cannot_serve_is_refused_with_the_reason(data_dir, task, split, language, protocol, message):
    with pytest.raises(TfdsError, match=message):
        tfds_sources.read(task, split, language, data_dir, protocol)


def test_what_is_not_there_as_a_file_is_taken_from_tfds(data_dir, tmp_path):
    path = tmp_path / "in" / "xquad" / "xquad.en.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"data": []}')
    manifest = prepare.prepare(
        tmp_path / "in", tmp_path / "out", ["xquad", "tatoeba", "bucc2018"], "official", data_dir
    )
    assert {name: file["records"] for name, file in manifest["files"].items()} == {
        "xquad/test-en": 0, "xquad/test-de": 1, "tatoeba/test-de.source": 2, "tatoeba/test-de.english": 2,
    }  # fmt: skip
    english = prepare.read_records(tmp_path / "out" / "tatoeba" / "test-de.english.array_record")
    assert [record["text"] for record in english] == ["one", "two"]
    assert (tmp_path / "out" / "labels" / "tatoeba" / "test-de.tsv").read_text() == "1\n0\n"
    assert "dev-de: no file, and TFDS's bucc holds only the gold pairs" in manifest["problems"]["bucc2018"][0]
    assert any(
        text.startswith("test-ru: no file, and TFDS dataset 'xquad/ru'") for text in manifest["problems"]["xquad"]
    )
