"""Evaluation: masked-LM loss on held-out text by language, and task metrics by language."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rembert_jax.data.masking import Features
from rembert_jax.data.pipeline import batch_rows
from rembert_jax.tasks.base import Example, Task
from rembert_jax.training.metrics import means
from rembert_jax.training.train_state import Params
from rembert_jax.training.train_step import Batch, Objective

Metrics = dict[str, dict[str, float]]
"""Language to metric to value; "average" is the mean over languages."""

Place = Callable[[Features], Batch]
"""From the rows of a batch, all of them in every process, to global arrays."""


def with_average(metrics: Metrics) -> Metrics:
    """Adds the plain mean over languages of each metric."""
    names = next(iter(metrics.values()))
    mean = {name: float(np.mean([values[name] for values in metrics.values()])) for name in names}
    return {**metrics, "average": mean}


def flat(prefix: str, metrics: Metrics) -> dict[str, float]:
    """Metrics as {"prefix/language/name": value} for a writer."""
    return {f"{prefix}/{lang}/{name}": value for lang, values in metrics.items() for name, value in values.items()}


class MaskedLMEvaluator:
    """Loss (nats) and accuracy of masked tokens on fixed batches of each language."""

    def __init__(
        self, objective: Objective, batches: Mapping[str, Sequence[Features]], mesh: Mesh, place: Place
    ) -> None:
        self._batches, self._place = batches, place
        self._step = jax.jit(
            lambda params, batch: objective(params, batch, None), out_shardings=NamedSharding(mesh, PartitionSpec())
        )

    def __call__(self, params: Params) -> Metrics:
        """Metrics by language."""
        return with_average(
            {
                language: means([self._step(params, self._place(batch)) for batch in batches])
                for language, batches in self._batches.items()
            }
        )


class TaskEvaluator:
    """Task metrics on whole splits; one compiled predict function serves all languages."""

    def __init__(
        self, task: Task, logits: Callable[[Params, Any], jax.Array], *, batch_size: int, mesh: Mesh, place: Place
    ) -> None:
        self._task, self._batch_size, self._place = task, batch_size, place
        self._predict = jax.jit(
            lambda params, batch: logits(params, batch).argmax(-1), out_shardings=NamedSharding(mesh, PartitionSpec())
        )
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
