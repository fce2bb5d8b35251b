"""Folders of transformers, here or as repositories of the hub: finding them, and reading a JSON file of theirs."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import huggingface_hub

from rembert_jax.errors import RemBertError


class ModelFolderError(RemBertError):
    """A folder of transformers cannot be read."""


def find_folder(
    path_or_id: str | os.PathLike[str], files: Sequence[str], *, revision: str | None = None
) -> pathlib.Path:
    """A local folder, or the downloaded copy of a repository of the hub.

    Args:
      path_or_id: a folder, or a repository such as "google/rembert".
      files: patterns of what to download.
      revision: branch, tag or commit of the repository.

    Raises:
      ModelFolderError: if it is neither, or the hub cannot be reached.
    """
    path = pathlib.Path(path_or_id)
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path_or_id)) or path.is_absolute() or str(path_or_id).startswith("."):
        raise ModelFolderError(f"{path_or_id}: no such folder, and no repository name such as google/rembert")
    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(str(path_or_id), revision=revision, allow_patterns=list(files))
        )
    except Exception as error:  # Its errors have no common base: network, missing repository, no permission, full disk.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelFolderError(
            f"{path_or_id}: no folder of this name, and the hub did not give a repository of this name ({reason}); "
            "check the name and the connection, or download the files elsewhere and give their folder"
        ) from error


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ModelFolderError: if the file is missing or is no JSON object in UTF-8.
    """
    if not path.is_file():
        raise ModelFolderError(f"{path}: no such file; expected a model folder of transformers with {path.name}")
    try:
        values = json.loads(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ModelFolderError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:  # Also for a number of thousands of digits.
        raise ModelFolderError(f"{path}: not JSON ({error}); download or write it again") from error
    if not isinstance(values, dict):
        raise ModelFolderError(f"{path}: found {type(values).__name__}, expected an object of keys and values")
    return values
