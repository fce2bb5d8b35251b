"""Sweeps: which settings vary, and the config of each member.

A config file with a sweep has, beside `get_config`, a function `sweep()` of members. A member is a mapping from names to
values. A name that the config has, with dots between its levels ("stages.pretrain.optimizer.learning_rate"), overrides that
value; any other name is an argument of the config file ("seed").

    def sweep():
        return sweeps.product(sweeps.values("stages.pretrain.model.output_embedding_size", (32, 320)), sweeps.seeds(3))

It may take an argument, which is then that of `get_config`.
"""

from __future__ import annotations

import inspect
import itertools
import pathlib
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from rembert_jax.errors import RemBertError

Member = dict[str, Any]


class SweepError(RemBertError):
    """A sweep, or one of its members, cannot be run."""


def values(name: str, settings: Iterable[Any]) -> list[Member]:
    """A member for each value of one setting."""
    return [{name: value} for value in settings]


def seeds(count: int, first: int = 0) -> list[Member]:
    """The seeds from `first` on."""
    return values("seed", range(first, first + count))


def product(*sweeps: Iterable[Mapping[str, Any]]) -> list[Member]:
    """Every combination of a member of each sweep (a grid); the last one varies fastest.

    Raises:
      SweepError: if two sweeps set the same name.
    """
    return [_merged(parts) for parts in itertools.product(*map(list, sweeps))]


def zipped(*sweeps: Iterable[Mapping[str, Any]]) -> list[Member]:
    """The first members together, then the second ones, and so on.

    Raises:
      SweepError: if the sweeps are not of the same length or set the same name.
    """
    columns = [list(sweep) for sweep in sweeps]
    if len({len(column) for column in columns}) > 1:
        raise SweepError(f"zipped sweeps have {', '.join(str(len(column)) for column in columns)} members")
    return [_merged(parts) for parts in zip(*columns, strict=True)]


def chain(*sweeps: Iterable[Mapping[str, Any]]) -> list[Member]:
    """All members of the first sweep, then those of the second, and so on."""
    return [dict(member) for member in itertools.chain(*sweeps)]


def _merged(parts: Sequence[Mapping[str, Any]]) -> Member:
    merged: Member = {}
    for part in parts:
        if twice := sorted(set(merged) & set(part)):
            raise SweepError(f"two sweeps that are combined both set {twice[0]}")
        merged |= part
    return merged


def _load_module(file: str) -> ModuleType:
    path = pathlib.Path(file)
    if not path.is_file():
        raise SweepError(f"--config={file}: no such file")
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    root = str(path.absolute().parent.parent)  # Config files import what they share from their own folder.
    sys.path.insert(0, root)
    try:
        # Not imported: Python would keep its bytecode, and take that of a file of the same second and size for it.
        exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
    finally:
        sys.path.remove(root)
    return module


def load_config(specification: str) -> ConfigDict:
    """The config of "FILE" or "FILE:ARGUMENTS".

    Raises:
      SweepError: if there is no such file, or it refuses its arguments.
    """
    file, colon, argument = specification.partition(":")
    get_config = _load_module(file).get_config
    try:
        config = get_config(argument) if colon else get_config()
    except (TypeError, ValueError) as error:
        raise SweepError(f"--config={specification}: {error}") from error
    return config.lock()


def load_members(specification: str) -> list[Member]:
    """The members of the sweep in a config file.

    Raises:
      SweepError: if it has none, refuses its arguments, or yields one that is no mapping or two that are equal.
    """
    file, _, argument = specification.partition(":")
    module = _load_module(file)
    if not hasattr(module, "sweep"):
        raise SweepError(f"--config={file} has no function sweep(); let it return the settings to vary, a mapping each")
    try:
        members = list(module.sweep(argument) if inspect.signature(module.sweep).parameters else module.sweep())
    except (TypeError, ValueError) as error:
        raise SweepError(f"--config={specification}: {error}") from error
    if not members:
        raise SweepError(f"{file}: sweep() yields nothing; expected a mapping from settings to values for each run")
    for number, member in enumerate(members):
        if not isinstance(member, Mapping):
            raise SweepError(
                f"{file}: member {number} of sweep() is {member!r}, expected a mapping from settings to values"
            )
        if dict(member) in members[:number]:
            raise SweepError(
                f"{file}: members {members.index(member)} and {number} of sweep() are equal: {describe(member)}"
            )
    return [dict(member) for member in members]


def choose(members: Sequence[Member], index: int) -> Member:
    """The member of a number.

    Raises:
      SweepError: naming the numbers there are.
    """
    if not 0 <= index < len(members):
        raise SweepError(f"--sweep_index={index}: the sweep has members 0 to {len(members) - 1}")
    return members[index]


def describe(member: Mapping[str, Any]) -> str:
    """The settings of a member on one line, by the last part of their names where that is enough."""
    short = [name.rpartition(".")[2] for name in member]
    return ", ".join(
        f"{last if short.count(last) == 1 else name}={value}"
        for last, (name, value) in zip(short, member.items(), strict=True)
    )


def split(member: Mapping[str, Any], config: ConfigDict) -> tuple[Member, Member]:
    """The arguments of the config file among a member's settings, and the values that it overrides."""
    overrides = {name: value for name, value in member.items() if "." in name or name in config}
    return {name: value for name, value in member.items() if name not in overrides}, overrides


def with_arguments(specification: str, arguments: Mapping[str, Any]) -> str:
    """ "FILE:ARGUMENTS" with further arguments."""
    file, _, given = specification.partition(":")
    added = [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in arguments.items()]
    return f"{file}:{','.join(filter(None, [given, *added]))}" if added else specification


def _section_of(config: ConfigDict, name: str) -> ConfigDict:
    """The section that holds the value of a dotted name."""
    parts, section = name.split("."), config
    for depth, part in enumerate(parts):
        if not isinstance(section, ConfigDict) or part not in section:
            where = ".".join(["config", *parts[:depth]])
            known = f"it has {', '.join(sorted(section))}" if isinstance(section, ConfigDict) else "it is a value"
            raise SweepError(f"{name}: the config file has no key {part!r} in {where}; {known}")
        if depth < len(parts) - 1:
            section = typing.cast(Any, section[part])
    return section


def value_of(config: ConfigDict, name: str) -> Any:
    """The value of a dotted name.

    Raises:
      SweepError: if the config does not have it, with the names that it has there.
    """
    return _section_of(config, name)[name.rpartition(".")[2]]


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Sets values of a config by their dotted names.

    Raises:
      SweepError: for a name that the config does not have, with those it has, or a value of another type.
    """
    for name, value in overrides.items():
        section, last = _section_of(config, name), name.rpartition(".")[2]
        try:
            section[last] = tuple(value) if isinstance(value, list) else value
        except TypeError as error:
            kind = type(section[last]).__name__
            raise SweepError(f"{name}: found {value!r} ({type(value).__name__}), expected {kind}") from error


def member_config(specification: str, member: Mapping[str, Any]) -> ConfigDict:
    """The config of a member.

    Raises:
      SweepError: if the config file refuses an argument, or has no such key, or takes a value of another type there.
    """
    arguments, overrides = split(member, load_config(specification))
    config = load_config(with_arguments(specification, arguments))
    override(config, overrides)
    return config
