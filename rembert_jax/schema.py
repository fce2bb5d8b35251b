"""Strict conversion between plain mappings and frozen dataclasses.

Every configuration in this package is a frozen dataclass. JSON files and `ml_collections` sections become one here,
and only here, so an unknown key, a missing key or a value of the wrong type fails before anything is compiled.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from rembert_jax.errors import RemBertError

T = TypeVar("T")


class SchemaError(RemBertError):
    """A mapping does not fit the dataclass it should become."""


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass `cls` from `values`, recursing into fields that are dataclasses themselves.

    Args:
      cls: a dataclass type.
      values: field name to value; every key must be a field and every field without a default must be present.
      where: how the mapping is called in errors, for example "config.optimizer".

    Raises:
      SchemaError: for an unknown key, a missing key, or a value of another type than the field's.
    """
    if not isinstance(values, Mapping):
        raise SchemaError(f"{where}: found {values!r}, expected a section with keys of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init}
    for key in values:
        if key not in fields:
            known = ", ".join(sorted(fields))
            raise SchemaError(f"{where}: unknown key {key!r}{_suggest(str(key), list(fields))}. Known keys: {known}")
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise SchemaError(f"{where}: missing {', '.join(missing)}; add it to this section")
    converted = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except SchemaError:
        raise
    except ValueError as error:
        raise SchemaError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return (
            value if isinstance(value, typing.cast(type, hint)) else from_mapping(typing.cast(type, hint), value, where)
        )
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert_to_one([arg for arg in args if arg is not type(None)], value, where)
    if origin is typing.Literal:
        if value not in args:
            raise SchemaError(f"{where}: found {value!r}, expected one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise SchemaError(f"{where}: found {value!r}, expected a list")
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise SchemaError(f"{where}: found {value!r}, expected a section of keys and values")
        return {key: _convert(args[1], item, f"{where}.{key}") for key, item in value.items()} if args else dict(value)
    return _convert_scalar(hint, value, where)


def _convert_to_one(hints: list[Any], value: Any, where: str) -> Any:
    """To the first type of a union that the value fits."""
    reasons = []
    for hint in hints:
        try:
            return _convert(hint, value, where)
        except SchemaError as error:
            reasons.append(error)
    if len(reasons) == 1:
        raise reasons[0]
    raise SchemaError(f"{where}: found {value!r}, which is none of {', '.join(map(str, hints))}")


def _convert_scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise SchemaError(f"{where}: found {value!r} ({type(value).__name__}), expected {hint.__name__}")
    return value


def to_mapping(value: Any) -> Any:
    """The plain JSON form of a dataclass: nested dicts, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_mapping(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(key): to_mapping(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_mapping(item) for item in value]
    return value


def to_json(value: Any) -> str:
    """`to_mapping` as indented JSON with a final newline."""
    return json.dumps(to_mapping(value), indent=2, ensure_ascii=False) + "\n"


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """One line for each leaf in which two plain mappings differ, as "path: old -> new"."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(set(old) | set(new), key=str)
        lines = []
        for key in keys:
            path = f"{where}.{key}" if where else str(key)
            if key not in old or key not in new:
                lines.append(f"{path}: {old.get(key, '(absent)')} -> {new.get(key, '(absent)')}")
            else:
                lines += differences(old[key], new[key], path)
        return lines
    return [] if old == new else [f"{where}: {old} -> {new}"]
