"""Where metrics go: JSON lines always, TensorBoard event files, and optionally Weights & Biases.

A tracker that fails is reported once and left alone; it never stops training.
"""

from __future__ import annotations

import json
import logging
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging as absl_logging

logger = logging.getLogger(__name__)


def write_file(path: pathlib.Path, content: str) -> None:
    """Writes a file that appears complete or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content.encode("utf-8"))
    partial.replace(path)


def log_to_terminal(process: int = 0) -> None:
    """Shows this package's messages on standard error, one line each, and of other libraries only warnings.

    Of another process than the first one of a run, only warnings are shown too.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package = logging.getLogger("rembert_jax")
    package.handlers, package.propagate = [handler], False
    package.setLevel(logging.WARNING if process else logging.INFO)
    absl_logging.set_verbosity(absl_logging.WARNING)


class MetricWriter:
    """Writes scalars of a step to `metrics.jsonl`, to TensorBoard, and to Weights & Biases where asked.

    Only the first process of a run writes.
    """

    def __init__(self, workdir: pathlib.Path, *, enabled: bool, wandb_project: str = "", config: Any = None) -> None:
        self._sinks: list[Callable[[int, Mapping[str, float]], None]] = []
        self._closers: list[Callable[[], None]] = []
        if not enabled:
            return
        path = workdir / "metrics.jsonl"
        torn = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")  # By a process that was killed.
        file = path.open("a", encoding="utf-8")
        file.write("\n" if torn else "")

        def to_json(step: int, values: Mapping[str, float]) -> None:
            # JSON knows no NaN or infinity; they are written as strings.
            plain = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **plain}) + "\n")
            file.flush()

        board = _event_writer(str(workdir / "tensorboard"))

        def to_board(step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                board.add_scalar(name, value, step)

        self._sinks += [to_json, to_board]
        self._closers += [file.close, board.close]
        if wandb_project:
            self._open_wandb(wandb_project, workdir, config)

    def _open_wandb(self, project: str, workdir: pathlib.Path, config: Any) -> None:
        try:
            import wandb  # Optional extra.  # pyright: ignore[reportMissingImports]

            run = wandb.init(project=project, dir=str(workdir), config=config, name=workdir.name)
        except Exception as error:
            logger.warning("Weights & Biases is not available and will not be used: %s", error)
            return
        self._sinks.append(lambda step, values: run.log(dict(values), step=step))
        self._closers.append(run.finish)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars of a step; a sink that fails is dropped with a warning."""
        for sink in list(self._sinks):
            try:
                sink(step, values)
            except Exception as error:
                logger.warning("a metric writer failed and will not be used again: %s", error)
                self._sinks.remove(sink)

    def close(self) -> None:
        """Flushes and closes all sinks."""
        for close in self._closers:
            try:
                close()
            except Exception as error:
                logger.warning("a metric writer failed to close: %s", error)


def _event_writer(folder: str) -> Any:
    """TensorBoard's, by tensorboardX, which would import PyTorch where that is installed: seconds, for a type annotation."""
    modules: dict[str, Any] = sys.modules
    hidden = modules.setdefault("torch", None) is None
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del modules["torch"]
    return SummaryWriter(folder)


class Progress:
    """One line that is rewritten in a terminal, and a line at each log step in a file."""

    def __init__(self, enabled: bool, stream: Any = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._enabled = enabled
        self._terminal = enabled and self._stream.isatty()
        self._open = False

    def show(self, line: str, final: bool = False) -> None:
        """Shows `line`; in a terminal it replaces the last one unless that was final."""
        if not self._enabled:
            return
        if self._terminal:
            self._stream.write("\r\x1b[K" + line + ("\n" if final else ""))
            self._open = not final
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Ends a line that is being rewritten, before something else is printed."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False
