"""Speed and remaining time of a run, without compilation and pauses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Measures steps between logs; evaluation and saving can be left out with `paused`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start = clock()
        self._paused = 0.0
        self._mark: float | None = None
        self.marked_step = 0
        self.seconds_per_step = float("nan")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count."""
        began = self._clock()
        yield
        self._paused += self._clock() - began

    def _now(self) -> float:
        return self._clock() - self._paused

    def tick(self, step: int) -> float:
        """Marks that `step` updates are done; returns seconds per step since the last mark (NaN at the first)."""
        now = self._now()
        if self._mark is not None and step > self.marked_step:
            self.seconds_per_step = (now - self._mark) / (step - self.marked_step)
        self._mark, self.marked_step = now, step
        return self.seconds_per_step

    def elapsed(self) -> float:
        """Seconds since the start, pauses included."""
        return self._clock() - self._start


def format_seconds(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss; "?" where unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
