"""A stage of fine-tuning: its examples, its program, and what it is judged by."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from rembert_jax import sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.data import pipeline
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.experiments.stage import Stage
from rembert_jax.tasks.base import Example, Rows
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
    train = open_examples(task_config, language, task_config.train_split, task_config.max_train_examples)
    dev = {language: open_examples(task_config, language, task_config.dev_split, task_config.max_eval_examples)}
    tests: dict[str, Sequence[Example]] = {
        lang: open_examples(task_config, lang, task_config.test_split, task_config.max_eval_examples)
        for lang in task_config.test_languages
    }
    for examples in (train, *dev.values(), *tests.values()):
        task.check_examples(examples)
    train_rows = Rows(task, train)
    batch_size = config.training.batch_size
    if batch_size > len(train_rows):
        raise TrainingError(
            f"training.batch_size={batch_size} exceeds the {len(train_rows)} training examples of {language}"
        )
    total_steps = config.training.epochs * (len(train_rows) // batch_size)
    made = make_program(config, model_config, mesh, len(task.labels), total_steps)
    evaluator = TaskEvaluator(
        task,
        made.predict,
        batch_size=config.training.eval_batch_size or batch_size,
        place=place_whole(model_config, mesh),
    )
    logger.info(
        "%d training examples in %s, %d rows, testing on %s", len(train), language, len(train_rows), ", ".join(tests)
    )

    def test(params: Params, folder: pathlib.Path) -> Metrics:
        predictions = {lang: evaluator.predictions(params, examples) for lang, examples in tests.items()}
        if jax.process_index() == 0:
            folder.mkdir(exist_ok=True)
            for lang, found in predictions.items():
                write_file(folder / f"test-{lang}.{task.suffix}", task.to_text(tests[lang], found))
                if details := task.details(tests[lang], found):
                    write_file(folder / f"details-{lang}.json", details)
        return evaluator.metrics(tests, predictions)

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
        evaluate=lambda params: evaluator(params, dev),
        test=test,
        metric=task.metric,
        select_by=(language, task.metric),
        baseline=baseline,
    )
