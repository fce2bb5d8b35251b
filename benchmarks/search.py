"""Exact search for nearest vectors, in both directions as mining pairs of sentences needs it, against PyTorch and faiss.

    python benchmarks/search.py [--queries=16384] [--candidates=16384] [--output results.json]

Vectors are random, of the released encoder's width. Every contender finds the nearest candidates of each query and the nearest
queries of each candidate, by cosine; PyTorch in the same blocks as ours, faiss (`pip install faiss-cpu`, which XTREME's own
script takes) by one search for each direction. Each has a process of its own; the first pass does not count.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import util
from typing import Any

import numpy as np

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]

from measuring import comparison, in_a_process, machine, peak_bytes, timed  # noqa: E402

WIDTH, NEIGHBOURS, BLOCK = 1152, 4, 4096
OURS, PLAIN, COMPILED, FAISS = "rembert_jax", "PyTorch", "PyTorch, torch.compile", "faiss"
LIMIT = "limit"
Found = tuple[np.ndarray, np.ndarray]
"""Numbers of the nearest candidates of each query, and of the nearest queries of each candidate."""


def vectors(rows: int, seed: int) -> np.ndarray:
    """Random directions, [rows, WIDTH]."""
    return np.random.default_rng(seed).standard_normal((rows, WIDTH), np.float32)


def ours(queries: np.ndarray, candidates: np.ndarray) -> Callable[[], Found]:
    """By `training.search`."""
    from rembert_jax.training.search import Search

    def run() -> Found:
        search = Search(NEIGHBOURS, block=BLOCK)
        search.hold(queries)
        back = search.add(candidates)
        return search.nearest.indices, back.indices

    return run


def by_torch(queries: np.ndarray, candidates: np.ndarray, compiled: bool) -> Callable[[], Found]:
    """One product for a block of each, and its best of rows and of columns merged into those so far."""
    import torch
    from torch.nn import functional

    def merge(values: Any, indices: Any, scores: Any, first: int) -> tuple[Any, Any]:
        new, places = scores.topk(NEIGHBOURS, dim=1)
        values, chosen = torch.cat([values, new], 1).topk(NEIGHBOURS, dim=1)
        return values, torch.cat([indices, places + first], 1).gather(1, chosen)

    def compare(a: Any, b: Any, best: Any, back: Any, of_a: int, of_b: int) -> tuple[Any, Any]:
        scores = a @ b.T
        return merge(*best, scores, of_b), merge(*back, scores.T, of_a)

    step = torch.compile(compare, dynamic=True) if compiled else compare

    def empty(rows: int) -> tuple[Any, Any]:
        return torch.full((rows, NEIGHBOURS), -torch.inf), torch.full((rows, NEIGHBOURS), -1)

    def run() -> Found:
        with torch.inference_mode():
            sides = [functional.normalize(torch.from_numpy(side), dim=1).split(BLOCK) for side in (queries, candidates)]
            best, backs = [empty(len(a)) for a in sides[0]], []
            for j, b in enumerate(sides[1]):
                back = empty(len(b))
                for i, a in enumerate(sides[0]):
                    best[i], back = step(a, b, best[i], back, i * BLOCK, j * BLOCK)
                backs.append(back[1])
            return torch.cat([one[1] for one in best]).numpy(), torch.cat(backs).numpy()

    return run


def by_faiss(queries: np.ndarray, candidates: np.ndarray) -> Callable[[], Found]:
    """Its exact index of inner products, once for each direction."""
    import faiss

    def run() -> Found:
        sides = [side.copy() for side in (queries, candidates)]
        found = []
        for side in sides:
            faiss.normalize_L2(side)
        for asking, asked in (sides, sides[::-1]):
            index = faiss.IndexFlatIP(WIDTH)
            index.add(asked)
            found.append(index.search(asking, NEIGHBOURS)[1])
        return found[0], found[1]

    return run


def limit(repeats: int) -> float:
    """FLOP/s of the product of two blocks, by the faster of JAX and PyTorch."""
    left, right = vectors(BLOCK, 0), vectors(BLOCK, 1)
    contenders: list[Callable[[], Any]] = []
    if util.find_spec("torch"):
        import torch

        a, b = torch.from_numpy(left), torch.from_numpy(right)
        contenders.append(lambda: a @ b.T)
    import jax

    multiply = jax.jit(lambda a, b: a @ b.T)
    placed = jax.device_put((left, right))
    contenders.append(lambda: jax.block_until_ready(multiply(*placed)))
    return max(2 * BLOCK**2 * WIDTH / statistics.median(timed(run, repeats)) for run in contenders)


def measure(name: str, queries: int, candidates: int, repeats: int, target: str) -> dict[str, Any]:
    """What a child process finds out about one contender; the neighbours go to the file `target`."""
    if name == LIMIT:
        return {"flops_per_second": limit(repeats)}
    given = vectors(queries, 0), vectors(candidates, 1)
    makers = {
        OURS: ours,
        PLAIN: lambda *given: by_torch(*given, compiled=False),
        COMPILED: lambda *given: by_torch(*given, compiled=True),
        FAISS: by_faiss,
    }
    run = makers[name](*given)
    seconds = timed(run, repeats)
    np.savez(target, *run())
    return {"seconds": seconds, "peak_bytes": peak_bytes()}


def agreement(one: pathlib.Path, other: pathlib.Path) -> float:
    """Share of the neighbours that are the same; rounding may swap two that are equally near."""
    with np.load(one) as a, np.load(other) as b:
        return float(np.concatenate([(a[name] == b[name]).ravel() for name in a.files]).mean())


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each contender, ours first."""
    flops, peak = 2 * result["queries"] * result["candidates"] * WIDTH, result["limit"]["flops_per_second"]
    title = f"{result['queries']:,} queries, {result['candidates']:,} candidates"
    lines = comparison(title, result["results"], OURS, "of the limit", lambda s: f"{100 * flops / peak / s:.0f} %")
    same = ", ".join(f"{name} {100 * share:.3f} %" for name, share in result["same_neighbours"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"The limit is {peak / 1e9:.0f} GFLOP/s, and one product serves both directions. "
            f"Neighbours that are those of ours: {same or 'not compared'}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=16_384)
    parser.add_argument("--candidates", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.child:
        print(json.dumps(measure(flags.child[0], flags.queries, flags.candidates, flags.repeats, flags.child[1])))
        return
    installed = {PLAIN: "torch", COMPILED: "torch", FAISS: "faiss"}
    missing = sorted({package for package in installed.values() if not util.find_spec(package)})
    names = [OURS, *(name for name, package in installed.items() if package not in missing)]
    options = [f"--queries={flags.queries}", f"--candidates={flags.candidates}", f"--repeats={flags.repeats}"]
    with tempfile.TemporaryDirectory() as folder:
        files = {name: pathlib.Path(folder) / f"{number}.npz" for number, name in enumerate(names)}
        results = {name: in_a_process(__file__, [*options, "--child", name, str(file)]) for name, file in files.items()}
        same = {name: agreement(files[OURS], files[name]) for name in names[1:] if "failed" not in results[name]}
        found = in_a_process(__file__, [*options, "--child", LIMIT, ""])
    result = {
        "benchmark": "search",
        **machine(),
        "queries": flags.queries,
        "candidates": flags.candidates,
        "results": results,
        "same_neighbours": same,
        "limit": found,
    }
    print(table(result))
    if missing:
        print(f"not compared, as not installed: {', '.join(missing)}")
    if flags.output:
        flags.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
