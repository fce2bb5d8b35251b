"""Evaluation: masked-LM loss on held-out text by language, and task metrics by language."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rembert_jax.data.masking import Features
from rembert_jax.data.pipeline import batch_rows
from rembert_jax.tasks.base import Example, Task
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
            mask = batch["attention_mask"][:, :, None].astype(jnp.float32)
            count = jnp.maximum(mask.sum(1), 1.0)
            return jnp.stack([(layer * mask).sum(1) / count for layer in hidden_states(params, batch)])

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


class TaskEvaluator:
    """Task metrics on whole splits; one compiled function predicts the classes of all languages."""

    def __init__(
        self, task: Task, predict: Callable[[Params, Batch], jax.Array], *, batch_size: int, place: Place
    ) -> None:
        self._task, self._predict, self._batch_size, self._place = task, predict, batch_size, place
        self._features: dict[int, list[Features]] = {}

    def __call__(self, params: Params, examples: Mapping[str, Sequence[Example]]) -> Metrics:
        """Metrics by language; every example is scored exactly once."""
        return with_average({language: self._score(params, rows) for language, rows in examples.items()})

    def _score(self, params: Params, examples: Sequence[Example]) -> dict[str, float]:
        if id(examples) not in self._features:  # The same splits are scored again and again.
            self._features[id(examples)] = [self._task.features(example) for example in examples]
        features = self._features[id(examples)]
        predictions = [
            np.asarray(self._predict(params, self._place(batch))) for batch in batch_rows(features, self._batch_size)
        ]
        predicted = np.concatenate(predictions)[: len(features)]
        labels = np.stack([row["labels"] for row in features])
        return self._task.metrics(predicted, labels, list(examples))
