"""Checkpoints of a run: training state, position of the data, manifest. The only file that imports orbax.

A run's folder holds `checkpoints/<step>` (to resume), `best/<step>` (fine-tuning: the parameters chosen on the training
language's development set), `sentencepiece.model` with `vocabulary.json` (how it was made), and `resolved_config.json`.
Orbax commits a step by renaming, so a killed process leaves the previous step intact.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from rembert_jax.errors import RemBertError
from rembert_jax.modeling.encoder import stack_layers, unstack_layers
from rembert_jax.training.train_state import Params, TrainState
from rembert_jax.tree import flatten, unflatten

logger = logging.getLogger(__name__)

OUTPUT_HEAD = "cls"
"""Top-level parameter group of the output embedding and its prediction head."""


TASK_HEADS = ("classifier/", "qa_outputs/")
"""Heads that each task starts afresh."""

SMALLEST_SLICE = 2**20
"""Bytes. The replicas of an array share the writing of it only if each gets as much: for each shape, cutting it up costs a
compilation and writing it a file for each slice, seconds altogether for the many small arrays of a model."""


class CheckpointError(RemBertError):
    """A checkpoint is missing or does not fit the run."""


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


class CheckpointStore:
    """The checkpoints of one run, the newest ones kept."""

    def __init__(self, directory: epath.PathLike, keep: int) -> None:
        policies = ocp.training.preservation_policies
        context = ocp.Context()
        context.array.saving.min_slice_bytes_for_replica_parallel = SMALLEST_SLICE
        self.directory = epath.Path(directory)
        self._checkpointer = ocp.training.Checkpointer(
            self.directory,
            preservation_policy=policies.LatestN(keep),  # pyright: ignore[reportArgumentType]
            cleanup_tmp_directories=True,
            context=context,
        )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: Any, position: jax.Array | None, manifest: Mapping[str, Any]) -> None:
        """Writes a checkpoint in the background; `position` is that of the feed, where there is one."""
        items = {"state": state} if position is None else {"state": state, "data": {"position": position}}
        self._checkpointer.save_checkpointables_async(step, items, custom_metadata=dict(manifest), force=True)

    def restore(self, state: Any, position: jax.Array | None) -> tuple[Any, Any]:
        """State and position of the newest checkpoint, in the shardings of those given, which may be abstract."""
        items = {"state": _abstract(state)}
        if position is not None:
            items["data"] = _abstract({"position": position})
        loaded = self._checkpointer.load_checkpointables(self.latest_step, items)
        return loaded["state"], position if position is None else loaded["data"]["position"]

    def manifest(self) -> dict[str, Any]:
        """The manifest of the newest checkpoint."""
        metadata: Any = self._checkpointer.metadata(self.latest_step)
        return dict(metadata.custom_metadata or {})

    def wait(self) -> None:
        """Blocks until the last save is on disk."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits and releases the threads."""
        self._checkpointer.close()


def find(path: epath.PathLike, name: str = "init_from") -> pathlib.Path:
    """The step folder that `init_from` means: a step folder itself, or the newest step of a run's folder.

    `name` is what the path is called in messages.

    Raises:
      CheckpointError: if there is none.
    """
    root = pathlib.Path(path).absolute()  # Orbax reads no other paths.
    if (root / "_CHECKPOINT_METADATA").is_file():
        return root
    for folder in (root / "best", root / "checkpoints", root):
        if steps := _steps(folder):
            return max(steps, key=lambda p: int(p.name))
    raise CheckpointError(
        f"{name}={path}: no checkpoint found there; expected a run's workdir, or one of its checkpoints/<step> folders"
    )


def _steps(folder: pathlib.Path) -> list[pathlib.Path]:
    return [p for p in folder.glob("*") if p.name.isdigit() and (p / "_CHECKPOINT_METADATA").is_file()]


def can_resume(workdir: pathlib.Path) -> bool:
    """Whether the run in this folder has a complete checkpoint to go on from."""
    return bool(_steps(workdir / "checkpoints"))


def read_manifest(step_folder: pathlib.Path) -> dict[str, Any]:
    """The manifest saved with a checkpoint: resolved config, tokenizer hash, versions."""
    metadata: Any = ocp.metadata(str(step_folder))
    return dict(metadata.custom_metadata or {})


def origin(step_folder: pathlib.Path) -> dict[str, Any]:
    """What tells a checkpoint from others that lay at its place: the run that made it, and its step."""
    return {"run": read_manifest(step_folder).get("run", ""), "step": int(step_folder.name)}


def save_params(folder: epath.PathLike, params: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Writes parameters alone, as step 0 of a run that others can start from (`init_from`).

    Args:
      folder: of the run; must not have a checkpoint yet.
      params: {"rembert/encoder/…": array}.
      manifest: at least `model`, `tokenizer_sha256` and `architecture`, as in a run's own checkpoints.

    Raises:
      CheckpointError: if the folder has checkpoints.
    """
    target = pathlib.Path(folder).absolute() / "checkpoints" / "0"
    if _steps(target.parent):
        raise CheckpointError(f"{folder} holds the checkpoints of a run already; choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    ocp.save_checkpointables(
        str(target), {"state": {"params": unflatten(params)}}, custom_metadata=dict(manifest), overwrite=True
    )


def load_params(step_folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The parameters of a checkpoint on the host, {"rembert/encoder/…": array}, whatever devices they were trained on."""
    metadata: Any = ocp.metadata(str(step_folder), "state").metadata
    tree = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), metadata["params"])
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        loaded = ocp.load_checkpointables(str(step_folder), {"state": {"params": tree}})
    return flatten(loaded["state"]["params"])


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Which parameters a fine-tuning run took over; names to numbers of values."""

    loaded: dict[str, int]
    dropped: dict[str, int]
    fresh: dict[str, int]

    def log(self) -> None:
        """Logs the three lists with totals."""
        for verb, group in (("loaded", self.loaded), ("dropped", self.dropped), ("initialised", self.fresh)):
            heads: dict[str, int] = {}
            for name, size in group.items():
                head = "/".join(name.split("/")[:2])
                heads[head] = heads.get(head, 0) + size
            parts = ", ".join(f"{head} {size:,}" for head, size in heads.items()) or "nothing"
            logger.info("%s %d arrays, %s parameters: %s", verb, len(group), f"{sum(group.values()):,}", parts)


def load_pretrained(
    step_folder: pathlib.Path, params: Params, drop_top_layers: int = 0, *, task_head: bool = False
) -> tuple[Params, LoadReport]:
    """Loads the encoder of another run and drops its output head.

    Every parameter of `params` that the checkpoint holds under the same name is loaded, in the sharding it has in
    `params`, but no classifier, unless `task_head` asks for it: each task starts with its own. Of what is left over, the
    checkpoint may only have the output head `cls` or a classifier, and the run only a classifier and the pooler; anything else
    is an error. Loading into a masked LM takes the output head too. The layers may be stacked (`execution.scan_layers`) on one
    side only.

    Args:
      step_folder: the checkpoint.
      params: those of the model to fill, in their sharding.
      drop_top_layers: how many layers the checkpoint has above those of the model.
      task_head: whether all of `params` have to be there.

    Returns:
      The parameters and a report of what was loaded, dropped and left as initialised.

    Raises:
      CheckpointError: naming each parameter whose shape differs or that only one side has.
    """
    logger.info("parameters of %s, step %s", step_folder.parent, step_folder.name)
    stored = _stored_params(step_folder)
    convert = _has_stacked_layers(stored) != _has_stacked_layers(flatten(params))
    target = jax.jit(_convert_layers)(params) if convert else params
    wanted = flatten(target)

    loaded = _loadable(step_folder, stored, wanted, drop_top_layers, task_head)
    tree = unflatten(
        {
            name: jax.ShapeDtypeStruct(_stored_shape(name, leaf, drop_top_layers), leaf.dtype, sharding=leaf.sharding)
            for name, leaf in loaded.items()
        }
    )
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        values = ocp.load_checkpointables(str(step_folder), {"state": {"params": tree}})["state"]["params"]
    flat = {**wanted, **{name: _cut(value, wanted[name]) for name, value in flatten(values).items()}}
    result = jax.tree.unflatten(jax.tree.structure(target), [flat[name] for name in wanted])
    if convert:
        places = jax.tree.map(lambda leaf: leaf.sharding, params)
        result = jax.jit(_convert_layers, out_shardings=places)(result)
    tops = [name for name in loaded if drop_top_layers and name.startswith(STACKED_LAYERS)]
    dropped = {name: int(np.prod(shape)) for name, shape in stored.items() if name not in loaded}
    dropped |= {f"{name} (top {drop_top_layers})": drop_top_layers * int(np.prod(stored[name][1:])) for name in tops}
    report = LoadReport(
        loaded={name: int(leaf.size) for name, leaf in loaded.items()},
        dropped=dropped,
        fresh={name: int(leaf.size) for name, leaf in wanted.items() if name not in loaded},
    )
    return result, report


def _stored_shape(name: str, leaf: Any, drop_top_layers: int) -> tuple[int, ...]:
    """Shape that a checkpoint has where a model has `leaf`: with the layers that are dropped."""
    return (leaf.shape[0] + drop_top_layers * name.startswith(STACKED_LAYERS), *leaf.shape[1:])


def _loadable(
    step_folder: pathlib.Path,
    stored: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, Any],
    drop_top_layers: int,
    task_head: bool,
) -> dict[str, Any]:
    """The parameters of a model that a checkpoint holds, once it is sure that the two fit (`load_pretrained`)."""
    kept = {name: leaf for name, leaf in wanted.items() if name in stored}
    loaded = {name: leaf for name, leaf in kept.items() if task_head or not name.startswith(TASK_HEADS)}
    shapes = {name: _stored_shape(name, leaf, drop_top_layers) for name, leaf in loaded.items()}
    wrong = [
        f"{name}: checkpoint {stored[name]}, this model {shape}"
        for name, shape in shapes.items()
        if stored[name] != shape
    ]
    if wrong:
        raise CheckpointError(
            f"{step_folder}: shapes differ; make section `model` equal to that of the run it is from, or, where only the "
            "number of layers differs, set drop_top_layers\n  " + "\n  ".join(wrong)
        )
    fresh, dropped = ([name for name in side if name not in loaded] for side in (wanted, stored))
    known = (f"{OUTPUT_HEAD}/", *TASK_HEADS, "rembert/pooler/", *_top_layers(stored, drop_top_layers))
    strange = [name for name in (*fresh, *dropped) if not name.startswith(known)]
    if strange:
        raise CheckpointError(
            f"{step_folder}: only one of checkpoint and model has {', '.join(strange[:6])}"
            f"{' …' if len(strange) > 6 else ''}; make section `model` equal to that of the run it is from"
        )
    if head := [name for name in fresh if name.startswith(f"{OUTPUT_HEAD}/")]:
        raise CheckpointError(
            f"{step_folder}: has no output head ({head[0]}), so masked-LM training would go on from a random one; if that is "
            "meant, make a checkpoint with it: python -m rembert_jax.tools.convert --head masked_lm --init cls"
        )
    if task_head and fresh:
        raise CheckpointError(
            f"{step_folder}: has no {', '.join(fresh[:6])}; predict_with a run that was fine-tuned for a task of this kind"
        )
    return loaded


STACKED_LAYERS = "rembert/encoder/layer/"


def _has_stacked_layers(names: Iterable[str]) -> bool:
    return any(name.startswith(STACKED_LAYERS) for name in names)


def _top_layers(names: Iterable[str], count: int) -> list[str]:
    """Prefixes of the `count` highest of separate layers."""
    numbers = {int(name.split("/")[2].removeprefix("layer_")) for name in names if "/encoder/layer_" in name}
    return [f"rembert/encoder/layer_{number}/" for number in sorted(numbers)[len(numbers) - count :]]


def _cut(value: jax.Array, like: jax.Array) -> jax.Array:
    """The first of the stacked layers, as many as `like` has."""
    if value.shape == like.shape:
        return value
    return jax.jit(lambda stack: stack[: like.shape[0]], out_shardings=like.sharding)(value)


def _convert_layers(params: Params) -> Params:
    """Stacks separate layers, or separates stacked ones."""
    encoder = params["rembert"]["encoder"]
    converted = unstack_layers(encoder) if "layer" in encoder else stack_layers(encoder)
    return {**params, "rembert": {**params["rembert"], "encoder": converted}}


def _stored_params(step_folder: pathlib.Path) -> dict[str, tuple[int, ...]]:
    metadata: Any = ocp.metadata(str(step_folder), "state").metadata
    return {name: tuple(leaf.shape) for name, leaf in flatten(metadata["params"]).items()}


def check_state(state: TrainState) -> None:
    """Raises CheckpointError if a state to be saved is not healthy, so that no checkpoint is ever poisoned."""
    if not bool(state.healthy):
        raise CheckpointError("refusing to save a state after a non-finite loss")
