"""Evaluation: masked-LM loss on held-out text by language, and task metrics by language."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rembert_jax.data.masking import Features
from rembert_jax.data.pipeline import batch_rows
from rembert_jax.tasks.base import Example, Prediction, Task
from rembert_jax.training import objectives
from rembert_jax.training.metrics import means
from rembert_jax.training.train_state import Params
from rembert_jax.training.train_step import Batch, Sums

Metrics = dict[str, dict[str, float]]
"""Language to metric to value; "average" is the mean over languages."""

Place = Callable[[Features], Batch]
"""From the rows of a batch, all of them in every process, to global arrays."""


def with_average(metrics: Metrics) -> Metrics:
    """Adds the plain mean of each metric over the languages that have it."""
    names = dict.fromkeys(name for values in metrics.values() for name in values)
    mean = {name: float(np.mean([values[name] for values in metrics.values() if name in values])) for name in names}
    return {**metrics, "average": mean}


def flat(prefix: str, metrics: Metrics) -> dict[str, float]:
    """Metrics as {"prefix/language/name": value} for a writer."""
    return {f"{prefix}/{lang}/{name}": value for lang, values in metrics.items() for name, value in values.items()}


class MaskedLMEvaluator:
    """Loss (nats) and accuracy of masked tokens on fixed batches of each language."""

    def __init__(
        self, predict: Callable[[Params, Batch], Sums], batches: Mapping[str, Sequence[Features]], place: Place
    ) -> None:
        self._predict, self._batches, self._place = predict, batches, place

    def __call__(self, params: Params) -> Metrics:
        """Metrics by language."""
        return {
            language: means([self._predict(params, self._place(batch)) for batch in batches])
            for language, batches in self._batches.items()
        }


def retrieval_accuracy(queries: np.ndarray, candidates: np.ndarray) -> float:
    """Share of rows of `queries` [N, H] whose most similar row of `candidates` [N, H] has the same number.

    Similar by the cosine after subtraction of each side's mean, which holds what is common to a language (Libovický et al.,
    2020, https://arxiv.org/abs/2004.05160).
    """
    centred = [rows - rows.mean(0) for rows in (queries, candidates)]
    unit = [rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9) for rows in centred]
    return float(np.mean((unit[0] @ unit[1].T).argmax(1) == np.arange(len(queries))))


class RetrievalEvaluator:
    """How many sentences of a language find their translations in the other languages, by layer.

    A sentence is the mean of its tokens' vectors; layer 0 is the projected embedding. Nothing is trained for it.
    """

    def __init__(
        self,
        hidden_states: Callable[[Params, Any], Sequence[jax.Array]],
        batches: Mapping[str, Sequence[Features]],
        mesh: Mesh,
        place: Place,
    ) -> None:
        """Prepares the evaluation.

        Args:
          hidden_states: from parameters and a batch with `input_ids` and `attention_mask` to [B, L, H] for each layer.
          batches: language to batches of the same sentences in the same order; rows without a token are passed over.
          mesh, place: where it runs, and how batches get there.
        """
        self._batches, self._place = batches, place

        def pooled(params: Params, batch: Batch) -> jax.Array:
            mean = objectives.POOLINGS["mean"]
            return jnp.stack([mean(layer, batch["attention_mask"]) for layer in hidden_states(params, batch)])

        self._pooled = jax.jit(pooled, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, params: Params) -> Metrics:
        """Metrics `retrieval_0`, `retrieval_1`, … by language of the sentences that are looked up."""
        vectors = {language: self._vectors(params, batches) for language, batches in self._batches.items()}
        metrics: Metrics = {}
        for language, own in vectors.items():
            others = [vectors[other] for other in vectors if other != language]
            metrics[language] = {
                f"retrieval_{layer}": float(np.mean([retrieval_accuracy(rows, other[layer]) for other in others]))
                for layer, rows in enumerate(own)
            }
        return metrics

    def _vectors(self, params: Params, batches: Sequence[Features]) -> np.ndarray:
        parts = []
        for batch in batches:
            used = batch["attention_mask"].any(1)
            parts.append(np.asarray(self._pooled(params, self._place(batch)))[:, used])
        return np.concatenate(parts, axis=1)


SHORTEST = 16
"""Tokens of the shortest rows of a batch that predicts."""


def lengths(longest: int) -> list[int]:
    """The lengths that rows are padded to for prediction: 16, 24, 32, 48, 64, 96 and so on, then the longest."""
    powers = (2**power for power in range(SHORTEST.bit_length() - 1, longest.bit_length()))
    return [length for power in powers for length in (power, power * 3 // 2) if length < longest] + [longest]


@dataclasses.dataclass
class _Open:
    """An example some of whose rows have no output yet."""

    example: Example
    rows: list[Features]
    outputs: dict[int, Features] = dataclasses.field(default_factory=dict)


class TaskEvaluator:
    """Predictions for whole splits and their metrics.

    Rows go into batches of rows of about their length, each batch of the same number of rows, so that one compiled function for
    each length serves all languages. Only the rows that wait for a batch to fill are held; those that wait in the end share
    batches with longer ones.
    """

    def __init__(
        self, task: Task, predict: Callable[[Params, Batch], Mapping[str, jax.Array]], *, batch_size: int, place: Place
    ) -> None:
        self._task, self._predict, self._batch_size, self._place = task, predict, batch_size, place
        self._lengths = lengths(task.config.max_length)

    def __call__(self, params: Params, examples: Mapping[str, Sequence[Example]]) -> Metrics:
        """Metrics by language; every example is scored exactly once."""
        found = {language: self.predictions(params, rows) for language, rows in examples.items()}
        return self.metrics(examples, found)

    def metrics(
        self, examples: Mapping[str, Sequence[Example]], predictions: Mapping[str, Sequence[Prediction]]
    ) -> Metrics:
        """Metrics by language of predictions for all examples."""
        return with_average(
            {lang: self._task.metrics(rows, predictions[lang], lang) for lang, rows in examples.items()}
        )

    def predictions(self, params: Params, examples: Sequence[Example]) -> list[Prediction]:
        """A prediction for each example, in their order."""
        found: dict[int, Prediction] = {}
        unfinished: dict[int, _Open] = {}
        waiting: dict[int, list[tuple[int, int]]] = {length: [] for length in self._lengths}

        def predict(chosen: Sequence[tuple[int, int]], length: int) -> None:
            rows = [self._task.pad(unfinished[number].rows[row], length) for number, row in chosen]
            (batch,) = batch_rows(rows, self._batch_size)
            outputs = {name: np.asarray(value) for name, value in self._predict(params, self._place(batch)).items()}
            for place, (number, row) in enumerate(chosen):
                one = unfinished[number]
                one.outputs[row] = {name: value[place] for name, value in outputs.items()}
                if len(one.outputs) == len(one.rows):
                    ordered = [one.outputs[index] for index in range(len(one.rows))]
                    found[number] = self._task.merge(one.example, one.rows, ordered)
                    del unfinished[number]

        for number, example in enumerate(examples):
            unfinished[number] = _Open(example, self._task.rows(example))
            for index, row in enumerate(unfinished[number].rows):
                length = next(length for length in self._lengths if len(row["input_ids"]) <= length)
                waiting[length].append((number, index))
                if len(waiting[length]) == self._batch_size:
                    predict(waiting[length], length)
                    waiting[length] = []
        rest = [(one, length) for length in self._lengths for one in waiting[length]]
        for start in range(0, len(rest), self._batch_size):
            chosen, needed = zip(*rest[start : start + self._batch_size], strict=True)
            predict(chosen, needed[-1])
        return [found[number] for number in range(len(examples))]
