"""Nested parameters and their flat form, in which every array has one name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts as {"a/b/c": leaf}, sorted by name within each level."""
    flat = {}
    for name in sorted(tree):
        value = tree[name]
        inner = (
            {f"{name}/{path}": leaf for path, leaf in flatten(value).items()} if isinstance(value, Mapping) else None
        )
        flat |= {name: value} if inner is None else inner
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree
