"""Labelled examples of the artificial languages as datasets of TFDS."""

import pathlib

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builders import conll

from rembert_jax.data import synthetic_tfds
from rembert_jax.data.sources import to_python
from rembert_jax.data.synthetic import sentence_pair, tagged_sentence, topic_sentence
from rembert_jax.data.synthetic_world import UPOS
from rembert_jax.errors import RemBertError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("synthetic_pos/qaa-x", "synthetic language 'qaa-x': expected one of qaa, .* of another seed qaa-SEED"),
        ("synthetic_pos/qzz", "synthetic language 'qzz': expected one of qaa"),
        ("synthetic_nothing/qaa", "unknown synthetic dataset 'synthetic_nothing': expected one of synthetic_paws_x, "),
    ],
)
def test_unknown_sets_are_explained(name, message, tmp_path):
    with pytest.raises(RemBertError, match=message):
        synthetic_tfds.prepare(name, str(tmp_path))


def _spec(features):
    """Feature names to types and label names, with sequences marked."""
    result = {}
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature)
        names = getattr(inner, "names", None)
        result[name] = (type(feature).__name__, type(inner).__name__, names)
    return result


def test_tagging_set_has_the_features_of_xtreme_pos(tmp_path):
    info = tfds.builder("synthetic_pos/qab", data_dir=str(tmp_path)).info
    assert _spec(info.features) == _spec(conll.XTREME_POS_FEATURES)


def test_pair_set_has_the_features_of_paws_x_wiki(tmp_path):
    own = tfds.builder("synthetic_paws_x/qab", data_dir=str(tmp_path)).info.features
    real = tfds.builder("paws_x_wiki/de", data_dir=str(tmp_path)).info.features
    assert _spec(own) == _spec(real)


@pytest.mark.parametrize(("tongue", "seed"), [("qaa-0-32", 0), ("qaa-7-32", 7)])
@pytest.mark.parametrize("name", ["synthetic_pos", "synthetic_paws_x", "synthetic_topic"])
def test_written_examples_come_back(tmp_path, name, tongue, seed):
    synthetic_tfds.prepare(f"{name}/{tongue}", str(tmp_path))
    builder = tfds.builder(f"{name}/{tongue}", data_dir=str(tmp_path))
    records = [{key: to_python(value) for key, value in record.items()} for record in builder.as_data_source("train")]
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {
        "train": 32, "validation": 4, "test": 4,
    }  # fmt: skip
    if name == "synthetic_pos":
        found = [(record["tokens"], [UPOS[tag] for tag in record["upos"]]) for record in records]
        expected = [tagged_sentence("qaa", "train", i, seed) for i in range(32)]
    elif name == "synthetic_topic":
        found = [(record["text"], record["label"]) for record in records]
        expected = [topic_sentence("qaa", "train", i, seed) for i in range(32)]
    else:
        found = [(record["sentence1"], record["sentence2"], record["label"]) for record in records]
        expected = [sentence_pair("qaa", "train", i, seed) for i in range(32)]
    assert sorted(found) == sorted(expected)


def test_only_the_labelled_language_has_a_training_split(tmp_path):
    for code, splits in (("qaa-0-8", {"train", "validation", "test"}), ("qab-0-8", {"validation", "test"})):
        synthetic_tfds.prepare(f"synthetic_paws_x/{code}", str(tmp_path))
        assert set(tfds.builder(f"synthetic_paws_x/{code}", data_dir=str(tmp_path)).info.splits) == splits


def test_sets_are_written_once(tmp_path):
    synthetic_tfds.prepare("synthetic_pos/qac-0-8", str(tmp_path))
    files = {path: path.stat().st_mtime_ns for path in pathlib.Path(tmp_path).rglob("*") if path.is_file()}
    synthetic_tfds.prepare("synthetic_pos/qac-0-8", str(tmp_path))
    assert files == {path: path.stat().st_mtime_ns for path in pathlib.Path(tmp_path).rglob("*") if path.is_file()}


def test_empty_data_folder_is_tfds_own(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "own"))
    monkeypatch.chdir(tmp_path)
    synthetic_tfds.prepare("synthetic_pos/qad-0-8", "")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
