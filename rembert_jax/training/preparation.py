"""What happens before a stage trains: folders, checks that need no data, vocabulary, architecture."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from rembert_jax import schema, sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.data import mixture, pipeline, tokenized
from rembert_jax.data.pipeline import DataConfig
from rembert_jax.errors import RemBertError
from rembert_jax.ops import attention
from rembert_jax.reports import report
from rembert_jax.reports.runs import CONFIG_FILE, RESULTS_FILE
from rembert_jax.tasks.datasets import check_examples
from rembert_jax.tokenization import RemBertTokenizer, train_vocabulary
from rembert_jax.tokenization.base import VOCABULARY_FILE
from rembert_jax.tokenization.vocabulary import sample_sentences
from rembert_jax.training import checkpoint, jobs, settings
from rembert_jax.training.optimizer import check_names, learning_rate_schedule
from rembert_jax.training.settings import ExperimentConfig, TrainingError
from rembert_jax.training.writers import write_file

logger = logging.getLogger(__name__)

RECIPE_FILE = "vocabulary.json"
"""How the vocabulary beside it was made."""


def make_workdir(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """The folder, absolute and created.

    Raises:
      TrainingError: if it cannot be written.
    """
    if not os.fspath(workdir):
        raise TrainingError("--workdir is empty; name the folder for everything that the run writes")
    folder = pathlib.Path(workdir).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise TrainingError(
            f"--workdir={workdir} cannot be written ({error.strerror}); choose another folder"
        ) from error
    return folder


def fill_workdir(value: Any, workdir: str) -> Any:
    """A plain mapping with "{workdir}" in its strings replaced."""
    if isinstance(value, str):
        return value.replace("{workdir}", workdir)
    if isinstance(value, Mapping):
        return {key: fill_workdir(item, workdir) for key, item in value.items()}
    return [fill_workdir(item, workdir) for item in value] if isinstance(value, (list, tuple)) else value


def read_json(path: pathlib.Path) -> Any:
    """Content of a JSON file of a run.

    Raises:
      TrainingError: naming the file, if it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); restore it, or choose a new --workdir") from error


def parse(config: Mapping[str, Any]) -> tuple[dict[str, ExperimentConfig], list[report.Comparison]]:
    """The stages by name, in order, and what to compare; a config without stages is one stage without a name.

    Raises:
      schema.SchemaError: naming the key that is unknown, missing or of a wrong value.
    """
    if "stages" not in config:
        return {"": settings.resolve(config)}, []
    unknown = set(config) - {"stages", "order", "report"}
    if unknown:
        raise schema.SchemaError(
            f"config: unknown key {sorted(unknown)[0]!r} beside stages; known: order, report, stages"
        )
    order = config.get("order", [])
    if sorted(order) != sorted(config["stages"]):
        raise schema.SchemaError(f"config.order {list(order)} does not name each of {list(config['stages'])} once")
    stages = {name: schema.from_mapping(ExperimentConfig, config["stages"][name], name) for name in order}
    comparisons = [schema.from_mapping(report.Comparison, item, "report") for item in config.get("report", {}).values()]
    strange = {name for item in comparisons for name in (item.pretrained, item.scratch)} - set(stages)
    if strange:
        raise schema.SchemaError(f"config.report: no stage {sorted(strange)[0]!r}; expected one of {', '.join(stages)}")
    return stages, comparisons


def check_resumable(workdir: pathlib.Path, config: ExperimentConfig) -> None:
    """Checks that a stage may go on in its folder.

    Args:
      workdir: folder of the stage, which may not exist yet.
      config: as it will be saved, with "{workdir}" in place of the folder, so that the folder may be moved.

    Raises:
      TrainingError: listing what differs from the config that the folder holds, save for `settings.FREE_KEYS`.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        return
    try:  # Through the schema, so that a key that did not exist yet counts with its default.
        old = schema.to_mapping(settings.resolve(read_json(path)))
    except schema.SchemaError as error:
        raise TrainingError(f"{path} holds a config that does not fit: {error}; choose a new --workdir") from error
    changed = settings.blocking_differences(old, schema.to_mapping(config))
    if changed:
        raise TrainingError(
            f"{workdir} holds a run with another config; give the old values again or choose a new --workdir\n  "
            + "\n  ".join(changed)
        )


def check_stages(stages: Mapping[pathlib.Path, ExperimentConfig]) -> None:
    """Checks all stages before the first one starts: a mistake in the last must not cost the time of the others.

    What only the data can tell (numbers of texts and examples, labels, pieces of the vocabulary) is checked when a stage
    starts; a stage that is finished is not checked.

    Args:
      stages: folder of each stage to its config, in order.

    Raises:
      RemBertError: naming the stage, if there are several.
    """
    models: dict[pathlib.Path, RemBertConfig] = {}
    for folder, config in stages.items():
        if (folder / RESULTS_FILE).is_file():
            continue
        try:
            models[folder] = _check_stage(config, models)
        except RemBertError as error:
            if len(stages) == 1:
                raise
            raise TrainingError(f"stage {folder.name}: {error}") from error


def _check_stage(config: ExperimentConfig, models: Mapping[pathlib.Path, RemBertConfig]) -> RemBertConfig:
    training, mesh = config.training, sharding.make_mesh(config.mesh)
    sharding.check_batch(training.batch_size, mesh, config.optimizer.accumulation)
    if training.eval_batch_size:
        sharding.check_batch(training.eval_batch_size, mesh, name="training.eval_batch_size")
    if training.steps:
        learning_rate_schedule(config.optimizer, training.steps)
    model = _expected_model(config, models)
    sharding.check_heads(model.num_attention_heads, mesh)
    if config.optimizer.freeze or config.optimizer.learning_rate_factors or config.optimizer.weight_decay_factors:
        module = jobs.make_model(config, model)
        check_names(
            config.optimizer, jax.eval_shape(lambda: sharding.unbox(jobs.boxed_params(module, jax.random.key(0))))
        )
    if config.data:
        pipeline.check_sources(config.data)
        name, length = "data.seq_length", config.data.seq_length
    else:
        assert config.task is not None
        check_examples(config.task)
        name, length = "task.max_length", config.task.max_length
    if length > model.max_position_embeddings:
        raise TrainingError(
            f"{name}={length} exceeds model.max_position_embeddings={model.max_position_embeddings}; "
            f"shorten {name} or give the model more positions"
        )
    _check_attention(config, model, length, mesh)
    return model


def _check_attention(config: ExperimentConfig, model: RemBertConfig, length: int, mesh: jax.sharding.Mesh) -> None:
    """Whether the devices and these shapes have the implementation that is asked for by name."""
    shape = (1, length, model.num_attention_heads, model.head_dim)
    query = jax.ShapeDtypeStruct(shape, config.execution.compute_dtype)
    seen = attention.Visible(keys=jnp.ones((1, length), bool))
    with jax.set_mesh(mesh):
        attention.choose(query, query, seen, config.execution.attention, model.attention_probs_dropout_prob > 0)


def _expected_model(config: ExperimentConfig, models: Mapping[pathlib.Path, RemBertConfig]) -> RemBertConfig:
    """The architecture as far as it is known before there is a vocabulary; `models` are those of earlier stages."""
    source = config.init_from or config.model_from
    size = config.tokenizer.vocab_size
    if config.tokenizer.path:
        size = RemBertTokenizer.from_pretrained(config.tokenizer.path).vocab_size
    if source:
        path = pathlib.Path(source)
        earlier = [models[folder] for folder in (path, *path.parents) if folder in models]
        base = earlier[0].to_dict() if earlier else checkpoint.read_manifest(checkpoint.find(source))["model"]
    elif size and (config.tokenizer.path or config.data):
        base = {"vocab_size": size, "bos_token_id": 0, "eos_token_id": 0}
    else:
        raise TrainingError(
            "no vocabulary: set tokenizer.path, or tokenizer.vocab_size to train one, or init_from a run that has one"
        )
    return RemBertConfig.from_dict({**_shallower(base, config.drop_top_layers), **config.model})


def _shallower(model: Mapping[str, Any], drop_top_layers: int) -> dict[str, Any]:
    if not drop_top_layers:
        return dict(model)
    layers = model["num_hidden_layers"]
    if drop_top_layers >= layers:
        raise TrainingError(
            f"drop_top_layers={drop_top_layers}: the run to start from has {layers} layers; leave at least 1"
        )
    return {**model, "num_hidden_layers": layers - drop_top_layers}


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
    failed = failure is not None
    if jax.process_count() > 1:
        failed = bool(multihost_utils.broadcast_one_to_all(np.array(failed)))
    if failed:
        raise failure or TrainingError("the first process could not make the vocabulary; its message says why")
    tokenizer = RemBertTokenizer.from_pretrained(workdir)
    logger.info("vocabulary of %d pieces, sha256 %s", tokenizer.vocab_size, tokenizer.sha256[:12])
    return tokenizer


def _make_vocabulary(
    config: ExperimentConfig, workdir: pathlib.Path, texts: Mapping[str, Sequence[str]], shared: pathlib.Path | None
) -> None:
    own, recipe_file = workdir / VOCABULARY_FILE, workdir / RECIPE_FILE
    if own.is_file() and checkpoint.can_resume(workdir):
        return
    source = config.init_from or config.model_from
    origin = None
    if config.tokenizer.path or source:
        origin = RemBertTokenizer.from_pretrained(config.tokenizer.path or _run_folder(source))
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


def _run_folder(source: str) -> pathlib.Path:
    """The run's folder of a path that may name one of its checkpoints."""
    path = pathlib.Path(source)
    return next((folder for folder in (path, *path.parents[:2]) if (folder / VOCABULARY_FILE).is_file()), path)


def model_config(
    config: ExperimentConfig, tokenizer: RemBertTokenizer, pretrained: pathlib.Path | None
) -> RemBertConfig:
    """Architecture from the checkpoint (if any), section `model`, and the tokenizer's size and special ids.

    Raises:
      TrainingError: if the vocabulary is not the one of the checkpoint, or contradicts section `model`.
    """
    base: dict[str, Any] = {}
    if pretrained is not None:
        manifest = checkpoint.read_manifest(pretrained)
        base = _shallower(manifest["model"], config.drop_top_layers)
        if manifest["tokenizer_sha256"] != tokenizer.sha256:
            raise TrainingError(
                f"{tokenizer.model_file} (sha256 {tokenizer.sha256[:12]}) is not the vocabulary of {pretrained} "
                f"(sha256 {manifest['tokenizer_sha256'][:12]}); leave tokenizer.path empty to use the checkpoint's own"
            )
    fixed = {
        "vocab_size": tokenizer.vocab_size,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    for name, value in fixed.items():
        if config.model.get(name, value) != value:
            raise TrainingError(
                f"model.{name}={config.model[name]}, but the vocabulary {tokenizer.model_file} has {value}; "
                "leave the key out, it is read from the vocabulary"
            )
    return RemBertConfig.from_dict({**base, **config.model, **fixed})
