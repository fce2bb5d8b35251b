"""What families have in common: how they are found, their settings, rows for training."""

import sys

import numpy as np
import pytest
from helpers import NumberTokenizer

from rembert_jax.tasks import base
from rembert_jax.tasks.base import Rows, TaskConfig, TaskError
from rembert_jax.tasks.sequence_classification import SequenceClassification
from rembert_jax.tasks.token_classification import TokenClassification


def _config(**changes) -> TaskConfig:
    options = dict(
        kind="token_classification", source="conllu", path="{language}/{split}.conllu", train_language="en",
        test_languages=("en",), text_fields=("tokens",), label_field="upos", max_length=5,
    )  # fmt: skip
    return TaskConfig(**options | changes)


def test_a_family_is_found_by_the_name_of_its_module():
    assert {"sequence_classification", "token_classification"} <= set(base.families())
    assert "base" not in base.families() and "datasets" not in base.families()
    assert base.family("sequence_classification") is SequenceClassification
    with pytest.raises(TaskError, match=r"kind='x': no module rembert_jax\.tasks\.x; expected one of .*token_class"):
        _config(kind="x")
    with pytest.raises(TaskError, match=r"kind='base': .* defines 0 subclasses of Task, expected one"):
        _config(kind="base")


OWN = """
import dataclasses
from rembert_jax.tasks.token_classification import TokenClassification

@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    depth: int = 3

class Slots(TokenClassification):
    Options = Options
"""


def test_a_family_may_be_a_module_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "my_tasks").mkdir()
    (tmp_path / "my_tasks" / "slots.py").write_text(OWN)
    (tmp_path / "my_tasks" / "broken.py").write_text("import nothing_of_the_kind\n")
    monkeypatch.syspath_prepend(tmp_path)
    slots = base.family("my_tasks.slots")
    assert slots.__name__ == "Slots"
    assert slots(_config(kind="my_tasks.slots", options={"depth": 4}), NumberTokenizer(), ["a"]).options.depth == 4
    with pytest.raises(ValueError, match=r"task\.options: unknown key 'dept' \(did you mean 'depth'\?\)"):
        _config(kind="my_tasks.slots", options={"dept": 4})
    with pytest.raises(ModuleNotFoundError, match="nothing_of_the_kind"):
        base.family("my_tasks.broken")
    for name in [name for name in sys.modules if name.startswith("my_tasks")]:
        del sys.modules[name]


def test_rows_for_training_are_all_rows_of_all_examples_padded():
    task = TokenClassification(_config(), NumberTokenizer(), ["NOUN"])
    examples = [{"tokens": words.split(), "upos": [0] * len(words.split())} for words in ("10", "11 12 13 14", "15 16")]
    rows = Rows(task, examples)
    assert [row["input_ids"].tolist() for row in rows] == [
        [2, 10, 3, 0, 0], [2, 11, 12, 13, 3], [2, 14, 3, 0, 0], [2, 15, 16, 3, 0],
    ]  # fmt: skip
    assert len(rows) == 4 and rows[3]["labels"].tolist() == [-100, 0, 0, -100, -100]
    with pytest.raises(IndexError):
        rows[4]


def test_rows_of_one_row_families_are_not_made_to_be_counted():
    config = _config(kind="sequence_classification", source="tfds", label_field="label")
    task = SequenceClassification(config, NumberTokenizer(), ["a"])
    made = []
    task.rows = lambda example: made.append(example) or [{"input_ids": np.array([example])}]
    rows = Rows(task, [7, 8, 9])
    assert len(rows) == 3 and not made
    assert rows[2]["input_ids"].tolist() == [9, 0, 0, 0, 0] and made == [9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_languages": ()}, "test_languages is empty"),
        ({"max_train_examples": -1}, "max_train_examples=-1: expected 0"),
        ({"max_eval_examples": -5}, "max_eval_examples=-5: expected 0"),
        ({"metric": "bleu"}, "metric=bleu: expected one of accuracy, f1, precision, recall"),
        ({"options": {"stride": 3}}, r"task\.options: unknown key 'stride'"),
    ],
)
def test_senseless_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _config(**changes)


def test_default_fields_are_those_of_pairs():
    config = TaskConfig(
        kind="sequence_classification", source="tfds", path="x", train_language="en", test_languages=("en",)
    )
    assert len(config.text_fields) == 2
