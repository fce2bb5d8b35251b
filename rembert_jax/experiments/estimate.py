"""How much work the runs of the benchmark are, by their data, and how long they take, by a few measured steps."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rembert_jax import sharding
from rembert_jax.experiments import stages, workdir, xtreme
from rembert_jax.experiments.architecture import expected_model
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.tasks import datasets
from rembert_jax.tasks.base import Rows
from rembert_jax.tokenization import RemBertTokenizer


@dataclasses.dataclass(frozen=True)
class Work:
    """What a stage has to do.

    Attributes:
      job, stage: names of both.
      trains_on: rows that are trained on, once each epoch; 0 for a stage that trains nothing.
      steps: updates.
      batch_size: rows of each.
      predicts: rows of all languages' test sets, and of development sets each time they are looked at.
      languages: how many are tested.
      seconds: that it takes by measured steps, or None.
    """

    job: str
    stage: str
    trains_on: int
    steps: int
    batch_size: int
    predicts: int
    languages: int
    seconds: float | None = None


def work(jobs: Sequence[xtreme.Job], folder: pathlib.Path, *, measure: bool = False) -> list[Work]:
    """What the stages that are not finished have to do, and with `measure` how long they take by a few of their steps."""
    tokenizer, measured, found = xtreme.tokenizer_of(jobs), {}, []
    for job in jobs:
        models: dict[pathlib.Path, Any] = {}
        for place, config in xtreme.filled(job, folder).items():
            models[place] = expected_model(config, models)
            if workdir.is_finished(place):
                continue
            one = _work(job.name, place.name, config, tokenizer)
            if measure:
                assert config.task is not None
                task, training = config.task, config.training
                rows = training.batch_size, training.eval_batch_size, config.optimizer.accumulation
                shape = task.kind, task.max_length, rows, config.mesh, config.execution, bool(config.predict_with)
                if repr(shape) not in measured:
                    measured[repr(shape)] = _measure(config, models[place])
                step, predict = measured[repr(shape)]
                size = config.training.eval_batch_size or config.training.batch_size
                seconds = one.steps * step + one.predicts / size * predict
                one = dataclasses.replace(one, seconds=seconds)
            found.append(one)
    return found


def _work(job: str, stage: str, config: ExperimentConfig, tokenizer: RemBertTokenizer) -> Work:
    assert config.task is not None
    task = datasets.open_task(config.task, tokenizer)

    def rows(split: str, language: str) -> int:
        return sum(len(Rows(task, examples)) for examples in xtreme.open_set(task, split, language))

    counts = {pair: rows(*pair) for pair in xtreme.sets(config)}
    trained = 0 if config.predict_with else counts[config.task.train_split, config.task.train_language]
    steps = config.training.steps or config.training.epochs * (trained // config.training.batch_size)
    predicted = sum(count for (split, _), count in counts.items() if split != config.task.train_split)
    if config.training.eval_every and trained and config.task.dev_split:
        looks = steps // config.training.eval_every
        predicted += max(looks - 1, 0) * counts[config.task.dev_split, config.task.train_language]
    batch_size, languages = config.training.batch_size, len(config.task.test_languages)
    return Work(job, stage, trained, steps, batch_size, predicted, languages)


def _measure(config: ExperimentConfig, model_config: Any) -> tuple[float, float]:
    """Seconds of a step and of the prediction of a batch, by three of each after the first."""
    made = stages.make_program(config, model_config, sharding.make_mesh(config.mesh))
    with made.on_mesh():
        state = made.create()
        shapes = made.batch.items()
        batch = {name: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding) for name, leaf in shapes}
        if "attention_mask" in batch:
            batch["attention_mask"] = batch["attention_mask"] + 1
        predict = _seconds(lambda: made.predict(state.params, batch))
        if config.predict_with:
            return 0.0, predict
        holder = [state]

        def step() -> Any:
            holder[0], sums = made.step(holder[0], batch)
            return sums

        return _seconds(step), predict


def _seconds(call: Callable[[], Any]) -> float:
    jax.block_until_ready(call())
    began = time.perf_counter()
    for _ in range(3):
        jax.block_until_ready(call())
    return (time.perf_counter() - began) / 3
