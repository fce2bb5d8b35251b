"""The vocabulary of a run: copied or trained into its folder."""

from __future__ import annotations

import logging
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rembert_jax import schema
from rembert_jax.data import mixture, tokenized
from rembert_jax.data.pipeline import DataConfig
from rembert_jax.experiments import processes
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.experiments.workdir import read_json
from rembert_jax.tokenization import RemBertTokenizer, train_vocabulary
from rembert_jax.tokenization.base import VOCABULARY_FILE
from rembert_jax.tokenization.vocabulary import sample_sentences
from rembert_jax.training import checkpoint
from rembert_jax.training.settings import TrainingError
from rembert_jax.training.writers import write_file

logger = logging.getLogger(__name__)

RECIPE_FILE = "vocabulary.json"
"""How the vocabulary beside it was made."""


def open_tokenizer(
    config: ExperimentConfig,
    workdir: pathlib.Path,
    texts: Mapping[str, Sequence[str]],
    shared: pathlib.Path | None = None,
) -> RemBertTokenizer:
    """The run's own vocabulary, which the first process makes where it is missing.

    It is a copy of `tokenizer.path` or of the vocabulary of the run to start from, or is trained on `texts`. A vocabulary
    that a failed start left behind serves again if it was made in the same way, and so does one in the folder `shared`.
    """
    failure: Exception | None = None
    if jax.process_index() == 0:
        try:
            _make_vocabulary(config, workdir, texts, shared)
        except Exception as error:
            failure = error
    # The others must not wait for a file that will never come.
    if said := processes.gather(str(failure or ""))[0]:
        raise failure or TrainingError(f"the first process could not make the vocabulary: {said}")
    tokenizer = RemBertTokenizer.from_pretrained(workdir)
    logger.info("vocabulary of %d pieces, sha256 %s", tokenizer.vocab_size, tokenizer.sha256[:12])
    return tokenizer


def _make_vocabulary(
    config: ExperimentConfig, workdir: pathlib.Path, texts: Mapping[str, Sequence[str]], shared: pathlib.Path | None
) -> None:
    own, recipe_file = workdir / VOCABULARY_FILE, workdir / RECIPE_FILE
    if own.is_file() and checkpoint.can_resume(workdir):
        return
    source = config.source
    origin = None
    if config.tokenizer.path or source:
        origin = RemBertTokenizer.from_pretrained(config.tokenizer.path or run_folder(source))
    # With its settings: they may say which pieces are special.
    recipe = {"copy": origin.sha256, **schema.to_mapping(origin.settings)} if origin else _recipe(config, texts)
    if own.is_file():
        if recipe_file.is_file() and read_json(recipe_file) == recipe:
            return
        logger.info("%s is of an earlier start with other settings; making it again", own)
    recipe_file.unlink(missing_ok=True)
    if origin:
        origin.save_pretrained(workdir)
    elif shared:
        made = shared / f"vocabulary-{tokenized.digest(recipe)}.model"
        with tokenized.made_once(made) as missing:
            if missing:
                _train_vocabulary(config, texts, made)
        shutil.copyfile(made, own)
    else:
        _train_vocabulary(config, texts, own)
    write_file(recipe_file, schema.to_json(recipe))


def _train_vocabulary(config: ExperimentConfig, texts: Mapping[str, Sequence[str]], target: pathlib.Path) -> None:
    assert config.data is not None
    shares = mixture.language_shares({lang: len(text) for lang, text in texts.items()}, config.data.alpha)
    total = min(config.tokenizer.sample_sentences, sum(map(len, texts.values())))
    logger.info("training a vocabulary of %d pieces on %d texts", config.tokenizer.vocab_size, total)
    train_vocabulary(
        sample_sentences(texts, shares, total, config.seed),
        target,
        vocab_size=config.tokenizer.vocab_size,
        character_coverage=config.tokenizer.character_coverage,
        user_defined_symbols=config.tokenizer.user_defined_symbols,
    )


def _recipe(config: ExperimentConfig, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Everything that a trained vocabulary depends on."""
    assert config.data is not None
    return {
        "tokenizer": schema.to_mapping(config.tokenizer),
        "seed": config.seed,
        "data": {**text_origin(config.data), "alpha": config.data.alpha},
        "texts": {language: len(text) for language, text in texts.items()},
    }


def text_origin(data: DataConfig) -> dict[str, Any]:
    """The settings that decide which texts a run trains on."""
    fields = (
        "source",
        "path",
        "data_dir",
        "text_field",
        "train_split",
        "lines_per_document",
        "on_invalid",
        "synthetic",
    )
    return {name: schema.to_mapping(getattr(data, name)) for name in fields}


def run_folder(source: str) -> pathlib.Path:
    """The run's folder of a path that may name one of its checkpoints."""
    path = pathlib.Path(source)
    return next((folder for folder in (path, *path.parents[:2]) if (folder / VOCABULARY_FILE).is_file()), path)
