"""What is published of the devices that runs use."""

from __future__ import annotations

from typing import Any

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
