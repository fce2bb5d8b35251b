"""How long one waits for the first step: import, compilation, and both again with the cache of compiled programs.

    python benchmarks/start_up.py [--size=small] [--output results.json]

Two processes, one after the other, with a fresh cache that the second one finds filled. Seconds from the first line of this
script.
"""

from __future__ import annotations

import time

START = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import pathlib  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]

import train_step  # noqa: E402
from measuring import in_a_process, machine  # noqa: E402

POINTS = {
    "imported": "`rembert_jax.experiments.run` is imported",
    "built": "the state is made",
    "first": "the first step is done",
    "second": "the second step is done",
}


def measure(size: str) -> dict[str, float]:
    """What a child process finds out: seconds until each of `POINTS`."""
    import rembert_jax.experiments.run  # noqa: F401

    found = {"imported": time.perf_counter() - START}
    step = train_step.our_step(size, "float32")
    found["built"] = time.perf_counter() - START
    for name in ("first", "second"):
        step()
        found[name] = time.perf_counter() - START
    return found


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each point in time."""
    lines = [f"| {result['size']}: seconds until | empty cache | filled cache |", "| --- | --- | --- |"]
    for point, what in POINTS.items():
        lines.append(f"| {what} | {result['empty'][point]:.1f} | {result['filled'][point]:.1f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=train_step.SIZES, default="small")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.child:
        print(json.dumps(measure(flags.size)))
        return
    result: dict[str, Any] = {"benchmark": "start_up", "size": flags.size, **machine()}
    with tempfile.TemporaryDirectory() as cache:
        variables = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        for state in ("empty", "filled"):
            found = in_a_process(__file__, [f"--size={flags.size}", "--child"], variables=variables)
            if "failed" in found:
                raise SystemExit(found["failed"])
            result[state] = found
    print(table(result))
    if flags.output:
        flags.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
