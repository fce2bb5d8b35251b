"""Metric sums: added on the way, divided once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

NAMES = ("loss", "weight", "correct")


def means(sums: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`loss` in nats and `accuracy` in [0, 1] per prediction; NaN where nothing was predicted.

    Args:
      sums: `loss`, `weight` and `correct` of each step or batch, on the device or not.
    """
    loss, weight, correct = (sum(map(float, jax.device_get([one[name] for one in sums]))) for name in NAMES)
    return {"loss": loss / (weight or math.nan), "accuracy": correct / (weight or math.nan)}
