"""What happens around the steps of training: logging, evaluation, checkpoints, a profile, a stop.

The loop calls `before` and `after` of each hook, in order, for every step; `close` comes at the end, whatever happened.
"""

from __future__ import annotations

import logging
import math
import pathlib
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from rembert_jax.errors import RemBertError
from rembert_jax.training import checkpoint, chips, evaluators, timing
from rembert_jax.training.feed import Feed
from rembert_jax.training.metrics import means
from rembert_jax.training.program import Program
from rembert_jax.training.settings import TrainingError
from rembert_jax.training.train_state import TrainState
from rembert_jax.training.train_step import Sums
from rembert_jax.training.writers import MetricWriter, Progress

logger = logging.getLogger(__name__)

READ_EVERY = 100
"""Steps after which, at the latest, losses are read from the device: until then the host runs ahead of it."""


class Stopped(RemBertError):
    """Training was asked to stop and has saved its state."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class Hook:
    """Does nothing."""

    def before(self, step: int) -> None:
        """Before a step is given to the devices."""

    def after(self, step: int, state: TrainState, sums: Sums) -> None:
        """After a step has been given to the devices, which may still be at it."""

    def close(self) -> None:
        """At the end of training, or when it fails."""


def due(every: int, step: int, total: int) -> bool:
    """Whether something is to be done after a step: every so often (0: never), and at the end."""
    return step == total or (every > 0 and step % every == 0)


class Log(Hook):
    """Losses and speed to the writer and to the terminal; ends training at the first step that is not finite."""

    def __init__(self, program: Program, feed: Feed, writer: MetricWriter, progress: Progress, every: int) -> None:
        self.program, self.feed, self.writer, self.progress, self.every = program, feed, writer, progress, every
        self.stopwatch = timing.Stopwatch()
        self.saved: Callable[[], str] = lambda: ""  # Where one can begin anew.
        self._peak = chips.peak_flops(program.mesh.devices.flatten())
        self._window: list[Sums] = []  # Of the steps since the last log, on the devices until they are read.
        self._called, self._counted_tokens = 0.0, 0
        self._first: dict[str, float] | None = None  # What is logged once, of the first step.

    def before(self, step: int) -> None:
        self._called = self.stopwatch.elapsed()

    def after(self, step: int, state: TrainState, sums: Sums) -> None:
        self._window.append(sums)
        if self._first is None:
            # Whoever calls waits for the compiler, and for nothing else.
            compiling = self.stopwatch.elapsed() - self._called
            jax.block_until_ready(sums)
            logger.info("first step after %.1f s, %.1f of them for compiling it", self.stopwatch.elapsed(), compiling)
            self._first = {"time/compile_seconds": compiling}
            self.stopwatch.tick(step)
            self._counted_tokens = self.feed.tokens
        if due(self.every, step, self.program.total_steps):
            self.settle(step)
            self._write(step)
        elif len(self._window) % READ_EVERY == 0:
            self.settle(step)

    def settle(self, step: int) -> None:
        """Waits for all steps up to this one.

        Raises:
          TrainingError: naming the first of them of which something is not finite, once all before it is written.
        """
        self._window = jax.device_get(self._window)
        good = next((i for i, sums in enumerate(self._window) if not sums["finite"]), len(self._window))
        if good == len(self._window):
            return
        first = step - len(self._window) + good + 1
        if good:
            self.writer.write(first - 1, _train_values(self._window[:good]))
        values = _train_values(self._window[good : good + 1])
        self.writer.write(first, values)
        self.progress.clear()
        found = ", ".join(f"{name} {values[f'train/{name}']:.4g}" for name in ("loss", "grad_norm", "learning_rate"))
        raise TrainingError(
            f"step {first}: {found} (not finite); the update was not made. Look at the data of this step, or choose a new "
            f"--workdir{self.saved()} and lower optimizer.learning_rate or lengthen optimizer.warmup_steps"
        )

    def _write(self, step: int) -> None:
        values = _train_values(self._window)
        line = f"loss {values['train/loss']:.3f}  accuracy {100 * values['train/accuracy']:.1f} %"
        timed = step - self.stopwatch.marked_step
        seconds = self.stopwatch.tick(step)
        if timed:
            speed = (self.feed.tokens - self._counted_tokens) / (seconds * timed)
            values |= {"time/tokens_per_second": speed, "time/seconds_per_step": seconds}
            line += f"  {speed:,.0f} tokens/s"
            if self._peak:
                values["time/mfu"] = self.program.step_flops / seconds / self._peak
                line += f"  MFU {100 * values['time/mfu']:.1f} %"
        self.writer.write(step, values | (self._first or {}))
        self._first, self._window, self._counted_tokens = {}, [], self.feed.tokens
        total = self.program.total_steps
        remaining = timing.format_seconds(seconds * (total - step))
        self.progress.show(f"step {step}/{total}  {line}  ETA {remaining}", final=step == total)


class Evaluate(Hook):
    """Metrics on development data; keeps the parameters that are best by one of them, where there is one to select by."""

    def __init__(
        self,
        log: Log,
        evaluate: Callable[[Any], evaluators.Metrics],
        every: int,
        best: checkpoint.CheckpointStore | None,
        select_by: tuple[str, str] | None,
        manifest: Mapping[str, Any],
    ) -> None:
        self.log, self.evaluate, self.every = log, evaluate, every
        self.best, self.select_by, self.manifest = best, select_by, manifest

    def after(self, step: int, state: TrainState, sums: Sums) -> None:
        if not due(self.every, step, self.log.program.total_steps):
            return
        self.log.settle(step)
        with self.log.stopwatch.paused():
            metrics = self.evaluate(state.params)
            self.log.writer.write(step, evaluators.flat("dev", metrics))
            self.log.progress.clear()
            shown = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in metrics["average"].items())
            logger.info("step %d, held out: %s", step, shown)
            if self.best and self.select_by:
                self._keep_best(step, state, metrics)

    def _keep_best(self, step: int, state: TrainState, metrics: evaluators.Metrics) -> None:
        assert self.best and self.select_by
        language, name = self.select_by
        value = metrics[language][name]
        best = self.best.manifest()["score"] if self.best.latest_step is not None else -math.inf
        if value > best:
            self.best.save(step, {"params": state.params}, None, {**self.manifest, "score": value})
            self.best.wait()


class Save(Hook):
    """Checkpoints of state and feed."""

    def __init__(self, log: Log, store: checkpoint.CheckpointStore, every: int, manifest: Mapping[str, Any]) -> None:
        self.log, self.store, self.every, self.manifest = log, store, every, manifest
        self.log.saved = self._saved

    def _saved(self) -> str:
        self.store.wait()
        step = self.store.latest_step
        return f" with init_from={self.store.directory.parent}, where step {step} is saved," if step else ""

    def after(self, step: int, state: TrainState, sums: Sums) -> None:
        if due(self.every, step, self.log.program.total_steps):
            self.save(step, state)

    def save(self, step: int, state: TrainState) -> None:
        """Saves after this step, in the background; at the last one it waits."""
        self.log.settle(step)
        with self.log.stopwatch.paused():
            checkpoint.check_state(state)
            self.store.save(step, state, self.log.feed.position, self.manifest)
            if step == self.log.program.total_steps:
                self.store.wait()


class Profile(Hook):
    """Writes a profile of steps `steps[0]` to `steps[1]` into a folder, for TensorBoard or xprof; of none if there are none."""

    def __init__(self, folder: pathlib.Path, steps: tuple[int, ...]) -> None:
        self.folder, self.steps, self.running = folder, steps, False

    def before(self, step: int) -> None:
        # Before the first of the steps, or before the first that is left of them in a run that goes on.
        if self.steps and self.steps[0] <= step <= self.steps[1] and not self.running:
            jax.profiler.start_trace(str(self.folder))
            self.running = True

    def after(self, step: int, state: TrainState, sums: Sums) -> None:
        if self.running and step == self.steps[1]:
            jax.block_until_ready(sums)
            self.close()

    def close(self) -> None:
        if self.running:
            jax.profiler.stop_trace()
            self.running = False


class Stop(Hook):
    """At Ctrl-C or SIGTERM: saves after the step that is under way, and ends training. A second Ctrl-C ends it at once.

    Several processes end after the same step when one of them gets SIGTERM, as all do when machines are taken away; of Ctrl-C
    they know nothing.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, save: Save) -> None:
        self._save, self._asked = save, 0
        self._several = jax.process_count() > 1
        # Python gives signals to its first thread alone; those of several processes are JAX's matter.
        own = threading.current_thread() is threading.main_thread() and not self._several
        self._previous = {number: signal.signal(number, self._ask) for number in self.SIGNALS if own}

    def _ask(self, number: int, frame: Any) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number

    def after(self, step: int, state: TrainState, sums: Sums) -> None:
        if self._several and multihost_utils.reached_preemption_sync_point(step):
            self._asked = signal.SIGTERM
        if not self._asked or step == self._save.log.program.total_steps:
            return
        if self._save.store.latest_step != step:
            self._save.save(step, state)
        self._save.store.wait()
        self._save.log.progress.clear()
        name = signal.Signals(self._asked).name
        raise Stopped(f"{name}: stopped and saved after step {step}; the same command goes on from there", self._asked)

    def close(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _train_values(window: list[Sums]) -> dict[str, float]:
    """What is logged of some steps: means, and the rest of the last one."""
    last = {name: float(window[-1][name]) for name in ("grad_norm", "learning_rate")}
    return {f"train/{name}": value for name, value in {**means(window), **last}.items()}
