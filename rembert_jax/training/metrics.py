"""Metric sums: added on the way, divided once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Sums:
    """Running sums of `loss`, `weight` and `correct` over steps, batches and processes."""

    def __init__(self) -> None:
        self.loss = self.weight = self.correct = 0.0

    def add(self, sums: Mapping[str, Any]) -> None:
        """Adds the sums of one batch."""
        self.loss += float(sums["loss"])
        self.weight += float(sums["weight"])
        self.correct += float(sums["correct"])

    def means(self) -> dict[str, float]:
        """`loss` in nats and `accuracy` in [0, 1] per prediction; NaN where nothing was predicted."""
        if not self.weight:
            return {"loss": math.nan, "accuracy": math.nan}
        return {"loss": self.loss / self.weight, "accuracy": self.correct / self.weight}
