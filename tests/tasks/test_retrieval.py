"""Retrieval: rows, pairs, thresholds and files worked by hand; sentences and settings that make no sense."""

import numpy as np
import pytest
from helpers import NumberTokenizer

from rembert_jax.tasks.base import TaskConfig, TaskError
from rembert_jax.tasks.retrieval import Match, Retrieval

CLS, SEP = 2, 3
SOURCES = [{"id": name, "text": f"1{name}"} for name in "0123"]
ENGLISH = [
    {"id": name, "text": f"2{name}", "gold": gold} for name, gold in zip("abc", (["2"], [], ["0", "1"]), strict=True)
]


def task(method="nearest", options=None, **changes):
    config = dict(
        kind="retrieval", source="jsonl", path="{language}/{split}.{side}", train_language="en", test_languages=("de",),
        text_fields=("text",), label_field="gold", max_length=5, options={"method": method, **(options or {})},
    )  # fmt: skip
    return Retrieval(TaskConfig(**config | changes), NumberTokenizer(), ())


def test_a_sentence_is_one_row_cut_to_its_length():
    (row,) = task().rows({"text": "11 12 13 14"})
    assert row["input_ids"].tolist() == [CLS, 11, 12, 13, SEP]
    assert row["token_type_ids"].tolist() == [0] * 5


def test_by_nearest_every_sentence_takes_one():
    looking = task()
    backward = np.array([[0.5, 0.1], [0.9, 0.8], [0.7, 0.0]]), np.array([[2, 0], [3, 1], [1, 2]])
    matches = looking.matches((np.zeros((4, 1)), np.zeros((4, 1), int)), backward)
    assert matches == [Match(0.9, 3, 1), Match(0.7, 1, 2), Match(0.5, 2, 0)]
    threshold = looking.threshold(ENGLISH, SOURCES, matches)
    found = looking.predict(ENGLISH, SOURCES, matches, threshold)
    assert threshold is None and found == ["2", "3", "1"]
    # The first is right, the second has no source, the third may have either of two.
    assert looking.metrics(ENGLISH, found, "de") == {"accuracy": pytest.approx(2 / 3)} and looking.metric == "accuracy"
    assert looking.to_text(ENGLISH, found) == "2\n3\n1\n"


def test_by_margin_pairs_above_the_fitted_threshold_are_taken():
    looking = task("margin")
    assert looking.metric == "f1"
    matches = [Match(1.4, 2, 0), Match(1.2, 0, 2), Match(1.0, 3, 1)]
    # Right, right, wrong, of three pairs: F1 2/4, 4/5, 4/6; the threshold lies between the last two.
    threshold = looking.threshold(ENGLISH, SOURCES, matches)
    assert threshold == pytest.approx(1.1)
    found = looking.predict(ENGLISH, SOURCES, matches, threshold)
    assert found == ["2", None, "0"]
    assert looking.metrics(ENGLISH, found, "de") == pytest.approx({"f1": 0.8, "precision": 1.0, "recall": 2 / 3})
    assert looking.to_text(ENGLISH, found) == "0\tc\n2\ta\n"
    assert looking.predict(ENGLISH, SOURCES, matches, 1.0) == ["2", "3", "0"], "at the threshold is above it"


def test_by_margin_equal_sentences_are_compared_once():
    twice = [{"text": "x"}, {"text": "y"}, {"text": "x"}]
    assert list(task("margin").distinct(twice)) == [0, 1] and list(task().distinct(twice)) == [0, 1, 2]


def test_the_margin_is_that_of_mining():
    cosines, order = np.array([[0.9, 0.8], [0.8, 0.1]]), np.array([[0, 1], [0, 1]])
    matches = task("margin", {"neighbours": 2}).matches((cosines, order), (cosines, order))
    assert [match[1:] for match in matches] == [(0, 1), (1, 0)]
    assert [match.score for match in matches] == pytest.approx([0.8 / 0.65] * 2)


@pytest.mark.parametrize(
    ("english", "sources", "message"),
    [
        ([{"text": "a"}], [], "no string under 'id'; expected one for each sentence"),
        ([{"id": "a", "where": "f:1"}, {"id": "a", "where": "f:2"}], [], "f:2: id 'a' is that of f:1 already"),
        ([{"id": "a", "gold": ["9"]}], SOURCES, "'9' in 'gold' is no id of a source"),
        ([{"id": "a", "gold": "2"}], SOURCES, "gold='2': expected a list of ids"),
        ([{"id": "a", "gold": []}], SOURCES, "and all others: nothing in 'gold'; expected ids of sources"),
    ],
)
def test_sentences_that_make_no_sense_are_named(english, sources, message):
    looking = task()
    with pytest.raises(TaskError, match=message):
        looking.check_examples(english)
        looking.check_translations(english, sources)


def test_text_that_is_none_is_named():
    with pytest.raises(TaskError, match="f:3: text is no string: None"):
        task().rows({"text": None, "where": "f:3"})


def test_one_neighbour_is_enough():
    assert task(options={"neighbours": 1}).options.neighbours == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "x"}, r"path=x: expected files with \{side\} in their names, which stands for english and source"),
        ({"source": "tfds"}, r"expected files with \{side\}"),
        ({"method": "margin", "dev_split": ""}, "fits its threshold on development data; name a dev_split"),
        ({"metric": "f1"}, "metric=f1: method='nearest' is not judged by it"),
        ({"method": "margin", "metric": "accuracy"}, "metric=accuracy: method='margin' is not judged by it"),
        ({"options": {"layer": -2}}, "layer=-2: expected the number of a layer, or -1 to choose one"),
        ({"options": {"neighbours": 0}}, "neighbours=0: expected at least 1"),
        ({"options": {"memory_gib": 0.0}}, "memory_gib=0.0: expected more than 0"),
        ({"options": {"pooling": "max"}}, "pooling"),
        ({"method": "furthest"}, "method"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**changes)
