"""Settings of the data that change over the steps of a run, piecewise linear between given points."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from rembert_jax.data.masking import Features
from rembert_jax.data.mixture import smoothed_shares
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
    """Tells `masking.MaskTokens` the rate of each row.

    Attributes:
      schedule: of the rate.
      rows: of a batch.
      every: which batches this stream makes: every one (1), or every second (2) where two workers take turns.
    """

    schedule: Schedule
    rows: int
    every: int = 1

    def map_with_index(self, index: int, element: Features) -> Features:
        """Adds `mask_rate` to a row."""
        return {**element, "mask_rate": np.array(value_at(self.schedule, index // self.rows * self.every))}


class ScheduledMix(grain.IterDataset):
    """Mixes languages with an exponent that follows a schedule.

    The step of a text is taken from the tokens drawn before it, so that texts of a language are neither lost nor read twice
    when its share changes. What is drawn waits in open rows before it is trained on: the mixture is ahead by a few batches.

    Args:
      parents: token ids of each language's texts, endless.
      counts: number of texts of each language.
      schedule: of the exponent.
      tokens_per_step: tokens of this stream that a step of training takes.
    """

    def __init__(
        self, parents: Sequence[grain.IterDataset], counts: Sequence[int], schedule: Schedule, tokens_per_step: float
    ) -> None:
        super().__init__(parents)
        self._counts, self._schedule, self._tokens_per_step = list(counts), schedule, tokens_per_step

    def __iter__(self) -> grain.DatasetIterator:
        iterators = [iter(parent) for parent in self._parents]
        return _ScheduledMixIterator(iterators, self._counts, self._schedule, self._tokens_per_step)


class _ScheduledMixIterator(grain.DatasetIterator):
    def __init__(
        self, parents: Sequence[Iterator[Any]], counts: Sequence[int], schedule: Schedule, tokens_per_step: float
    ) -> None:
        super().__init__(parents)  # pyright: ignore[reportArgumentType]
        self._counts, self._schedule, self._tokens_per_step = counts, schedule, tokens_per_step
        self._tokens, self._due = 0, np.zeros(len(counts))
        self._step, self._shares = -1, np.zeros(0)

    def __next__(self) -> Any:
        step = int(self._tokens / self._tokens_per_step)
        if step != self._step:
            self._step, self._shares = step, smoothed_shares(self._counts, value_at(self._schedule, step))
        self._due += self._shares  # The language that is furthest behind its share comes next.
        chosen = int(self._due.argmax())
        self._due[chosen] -= 1.0
        element = next(self._parents[chosen])
        self._tokens += len(element) + 2  # With [CLS] and [SEP].
        return element

    def get_state(self) -> dict[str, Any]:
        parents = [parent.get_state() for parent in self._parents]
        return {"parents": parents, "tokens": self._tokens, "due": self._due.tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        for parent, value in zip(self._parents, state["parents"], strict=True):
            parent.set_state(value)
        self._tokens, self._due, self._step = state["tokens"], np.array(state["due"]), -1
