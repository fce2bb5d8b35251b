"""What distinguishes pre-training from fine-tuning: data, model, objective, evaluation. The trainer serves both."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rembert_jax import sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.data import pipeline
from rembert_jax.data.frequencies import SAMPLE, frequency_losses
from rembert_jax.modeling.models import (
    RemBertForMaskedLM,
    RemBertForSequenceClassification,
    RemBertForTokenClassification,
)
from rembert_jax.tasks.base import Example
from rembert_jax.tasks.datasets import open_examples, open_task
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.training import objectives, train_state
from rembert_jax.training.evaluators import (
    MaskedLMEvaluator,
    Metrics,
    RetrievalEvaluator,
    TaskEvaluator,
    with_average,
)
from rembert_jax.training.settings import ExperimentConfig, TrainingError
from rembert_jax.training.train_state import Params
from rembert_jax.training.train_step import Batch, Objective

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything the training loop needs to know of a run.

    Attributes:
      model: the Linen module.
      labels: names of its classes in order; None where it has none.
      objective: its summed loss.
      train_iterator: batches of this process, with `get_state`/`set_state`.
      total_steps: updates to do.
      step_flops: floating-point operations that one of them needs (`RemBertConfig.training_flops`).
      evaluate: development metrics by language, computed during training.
      test: metrics by language for the final parameters.
      select_by: metric of the training language by which the best parameters are kept; None keeps the last ones.
      baseline: computes by language what is reached without training: for labels the accuracy of guessing without
        context; in pre-training the loss of guessing by the frequency of words, and what a fresh encoder retrieves.
    """

    model: nn.Module
    labels: list[str] | None
    objective: Objective
    train_iterator: grain.DatasetIterator
    total_steps: int
    step_flops: int
    evaluate: Callable[[Params], Metrics]
    test: Callable[[Params], Metrics]
    select_by: tuple[str, str] | None
    baseline: Callable[[], Mapping[str, Any]]

    def init(self, key: jax.Array) -> Any:
        """Boxed parameters."""
        return boxed_params(self.model, key)


def make_model(config: ExperimentConfig, model_config: RemBertConfig, num_labels: int = 2) -> Any:
    """The Linen module that a run trains; `num_labels` counts in fine-tuning only."""
    if config.data:
        return RemBertForMaskedLM(model_config, config.execution)
    assert config.task is not None
    tokens = config.task.kind == "token_classification"
    model_class = RemBertForTokenClassification if tokens else RemBertForSequenceClassification
    return model_class(model_config, num_labels=num_labels, execution=config.execution)


def boxed_params(model: nn.Module, key: jax.Array) -> Any:
    """Initial parameters of a model, with their logical axes."""
    return model.init({"params": key}, jnp.zeros((1, 2), jnp.int32))["params"]


def _placement(model_config: RemBertConfig, mesh: Mesh) -> Callable[[Mapping[str, np.ndarray]], Batch]:
    def place(batch: Mapping[str, np.ndarray]) -> Batch:
        model_config.check_ids(batch)
        return sharding.replicated_rows_to_global(batch, mesh)

    return place


def _process_rows(config: ExperimentConfig) -> dict[str, int]:
    return {
        "batch_size": config.training.batch_size // jax.process_count(),
        "seed": config.seed,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def pretraining(
    config: ExperimentConfig,
    model_config: RemBertConfig,
    tokenizer: RemBertTokenizer,
    texts: Mapping[str, Sequence[str]],
    mesh: Mesh,
    tokens: Mapping[str, Sequence[list[int]] | Sequence[str]] | None = None,
) -> Job:
    """Masked-language modelling on `texts`, evaluated on each language's held-out text; `tokens` are those of `texts`."""
    data = config.data
    assert data is not None
    model = make_model(config, model_config)
    objective = objectives.masked_lm(model, config.training.z_loss)
    held_out = pipeline.open_sources(dataclasses.replace(data, languages=tuple(texts)), data.eval_split)
    batch_size = config.training.eval_batch_size or config.training.batch_size
    batches = pipeline.eval_batches(held_out, data, tokenizer, batch_size=batch_size, seed=config.seed)
    place = _placement(model_config, mesh)
    language_model = MaskedLMEvaluator(objective, batches, mesh, place)
    sentences = {
        language: pipeline.sentence_batches(rows, tokenizer, length=data.seq_length, batch_size=batch_size)
        for language, rows in pipeline.open_parallel(data, tuple(texts)).items()
    }
    retrieval = RetrievalEvaluator(
        lambda params, batch: objectives.hidden_states(model, params, batch), sentences, mesh, place
    )

    def evaluate(params: Params) -> Metrics:
        metrics, found = language_model(params), retrieval(params)
        return with_average({language: {**metrics[language], **found.get(language, {})} for language in metrics})

    def baseline() -> Metrics:
        # A hundred texts are counted for each that is predicted; more would not show in a loss over so few.
        frequencies = frequency_losses(texts, batches, tokenizer, min(SAMPLE, 100 * data.eval_texts))
        found = retrieval(train_state.initial_params(job.init, config.seed, mesh)) if sentences else {}
        return with_average({lang: {"loss": frequencies[lang], **found.get(lang, {})} for lang in frequencies})

    job = Job(
        model=model,
        labels=None,
        objective=objective,
        train_iterator=pipeline.train_batches(tokens or texts, data, tokenizer, **_process_rows(config)),
        total_steps=config.training.steps,
        step_flops=model_config.training_flops(config.training.batch_size, data.seq_length, data.predictions),
        evaluate=evaluate,
        test=evaluate,
        select_by=None,
        baseline=baseline,
    )
    return job


def fine_tuning(config: ExperimentConfig, model_config: RemBertConfig, tokenizer: RemBertTokenizer, mesh: Mesh) -> Job:
    """Classification, trained and selected on one language, tested on all."""
    task_config = config.task
    assert task_config is not None
    task = open_task(task_config, tokenizer)
    model = make_model(config, model_config, len(task.labels))
    language = task_config.train_language
    train = open_examples(task_config, language, task_config.train_split, task_config.max_train_examples)
    dev = {language: open_examples(task_config, language, task_config.dev_split, task_config.max_eval_examples)}
    test: dict[str, Sequence[Example]] = {
        lang: open_examples(task_config, lang, task_config.test_split, task_config.max_eval_examples)
        for lang in task_config.test_languages
    }
    if config.training.batch_size > len(train):
        raise TrainingError(
            f"training.batch_size={config.training.batch_size} exceeds the {len(train)} training examples of {language}"
        )
    evaluator = TaskEvaluator(
        task,
        lambda params, batch: objectives.class_logits(model, params, batch, None),
        batch_size=config.training.eval_batch_size or config.training.batch_size,
        mesh=mesh,
        place=_placement(model_config, mesh),
    )
    per_epoch = len(train) // config.training.batch_size
    logger.info("%d training examples in %s, testing on %s", len(train), language, ", ".join(test))
    return Job(
        model=model,
        labels=list(task.labels),
        objective=objectives.classification(model),
        train_iterator=pipeline.example_batches(train, task.features, **_process_rows(config)),
        total_steps=config.training.steps or config.training.epochs * per_epoch,
        step_flops=model_config.training_flops(config.training.batch_size, task_config.max_length, 0),
        evaluate=lambda params: evaluator(params, dev),
        test=lambda params: evaluator(params, test),
        select_by=(language, "accuracy"),
        baseline=lambda: task.context_free_baseline(train, test),
    )
