"""The folder of a run: making it, what is in it, whether a run may go on there."""

from __future__ import annotations

import itertools
import json
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from rembert_jax import schema
from rembert_jax.experiments import processes, settings
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.reports.runs import CONFIG_FILE, RESULTS_FILE
from rembert_jax.training import checkpoint
from rembert_jax.training.settings import TrainingError

logger = logging.getLogger(__name__)


def make(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """The folder, absolute and created.

    Raises:
      TrainingError: if it cannot be written.
    """
    if not os.fspath(workdir):
        raise TrainingError("--workdir is empty; name the folder for everything that the run writes")
    if "://" in os.fspath(workdir):
        raise TrainingError(
            f"--workdir={workdir}: expected a folder; mount the bucket (for gs:// with gcsfuse, docs/scaling.md) and name the "
            "folder that it is mounted on"
        )
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


def fill(value: Any, workdir: str) -> Any:
    """A plain mapping with "{workdir}" in its strings replaced."""
    if isinstance(value, str):
        return value.replace("{workdir}", workdir)
    if isinstance(value, Mapping):
        return {key: fill(item, workdir) for key, item in value.items()}
    return [fill(item, workdir) for item in value] if isinstance(value, (list, tuple)) else value


def read_json(path: pathlib.Path) -> Any:
    """Content of a JSON file of a run.

    Raises:
      TrainingError: naming the file, if it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read ({error}); restore it, or choose a new --workdir") from error


def config_differences(folder: pathlib.Path, config: ExperimentConfig) -> list[str]:
    """What forbids a stage to go on in its folder: differences from the config in it, save for `settings.FREE_KEYS`.

    Args:
      folder: of the stage, which may not exist yet.
      config: as it will be saved, with "{workdir}" in place of the folder, so that the folder may be moved.

    Raises:
      TrainingError: if the config in the folder cannot be read.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        return []
    try:  # Through the schema, so that a key that did not exist yet counts with its default.
        old = schema.to_mapping(settings.resolve(read_json(path)))
    except schema.SchemaError as error:
        raise TrainingError(f"{path} holds a config that does not fit: {error}; choose a new --workdir") from error
    return settings.blocking_differences(old, schema.to_mapping(config))


def is_finished(folder: pathlib.Path) -> bool:
    """Whether the stage in this folder has its results."""
    return (folder / RESULTS_FILE).is_file()


def came_from(folder: pathlib.Path) -> Any:
    """The `checkpoint.origin` that the stage in this folder started from; None if it has saved nothing, or from none."""
    if is_finished(folder):
        return read_json(folder / RESULTS_FILE).get("source")
    return checkpoint.read_manifest(checkpoint.find(folder)).get("source") if checkpoint.can_resume(folder) else None


def set_aside(folder: pathlib.Path, why: str) -> None:
    """Renames the folder of a stage that has to be made again; the first process does it, once all know that it will."""
    target = next(t for n in itertools.count(1) if not (t := folder.with_name(f"{folder.name}.old{n}")).exists())
    logger.info("%s is made again, since %s; what it was is in %s", folder.name, why, target)
    processes.gather("seen")
    if jax.process_index() == 0:
        folder.rename(target)
    processes.gather("renamed")
