"""Settings of the data that change over the steps of a run, piecewise linear between given points."""

from __future__ import annotations

import dataclasses
import itertools

import grain
import numpy as np

from rembert_jax.data.masking import Features
from rembert_jax.errors import RemBertError

Schedule = tuple[tuple[float, ...], ...]
"""Points (step, value), of rising steps. Before the first and after the last the value stays; two points at neighbouring
steps make a jump."""


def check_schedule(name: str, schedule: Schedule, least: float, most: float) -> None:
    """Checks the form of a schedule and the range of its values.

    Raises:
      RemBertError: naming the setting and the point.
    """
    for point in schedule:
        if len(point) != 2 or not least <= point[1] <= most:
            raise RemBertError(f"{name}: found {point}, expected (step, value) with a value between {least} and {most}")
    steps = [point[0] for point in schedule]
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise RemBertError(f"{name}: steps {', '.join(f'{step:g}' for step in steps)} do not rise")


def value_at(schedule: Schedule, step: float) -> float:
    """The value of a schedule that is not empty, at a step counted from 0."""
    steps, values = zip(*schedule, strict=True)
    return float(np.interp(step, steps, values))


@dataclasses.dataclass(frozen=True)
class SetMaskRate(grain.transforms.MapWithIndex):
    """Tells `masking.MaskTokens` the rate of each row, of which a step takes one."""

    schedule: Schedule

    def map_with_index(self, index: int, element: Features) -> Features:
        """Adds `mask_rate` to a row."""
        return {**element, "mask_rate": np.array(value_at(self.schedule, index))}
