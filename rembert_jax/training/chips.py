"""What is published of the devices that runs use."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip (https://docs.cloud.google.com/tpu/docs/v4 and the pages of the others, read in November 2026).

    Attributes:
      peak_flops: dense bfloat16 operations per second.
      hbm_bytes: memory.
      hbm_bandwidth: bytes per second.
      ici_bandwidth: bytes per second that it can send over all its links together: an all-reduce's bandwidth of a pod by its
        chips, which is half of what is published as bidirectional.
      dimensions: of its interconnect, as in a topology's name.
    """

    peak_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    ici_bandwidth: float
    dimensions: int


CHIPS = {
    "v4": Chip(275e12, 32 << 30, 1200e9, 270e9, 3),
    "v5e": Chip(197e12, 16 << 30, 819e9, 200e9, 2),
    "v5p": Chip(459e12, 95 << 30, 2765e9, 600e9, 3),
    "v6e": Chip(918e12, 32 << 30, 1638e9, 400e9, 2),
}
"""By their names in topologies ("v4:8x8x8")."""

PEAK_FLOPS = {
    "TPU v4": CHIPS["v4"].peak_flops,
    "TPU v5 lite": CHIPS["v5e"].peak_flops,
    "TPU v5p": CHIPS["v5p"].peak_flops,
    "TPU v5": CHIPS["v5p"].peak_flops,
    "TPU v6 lite": CHIPS["v6e"].peak_flops,
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
