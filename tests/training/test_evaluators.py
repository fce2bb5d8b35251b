"""Averages over languages, and whether translations find each other."""

import jax.numpy as jnp
import numpy as np
import pytest

from rembert_jax import sharding
from rembert_jax.sharding import MeshConfig
from rembert_jax.training.evaluators import RetrievalEvaluator, TaskEvaluator, retrieval_accuracy, with_average


def test_average_is_over_the_languages_that_have_the_metric():
    metrics = {"qaa": {"loss": 1.0, "retrieval_0": 0.5}, "qab": {"loss": 3.0}}
    assert with_average(metrics) == {**metrics, "average": {"loss": 2.0, "retrieval_0": 0.5}}


def test_retrieval_worked_by_hand():
    queries = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    shifted = 5.0 * queries + np.array([100.0, -70.0])
    assert retrieval_accuracy(queries, shifted) == 1.0, "neither what all have in common nor length counts"
    assert retrieval_accuracy(queries, shifted[[1, 0, 2, 3]]) == 0.5
    assert retrieval_accuracy(queries, -shifted) == 0.0


@pytest.fixture
def evaluator():
    """Two layers that are known functions of the ids: the ids themselves, and noise."""
    mesh = sharding.make_mesh(MeshConfig(data=-1))
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((40, 3)))

    def hidden_states(params, batch):
        ids = batch["input_ids"]
        value = jnp.stack([jnp.cos(params * ids), jnp.sin(params * ids)], -1)
        return value, noise[ids][..., :2]

    def make(batches):
        return RetrievalEvaluator(hidden_states, batches, mesh, lambda batch: sharding.to_global(batch, mesh))

    return make


def _batches(ids, padding):
    """One batch of eight rows: a sentence is one id, then padding whose ids must not count."""
    rows = np.zeros((8, 2 + padding), np.int32)
    mask = np.zeros_like(rows)
    rows[: len(ids), 0], mask[: len(ids), 0] = ids, 1
    rows[:, 1:] = 7
    return [{"input_ids": rows, "attention_mask": mask}]


def test_translations_are_found_in_the_layers_that_agree(evaluator):
    batches = {
        "qaa": _batches([1, 2, 3, 4], 1),
        "qab": _batches([11, 12, 13, 14], 2),
        "qac": _batches([21, 22, 23, 24], 3),
    }
    period = 2 * np.pi / 10  # The ids of translations differ by tens.
    found = evaluator(batches)(jnp.float32(period))
    assert set(found) == {"qaa", "qab", "qac"}
    assert all(values["retrieval_0"] == 1.0 for values in found.values())
    assert all(values["retrieval_1"] < 1.0 for values in found.values())
    wrong = {**batches, "qac": _batches([22, 21, 23, 24], 3)}
    found = evaluator(wrong)(jnp.float32(period))
    assert [found[code]["retrieval_0"] for code in batches] == [0.75, 0.75, 0.5]


def test_sentences_may_fill_several_batches(evaluator):
    first, second = _batches(list(range(1, 9)), 0), _batches([9], 0)
    found = evaluator({"qaa": first + second, "qab": first + second})(jnp.float32(2 * np.pi / 40))
    assert found["qaa"]["retrieval_0"] == 1.0


class Digits:
    """A task whose examples are numbers; its metrics show what it was given."""

    labels = tuple(range(10))

    def features(self, example):
        return {"digit": np.array(example), "labels": np.array(example % 10)}

    def metrics(self, predictions, labels, examples):
        assert labels.tolist() == [example % 10 for example in examples] and len(predictions) == len(examples)
        return {"accuracy": float(np.mean(predictions == labels)), "count": float(len(examples))}


def test_a_task_is_scored_on_every_example_once():
    mesh = sharding.make_mesh(MeshConfig(data=-1))

    def classes(params, batch):  # Right but for the digit 7, which is taken for a 2.
        return jnp.where(batch["digit"] % 10 == 7, 2, batch["digit"] % 10)

    evaluate = TaskEvaluator(Digits(), classes, batch_size=8, place=lambda batch: sharding.to_global(batch, mesh))
    splits = {"qaa": list(range(10)), "qab": [7, 3, 3]}  # A batch and a quarter; less than a half.
    found = evaluate(jnp.float32(2.0), splits)
    assert found["qaa"] == pytest.approx({"accuracy": 0.9, "count": 10})
    assert found["qab"] == pytest.approx({"accuracy": 2 / 3, "count": 3})
    assert found["average"]["accuracy"] == pytest.approx((0.9 + 2 / 3) / 2)
