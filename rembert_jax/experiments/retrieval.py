"""A stage of retrieval: its sentences, the layer that is chosen, and its predictions."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from rembert_jax import schema
from rembert_jax.config import RemBertConfig
from rembert_jax.experiments import fine_tuning
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.experiments.stage import Stage
from rembert_jax.tasks.base import Example, TaskError
from rembert_jax.tasks.datasets import open_examples, open_task
from rembert_jax.tasks.retrieval import Retrieval
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.training.evaluators import Metrics, with_average
from rembert_jax.training.feed import place_whole
from rembert_jax.training.retrieval import Retriever
from rembert_jax.training.train_state import Params
from rembert_jax.training.writers import write_file

logger = logging.getLogger(__name__)


class Sides(NamedTuple):
    """The English sentences of a language's set, and its own."""

    english: Sequence[Example]
    sources: Sequence[Example]


class Choice(NamedTuple):
    """What development data chose, or what is given without it.

    Attributes:
      layer: whose vectors are compared.
      thresholds: by language, the score from which on pairs are taken; None takes all.
      reason: in words.
      dev: metrics of every layer by language, "f1_7"; empty without development data.
    """

    layer: int
    thresholds: dict[str, float | None]
    reason: str
    dev: Metrics


def prepare(config: ExperimentConfig, model_config: RemBertConfig, tokenizer: RemBertTokenizer, mesh: Mesh) -> Stage:
    """Sentences that are looked up by an encoder's vectors; nothing is trained."""
    assert config.task is not None
    task = open_task(config.task, tokenizer)
    assert isinstance(task, Retrieval)
    layers = model_config.num_hidden_layers
    if task.options.layer > layers:
        raise TaskError(f"options.layer={task.options.layer}: the encoder has {layers} layers; expected 0 … {layers}")
    dev, tests = (
        {language: open_sides(task, split, language) for language in config.task.test_languages if split}
        for split in (config.task.dev_split, config.task.test_split)
    )
    made = fine_tuning.make_program(config, model_config, mesh)
    size = config.training.eval_batch_size or config.training.batch_size
    place = place_whole(model_config, mesh)
    retriever = Retriever(task, made, model_config.hidden_size, batch_size=size, place=place)
    for sides in (*dev.values(), *tests.values()):
        retriever.layers_at_once(len(sides.sources))
    logger.info("looking up %s", ", ".join(f"{len(sides.english)} of {lang}" for lang, sides in tests.items()))

    def test(params: Params, folder: pathlib.Path) -> Metrics:
        choice = _choose(task, retriever, params, dev, layers)
        logger.info("layer %d: %s", choice.layer, choice.reason)
        every = range(layers + 1) if not dev and task.options.layer < 0 else [choice.layer]
        return _predict(task, retriever, params, tests, choice, every, folder)

    return Stage(
        program=made,
        feed=None,
        labels=None,
        evaluate=None,
        test=test,
        metric=task.metric,
        select_by=None,
        baseline=dict,
    )


def open_sides(task: Retrieval, split: str, language: str) -> Sides:
    """The sentences of a split, checked.

    Raises:
      TaskError: for what is wrong with them.
    """
    config = task.config
    english, sources = (
        open_examples(config, language, split, config.max_eval_examples if side == "english" else 0, side)
        for side in task.sides
    )
    for side in (english, sources):
        task.check_examples(side)
    task.check_translations(english, sources)
    return Sides(english, sources)


def _choose(task: Retrieval, retriever: Retriever, params: Params, dev: Mapping[str, Sides], num_layers: int) -> Choice:
    """The layer with the best mean over languages on development data, if the config names none, and its thresholds."""
    named = task.options.layer
    if not dev:
        layer, reason = (named, "as the config says") if named >= 0 else (num_layers // 2 + 1, "behind the middle")
        return Choice(min(layer, num_layers), dict.fromkeys(task.config.test_languages), reason, {})
    layers = [named] if named >= 0 else list(range(num_layers + 1))
    thresholds: dict[int, dict[str, float | None]] = {layer: {} for layer in layers}
    metrics: Metrics = {}
    for language, (english, sources) in dev.items():
        metrics[language] = {}
        for layer, matches in retriever.matches(params, english, sources, layers):
            threshold = thresholds[layer][language] = task.threshold(english, sources, matches)
            found = task.metrics(english, task.predict(english, sources, matches, threshold), language)
            metrics[language] |= {f"{name}_{layer}": value for name, value in found.items()}
    metrics = with_average(metrics)
    best = max(layers, key=lambda layer: metrics["average"][f"{task.metric}_{layer}"])
    score = metrics["average"][f"{task.metric}_{best}"]
    what = f"mean {task.metric} {100 * score:.1f} on {task.config.dev_split}"
    return Choice(best, thresholds[best], f"the best, {what}" if named < 0 else what, metrics)


def _predict(
    task: Retrieval,
    retriever: Retriever,
    params: Params,
    tests: Mapping[str, Sides],
    choice: Choice,
    layers: Sequence[int],
    folder: pathlib.Path,
) -> Metrics:
    """Metrics of the chosen layer and, if there are more, of every layer; the predictions of the chosen one are written."""
    write = jax.process_index() == 0
    if write:
        folder.mkdir(exist_ok=True)
        write_file(folder / "layers.json", schema.to_json(choice._asdict()))
    metrics: Metrics = {}
    for language, (english, sources) in tests.items():
        metrics[language] = {}
        for layer, matches in retriever.matches(params, english, sources, layers):
            predictions = task.predict(english, sources, matches, choice.thresholds[language])
            found = task.metrics(english, predictions, language)
            if len(layers) > 1:
                metrics[language] |= {f"{name}_{layer}": value for name, value in found.items()}
            if layer == choice.layer:
                metrics[language] |= found
                if write:
                    write_file(folder / f"test-{language}.{task.suffix}", task.to_text(english, predictions))
        logger.info("%s: %s %.1f", language, task.metric, 100 * metrics[language][task.metric])
    return with_average(metrics)
