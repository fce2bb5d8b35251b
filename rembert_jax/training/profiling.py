"""How well a run uses its devices: model FLOPs against their peak, and a profile of some steps."""

from __future__ import annotations

import pathlib
from typing import Any

import jax

PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
"""Beginning of a device's kind to its published peak in dense bfloat16, FLOP/s; of several that fit the first counts."""


def peak_flops(devices: Any) -> float | None:
    """Of all the devices of a run together; None where that of their kind is not known."""
    kind = devices[0].device_kind
    peak = next((value for name, value in PEAK_FLOPS.items() if kind.startswith(name)), None)
    return None if peak is None else peak * len(devices)


class Profile:
    """Writes a profile of steps `first` to `last` into a folder, for TensorBoard or xprof; of none if there are none."""

    def __init__(self, folder: pathlib.Path, steps: tuple[int, ...]) -> None:
        self.folder, self.steps, self.running = folder, steps, False

    def before(self, step: int) -> None:
        """Starts before the first of the steps, or before the first that is left of them in a run that goes on."""
        if self.steps and self.steps[0] <= step <= self.steps[1] and not self.running:
            jax.profiler.start_trace(str(self.folder))
            self.running = True

    def after(self, step: int, result: Any) -> None:
        """Ends after the last one, once `result` has been computed."""
        if self.running and step == self.steps[1]:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends a profile that a run did not."""
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
