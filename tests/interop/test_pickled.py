"""Weights pickled by PyTorch: read without PyTorch, and without running anything."""

import os
import pickle
import zipfile

import numpy as np
import pytest
from helpers import assert_same_trees
from safetensors.numpy import load_file

from rembert_jax import RemBertForMaskedLM
from rembert_jax.errors import RemBertError
from rembert_jax.interop import pickled


class Storage:
    """Pickles as PyTorch pickles a storage: by a persistent id."""

    def __init__(self, key, array):
        self.key, self.array = key, array


class Call:
    """Pickles as a call of a function that is known by its name only."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


def write_pickle(path, values):
    """A file as `torch.save` makes it, without PyTorch: protocol 2, globals by name."""

    def encode(value):
        if isinstance(value, dict):
            return b"}" + b"".join(encode(k) + encode(v) + b"s" for k, v in value.items())
        if isinstance(value, str):
            return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            return b"J" + value.to_bytes(4, "little", signed=True)
        if isinstance(value, tuple):
            return b"(" + b"".join(map(encode, value)) + b"t"
        if isinstance(value, Storage):
            kind = f"ctorch\n{'LongStorage' if value.array.dtype == np.int64 else 'FloatStorage'}\n".encode()
            parts = encode("storage") + kind + encode(value.key) + encode("cpu") + encode(value.array.size)
            return b"(" + parts + b"tQ"
        return f"c{value.module}\n{value.name}\n".encode() + encode(value.arguments) + b"R"

    def storages(value):
        items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
        items = value.arguments if isinstance(value, Call) else items
        found = [value] if isinstance(value, Storage) else []
        return found + [storage for item in items for storage in storages(item)]

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + encode(values) + b".")
        for storage in storages(values):
            archive.writestr(f"model/data/{storage.key}", storage.array.tobytes())


def tensor(key, array):
    flat = Storage(key, np.ascontiguousarray(array).reshape(-1))
    strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
    return Call("torch._utils", "_rebuild_tensor_v2", flat, 0, array.shape, strides, False, {})


def test_pickled_weights_only_where_allowed(folder, masked_lm):
    tensors = load_file(folder / "model.safetensors")
    os.remove(folder / "model.safetensors")
    write_pickle(folder / "pytorch_model.bin", {n: tensor(str(i), a) for i, (n, a) in enumerate(tensors.items())})
    with pytest.raises(RemBertError, match=r"only pickled weights .* allow_pickle=True"):
        RemBertForMaskedLM.from_pretrained(folder)
    assert_same_trees(RemBertForMaskedLM.from_pretrained(folder, allow_pickle=True)[1], masked_lm[1])


def test_views_of_a_storage_are_read_as_such(tmp_path):
    base = np.arange(12, dtype=np.float32)
    view = Call("torch._utils", "_rebuild_tensor_v2", Storage("0", base), 1, (2, 3), (1, 4), False, {})
    write_pickle(tmp_path / "file", {"a": view})
    arrays = pickled.PickledArrays([tmp_path / "file"], "file")
    np.testing.assert_array_equal(arrays.read("a"), [[1, 5, 9], [2, 6, 10]])
    assert arrays.shapes == {"a": (2, 3)}


def _touch(path):
    return Call("builtins", "open", path, "w")


def test_a_pickle_that_runs_something_is_refused_and_does_not_run_it(tmp_path):
    target = tmp_path / "written"
    for hostile in (_touch(str(target)), Call("os", "system", f"touch {target}"), Call("torch", "load", str(target))):
        write_pickle(tmp_path / "file", {"a": hostile})
        with pytest.raises(pickled.PickleError, match="it asks for"):
            pickled.PickledArrays([tmp_path / "file"], "file")
    assert not target.exists()


@pytest.mark.parametrize("what", ["tensor", "storage type", "function"])
def test_a_pickle_cannot_change_what_it_has_made(tmp_path, what):
    """The opcode BUILD (b) with (None, {"offset": -6}) would have set attributes behind the checks."""
    change = b"N}X\x06\x00\x00\x00offsetJ\xfa\xff\xff\xffs\x86b"
    write_pickle(tmp_path / "file", {"a": tensor("0", np.zeros(4, np.float32))})
    with zipfile.ZipFile(tmp_path / "file") as archive:
        content = archive.read("model/data.pkl")
    if what == "tensor":
        content = content.replace(b"Rs", b"R" + change + b"s")
    elif what == "storage type":
        content = content.replace(b"ctorch\nFloatStorage\n", b"ctorch\nFloatStorage\n" + change)
    else:
        content = content.replace(b"_rebuild_tensor_v2\n", b"_rebuild_tensor_v2\n" + change)
    assert change in content
    with zipfile.ZipFile(tmp_path / "other", "w") as archive:
        archive.writestr("model/data.pkl", content)
        archive.writestr("model/data/0", bytes(16))
    with pytest.raises(pickled.PickleError, match="it changes an object after making it"):
        pickled.PickledArrays([tmp_path / "other"], "file")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": 3}, "names and tensors only"),
        (
            {"a": Call("torch._utils", "_rebuild_tensor_v2", Storage("0", np.zeros(4, np.float32)), 0, (5,), (1,))},
            "beyond",
        ),
        (
            {"a": Call("torch._utils", "_rebuild_tensor_v2", Storage("0", np.zeros(4, np.float32)), -1, (1,), (1,))},
            "strange",
        ),
        ({"a": Call("torch._utils", "_rebuild_tensor_v2", 3, 0, (1,), (1,))}, "strange"),
        (
            {"a": Call("torch._utils", "_rebuild_tensor_v2", Storage("0", np.zeros(4, np.float32)), 0, (1,), (1, 1))},
            "length",
        ),
    ],
)
def test_pickles_that_lie_are_refused(tmp_path, values, message):
    write_pickle(tmp_path / "file", values)
    with pytest.raises(pickled.PickleError, match=message):
        pickled.PickledArrays([tmp_path / "file"], "file").read("a")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "file"
    for content in (b"", pickle.dumps({"a": 1}), b"PK\x03\x04 nothing"):
        path.write_bytes(content)
        with pytest.raises(pickled.PickleError, match=r"saved by PyTorch 1\.6 or newer"):
            pickled.PickledArrays([path], "file")
    write_pickle(path, {"a": tensor("0", np.zeros(4, np.float32))})
    content = path.read_bytes()
    for stop in range(0, len(content), 17):
        path.write_bytes(content[:stop])
        with pytest.raises(pickled.PickleError):
            pickled.PickledArrays([path], "file").read("a")
