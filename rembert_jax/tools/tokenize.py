"""Makes the token ids of a config's text once, so that a run on many hosts only has to map them.

    python -m rembert_jax.tools.tokenize --config='configs/rembert.py:text=DATA/{language}/{split}.txt' --output=tokens

The vocabulary is that of the config: named there, or else trained as the run would have, into the same folder. Values are
overridden as in train.py (--config.data.source=tfds). What `tokens/LANGUAGE/SPLIT` has already is not made again, so the same
command goes on where it stopped. It ends with the flags by which train.py reads what it has written.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from rembert_jax.data import pipeline, tokenized
from rembert_jax.errors import RemBertError
from rembert_jax.experiments import config_flag, stages, vocabulary, workdir
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.training import writers

logger = logging.getLogger(__name__)


class TokenizeError(RemBertError):
    """What was asked for cannot be tokenised."""


_opened: dict[str, Any] = {}
"""In a worker process: what it encodes."""


def _open(texts: Mapping[str, Sequence[str]], tokenizer: Any) -> None:
    _opened.update(texts=texts, tokenizer=tokenizer)


def _encode(language: str, bounds: tuple[int, int]) -> tuple[np.ndarray, ...]:
    return tokenized.encode_range(_opened["texts"][language], _opened["tokenizer"], *bounds)


def run(config: ExperimentConfig, output: pathlib.Path, processes: int) -> dict[str, Any]:
    """Writes the token ids of both splits of a pre-training stage.

    Args:
      config: of the stage.
      output: folder for vocabulary and token ids.
      processes: that encode; one encodes in this process.

    Returns:
      The values of the config by which the stage reads them.

    Raises:
      TokenizeError: if the stage has no text of its own, or if the folder has token ids of another text or vocabulary.
    """
    data = config.data
    if data is None or data.source == "tokens":
        raise TokenizeError("the stage has no text to tokenise; choose one with a section data by --stage")
    pipeline.check_sources(data)
    workdir.make(output)
    splits = {split: pipeline.open_sources(data, split) for split in (data.train_split, data.eval_split)}
    tokenizer = vocabulary.open_tokenizer(config, output, splits[data.train_split])
    for split, texts in splits.items():
        missing = {lang: text for lang, text in texts.items() if not _is_made(text, tokenizer, output / lang / split)}
        if processes == 1:
            _open(missing, tokenizer)
            _write(missing, tokenizer, output, split, map)
        elif missing:
            spawn = multiprocessing.get_context("spawn")  # Forking a process that has threads may never end.
            with spawn.Pool(processes, _open, (missing, tokenizer)) as pool:
                _write(missing, tokenizer, output, split, pool.imap)
    path = f"{output}/{{language}}/{{split}}"
    return {"data.source": "tokens", "data.path": path, "data.lines_per_document": 1, "tokenizer.path": str(output)}


def _is_made(texts: Sequence[str], tokenizer: Any, folder: pathlib.Path) -> bool:
    if not folder.is_dir():
        return False
    made = tokenized.TokenizedTexts(folder)
    if made.vocabulary != tokenizer.sha256 or len(made) != len(texts):
        raise TokenizeError(
            f"{folder} has {len(made):,} documents by the vocabulary {made.vocabulary[:12]}, now they are {len(texts):,} by "
            f"{tokenizer.sha256[:12]}; choose another --output, or remove it"
        )
    return True


def _write(texts: Mapping[str, Sequence[str]], tokenizer: Any, output: pathlib.Path, split: str, imap: Any) -> None:
    for language, source in texts.items():
        begin = time.perf_counter()
        chunks: Iterable[Any] = imap(functools.partial(_encode, language), tokenized.ranges(source))
        tokenized.write(source, tokenizer, output / language / split, chunks)
        logger.info("%s/%s: %d texts, %.1f s", language, split, len(source), time.perf_counter() - begin)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, "Config file, with an optional :argument.", values)
    flags.DEFINE_string("output", None, "Folder for vocabulary and token ids.", flag_values=values)
    flags.DEFINE_string("stage", "", "Stage of the config, by default its first one.", flag_values=values)
    flags.DEFINE_integer("processes", os.cpu_count(), "Processes that encode.", lower_bound=1, flag_values=values)
    flags.mark_flags_as_required(["config", "output"], values)
    writers.log_to_terminal()
    jax.config.update("jax_platforms", "cpu")
    with config_flag.explained(arguments, values):
        if rest := values(["tokenize", *arguments])[1:]:
            raise TokenizeError(f"unexpected arguments: {' '.join(rest)}")
        given, mapping = values.flag_values_dict(), config.value.to_dict()
    try:
        parsed, _ = stages.parse(mapping)
        name = config_flag.choose_stage(parsed, given["stage"])
        found = run(parsed[name], pathlib.Path(given["output"]).absolute(), given["processes"])
    except RemBertError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    prefix = f"--config.stages.{name}" if name else "--config"
    print(shlex.join(f"{prefix}.{key}={value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
