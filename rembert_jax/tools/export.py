"""Exports a model folder: `python -m rembert_jax.tools.export --format savedmodel --input DIR --output DIR`.

The output runs without this package: a SavedModel in TensorFlow, StableHLO in JAX. See `rembert_jax.interop.exported`.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from rembert_jax.interop import exported, huggingface
from rembert_jax.modeling.models import MODELS
from rembert_jax.tools import command_line

EXPORTERS: dict[str, Callable[..., exported.Signature]] = {
    "savedmodel": exported.export_savedmodel,
    "stablehlo": exported.export_stablehlo,
}

PACKAGES: dict[str, Callable[[], object]] = {
    "savedmodel": exported.load_tensorflow,
    "stablehlo": exported.require_flatbuffers,
}
"""What raises an error where a package that the format needs is absent."""

# Printed after the export, with the paths filled in. The tests run these lines.
LOADING = {
    "savedmodel": """\
import tensorflow as tf
model = tf.saved_model.load({output!r})  # Keep it: the variables live as long as it does.
serve = model.signatures["serving_default"]
outputs = serve(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)""",
    "stablehlo": """\
import pathlib, jax.export, safetensors.numpy  # pip install jax flatbuffers safetensors
function = jax.jit(jax.export.deserialize(pathlib.Path({function!r}).read_bytes()).call)
params = jax.device_put(safetensors.numpy.load_file({params!r}))
outputs = function(params, input_ids, attention_mask, token_type_ids)""",
}


def run(options: argparse.Namespace) -> exported.Signature:
    """Does what the command line says.

    Raises:
      RemBertError: naming what does not fit and the option to change.
    """
    output = exported.check_new(options.output)
    PACKAGES[options.format]()  # Before the weights, which may take a minute.
    folder = huggingface.find_model(options.input, revision=options.revision, allow_pickle=options.allow_pickle)
    head = options.head or _stored_head(folder)
    model_class: Any = MODELS[head]
    model, params = model_class.from_pretrained(
        folder,
        strict=True,
        init=options.init,
        seed=options.seed,
        allow_pickle=options.allow_pickle,
        **_fields(head, options),
    )
    signature = EXPORTERS[options.format](model, params, output)
    print(_report(options.format, type(model).__name__, output, signature))
    return signature


def _stored_head(folder: pathlib.Path) -> str:
    architecture = huggingface.read_config(folder).architecture
    for head, model in MODELS.items():
        if model.__name__ == architecture:
            return head
    raise exported.ExportError(
        f"{folder / huggingface.CONFIG_FILE}: architecture {architecture!r} is none of ours; name one of "
        f"--head {', '.join(MODELS)}"
    )


def _fields(head: str, options: argparse.Namespace) -> dict[str, Any]:
    if options.num_labels is None:
        return {}
    counted = [h for h, model in MODELS.items() if "num_labels" in {field.name for field in dataclasses.fields(model)}]
    if head not in counted:
        raise exported.ExportError(f"--num_labels is of --head {' and '.join(counted)}, not of {head}; leave it out")
    return {"num_labels": options.num_labels}


def _report(format: str, name: str, output: pathlib.Path, signature: exported.Signature) -> str:
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    lines = [f"wrote {name} to {output} ({format}, {size / 1e6:.1f} MB, for {', '.join(exported.PLATFORMS)})"]
    lines += [f"  {name}: {kind}" for name, kind in signature.inputs.items()]
    lines += [f"  -> {name}: {kind}" for name, kind in signature.outputs.items()]
    lines += [f"  where {signature.constraint}", "load and run it:"]
    files = {"function": str(output / exported.FUNCTION_FILE), "params": str(output / exported.PARAMS_FILE)}
    lines += [f"  {line}" for line in LOADING[format].format(output=str(output), **files).splitlines()]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m rembert_jax.tools.export", description=(__doc__ or "").split("\n")[0]
    )
    add = result.add_argument
    add("--format", required=True, choices=EXPORTERS, help="savedmodel needs '.[tensorflow]', stablehlo flatbuffers")
    add("--input", required=True, help="folder of transformers or hub id")
    add("--output", required=True, help="folder to write; it must be new or empty")
    add("--head", choices=MODELS, help="model to export; by default the one that config.json names")
    command_line.add_reading_options(result)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; an error that we foresee is one message without a traceback."""
    logging.getLogger("tensorflow").setLevel(logging.WARNING)  # It would announce the folder by its temporary name.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Libraries of GPUs that are not found, and the like.
    command_line.run(run, parser(), arguments)


if __name__ == "__main__":
    main()
