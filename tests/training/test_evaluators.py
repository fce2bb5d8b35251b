"""Averages over languages, whether translations find each other, and predictions of a task."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rembert_jax import sharding
from rembert_jax.sharding import MeshConfig
from rembert_jax.training import evaluators
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


class Doubles:
    """A task whose examples are lists of rows, each a list of numbers; to be predicted is twice their sum, row by row."""

    config = SimpleNamespace(max_length=200)

    def __init__(self):
        self.most = self.now = 0
        self.scored = []

    def rows(self, example):
        self.now += len(example)
        self.most = max(self.most, self.now)
        return [{"input_ids": np.array(row, np.int32)} for row in example]

    def pad(self, row, length):
        return {"input_ids": np.pad(row["input_ids"], (0, length - len(row["input_ids"])))}

    def merge(self, example, rows, outputs):
        assert [row["input_ids"].tolist() for row in rows] == example
        self.now -= len(rows)
        return [int(output["sum"]) for output in outputs]

    def metrics(self, examples, predictions, language):
        self.scored.append(language)
        right = [[2 * sum(row) for row in one] == found for one, found in zip(examples, predictions, strict=True)]
        return {"accuracy": float(np.mean(right)), "count": float(len(examples))}


@pytest.fixture
def doubles():
    """Task, evaluator, and the compiled function that it calls."""
    mesh = sharding.make_mesh(MeshConfig(data=-1))
    predict = jax.jit(lambda params, batch: {"sum": params * batch["input_ids"].sum(1)})
    task = Doubles()
    return task, TaskEvaluator(
        task, predict, batch_size=8, place=lambda batch: sharding.to_global(batch, mesh)
    ), predict  # fmt: skip


def examples(seed, count, most_rows=3):
    rng = np.random.default_rng(seed)
    lengths = [rng.integers(1, 201, rng.integers(1, most_rows + 1)) for _ in range(count)]
    return [[rng.integers(1, 9, length).tolist() for length in rows] for rows in lengths]


@pytest.mark.parametrize("count", [1, 8, 9, 50])
def test_every_example_is_predicted_once_from_all_its_rows(doubles, count):
    _, evaluate, _ = doubles
    given = examples(count, count)
    assert evaluate.predictions(jnp.int32(2), given) == [[2 * sum(row) for row in one] for one in given]
    wrong = evaluate(jnp.int32(3), {"qaa": given})
    assert wrong["qaa"] == {"accuracy": 0.0, "count": count}


def test_metrics_are_by_language_and_their_mean(doubles):
    task, evaluate, _ = doubles
    splits = {"qaa": examples(0, 3), "qab": examples(1, 5)}
    found = {"qaa": evaluate.predictions(2, splits["qaa"]), "qab": [*evaluate.predictions(2, splits["qab"][:4]), [0]]}
    metrics = evaluate.metrics(splits, found)
    assert metrics["qaa"] == {"accuracy": 1.0, "count": 3} and metrics["qab"] == {"accuracy": 0.8, "count": 5}
    assert metrics["average"] == pytest.approx({"accuracy": 0.9, "count": 4})
    assert task.scored == ["qaa", "qab"], "answers are normalised by language"


def test_forty_languages_are_compiled_for_the_lengths_of_rows_alone(doubles):
    _, evaluate, predict = doubles
    evaluate(jnp.int32(2), {f"q{language}": examples(language, 1 + language) for language in range(40)})
    assert predict._cache_size() <= len(evaluators.lengths(200)) == 9
    evaluate(jnp.int32(2), {"qaa": [[[1] * length] for length in range(1, 201) for _ in range(8)]})
    assert predict._cache_size() == 9


def test_what_fills_no_batch_of_its_length_shares_one_with_what_is_longer():
    shapes = []

    def predict(params, batch):
        shapes.append(batch["input_ids"].shape)
        return {"sum": params * batch["input_ids"].sum(1)}

    evaluate = TaskEvaluator(Doubles(), predict, batch_size=4, place=lambda batch: batch)
    # Four of up to 16 tokens fill one at once; of the others, the shortest four share a batch of 64 tokens a row.
    given = [[[1] * length] for length in (200, 5, 60, 16, 17, 1, 30, 8, 20)]
    assert evaluate.predictions(2, given) == [[2 * len(rows[0])] for rows in given]
    assert shapes == [(4, 16), (4, 64), (4, 200)]


def test_rows_are_held_only_while_a_batch_fills(doubles):
    task, evaluate, _ = doubles
    evaluate.predictions(jnp.int32(2), examples(0, 800))
    # Of each length a batch less one may wait, and of their examples the other rows.
    assert task.most <= len(evaluators.lengths(200)) * 3 * 8


@pytest.mark.parametrize(
    ("longest", "expected"),
    [(10, [10]), (16, [16]), (17, [16, 17]), (40, [16, 24, 32, 40]), (64, [16, 24, 32, 48, 64]),
     (384, [16, 24, 32, 48, 64, 96, 128, 192, 256, 384])],
)  # fmt: skip
def test_lengths_are_powers_of_two_and_what_lies_between_up_to_the_longest(longest, expected):
    assert evaluators.lengths(longest) == expected
