"""A stage of pre-training: its text, its program, and what it is judged by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from rembert_jax import sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.data import pipeline, tokenized
from rembert_jax.data.frequencies import SAMPLE, frequency_losses
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.experiments.stage import Stage
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.training import objectives, program
from rembert_jax.training.evaluators import MaskedLMEvaluator, Metrics, RetrievalEvaluator, with_average
from rembert_jax.training.feed import Feed, place_whole
from rembert_jax.training.program import Program
from rembert_jax.training.train_state import Params


def make_program(config: ExperimentConfig, model_config: RemBertConfig, mesh: Mesh) -> Program:
    """What the stage computes; it needs no data."""
    assert config.data is not None
    return program.pretraining(
        model_config,
        execution=config.execution,
        data=config.data,
        optimizer=config.optimizer,
        training=config.training,
        seed=config.seed,
        mesh=mesh,
    )


def prepare(
    config: ExperimentConfig,
    model_config: RemBertConfig,
    tokenizer: RemBertTokenizer,
    texts: Mapping[str, Sequence[str]],
    mesh: Mesh,
    tokens: Mapping[str, Sequence[list[int]] | Sequence[str]] | None = None,
) -> Stage:
    """Masked-language modelling on `texts`, evaluated on each language's held-out text; `tokens` are those of `texts`."""
    data = config.data
    assert data is not None
    made = make_program(config, model_config, mesh)
    place = place_whole(model_config, mesh)
    held_out = pipeline.open_sources(dataclasses.replace(data, languages=tuple(texts)), data.eval_split)
    for read in (texts, held_out):
        tokenized.check_vocabulary(read, tokenizer)
    eval_size = config.training.eval_batch_size or config.training.batch_size
    batches = pipeline.eval_batches(held_out, data, tokenizer, batch_size=eval_size, seed=config.seed)
    language_model = MaskedLMEvaluator(made.predict, batches, place)
    sentences = {
        language: pipeline.sentence_batches(rows, tokenizer, length=data.seq_length, batch_size=eval_size)
        for language, rows in pipeline.open_parallel(data, tuple(texts)).items()
    }

    def states(params: Params, batch: Any) -> Any:
        return objectives.hidden_states(made.model, params, batch)  # pyright: ignore[reportArgumentType]

    retrieval = RetrievalEvaluator(states, sentences, mesh, place)

    def evaluate(params: Params) -> Metrics:
        metrics, found = language_model(params), retrieval(params)
        return with_average({language: {**metrics[language], **found.get(language, {})} for language in metrics})

    def baseline() -> Metrics:
        # A hundred texts are counted for each that is predicted; more would not show in a loss over so few.
        frequencies = frequency_losses(texts, batches, tokenizer, min(SAMPLE, 100 * data.eval_texts))
        found = retrieval(made.initial_params()) if sentences else {}
        return with_average({lang: {"loss": frequencies[lang], **found.get(lang, {})} for lang in frequencies})

    batch_size = config.training.batch_size
    local_rows = sharding.local_rows(batch_size, mesh).tolist()
    rows = pipeline.train_batches(
        tokens or texts, data, tokenizer, batch_size=batch_size, seed=config.seed, rows=local_rows
    )
    return Stage(
        program=made,
        feed=Feed(rows, batch_size, model_config, mesh),
        labels=None,
        evaluate=evaluate,
        test=lambda params, folder: evaluate(params),
        metric="accuracy",
        select_by=None,
        baseline=baseline,
    )
