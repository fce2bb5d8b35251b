"""How time and memory of a pre-training step grow with the vocabulary, the masked positions, the length and the layers.

    python benchmarks/growth.py [--axes vocabulary layers] [--output results.json]

One of them changes at a time, the others are those of "small" in train_step.py. Each step has its own process. The exponent
is the slope of the logarithm over that of the size, over the upper half of the sizes: 1 is linear.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]

import train_step  # noqa: E402
from measuring import in_a_process, machine, peak_bytes, timed  # noqa: E402

AXES: dict[str, tuple[int, ...]] = {
    "vocabulary": (30_000, 100_000, 250_000, 500_000, 1_000_000),
    "positions": (10, 19, 38, 76),
    "length": (64, 128, 256, 512),
    "layers": (3, 6, 12, 24),
}
"""Words; masked positions of a row; tokens of a row, of which there are 16; layers."""


def sized(axis: str, value: int, base: str = "small") -> dict[str, Any]:
    """The entry of `train_step.SIZES` in which only one thing differs from `base`."""
    changed = copy.deepcopy(train_step.SIZES[base])
    rows, length, positions = changed["batch"]
    if axis in ("vocabulary", "layers"):
        changed["model"]["vocab_size" if axis == "vocabulary" else "num_hidden_layers"] = value
    changed["batch"] = (rows, value if axis == "length" else length, value if axis == "positions" else positions)
    return changed


def exponent(values: Mapping[int, float]) -> float:
    """Slope of log(value) over log(size) by least squares over the upper half of the sizes, two at least."""
    upper = sorted(values)[-max(2, (len(values) + 1) // 2) :]
    return statistics.linear_regression([math.log(n) for n in upper], [math.log(values[n]) for n in upper]).slope


def measure(axis: str, value: int, base: str, repeats: int) -> dict[str, Any]:
    """What a child process finds out about one size."""
    train_step.SIZES["changed"] = sized(axis, value, base)
    seconds = timed(train_step.our_step("changed", "float32"), repeats)
    return {"seconds": statistics.median(seconds), "peak_bytes": peak_bytes()}


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each size, and under each axis its exponents."""
    lines = ["| | | seconds | peak memory (GiB) |", "| --- | --- | --- | --- |"]
    for axis, sizes in result["results"].items():
        for size, one in sizes.items():
            lines.append(f"| {axis} | {int(size):,} | {one['seconds']:.3g} | {one['peak_bytes'] / 2**30:.2f} |")
        of = {key: exponent({int(size): one[key] for size, one in sizes.items()}) for key in ("seconds", "peak_bytes")}
        lines.append(f"| {axis} | exponent | {of['seconds']:.2f} | {of['peak_bytes']:.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--base", choices=train_step.SIZES, default="small", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", help="instead of those of the axis, for a single one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.child:
        print(json.dumps(measure(flags.child[0], int(flags.child[1]), flags.base, flags.repeats)))
        return
    results: dict[str, dict[str, Any]] = {}
    for axis in flags.axes:
        results[axis] = {}
        for size in flags.sizes or AXES[axis]:
            options = [f"--base={flags.base}", f"--repeats={flags.repeats}"]
            found = in_a_process(__file__, [*options, "--child", axis, str(size)])
            if "failed" in found:
                raise SystemExit(f"{axis} {size}: {found['failed']}")
            results[axis][str(size)] = found
    result = {"benchmark": "growth", **machine(), "results": results}
    print(table(result))
    if flags.output:
        flags.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
