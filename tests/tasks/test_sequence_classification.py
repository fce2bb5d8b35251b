"""Classification of texts: rows worked by hand, labels, accuracy, baseline, errors."""

import numpy as np
import pytest
from helpers import NumberTokenizer

from rembert_jax.tasks.base import TaskConfig, TaskError
from rembert_jax.tasks.sequence_classification import SequenceClassification, truncate_pair

CLS, SEP = 2, 3


def _pairs(**changes) -> SequenceClassification:
    options = dict(
        kind="sequence_classification", source="tfds", path="x", train_language="en", test_languages=("en",),
        text_fields=("one", "two"), label_field="label", max_length=10,
    )  # fmt: skip
    return SequenceClassification(TaskConfig(**options | changes), NumberTokenizer(), ["different", "same"])


def _row(task, example):
    (row,) = task.rows(example)
    assert all(value.dtype == np.int32 for value in row.values())
    return {key: value.tolist() for key, value in task.pad(row, task.config.max_length).items()}


def test_pair_worked_by_hand():
    assert _row(_pairs(), {"one": "11 12", "two": "13", "label": 1}) == {
        "input_ids": [CLS, 11, 12, SEP, 13, SEP, 0, 0, 0, 0],
        "attention_mask": [1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        "token_type_ids": [0, 0, 0, 0, 1, 1, 0, 0, 0, 0],
        "labels": 1,
    }


def test_single_text_worked_by_hand():
    task = _pairs(text_fields=("one",), max_length=6)
    assert _row(task, {"one": "11 12", "label": "different"}) == {
        "input_ids": [CLS, 11, 12, SEP, 0, 0],
        "attention_mask": [1, 1, 1, 1, 0, 0],
        "token_type_ids": [0] * 6,
        "labels": 0,
    }
    assert _row(task, {"one": "11 12 13 14 15 16", "label": 0})["input_ids"] == [CLS, 11, 12, 13, 14, SEP]


def test_padding_is_that_of_the_vocabulary():
    task = _pairs()
    task.tokenizer.pad_token_id = 7
    found = _row(task, {"one": "11", "two": "12", "label": 0})
    assert found["input_ids"] == [CLS, 11, SEP, 12, SEP, 7, 7, 7, 7, 7]


@pytest.mark.parametrize(
    ("first", "second", "room", "expected"),
    [
        (5, 2, 7, (5, 2)),  # It fits.
        (5, 2, 5, (3, 2)),  # Only the longer one is cut.
        (5, 4, 5, (3, 2)),  # 4+4, then in turn; of two equal ones the second is cut.
        (2, 9, 4, (2, 2)),
        (0, 9, 4, (0, 4)),
    ],
)
def test_pair_truncation_cuts_the_end_of_the_longer_text(first, second, room, expected):
    one, two = truncate_pair(list(range(first)), list(range(second)), room)
    assert (one, two) == (list(range(expected[0])), list(range(expected[1])))


def test_pair_that_is_too_long_fills_the_row():
    found = _row(_pairs(), {"one": " ".join(map(str, range(10, 30))), "two": "40 41", "label": 0})
    assert found["input_ids"] == [CLS, 10, 11, 12, 13, 14, SEP, 40, 41, SEP]
    assert found["token_type_ids"] == [0] * 7 + [1] * 3


def test_shortest_rows_hold_a_token_of_each_text():
    example = {"one": "10 11", "two": "12 13", "label": 0}
    assert _row(_pairs(max_length=5), example)["input_ids"] == [CLS, 10, SEP, 12, SEP]
    assert _row(_pairs(max_length=3, text_fields=("one",)), example)["input_ids"] == [CLS, 10, SEP]


def test_prediction_is_the_name_of_the_class():
    assert _pairs().merge({}, [{}], [{"classes": np.int32(1)}]) == "same"


def test_accuracy_worked_by_hand():
    examples = [{"label": label} for label in (1, "different", 1, 1)]
    found = _pairs().metrics(examples, ["same", "different", "different", "same"], "en")
    assert found == {"accuracy": 0.75}


def test_baseline_is_the_most_frequent_training_label():
    guess = _pairs().baseline([{"label": label} for label in (1, "same", 0)])
    assert guess({"label": 0}) == "same"


def test_predictions_are_a_label_a_line():
    assert _pairs().to_text([{}, {}], ["same", "different"]) == "same\ndifferent\n"


GOOD = {"one": "10", "two": "11", "label": 0}
USES = [
    lambda example: _pairs().rows(example),
    lambda example: _pairs().baseline([GOOD, example]),
    lambda example: _pairs().metrics([GOOD, example], ["same", "same"], "en"),
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("label", [-1, 2, 99, 0.7, None, [0]])
def test_label_that_is_no_index_names_the_example(label, use):
    with pytest.raises(TaskError, match=r"de\.tsv:7: label .* is no whole number in 0 … 1 \(different, same\)"):
        use({**GOOD, "label": label, "where": "de.tsv:7"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 4}, "max_length=4: expected at least 5"),
        ({"text_fields": ("one",), "max_length": 2}, "max_length=2: expected at least 3"),
        ({"text_fields": ()}, "found 0 for kind=sequence_classification, expected 1 or 2"),
        ({"text_fields": ("a", "b", "c")}, "found 3 for kind=sequence_classification, expected 1 or 2"),
        ({"metric": "f1"}, "metric=f1: expected one of accuracy"),
    ],
)
def test_senseless_settings_are_refused(changes, message):
    with pytest.raises(TaskError, match=message):
        _pairs(**changes)
