"""What all models have in common: loading and saving folders of transformers, and resizing the vocabulary."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding

from rembert_jax import sharding as rules
from rembert_jax.config import Execution, RemBertConfig
from rembert_jax.errors import RemBertError
from rembert_jax.interop import conversion, huggingface
from rembert_jax.interop.names import SOURCE_GROUPS
from rembert_jax.tree import flatten, unflatten

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound="PreTrained")

DTYPES = ("float32", "bfloat16")
"""Of parameters that are loaded."""

# Parameters that fine-tuning starts afresh where a file lacks them, and those of heads that a model may lack.
_FINE_TUNING_HEADS = ("classifier", "qa_outputs")
_HEADS = ("cls", "pooler", *_FINE_TUNING_HEADS)


class PreTrained:
    """Mixed into every Linen module of the family."""

    config: RemBertConfig
    execution: Execution

    @classmethod
    def from_pretrained(
        cls: type[Model],
        directory: str | os.PathLike[str],
        *,
        dtype: Any = "float32",
        sharding: Mesh | Sharding | None = None,
        execution: Execution | None = None,
        init: Sequence[str] = (),
        drop: Sequence[str] = (),
        strict: bool = False,
        seed: int = 0,
        allow_pickle: bool = False,
        revision: str | None = None,
        **fields: Any,
    ) -> tuple[Model, dict[str, Any]]:
        """Loads a folder of transformers, or a repository of the hub, in safetensors.

        Every array of the file and every parameter is accounted for. Heads that this model lacks are left out, and a
        classification or question answering head that the file lacks starts afresh, with the pooler if that is lacking
        too; both are logged. An output head (`cls`) that the file lacks is an error, as in Google's public
        checkpoint, unless `init=("cls",)`.

        Args:
          directory: a folder with config.json and weights, or a repository such as "google/rembert".
          dtype: "float32" or "bfloat16", also as `jnp.float32`: of the parameters, and of the computation unless `execution`
            says otherwise.
          sharding: a mesh, over which parameters are split by `sharding.LOGICAL_RULES`; or one sharding for all.
          execution: how the model is computed.
          init: parameters to start afresh: "cls", "pooler", "classifier", "qa_outputs" or shell patterns of names.
          drop: arrays of the file to leave out, in the same way.
          strict: nothing starts afresh that `init` does not name, also no classifier.
          seed: for parameters that start afresh.
          allow_pickle: read `pytorch_model.bin` where there are no safetensors; see `interop.pickled`.
          revision: branch, tag or commit of a repository.
          **fields: fields of this class, such as `num_labels`, and of the config, such as `add_cross_attention`.

        Returns:
          The module, with the names of its classes if it has any, and its parameters.

        Raises:
          RemBertError: naming the file, what was found and what to change.
        """
        dtype = _dtype_name(dtype)
        folder = huggingface.find_model(directory, revision=revision, allow_pickle=allow_pickle)
        card = huggingface.read_config(folder, **_config_fields(cls, fields))
        execution = execution or Execution(compute_dtype=dtype)
        source = huggingface.open_weights(folder, allow_pickle=allow_pickle)
        model: Any = _make_model(cls, card, source, execution, fields)
        find = huggingface.name_in(source)
        abstract, shapes = abstract_params(model)
        init = (*init, *(() if strict else _fresh_heads(cls, card, source, shapes)))
        plan = conversion.plan(source, shapes, find, init=init, drop=(*drop, *_absent_heads(shapes)))
        place = _placement(abstract, sharding)
        arrays = conversion.assemble(plan, source, shapes, dtype, place)
        arrays |= {
            name: place(name, array) for name, array in initial_params(model, plan.initialised, seed, dtype).items()
        }
        logger.info("%s: %s", source.path, plan.report().splitlines()[-1])
        for name in plan.initialised:
            logger.info("%s starts afresh", name)
        return model, unflatten({name: arrays[name] for name in shapes})

    @nn.nowrap
    def resize_token_embeddings(
        self: Model, params: dict[str, Any], vocab_size: int, rng: jax.Array
    ) -> tuple[Model, dict[str, Any]]:
        """Changes the number of rows of the input table, the output table and the output bias together.

        New rows come from the initialiser, new biases are 0; surplus rows are cut off at the end.

        Args:
          params: parameters of this model, boxed or not. Resized ones stay on their devices, split as they were where
            their mesh divides the new size and whole on each device where not.
          vocab_size: new number of words.
          rng: key for the new rows.

        Returns:
          A model with the new config, and its parameters.

        Raises:
          RemBertError: if the parameters are not this model's, or the padding lies beyond the new size.
        """
        config = dataclasses.replace(self.config, vocab_size=vocab_size)
        model: Any = self.copy(config=config)  # pyright: ignore[reportAttributeAccessIssue]
        self.check_params(params)
        old, (_, shapes) = flatten(rules.unbox(params)), abstract_params(model)
        fresh: dict[str, Any] = {}
        for number, (name, shape) in enumerate(shapes.items()):
            if tuple(old[name].shape) == shape:
                fresh[name] = old[name]
                continue
            kept = old[name][: shape[0]]
            rows = (shape[0] - kept.shape[0], *shape[1:])
            if name.endswith("bias"):
                new = jnp.zeros(rows, kept.dtype)
            else:
                initializer = nn.initializers.truncated_normal(config.initializer_range)
                new = initializer(jax.random.fold_in(rng, number), rows, kept.dtype)
            resized = jnp.concatenate([kept, new])
            fresh[name] = jax.device_put(resized, rules.for_shape(old[name].sharding, shape, name))
        return model, unflatten(fresh)

    @nn.nowrap
    def check_params(self, params: Any) -> None:
        """Raises RemBertError, naming the first difference, if the parameters, boxed or not, are not this model's."""
        _, shapes = abstract_params(self)  # pyright: ignore[reportArgumentType]
        found = {name: tuple(leaf.shape) for name, leaf in flatten(rules.unbox(params)).items()}
        if found != shapes:
            name = next(name for name in sorted({**found, **shapes}) if found.get(name) != shapes.get(name))
            raise RemBertError(
                f"{name}: parameters have {found.get(name, 'no such array')}, {type(self).__name__} "
                f"{shapes.get(name, 'no such parameter')}; give the parameters of this model"
            )


def save_pretrained(
    model: Any,
    params: Any,
    directory: str | os.PathLike[str],
    tokenizer: Any = None,
    *,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
    shard_bytes: int = huggingface.SHARD_BYTES,
) -> None:
    """Writes a folder that transformers loads: config.json, model.safetensors, and the tokenizer's files.

    Args:
      model: a module of the family.
      params: its parameters, boxed or not, on devices of this process.
      directory: created if needed.
      tokenizer: saved beside the model, if given.
      labels: names of the classes; by default the model's own, or "LABEL_0", … if it has none.
      problem_type: kind of sequence classification, for transformers; the model's own by default.
      shard_bytes: largest size of one file of weights.

    Raises:
      RemBertError: if parameters, labels or tokenizer are not this model's.
    """
    flat = flatten(rules.unbox(params))
    model.check_params(flat)
    if getattr(model, "add_pooling_layer", False) and type(model).__name__ != "RemBertModel":
        raise RemBertError("transformers has no language model with a pooler; leave rembert/pooler and its field out")
    count = getattr(model, "num_labels", None)
    if labels is None and count is not None:
        labels = model.labels or [f"LABEL_{i}" for i in range(count)]
    if labels is not None and len(labels) != count:
        raise RemBertError(f"{len(labels)} labels were given, but the model has num_labels={count}")
    if tokenizer is not None and tokenizer.vocab_size != model.config.vocab_size:
        raise RemBertError(
            f"tokenizer of {tokenizer.vocab_size} pieces, but the model has vocab_size={model.config.vocab_size}; give the "
            "model's own tokenizer, or change the model by resize_token_embeddings"
        )
    card = huggingface.ModelCard(
        config=model.config,
        architecture=type(model).__name__,
        labels=None if labels is None else tuple(labels),
        problem_type=problem_type or getattr(model, "problem_type", None),
    )
    folder = pathlib.Path(directory)
    huggingface.write(flat, folder, card, shard_bytes=shard_bytes)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder, model_max_length=model.config.max_position_embeddings)


@functools.lru_cache(maxsize=32)
def abstract_params(model: nn.Module) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The boxed abstract parameters of a model, and its parameters' names and shapes, without computing anything."""
    abstract = jax.eval_shape(functools.partial(_init, model), jax.random.key(0))
    return abstract, {name: tuple(leaf.shape) for name, leaf in flatten(rules.unbox(abstract)).items()}


def _init(model: nn.Module, key: jax.Array) -> Any:
    choices = type(model).__name__ == "RemBertForMultipleChoice"
    return model.init({"params": key}, jnp.zeros((1, 1, 2) if choices else (1, 2), jnp.int32))["params"]


def _dtype_name(dtype: Any) -> Literal["float32", "bfloat16"]:
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = None
    if name not in DTYPES:
        raise RemBertError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
    return name


def _own_fields(cls: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)} - {"config", "execution", "parent", "name"}


def _config_fields(cls: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Those of `fields` that are the config's."""
    known, own = {field.name for field in dataclasses.fields(RemBertConfig)}, _own_fields(cls)
    if unknown := sorted(set(fields) - known - own):
        raise RemBertError(f"from_pretrained: unknown field {unknown[0]!r}; known: {', '.join(sorted(own | known))}")
    return {name: value for name, value in fields.items() if name in known}


def _make_model(
    cls: Any, card: huggingface.ModelCard, source: conversion.Source, execution: Execution, fields: dict[str, Any]
) -> Any:
    own = _own_fields(cls)
    config = card.config
    if config.tie_word_embeddings and "cls.predictions.decoder.weight" in source.shapes:
        if fields.get("tie_word_embeddings"):
            raise RemBertError(
                f"{source.path} holds an output table of its own, which tie_word_embeddings=True leaves out; drop that argument"
            )
        logger.warning(
            "%s holds an output table of its own, so that it is not tied, though config.json says tie_word_embeddings=true",
            source.path,
        )
        config = dataclasses.replace(config, tie_word_embeddings=False)
    values = {name: value for name, value in fields.items() if name in own}
    if values.get("num_labels", 1) < 1:
        raise RemBertError(f"num_labels={values['num_labels']}: expected at least 1")
    if "num_labels" in own and "num_labels" not in values:
        values["num_labels"] = huggingface.count_labels(card, source)
        if not values["num_labels"]:
            raise RemBertError(f"{source.path}: neither it nor its config.json says how many labels; give num_labels=…")
    if "labels" in own and card.labels is not None and len(card.labels) == values["num_labels"]:
        values.setdefault("labels", card.labels)
    if "problem_type" in own:
        values.setdefault("problem_type", card.problem_type)
    return cls(config, execution=execution, **values)


def _absent_heads(shapes: dict[str, Any]) -> list[str]:
    """Heads that the model lacks; what a file has of them is left out."""
    parts = {part for name in shapes for part in name.split("/")[:2]}
    return [head for head in _HEADS if head not in parts]


def _fresh_heads(cls: Any, card: huggingface.ModelCard, source: conversion.Source, shapes: dict[str, Any]) -> list[str]:
    """Heads of a fine-tuning model that start afresh: not in the file, or there as the head of another model.

    A file that says that it holds this very model must have them.
    """
    if card.architecture == cls.__name__:
        return []
    top = {name.split("/")[0] for name in shapes}
    fresh = [head for head in _FINE_TUNING_HEADS if head in top and not _stored(source, head)]
    if "classifier" in top and card.architecture not in (None, cls.__name__):
        fresh.append("classifier")
    fine_tuning = bool(top & set(_FINE_TUNING_HEADS))
    if fine_tuning and any(name.startswith("rembert/pooler/") for name in shapes) and not _stored(source, "pooler"):
        fresh.append("pooler")
    return fresh


def _stored(source: conversion.Source, head: str) -> bool:
    return any(conversion.matches(name, [head], SOURCE_GROUPS) for name in source.shapes)


def _placement(abstract: Any, sharding: Mesh | Sharding | None) -> Callable[[str, Any], jax.Array]:
    """Puts an array on devices and waits for it, so that its copy on the host is free before the next one is read."""
    if sharding is None:
        return lambda name, array: jax.block_until_ready(jnp.asarray(array))
    if isinstance(sharding, Mesh):
        by_name = flatten(rules.param_shardings(abstract, sharding))
    else:
        by_name = dict.fromkeys(flatten(rules.unbox(abstract)), sharding)

    def place(name: str, array: np.ndarray) -> jax.Array:
        placed = jax.make_array_from_callback(array.shape, by_name[name], lambda index: np.asarray(array[index]))
        return jax.block_until_ready(placed)

    return place


def initial_params(model: nn.Module, wanted: Sequence[str], seed: int, dtype: str) -> dict[str, np.ndarray]:
    """Initial values of the named parameters; the compiler leaves out the computation of all others."""
    if not wanted:
        return {}

    def some(key: jax.Array) -> dict[str, jax.Array]:
        params = flatten(rules.unbox(_init(model, key)))
        return {name: params[name].astype(dtype) for name in wanted}

    return {name: np.asarray(array) for name, array in jax.jit(some)(jax.random.key(seed)).items()}
