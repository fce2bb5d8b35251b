"""From named arrays of a file to the parameters of a model: every array is accounted for, on both sides."""

from __future__ import annotations

import abc
import dataclasses
import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from rembert_jax.errors import RemBertError
from rembert_jax.interop import names

# Which field of the config is the size of which axis, for messages about shapes: by module name and leaf.
_FIELDS = (
    ("word_embeddings/embedding", "vocab_size, input_embedding_size"),
    ("position_embeddings/embedding", "max_position_embeddings, input_embedding_size"),
    ("token_type_embeddings/embedding", "type_vocab_size, input_embedding_size"),
    ("embeddings/LayerNorm/", "input_embedding_size"),
    ("embedding_hidden_mapping_in/", "input_embedding_size, hidden_size"),
    ("attention", "hidden_size"),
    ("/intermediate/", "hidden_size, intermediate_size"),
    ("/output/kernel", "intermediate_size, hidden_size"),
    ("cls/decoder/", "vocab_size, output_embedding_size"),
    ("cls/", "hidden_size, output_embedding_size"),
    ("classifier/", "hidden_size, num_labels (or init=('classifier',) for a fresh one)"),
    ("", "hidden_size"),
)


FLOATS = tuple(np.dtype(kind) for kind in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16))
"""What parameters are stored in."""


class ConversionError(RemBertError):
    """The arrays of a file and the parameters of a model do not fit each other."""


class Source(abc.ABC):
    """Arrays that can be read one at a time.

    Attributes:
      path: for messages.
      shapes: name to shape of every array.
    """

    path: str
    shapes: Mapping[str, tuple[int, ...]]

    @abc.abstractmethod
    def read(self, name: str) -> np.ndarray:
        """One array, in its own memory."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """One array of the source and where it goes.

    Attributes:
      source: its name in the file.
      target: the full name of the parameter, of a single layer.
      layer: its index in a stacked parameter; None where the layers are separate.
      shape: shape of the parameter.
      transposed: whether the file holds it transposed.
    """

    source: str
    target: str
    layer: int | None
    shape: tuple[int, ...]
    transposed: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """The bijection between a source and a model.

    Attributes:
      pieces: parameter name in the model's tree to the arrays it is made of (several where layers are stacked).
      initialised: names of the model's parameters that keep their initial values.
      dropped: arrays of the source that are left out, with their shapes.
    """

    pieces: Mapping[str, tuple[Piece, ...]]
    initialised: tuple[str, ...]
    dropped: Mapping[str, tuple[int, ...]]

    def report(self) -> str:
        """One line for each array: source, target, shape; then the totals."""
        rows = [(p.source, p.target, p.shape) for pieces in self.pieces.values() for p in pieces]
        width = max((len(source) for source, _, _ in rows), default=0)
        lines = [f"{source:{width}}  ->  {target}  {list(shape)}" for source, target, shape in rows]
        lines += [f"{source:{width}}  dropped  {list(shape)}" for source, shape in self.dropped.items()]
        lines += [f"{'(fresh)':{width}}  ->  {name}" for name in self.initialised]
        values = sum(int(np.prod(shape)) for _, _, shape in rows)
        lines.append(
            f"{len(rows)} arrays ({values:,} values) converted, {len(self.dropped)} dropped, "
            f"{len(self.initialised)} parameters initialised"
        )
        return "\n".join(lines)


def matches(name: str, patterns: Iterable[str], groups: Mapping[str, str]) -> bool:
    """Whether a name belongs to one of the patterns, each the name of a group or a shell pattern such as `*/adam_m`."""
    return any(
        re.fullmatch(groups[pattern], name) if pattern in groups else fnmatch.fnmatchcase(name, pattern)
        for pattern in patterns
    )


def expand(
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, list[tuple[names.Parameter, int | None, tuple[int, ...]]]]:
    """Each parameter of a tree as rows of the table of names: several where it stacks layers.

    Args:
      shapes: name in the model's tree to shape.

    Returns:
      The same names, each to (row, index in the stack or None, shape of one layer).
    """
    rows: dict[str, list[tuple[names.Parameter, int | None, tuple[int, ...]]]] = {}
    for name, shape in shapes.items():
        full = names.full_name(name)
        if "/encoder/layer/" not in full:
            rows[name] = [(names.parameter(full), None, shape)]
            continue
        single = [full.replace("/encoder/layer/", f"/encoder/layer_{i}/") for i in range(shape[0])]
        rows[name] = [(names.parameter(one), i, shape[1:]) for i, one in enumerate(single)]
    return rows


def plan(
    source: Source,
    shapes: Mapping[str, tuple[int, ...]],
    find: Callable[[names.Parameter], str | None],
    *,
    drop: Sequence[str] = (),
    init: Sequence[str] = (),
    transposes: bool = True,
) -> Plan:
    """Matches the arrays of a source with the parameters of a model.

    Args:
      source: the arrays.
      shapes: the model's parameter names and shapes.
      find: name in the source of a parameter, None if it has none.
      drop: groups or patterns of arrays in the source that are left out.
      init: groups or patterns of parameters (full names) that keep their initial values.
      transposes: whether the source stores kernels transposed.

    Raises:
      ConversionError: listing every array that is left over on either side, or every shape that differs.
    """

    def partner(row: names.Parameter) -> str | None:
        found = find(row)
        return None if found is None or matches(found, drop, names.SOURCE_GROUPS) else found

    pieces: dict[str, tuple[Piece, ...]] = {}
    initialised, missing, wrong = [], [], []
    used: set[str] = set()
    for name, rows in expand(shapes).items():
        if _starts_afresh(names.full_name(name), rows, init):
            initialised.append(name)
            used |= {found for row, _, _ in rows if (found := partner(row)) is not None}
            continue
        found_pieces = []
        for row, layer, shape in rows:
            found = partner(row)
            if found is None:
                missing.append(f"{row.name} {list(shape)}")
                continue
            piece = Piece(found, row.name, layer, shape, transposes and row.transposed)
            stored = source.shapes[found]
            if (stored[::-1] if piece.transposed else stored) != shape:
                wrong.append(f"{found}: saved {list(stored)}, expected {_expected(piece)}")
            used.add(found)
            found_pieces.append(piece)
        pieces[name] = tuple(found_pieces)
    rest = {n: s for n, s in source.shapes.items() if n not in {p.source for ps in pieces.values() for p in ps}}
    allowed = {n for n in rest if n in used or matches(n, drop, names.SOURCE_GROUPS) or is_buffer(n)}
    left_over = [f"{n} {list(s)}" for n, s in rest.items() if n not in allowed]
    _refuse(source.path, wrong, "shapes differ; change the fields named, or take the config that belongs to the file")
    _refuse(source.path, missing, f"the file lacks parameters of the model; {_advice(missing, '--init')}")
    _refuse(source.path, left_over, f"the model has no place for arrays of the file; {_advice(left_over, '--drop')}")
    return Plan(pieces=pieces, initialised=tuple(initialised), dropped=rest)


def _starts_afresh(
    full_name: str, rows: Sequence[tuple[names.Parameter, int | None, tuple[int, ...]]], init: Sequence[str]
) -> bool:
    """Whether `init` names a parameter, or each of the layers stacked in it.

    Raises:
      ConversionError: if it names some of them only.
    """
    if matches(full_name, init, names.TARGET_GROUPS):
        return True
    named = [matches(row.name, init, names.TARGET_GROUPS) for row, _, _ in rows]
    if any(named) and not all(named):
        raise ConversionError(
            f"init names {sum(named)} of the {len(rows)} layers that are stacked in {full_name}, the first of them "
            f"{rows[named.index(True)][0].name}; name all of them (layer_*), or use Execution(scan_layers=False)"
        )
    return all(named)


def is_buffer(name: str) -> bool:
    """Whether an array of a file is no parameter, such as the position ids that older files hold."""
    return any(re.fullmatch(pattern, name) for pattern in names.BUFFERS)


def _expected(piece: Piece) -> str:
    fields = next(fields for part, fields in _FIELDS if part in piece.target)
    shape = piece.shape[::-1] if piece.transposed else piece.shape
    return f"{list(shape)} by {fields}"


def _refuse(path: str, problems: list[str], what: str) -> None:
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  … and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ConversionError(f"{path}: {what}\n  {shown}")


def _advice(problems: list[str], flag: str) -> str:
    """The option that would accept the problems, which are sorted so that those without a group come first."""
    groups = names.TARGET_GROUPS if flag == "--init" else names.SOURCE_GROUPS
    group = {problem: _first_group(problem.rsplit(" [", 1)[0], groups) for problem in problems}
    problems.sort(key=lambda problem: group[problem] is not None)
    named = [name for name in groups if name in group.values()] or ["PATTERN"]
    option = f"{flag} {' '.join(named)} (in Python {flag[2:]}={tuple(named)!r})"
    return f"{option} accepts that, or choose another head"


def _first_group(name: str, groups: Mapping[str, str]) -> str | None:
    return next((group for group, pattern in groups.items() if re.fullmatch(pattern, name)), None)


def assemble(
    plan: Plan,
    source: Source,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: Any,
    place: Callable[[str, np.ndarray], Any],
) -> dict[str, Any]:
    """Reads the arrays one parameter at a time, the largest first.

    A parameter exists twice while it is placed; in this order that happens while little else is in memory.

    Args:
      plan: from `plan`.
      source: the same source.
      shapes: shape of each of the model's parameters.
      dtype: dtype of the parameters.
      place: makes what is returned from a parameter's name and array, for example an array on devices.

    Returns:
      Parameter name to what `place` made of it, without the initialised ones.
    """
    order = sorted(plan.pieces, key=lambda name: -math.prod(shapes[name]))
    return {name: place(name, _join(source, plan.pieces[name], shapes[name], dtype)) for name in order}


def _join(source: Source, pieces: Sequence[Piece], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    if pieces[0].layer is None:
        return np.ascontiguousarray(_oriented(source, pieces[0]).astype(dtype, copy=False))
    stacked = np.empty(shape, dtype)
    for piece in pieces:
        stacked[piece.layer] = _oriented(source, piece)
    return stacked


def _oriented(source: Source, piece: Piece) -> np.ndarray:
    array = source.read(piece.source)
    if array.dtype not in FLOATS:
        raise ConversionError(
            f"{source.path}: {piece.source} has dtype {array.dtype}, expected one of {', '.join(map(str, FLOATS))}; "
            "quantised weights cannot be read: take the plain model"
        )
    return array.T if piece.transposed else array
