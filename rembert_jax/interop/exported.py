"""Models as files that run without this package: SavedModels of TensorFlow and artefacts of `jax.export` (StableHLO).

Either takes int32 `input_ids`, `attention_mask` and `token_type_ids` of shape [batch, length] (multiple choice: [batch,
choices, length]) and returns the model's own outputs in evaluation mode: `last_hidden_state` and `pooler_output`, or
`logits`, or `start_logits` and `end_logits`. All dimensions are free, from 1 on; the length ends at the model's
`max_position_embeddings`, beyond which both runtimes refuse the input. An id past the end of its table gives NaN.
Parameters lie beside the program, not in it: a protobuf ends at 2 GB, the model does not.
https://docs.jax.dev/en/latest/export/shape_poly.html
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from safetensors.numpy import save_file

from rembert_jax.errors import RemBertError
from rembert_jax.tree import flatten, unflatten

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PLATFORMS = ("cpu", "cuda", "tpu")
"""What every artefact is lowered for; none of them need be there for that."""

FUNCTION_FILE = "model.jax_export"
PARAMS_FILE = "params.safetensors"
SIGNATURE_FILE = "signature.json"

# A head's outputs stand for the model; the encoder's are those of a model without a head.
_HEAD_OUTPUTS = ("logits", "start_logits", "end_logits")
_ENCODER_OUTPUTS = ("last_hidden_state", "pooler_output")


class ExportError(RemBertError):
    """A model cannot be exported."""


@dataclasses.dataclass(frozen=True)
class Signature:
    """What an exported function takes and returns.

    Attributes:
      inputs, outputs: name to type, such as "int32[batch, length]".
      constraint: on the dimensions, such as "length <= 512".
    """

    inputs: dict[str, str]
    outputs: dict[str, str]
    constraint: str


def load_tensorflow() -> tuple[Any, Any]:
    """The modules `tensorflow` and `jax.experimental.jax2tf`.

    Raises:
      ExportError: where they cannot be imported.
    """
    try:
        import jax.experimental.jax2tf as jax2tf
        import tensorflow as tf
    except ImportError as error:
        raise ExportError(
            f"TensorFlow, which writes SavedModels, cannot be imported ({error}); pip install '.[tensorflow]', or export "
            "by --format stablehlo, which does without"
        ) from error
    return tf, jax2tf


def require_flatbuffers() -> None:
    """Checks for the package in whose format `jax.export` writes and reads; JAX itself does not install it.

    Raises:
      ExportError: where it is absent.
    """
    try:
        importlib.import_module("flatbuffers")
    except ImportError as error:
        raise ExportError(
            f"the package flatbuffers, which jax.export writes with, cannot be imported ({error}); pip install flatbuffers"
        ) from error


def export_savedmodel(model: nn.Module, params: Mapping[str, Any], directory: str | os.PathLike[str]) -> Signature:
    """Writes a SavedModel with the signature `serving_default`, for the platforms of `PLATFORMS`.

    Parameters are `tf.Variable`s, named as in the model. The program is the natively serialised one of
    `jax2tf.convert`, the only kind that it still writes; it has no gradient, so TensorFlow serves the model and does
    not train it. TensorFlow compiles it anew for every shape that it meets: pad to a few lengths. A sequence beyond
    `max_position_embeddings` is an `InvalidArgumentError` that quotes the constraint.

    Args:
      model: a module of the family.
      params: its parameters, boxed or not, on devices of this process; while exporting they are in memory twice.
      directory: to be created; it appears complete or not at all.

    Raises:
      ExportError: if TensorFlow is absent, the folder is not new, or the parameters are not this model's.
    """
    tf, jax2tf = load_tensorflow()
    flat = _host_params(model, params)
    call, shape, constraint = _function(model), _dimensions(model), _constraint(model)
    converted = jax2tf.convert(
        call,
        polymorphic_shapes=[None, *[f"({shape})"] * len(INPUTS)],
        polymorphic_constraints=[constraint],
        with_gradient=False,
        native_serialization_platforms=PLATFORMS,
    )
    module = tf.Module()
    module.params = {name: tf.Variable(array, trainable=False, name=name) for name, array in flat.items()}
    specs = [tf.TensorSpec([None] * (shape.count(",") + 1), tf.int32, name=name) for name in INPUTS]
    # Not by autograph, which would rewrite the source of what jax2tf calls.
    module.serve = tf.function(
        lambda *inputs: converted(dict(module.params), *inputs), input_signature=specs, autograph=False
    )
    with new_folder(directory) as folder:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve}, options=options)
    return _signature(model, jax.eval_shape(call, *_abstract_arguments(model, flat)))


def export_stablehlo(model: nn.Module, params: Mapping[str, Any], path: str | os.PathLike[str]) -> Signature:
    """Writes a folder that a process with jax, flatbuffers and safetensors runs, for the platforms of `PLATFORMS`.

    It holds three files. `model.jax_export` is the serialised `jax.export.Exported` of a function of (params, input_ids,
    attention_mask, token_type_ids) that returns a dict; it is versioned StableHLO, which JAX promises to read for six
    months (https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees). `params.safetensors` is its
    first argument, a flat dict of names to arrays. `signature.json` has the types, and the order of all arguments for
    runtimes other than JAX; there an integer comes first, the index of the platform in "platforms". A sequence beyond
    `max_position_embeddings` is a `ValueError` whose cause quotes the constraint.

    Args:
      model: a module of the family.
      params: its parameters, boxed or not, on devices of this process.
      path: folder to be created; it appears complete or not at all.

    Raises:
      ExportError: if flatbuffers is absent, the folder is not new, or the parameters are not this model's.
    """
    require_flatbuffers()
    flat = _host_params(model, params)
    exported = export.export(jax.jit(_function(model)), platforms=PLATFORMS)(*_abstract_arguments(model, flat))
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    signature = _signature(model, outputs)
    description = {
        "arguments": [*sorted(flat), *INPUTS],  # As `jax.tree.flatten` puts them: a dict by its names.
        **dataclasses.asdict(signature),
        "platforms": exported.platforms,
        "calling_convention_version": exported.calling_convention_version,
        "jax_version": jax.__version__,
    }
    with new_folder(path) as folder:
        (folder / FUNCTION_FILE).write_bytes(exported.serialize())
        save_file({name: np.ascontiguousarray(array) for name, array in flat.items()}, folder / PARAMS_FILE)
        (folder / PARAMS_FILE).chmod(folder.stat().st_mode & 0o666)  # The library makes files for their owner only.
        (folder / SIGNATURE_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return signature


def check_new(path: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute path of a folder that is to be written.

    Raises:
      ExportError: if something is there already, an empty folder apart, or it cannot be created.
    """
    folder = pathlib.Path(path).resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ExportError(f"{path}: exists already, and is not an empty folder; name another one or remove it")
    above = next(parent for parent in folder.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ExportError(f"{path}: cannot be created, since {above} is no folder that one may write to; name another")
    return folder


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A folder to write to, which takes its name at the end, or disappears after an error."""
    folder = check_new(path)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _dimensions(model: nn.Module) -> str:
    return "batch, choices, length" if type(model).__name__ == "RemBertForMultipleChoice" else "batch, length"


def _constraint(model: Any) -> str:
    return f"length <= {model.config.max_position_embeddings}"


def _function(model: Any) -> Callable[..., dict[str, jax.Array]]:
    """The model as a function of flat parameters and the inputs in order; every platform can compute its attention."""
    model = model.clone(execution=dataclasses.replace(model.execution, attention="xla"))

    def call(params: dict[str, Any], *inputs: jax.Array) -> dict[str, jax.Array]:
        output = model.apply({"params": unflatten(params)}, **dict(zip(INPUTS, inputs, strict=True)))
        found = {name: value for name in _HEAD_OUTPUTS if (value := getattr(output, name)) is not None}
        return found or {name: value for name in _ENCODER_OUTPUTS if (value := getattr(output, name)) is not None}

    return call


def _abstract_arguments(model: nn.Module, flat: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    shape = export.symbolic_shape(_dimensions(model), constraints=[_constraint(model)])
    params = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in flat.items()}
    return params, *[jax.ShapeDtypeStruct(shape, jnp.int32)] * len(INPUTS)


def _signature(model: nn.Module, outputs: Mapping[str, Any]) -> Signature:
    def described(value: Any) -> str:
        return f"{value.dtype}[{', '.join(map(str, value.shape))}]"

    return Signature(
        inputs=dict.fromkeys(INPUTS, f"int32[{_dimensions(model)}]"),
        outputs={name: described(value) for name, value in outputs.items()},
        constraint=_constraint(model),
    )


def _host_params(model: Any, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Flat parameters in the memory of this process.

    Raises:
      RemBertError: if they are not the model's: surplus ones would be exported in vain.
    """
    model.check_params(params)
    return {name: np.asarray(leaf) for name, leaf in flatten(nn.unbox(params)).items()}
