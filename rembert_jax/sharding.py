"""Device mesh, the table from logical axes to mesh axes, and placement of states and batches."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from rembert_jax.errors import RemBertError

logger = logging.getLogger(__name__)

AXES = ("data", "fsdp", "tensor")

LOGICAL_RULES: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
    # Activations.
    ("batch", ("data", "fsdp")),
    ("length", None),
    ("embed_activation", None),
    # Parameters. "fsdp" splits the width that every matrix has, "tensor" splits heads, feed-forward and vocabulary.
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
    ("embed_out", "tensor"),
    ("labels", None),
    ("norm", None),
    ("layers", None),
)


def mesh_axes(*names: str | None) -> list[Any]:
    """Mesh axes of each logical axis by itself, by the rules that are set.

    Linen's own function is for the axes of one array, of which a mesh axis can split one alone: "batch" and "embed" share one.
    """
    return [nn.logical_to_mesh_axes((name,))[0] for name in names]  # pyright: ignore[reportOptionalSubscript]


def rules_without(axis: str) -> Any:
    """A context with the rules that are set, but for a mesh axis: for what runs on each of its devices by itself."""

    def left(axes: Any) -> Any:
        return tuple(name for name in _axes(axes) if name != axis) or None

    return nn.logical_axis_rules([(name, left(axes)) for name, axes in nn.get_logical_axis_rules()])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Section `mesh`: devices along each axis; -1 in one of them takes what is left.

    Attributes:
      data: copies of the model, each with its part of the batch.
      fsdp: parts into which parameters and optimizer state are split, each with its part of the batch.
      tensor: parts into which heads, feed-forward width and vocabulary are split.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh ("data", "fsdp", "tensor") over all devices, or over `devices`.

    Raises:
      RemBertError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise RemBertError(f"mesh={dict(zip(AXES, sizes, strict=True))}: expected positive sizes and at most one -1")
    known = int(np.prod([size for size in sizes if size > 0]))
    if -1 in sizes and len(devices) % known:
        raise RemBertError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} needs a multiple of {known} devices, found {len(devices)}; "
            "change mesh.data, mesh.fsdp or mesh.tensor"
        )
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    if int(np.prod(sizes)) != len(devices):
        raise RemBertError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} needs {int(np.prod(sizes))} devices, found {len(devices)}; "
            "change mesh.data, mesh.fsdp or mesh.tensor (their product must equal the number of devices)"
        )
    # An axis may take a part of a dimension of the TPUs' torus: 16 x 32 chips of 8 x 8 x 8.
    placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch split over "data" and "fsdp"."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def unbox(tree: Any) -> Any:
    """Parameters without their logical axis names (and without Linen's sharding constraints, as they may be abstract)."""

    def plain(leaf: Any) -> Any:
        return leaf.unbox(apply_constraint=False) if isinstance(leaf, nn.LogicallyPartitioned) else leaf

    return jax.tree.map(plain, tree, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))


def param_shardings(abstract_params: Any, mesh: Mesh) -> Any:
    """Shardings of boxed abstract parameters by `LOGICAL_RULES`.

    Where a mesh axis does not divide the vocabulary, the tables are split by their width over that axis too, so a device holds
    no more of them, and every array keeps the rows that it has in a checkpoint.

    Raises:
      RemBertError: naming the parameter, its shape and the mesh axis that does not divide it.
    """
    specs = nn.get_partition_spec(abstract_params)
    shardings = nn.logical_to_mesh_sharding(specs, mesh, list(LOGICAL_RULES))

    def place(path: Any, leaf: Any, names: PartitionSpec, sharding: NamedSharding) -> NamedSharding:
        if names and names[0] == "vocab" and leaf.shape[0] % _parts(mesh, sharding.spec[0]):
            width = sharding.spec[1:] and (*_axes(sharding.spec[1]), *_axes(sharding.spec[0]))
            sharding = NamedSharding(mesh, PartitionSpec(None, width) if width else PartitionSpec())
        _check_divides(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, sharding)
        return sharding

    return jax.tree_util.tree_map_with_path(place, unbox(abstract_params), specs, shardings)


def _axes(axes: Any) -> tuple[str, ...]:
    """Of an entry of a PartitionSpec."""
    return () if axes is None else (axes,) if isinstance(axes, str) else axes


def _parts(mesh: Any, axes: Any) -> int:
    return math.prod(mesh.shape[axis] for axis in _axes(axes))


def for_shape(sharding: Sharding, shape: tuple[int, ...], name: str) -> Sharding:
    """A sharding for an array of this shape: the given one, or replicated (and logged) where that cannot split it."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    try:
        _check_divides(name, shape, sharding)
    except RemBertError as error:
        logger.warning("%s; it is now whole on every device", error)
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding


def _check_divides(name: str, shape: tuple[int, ...], sharding: NamedSharding) -> None:
    for size, axes in zip(shape, sharding.spec, strict=False):
        parts = _parts(sharding.mesh, axes)
        if size % parts:
            raise RemBertError(
                f"{name} of shape {shape}: {size} is not divisible by mesh axis {'x'.join(_axes(axes))}={parts}; "
                f"choose a mesh size that divides {size}, or another model size"
            )


def like_params(tree: Any, shardings: Any, abstract_params: Any, mesh: Mesh) -> Any:
    """Shardings of an optimizer state: moments of a parameter are placed like it, everything else is replicated.

    A leaf is a moment of a parameter if its path ends with the parameter's path and their shapes are equal.
    """
    known: dict[tuple[str, ...], tuple[tuple[int, ...], NamedSharding]] = {}
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(abstract_params), jax.tree.leaves(shardings), strict=True
    ):
        known[tuple(jax.tree_util.keystr((key,), simple=True) for key in path)] = (leaf.shape, sharding)
    replicated = NamedSharding(mesh, PartitionSpec())

    def place(path: Any, leaf: Any) -> NamedSharding:
        names = tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
        for start in range(len(names)):
            shape, sharding = known.get(names[start:], (None, replicated))
            if shape == leaf.shape:
                return sharding
        return replicated

    return jax.tree_util.tree_map_with_path(place, tree)


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Numbers, in rising order, of the rows of a batch that the devices of this process hold.

    They follow from the mesh, and processes may have rows in common: those over which "tensor" reaches.
    """
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(*place[0].indices(batch_size)) for place in places if place]))


def to_global(rows: Mapping[str, np.ndarray], mesh: Mesh, batch_size: int | None = None) -> dict[str, jax.Array]:
    """Global arrays split over "data" and "fsdp".

    Args:
      rows: this process's `local_rows` of a batch of `batch_size` rows; or all its rows, in every process, where that is None.
      mesh: where they go.
      batch_size: of all processes.
    """
    sharding = batch_sharding(mesh)
    numbers = None if batch_size is None else local_rows(batch_size, mesh)

    def place(value: np.ndarray) -> jax.Array:
        size = batch_size or len(value)

        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(size)
            first = start if numbers is None else int(numbers.searchsorted(start))
            return value[first : first + stop - start]

        return jax.make_array_from_callback((size, *value.shape[1:]), sharding, part)

    return {key: place(value) for key, value in rows.items()}


def from_global(array: jax.Array) -> np.ndarray:
    """This process's `local_rows` of a global array."""
    parts = {shard.index[0].indices(len(array))[0]: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


def check_heads(heads: int, mesh: Mesh) -> None:
    """Checks that no attention head would be split.

    Raises:
      RemBertError: naming the sizes that are possible.
    """
    if heads % mesh.shape["tensor"]:
        legal = ", ".join(str(size) for size in range(1, heads + 1) if heads % size == 0)
        raise RemBertError(
            f"mesh.tensor={mesh.shape['tensor']} would split attention heads, of which the model has "
            f"num_attention_heads={heads}; choose one of {legal}"
        )


def check_batch(batch_size: int, mesh: Mesh, accumulation: int = 1, name: str = "training.batch_size") -> None:
    """Checks that the rows of a global batch can be dealt out to shards and accumulation steps.

    Raises:
      RemBertError: naming the sizes that do not divide.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"] * accumulation
    if batch_size % parts:
        raise RemBertError(
            f"{name}={batch_size} is not divisible by mesh.data x mesh.fsdp x accumulation = "
            f"{mesh.shape['data']} x {mesh.shape['fsdp']} x {accumulation}; use a multiple of {parts}"
        )
