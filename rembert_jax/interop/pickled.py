"""Arrays in `pytorch_model.bin`, read without PyTorch and without running anything that the pickle asks for.

Such a file is a zip archive: `data.pkl` describes the tensors, `data/<key>` holds the bytes of each storage. The reader
knows the three callables that a plain state dict needs and refuses all others.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import pathlib
import pickle
import zipfile
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

from rembert_jax.errors import RemBertError
from rembert_jax.interop.conversion import Source

STORAGES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "BoolStorage": np.dtype(np.bool_),
    "ByteStorage": np.dtype(np.uint8),
}
MAX_PICKLE_BYTES = 64 * 2**20  # Names and shapes only; 600 tensors take less than 100 kB.


class PickleError(RemBertError):
    """A pickled file holds something other than plain tensors, or is damaged."""


class _Sealed:
    """What a pickle may make but not change: its opcode BUILD would write attributes past every check."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes an object after making it")


@dataclasses.dataclass(frozen=True, slots=True)
class _StorageType(_Sealed):
    dtype: np.dtype

    __setstate__ = _Sealed.__setstate__


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage(_Sealed):
    key: str
    dtype: np.dtype
    size: int

    __setstate__ = _Sealed.__setstate__


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor(_Sealed):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    __setstate__ = _Sealed.__setstate__


class _RebuildTensor(_Sealed):
    """Stands for `torch._utils._rebuild_tensor_v2`."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Tensor:
        return _rebuild_tensor(*arguments)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    numbers = [offset, *shape, *strides]
    if not isinstance(storage, _Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise pickle.UnpicklingError("a tensor with strange parts")
    if len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor whose shape and strides differ in length")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if module == "torch" and name in STORAGES:
            return _StorageType(STORAGES[name])
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], _StorageType)):
            raise pickle.UnpicklingError("a storage of an unknown kind")
        return _Storage(key=str(pid[2]), dtype=pid[1].dtype, size=int(pid[4]))


class PickledArrays(Source):
    """Tensors of one or several pickled state dicts."""

    def __init__(self, files: Iterable[pathlib.Path], path: str) -> None:
        """
        Raises:
          PickleError: if a file is no such archive, or its pickle asks for anything but tensors.
        """
        self.path = path
        self._tensors: dict[str, tuple[pathlib.Path, _Tensor]] = {}
        for file in files:
            for name, tensor in _read_state_dict(file).items():
                self._tensors[name] = file, tensor
        self.shapes = {name: tensor.shape for name, (_, tensor) in self._tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """One array."""
        file, tensor = self._tensors[name]
        storage, itemsize = tensor.storage, tensor.storage.dtype.itemsize
        last = tensor.offset + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
        try:
            with zipfile.ZipFile(file) as archive:
                entry = f"{_root(archive)}/data/{storage.key}"
                if archive.getinfo(entry).file_size != storage.size * itemsize:
                    raise PickleError(
                        f"{file}: {name} has another size than it says; the file is damaged: get it again"
                    )
                flat = np.frombuffer(archive.read(entry), storage.dtype)
        except (zipfile.BadZipFile, KeyError, EOFError, OSError) as error:
            raise PickleError(f"{file}: {name} cannot be read ({error}); the file is damaged: get it again") from error
        if math.prod(tensor.shape) and last >= flat.size:
            raise PickleError(f"{file}: {name} reaches beyond its storage; the file is damaged: get it again")
        strides = tuple(stride * itemsize for stride in tensor.strides)
        return np.array(np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides))


def _root(archive: zipfile.ZipFile) -> str:
    roots = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise KeyError("data.pkl")
    return roots[0]


def _read_state_dict(file: pathlib.Path) -> dict[str, _Tensor]:
    try:
        with zipfile.ZipFile(file) as archive:
            entry = archive.getinfo(f"{_root(archive)}/data.pkl")
            if entry.file_size > MAX_PICKLE_BYTES:
                raise PickleError(f"{file}: a description of {entry.file_size:,} bytes is no list of tensors")
            with archive.open(entry) as stream:
                values = _Unpickler(stream).load()
    except PickleError:
        raise
    except Exception as error:  # A hostile pickle can raise anything.
        raise PickleError(
            f"{file}: cannot be read as a plain state dict ({error}); expected tensors only, saved by PyTorch 1.6 or newer. "
            "Convert it to safetensors where you trust it"
        ) from error
    if not isinstance(values, dict) or not all(
        isinstance(k, str) and isinstance(v, _Tensor) for k, v in values.items()
    ):
        raise PickleError(f"{file}: expected names and tensors only; convert it to safetensors where you trust it")
    return dict(values)
