"""The model of a stage: from section `model`, the checkpoint it starts from, and the vocabulary."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from rembert_jax.config import RemBertConfig
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.training import checkpoint
from rembert_jax.training.settings import TrainingError


def expected_model(config: ExperimentConfig, models: Mapping[pathlib.Path, RemBertConfig]) -> RemBertConfig:
    """The architecture as far as it is known before there is a vocabulary; `models` are those of earlier stages, by folder.

    Raises:
      RemBertError: if there is no vocabulary to come, or no checkpoint where one is named.
    """
    source = config.source
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
