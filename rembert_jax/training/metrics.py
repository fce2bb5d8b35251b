"""Metric sums: added on the way, divided once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax


def means(sums: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`loss` in nats, `accuracy` in [0, 1] and `penalty`, if there is one, per prediction; NaN where nothing was predicted.

    Args:
      sums: `loss`, `weight`, `correct` and perhaps `penalty` of each step or batch, on the device or not.
    """
    names = [name for name in ("weight", "loss", "correct", "penalty") if name in sums[0]]
    weight, *totals = (sum(map(float, jax.device_get([one[name] for one in sums]))) for name in names)
    shown = {"correct": "accuracy"}
    return {shown.get(name, name): total / (weight or math.nan) for name, total in zip(names[1:], totals, strict=True)}
