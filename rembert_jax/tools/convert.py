"""Converts a checkpoint: `python -m rembert_jax.tools.convert --from tf1 --to hf --input DIR --output DIR`.

Every array of the input and every parameter of the output is listed, with its partner and shape. What is left over on
either side is an error, unless --drop or --init names it. Guide: docs/interop.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from rembert_jax.config import RemBertConfig
from rembert_jax.errors import RemBertError
from rembert_jax.interop import conversion, huggingface, names, tf1_checkpoint
from rembert_jax.modeling import pretrained
from rembert_jax.modeling.models import MODELS
from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast
from rembert_jax.tokenization.tokenizer import VOCABULARY_FILE
from rembert_jax.tools import command_line
from rembert_jax.training import checkpoint
from rembert_jax.tree import unflatten

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
Tokenizer = RemBertTokenizer | RemBertTokenizerFast
CLASS_TO_HEAD = {model.__name__: head for head, model in MODELS.items()}


class ConvertError(RemBertError):
    """The command line asks for something that cannot be."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """An input of any format.

    Attributes:
      source: its arrays.
      card: its architecture and labels.
      find: from the table of names to a name in it.
      transposes: whether it stores kernels transposed.
      tokenizer: folder with its vocabulary, if it has one.
    """

    source: conversion.Source
    card: huggingface.ModelCard
    find: Callable[[names.Parameter], str | None]
    transposes: bool = False
    tokenizer: pathlib.Path | None = None


class JaxCheckpoint(conversion.Source):
    """The parameters of one of our own checkpoints, layer by layer."""

    def __init__(self, step_folder: pathlib.Path) -> None:
        params = checkpoint.load_params(step_folder)
        self.path = str(step_folder)
        self._arrays: dict[str, np.ndarray] = {}
        for name, rows in conversion.expand({name: array.shape for name, array in params.items()}).items():
            for row, layer, _ in rows:
                self._arrays[row.name] = params[name] if layer is None else params[name][layer]
        self.shapes: Mapping[str, tuple[int, ...]] = {name: array.shape for name, array in self._arrays.items()}

    def read(self, name: str) -> np.ndarray:
        """One parameter of one layer."""
        return self._arrays[name]


def _open_huggingface(options: argparse.Namespace) -> Opened:
    folder = huggingface.find_model(options.input, revision=options.revision, allow_pickle=options.allow_pickle)
    source = huggingface.open_weights(folder, allow_pickle=options.allow_pickle)
    vocabulary = folder if any((folder / name).is_file() for name in (VOCABULARY_FILE, "tokenizer.json")) else None
    card = huggingface.read_config(folder)
    return Opened(source, card, huggingface.name_in(source), transposes=True, tokenizer=vocabulary)


def _open_tf1(options: argparse.Namespace) -> Opened:
    source = tf1_checkpoint.TF1Checkpoint(options.input)
    if options.config:
        config = huggingface.read_config(pathlib.Path(options.config)).config
    else:
        config = tf1_checkpoint.infer_config(source.shapes, source.path)
        print(
            f"architecture by the shapes: {config.num_hidden_layers} layers of {config.hidden_size}, "
            f"{config.num_attention_heads} heads of {tf1_checkpoint.HEAD_DIM}, hidden_act={config.hidden_act}, special ids "
            f"{config.pad_token_id}, {config.bos_token_id}, {config.eos_token_id}; if another, give --config"
        )
    card = huggingface.ModelCard(config=config, architecture="RemBertForMaskedLM")
    beside = pathlib.Path(options.input)
    beside = beside if beside.is_dir() else beside.parent
    vocabulary = beside if (beside / VOCABULARY_FILE).is_file() else None
    return Opened(source, card, tf1_checkpoint.name_in(source, options.drop), tokenizer=vocabulary)


def _open_jax(options: argparse.Namespace) -> Opened:
    step = checkpoint.find(options.input, "--input")
    manifest = checkpoint.read_manifest(step)
    if "model" not in manifest:
        raise ConvertError(
            f"{step}: its metadata has no `model` (the architecture); expected a checkpoint of this package"
        )
    labels = manifest.get("labels")
    card = huggingface.ModelCard(
        config=RemBertConfig.from_dict(manifest["model"]),
        architecture=manifest.get("architecture"),
        labels=None if labels is None else tuple(labels),
        problem_type=manifest.get("problem_type"),
    )
    source = JaxCheckpoint(step)
    run = next((folder for folder in step.parents[:2] if (folder / VOCABULARY_FILE).is_file()), None)
    return Opened(source, card, lambda row: row.name if row.name in source.shapes else None, tokenizer=run)


OPENERS = {"hf": _open_huggingface, "tf1": _open_tf1, "jax": _open_jax}


def convert(options: argparse.Namespace) -> conversion.Plan:
    """Does what the command line says.

    Returns:
      What became of every array.

    Raises:
      RemBertError: naming what does not fit and the option that would accept it.
    """
    output = pathlib.Path(options.output)
    opened = OPENERS[options.source](options)
    tokenizer = _tokenizer(options, opened)
    model = _model(options, opened)
    _, shapes = pretrained.abstract_params(model)
    plan = conversion.plan(
        opened.source, shapes, opened.find, drop=options.drop, init=options.init, transposes=opened.transposes
    )
    print(plan.report())
    dtype = DTYPES[options.dtype]
    params: dict[str, Any] = conversion.assemble(plan, opened.source, shapes, dtype, lambda _, array: array)
    params |= pretrained.initial_params(model, plan.initialised, options.seed, options.dtype)
    if options.target == "hf":
        pretrained.save_pretrained(model, unflatten(params), output, tokenizer)
    else:
        _save_jax(model, params, output, tokenizer)
    print(f"wrote {type(model).__name__} to {output}" + ("" if tokenizer else ", without a tokenizer (--tokenizer)"))
    return plan


def _tokenizer(options: argparse.Namespace, opened: Opened) -> Tokenizer | None:
    """The tokenizer to put beside the output, with its settings; runs of ours need the SentencePiece model."""
    path = options.tokenizer or opened.tokenizer
    if path is None:
        return None
    place = pathlib.Path(path)
    if options.target == "jax" and place.is_dir() and not (place / VOCABULARY_FILE).is_file():
        raise ConvertError(f"{place}: training needs {VOCABULARY_FILE}, which is not there; give it by --tokenizer")
    among_transformers = options.source == options.target == "hf"  # Whose tokenizer may also lower case, for example.
    tokenizer: Tokenizer = (RemBertTokenizerFast if among_transformers else RemBertTokenizer).from_pretrained(place)
    if tokenizer.vocab_size != opened.card.config.vocab_size:
        raise ConvertError(
            f"{tokenizer.model_file}: {tokenizer.vocab_size} pieces, but the model has "
            f"vocab_size={opened.card.config.vocab_size}; give the model's own vocabulary by --tokenizer"
        )
    return tokenizer


def _model(options: argparse.Namespace, opened: Opened) -> Any:
    card = opened.card
    head = options.head or CLASS_TO_HEAD.get(card.architecture or "")
    if head is None:
        raise ConvertError(f"{options.input} does not say what it is; name one of --head {', '.join(MODELS)}")
    _check_classifier(options, opened, head)
    fields: dict[str, Any] = {}
    known = {field.name for field in dataclasses.fields(MODELS[head])}
    if "num_labels" in known:
        count = options.num_labels or huggingface.count_labels(card, opened.source)
        if not count:
            raise ConvertError(f"{options.input} does not say how many labels it has; give --num_labels")
        fields["num_labels"] = count
        fields["labels"] = card.labels if count == len(card.labels or ()) else None
    if "problem_type" in known:
        fields["problem_type"] = card.problem_type
    if head == "masked_lm" and options.target == "jax":  # Our own checkpoints may hold both; transformers' cannot.
        patterns = conversion.matches
        stored = [n for n in opened.source.shapes if not patterns(n, options.drop, names.SOURCE_GROUPS)]
        fields["add_pooling_layer"] = any(patterns(n, ["pooler"], names.SOURCE_GROUPS) for n in stored)
    return MODELS[head](card.config, **fields)  # pyright: ignore[reportCallIssue]


def _check_classifier(options: argparse.Namespace, opened: Opened, head: str) -> None:
    """Heads of three models are called `classifier`: one of another model must not become this model's in silence."""
    stored = CLASS_TO_HEAD.get(opened.card.architecture or "")
    counted = {"sequence_classification", "multiple_choice", "token_classification"}
    afresh = {"classifier", "classifier/*", "classifier*"} & set(options.init)
    if head in counted and stored in counted - {head} and not afresh:
        raise ConvertError(
            f"{options.input} holds the classifier of {stored}, which is none of {head}; "
            "--init classifier starts it afresh, or choose another --head"
        )


def _save_jax(model: Any, params: Mapping[str, Any], output: pathlib.Path, tokenizer: Tokenizer | None) -> None:
    labels = getattr(model, "labels", None)
    manifest = {
        "model": model.config.to_dict(),
        "architecture": type(model).__name__,
        "labels": None if labels is None else list(labels),
        "problem_type": getattr(model, "problem_type", None),
        "tokenizer_sha256": tokenizer.sha256 if tokenizer else "",
    }
    # A bare RemBertModel too gets the names that it has in every other model, for `init_from`.
    checkpoint.save_params(output, {names.full_name(name): array for name, array in params.items()}, manifest)
    if tokenizer:
        tokenizer.save_pretrained(output)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m rembert_jax.tools.convert", description=(__doc__ or "").split("\n")[0]
    )
    add = result.add_argument
    add("--from", dest="source", required=True, choices=OPENERS, help="format of the input")
    add("--to", dest="target", required=True, choices=("hf", "jax"), help="format of the output")
    add(
        "--input",
        required=True,
        help="folder of transformers or hub id; TensorFlow prefix or folder; run or step folder",
    )
    add("--output", required=True, help="folder to write")
    add("--head", choices=MODELS, help="model to write; by default the one that the input says it is (tf1: masked_lm)")
    add(
        "--drop",
        nargs="+",
        default=[],
        metavar="NAME",
        help="cls, pooler, classifier, qa_outputs, optimizer or a pattern",
    )
    add("--config", help="folder with the config.json of a tf1 checkpoint, where its shapes do not tell everything")
    add("--tokenizer", help="sentencepiece.model to put beside the output, if the input has none")
    add("--dtype", choices=DTYPES, default="float32", help="of the parameters written")
    command_line.add_reading_options(result)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; an error that we foresee is one message without a traceback."""
    command_line.run(convert, parser(), arguments)


if __name__ == "__main__":
    main()
