"""What the benchmarks share: seconds of calls, children of their own, their memory."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any


def timed(function: Callable[[], Any], repeats: int, at_least: float = 0.0) -> list[float]:
    """Seconds of each call after a first one."""
    function()
    seconds: list[float] = []
    while len(seconds) < repeats or sum(seconds) < at_least:
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return seconds


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    """What a result is of."""
    return {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}


def comparison(
    title: str, results: Mapping[str, Any], ours: str, column: str, value: Callable[[float], str]
) -> list[str]:
    """Lines of a Markdown table: of each contender the median seconds, how much faster ours is, and peak memory.

    Args:
      title: of the first column.
      results: contender to its "seconds" and "peak_bytes", or to why it "failed".
      ours: the contender that the others are compared with.
      column, value: what else to say of the seconds, and its title.
    """
    lines = [
        f"| {title} | seconds | ours is faster | {column} | peak memory (GiB) |",
        "| --- | --- | --- | --- | --- |",
    ]
    base = statistics.median(results[ours]["seconds"])
    for name, found in results.items():
        if "failed" in found:
            lines.append(f"| {name} | {found['failed']} | | | |")
            continue
        seconds = statistics.median(found["seconds"])
        memory = found["peak_bytes"] / 2**30
        lines.append(f"| {name} | {seconds:.3g} | {seconds / base:.2f}x | {value(seconds)} | {memory:.1f} |")
    return lines


def in_a_process(
    script: str,
    arguments: Sequence[str],
    *,
    python: str = sys.executable,
    timeout: float = 600.0,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The JSON of the last line that a script prints in a process of its own, or what went wrong as "failed".

    The C library takes huge pages, which `train.py` asks for by itself.
    """
    environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **os.environ, **variables}
    try:
        done = subprocess.run(
            [python, script, *arguments], env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {timeout:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])
