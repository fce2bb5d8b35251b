"""Model folders of transformers: `config.json` and `model.safetensors`, read and written without PyTorch."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rembert_jax import hub
from rembert_jax.config import CONFIG_FILE, MODEL_TYPE, RemBertConfig
from rembert_jax.hub import ModelFolderError
from rembert_jax.interop import names
from rembert_jax.interop.conversion import Source, expand, is_buffer
from rembert_jax.interop.pickled import PickledArrays

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"
MODEL_FILES = ("*.json", "*.safetensors", "sentencepiece.model")
PICKLE_FILES = ("pytorch_model*.bin",)
SHARD_BYTES = 5_000_000_000
"""Weights beyond this size are split over several files; the pre-training model (3.97 GB) is one."""

# Of arrays that can be parameters; others are of quantised weights, whose scales we do not know.
WEIGHT_DTYPES = ("F64", "F32", "F16", "BF16")
WEIGHTS_NAME = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
ARCHITECTURE = re.compile(r"(TF)?(RemBert(Model|For[A-Za-z]+))")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What `config.json` says.

    Attributes:
      config: the architecture's sizes.
      architecture: class whose parameters the folder holds, for example "RemBertForMaskedLM"; None if it does not say.
      labels: names of the classes in order; None if it does not say.
      problem_type: kind of sequence classification; None if it does not say.
    """

    config: RemBertConfig
    architecture: str | None = None
    labels: tuple[str, ...] | None = None
    problem_type: str | None = None


def find_model(
    path_or_id: str | os.PathLike[str], *, revision: str | None = None, allow_pickle: bool = False
) -> pathlib.Path:
    """`hub.find_folder` for all files of a model, pickled weights only where they are allowed."""
    return hub.find_folder(path_or_id, (*MODEL_FILES, *(PICKLE_FILES if allow_pickle else ())), revision=revision)


def read_config(folder: pathlib.Path, **changes: Any) -> ModelCard:
    """Reads `config.json`; `changes` are fields of the config, which go before those of the file.

    Raises:
      ModelFolderError: if it is of another architecture, a value has the wrong type, or asks for what RemBERT lacks.
    """
    path = folder / CONFIG_FILE
    values = hub.read_json(path)
    config = RemBertConfig.from_huggingface(values, str(path), **changes)
    architecture = _architecture(path, values)
    problem_type = values.get("problem_type")
    if not (problem_type is None or isinstance(problem_type, str)):
        raise ModelFolderError(f"{path}: problem_type={problem_type!r}, expected a text; correct the file")
    return ModelCard(config=config, architecture=architecture, labels=_labels(path, values), problem_type=problem_type)


def _architecture(path: pathlib.Path, values: Mapping[str, Any]) -> str | None:
    found = values.get("architectures") or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ModelFolderError(f"{path}: architectures={found!r}, expected a list of names; correct the file")
    matched = [ARCHITECTURE.fullmatch(name) for name in found]
    if not all(matched):
        raise ModelFolderError(
            f"{path}: architectures={found}: expected names such as RemBertModel; this folder holds another kind of model"
        )
    return matched[0].group(2) if matched and matched[0] else None


def _labels(path: pathlib.Path, values: Mapping[str, Any]) -> tuple[str, ...] | None:
    found, count = values.get("id2label"), values.get("num_labels")
    whole = isinstance(count, int) and not isinstance(count, bool) and 0 < count <= 100_000
    if count is not None and not whole:
        raise ModelFolderError(f"{path}: num_labels={count!r}, expected a whole number from 1 on; correct the file")
    if found is None:
        return None if count is None else tuple(f"LABEL_{i}" for i in range(count))
    good = isinstance(found, dict) and all(isinstance(label, str) for label in found.values())
    if not good or sorted(found) != sorted(str(i) for i in range(len(found))):
        raise ModelFolderError(f"{path}: id2label={found!r}, expected names for '0', '1', …; correct the file")
    if count not in (None, len(found)):
        raise ModelFolderError(f"{path}: num_labels={count}, but id2label has {len(found)} names; remove one of them")
    return tuple(found[str(i)] for i in range(len(found)))


def count_labels(card: ModelCard, source: Source) -> int:
    """Number of labels: as named, else by the classifier in the file, since transformers does not name two; 0 if unknown."""
    if card.labels is not None:
        return len(card.labels)
    return source.shapes.get("classifier.bias", (0,))[0]


class SafetensorsFiles(Source):
    """Arrays in one or several safetensors files.

    Each array is read with the file opened anew: the library maps the file into memory, and pages once read would stay
    counted as ours until it is closed.
    """

    def __init__(self, files: Mapping[pathlib.Path, Sequence[str] | None], path: str) -> None:
        """
        Args:
          files: each file to the names expected in it, or None for all it has.
          path: what the whole is called in messages.
        """
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._file: dict[str, pathlib.Path] = {}
        for file, wanted in files.items():
            try:
                with safe_open(file, framework="numpy") as opened:
                    found = list(opened.keys())
                    slices = {name: opened.get_slice(name) for name in found}
                    shapes = {name: tuple(array.get_shape()) for name, array in slices.items()}
                    dtypes = {name: array.get_dtype() for name, array in slices.items()}
            except (SafetensorError, OSError) as error:
                raise ModelFolderError(
                    f"{file}: cannot be read as safetensors ({error}); the file is damaged or incomplete: get it again"
                ) from error
            for name, dtype in dtypes.items():
                if dtype not in WEIGHT_DTYPES and not is_buffer(name):
                    raise ModelFolderError(
                        f"{file}: {name} has dtype {dtype}, expected one of {', '.join(WEIGHT_DTYPES)}; quantised weights "
                        "cannot be read: take the plain model"
                    )
            if lacking := sorted(set(wanted or ()) - set(found)):
                raise ModelFolderError(
                    f"{file}: lacks {lacking[0]}, which the index says is there; get the files again"
                )
            self.shapes |= shapes
            self._file |= dict.fromkeys(found, file)

    def read(self, name: str) -> np.ndarray:
        """One array, in its own memory."""
        with safe_open(self._file[name], framework="numpy") as opened:
            return np.array(opened.get_tensor(name))


def open_weights(folder: pathlib.Path, *, allow_pickle: bool = False) -> Source:
    """The weights of a folder: safetensors in one file or several, else, where allowed, pickles.

    Raises:
      ModelFolderError: if there are none, or only pickles and `allow_pickle` is False.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return SafetensorsFiles({folder / WEIGHTS_FILE: None}, str(folder / WEIGHTS_FILE))
    index = folder / f"{WEIGHTS_FILE}.index.json"
    if index.is_file():
        return SafetensorsFiles(_shards(index), str(index))
    pickles = _pickles(folder)
    if pickles and allow_pickle:
        return PickledArrays(pickles, str(folder / PICKLE_FILE))
    if pickles:
        raise ModelFolderError(
            f"{folder}: holds only pickled weights ({pickles[0].name}), which are programs; if you trust where they come "
            "from, --allow_pickle (in Python allow_pickle=True) reads the arrays and refuses everything else in them"
        )
    raise ModelFolderError(f"{folder}: no weights; expected {WEIGHTS_FILE}, or {index.name} with its files")


def _pickles(folder: pathlib.Path) -> list[pathlib.Path]:
    if (folder / PICKLE_FILE).is_file():
        return [folder / PICKLE_FILE]
    index = folder / f"{PICKLE_FILE}.index.json"
    return list(_shards(index)) if index.is_file() else []


def _shards(index: pathlib.Path) -> dict[pathlib.Path, list[str]]:
    weight_map = hub.read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFolderError(f"{index}: weight_map is missing or empty; get the file again")
    files: dict[pathlib.Path, list[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or file != os.path.basename(file) or file in ("", ".", ".."):
            raise ModelFolderError(f"{index}: {name} is said to be in {file!r}; expected a file beside the index")
        if not (index.parent / file).is_file():
            raise ModelFolderError(f"{index}: names {file}, which is missing beside it; get the files again")
        files.setdefault(index.parent / file, []).append(name)
    return files


def name_in(source: Source) -> Any:
    """From a row of the table of names to a name in this source; a bare `RemBertModel` has no prefix "rembert."."""
    bare = not any(name.startswith("rembert.") for name in source.shapes)

    def find(row: names.Parameter) -> str | None:
        name = row.huggingface.removeprefix("rembert.") if bare else row.huggingface
        return name if name in source.shapes else None

    return find


def write(
    params: Mapping[str, Any],
    folder: pathlib.Path,
    card: ModelCard,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes weights and `config.json`; while they change places the folder holds no weights rather than mixed ones.

    A model with tied tables is written with two equal ones and `tie_word_embeddings: false`: transformers cannot tie tables
    that a layer stands between, and the function is the same.

    Args:
      params: flat parameters, {"rembert/encoder/…": array}.
      folder: created if needed; weights of an earlier model in it are replaced.
      card: architecture and labels.
      shard_bytes: largest size of one file, unless a single array is larger.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(_tensors(params, card), folder, shard_bytes)
    dtype = str(next(iter(params.values())).dtype)
    _write_text(folder / CONFIG_FILE, json.dumps(_config_values(card, dtype), indent=2, ensure_ascii=False) + "\n")


def _tensors(params: Mapping[str, Any], card: ModelCard) -> Iterator[tuple[str, np.ndarray]]:
    bare = card.architecture == "RemBertModel"
    for name, rows in expand({name: tuple(leaf.shape) for name, leaf in params.items()}).items():
        array = np.asarray(params[name])
        for row, layer, _ in rows:
            piece = array if layer is None else array[layer]
            target = row.huggingface.removeprefix("rembert.") if bare else row.huggingface
            # The library writes the memory of an array as it lies, whatever its strides say.
            yield target, np.ascontiguousarray(piece.T if row.transposed else piece)
    if card.config.tie_word_embeddings and any(name.startswith("cls/") for name in params):
        yield "cls.predictions.decoder.weight", np.array(params["rembert/embeddings/word_embeddings/embedding"])


def _write_weights(tensors: Iterator[tuple[str, np.ndarray]], folder: pathlib.Path, shard_bytes: int) -> None:
    """Writes as many files as needed, one in memory at a time, and then puts them in the place of earlier ones."""
    shards: list[list[str]] = []
    shard: dict[str, np.ndarray] = {}
    total = 0

    def flush() -> None:
        save_file(shard, folder / f".part-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    for name, array in tensors:
        if shard and sum(other.nbytes for other in shard.values()) + array.nbytes > shard_bytes:
            flush()
        shard[name] = array
        total += array.nbytes
    flush()
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    files = [WEIGHTS_FILE] if len(shards) == 1 else files
    for earlier in folder.iterdir():
        if WEIGHTS_NAME.fullmatch(earlier.name):
            earlier.unlink()
    for i, file in enumerate(files):
        part = folder / f".part-{i}"
        part.chmod(folder.stat().st_mode & 0o666)  # The library makes files for their owner only.
        part.replace(folder / file)
    if len(shards) == 1:
        return
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: file for file, inside in zip(files, shards, strict=True) for name in inside},
    }
    _write_text(folder / f"{WEIGHTS_FILE}.index.json", json.dumps(index, indent=2) + "\n")


def _config_values(card: ModelCard, dtype: str) -> dict[str, Any]:
    values: dict[str, Any] = {"architectures": [card.architecture], "model_type": MODEL_TYPE, "dtype": dtype}
    values |= {**card.config.to_dict(), "tie_word_embeddings": False}
    if card.labels is not None:
        values["id2label"] = {str(i): label for i, label in enumerate(card.labels)}
        values["label2id"] = {label: i for i, label in enumerate(card.labels)}
    if card.problem_type is not None:
        values["problem_type"] = card.problem_type
    return values


def _write_text(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
