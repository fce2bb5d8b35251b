"""A stage of fine-tuning: its examples, its program, and what it is judged by."""

from __future__ import annotations

import functools
import logging
import pathlib
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import Mesh

from rembert_jax import sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.data import pipeline
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.experiments.stage import Stage
from rembert_jax.tasks.base import Example, Rows, Task
from rembert_jax.tasks.datasets import open_examples, open_task
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.training import program
from rembert_jax.training.evaluators import Metrics, TaskEvaluator
from rembert_jax.training.feed import Feed, place_whole
from rembert_jax.training.program import Program
from rembert_jax.training.settings import TrainingError
from rembert_jax.training.train_state import Params
from rembert_jax.training.writers import write_file

logger = logging.getLogger(__name__)


def make_program(
    config: ExperimentConfig, model_config: RemBertConfig, mesh: Mesh, num_labels: int = 2, total_steps: int = 0
) -> Program:
    """What the stage computes; labels and steps are those of the data, unless only shapes of the encoder matter."""
    assert config.task is not None
    return program.fine_tuning(
        model_config,
        num_labels=num_labels,
        total_steps=config.training.steps or total_steps or config.optimizer.warmup_steps + 1,
        execution=config.execution,
        task=config.task,
        optimizer=config.optimizer,
        training=config.training,
        seed=config.seed,
        mesh=mesh,
    )


def prepare(config: ExperimentConfig, model_config: RemBertConfig, tokenizer: RemBertTokenizer, mesh: Mesh) -> Stage:
    """A labelled task, trained and selected on one language, tested on all."""
    task_config = config.task
    assert task_config is not None
    task = open_task(task_config, tokenizer)
    language = task_config.train_language
    train = _open(task, language, task_config.train_split, task_config.max_train_examples)
    dev: dict[str, Sequence[Example]] = {}
    if split := task_config.dev_split:
        dev[language] = _open(task, language, split, task_config.max_eval_examples)
    tests = _open_tests(task)
    train_rows = Rows(task, train)
    batch_size = config.training.batch_size
    if batch_size > len(train_rows):
        raise TrainingError(
            f"training.batch_size={batch_size} exceeds the {len(train_rows)} training examples of {language}"
        )
    total_steps = config.training.epochs * (len(train_rows) // batch_size)
    made = make_program(config, model_config, mesh, len(task.labels), total_steps)
    evaluator = _evaluator(config, task, made, model_config)
    logger.info(
        "%d training examples in %s, %d rows, testing on %s", len(train), language, len(train_rows), ", ".join(tests)
    )

    def baseline() -> Metrics:
        guess = task.baseline(train)
        return evaluator.metrics(tests, {lang: [guess(one) for one in examples] for lang, examples in tests.items()})

    rows = pipeline.example_batches(
        train_rows, batch_size=batch_size, seed=config.seed, rows=sharding.local_rows(batch_size, mesh).tolist()
    )
    return Stage(
        program=made,
        feed=Feed(rows, batch_size, model_config, mesh),
        labels=list(task.labels) or None,
        evaluate=(lambda params: evaluator(params, dev)) if dev else None,
        test=functools.partial(_test, evaluator, task, tests),
        metric=task.metric,
        select_by=(language, task.metric) if dev else None,
        baseline=baseline,
    )


def prepare_prediction(
    config: ExperimentConfig, model_config: RemBertConfig, tokenizer: RemBertTokenizer, mesh: Mesh
) -> Stage:
    """A labelled task whose test languages are predicted, and nothing is trained."""
    assert config.task is not None
    task = open_task(config.task, tokenizer)
    tests = _open_tests(task)
    made = make_program(config, model_config, mesh, len(task.labels))
    evaluator = _evaluator(config, task, made, model_config)
    logger.info("predicting %s", ", ".join(tests))
    return Stage(
        program=made,
        feed=None,
        labels=list(task.labels) or None,
        evaluate=None,
        test=functools.partial(_test, evaluator, task, tests),
        metric=task.metric,
        select_by=None,
        baseline=dict,
    )


def _open(task: Task, language: str, split: str, limit: int) -> Sequence[Example]:
    examples = open_examples(task.config, language, split, limit)
    task.check_examples(examples)
    return examples


def _open_tests(task: Task) -> dict[str, Sequence[Example]]:
    config = task.config
    return {lang: _open(task, lang, config.test_split, config.max_eval_examples) for lang in config.test_languages}


def _evaluator(config: ExperimentConfig, task: Task, made: Program, model_config: RemBertConfig) -> TaskEvaluator:
    size = config.training.eval_batch_size or config.training.batch_size
    return TaskEvaluator(task, made.predict, batch_size=size, place=place_whole(model_config, made.mesh))


def _test(
    evaluator: TaskEvaluator,
    task: Task,
    tests: Mapping[str, Sequence[Example]],
    params: Params,
    folder: pathlib.Path,
) -> Metrics:
    """Metrics of the test languages, whose predictions are written into a folder."""
    predictions = {lang: evaluator.predictions(params, examples) for lang, examples in tests.items()}
    if jax.process_index() == 0:
        folder.mkdir(exist_ok=True)
        for lang, found in predictions.items():
            write_file(folder / f"test-{lang}.{task.suffix}", task.to_text(tests[lang], found))
            if details := task.details(tests[lang], found):
                write_file(folder / f"details-{lang}.json", details)
    return evaluator.metrics(tests, predictions)
