"""Seconds and memory of a pre-training step, against PyTorch and against what the machine can do.

    python benchmarks/train_step.py --size=small [--dtype=bfloat16] [--torch_python PYTHON] [--output results.json]

Each contender runs in a process of its own, one after the other: this package, and transformers' RemBertForMaskedLM as it is,
with its head on the masked positions alone (the three lines that a PyTorch user would write), and each of them compiled. All
take the same batch, AdamW, clipping and huge pages of the C library. The machine's limit is measured last: the fastest of the
step's own matrix products, by either framework, and the bandwidth of a copy. With `--torch_python`, the interpreter of another
environment, PyTorch is measured there.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata, util
from typing import Any

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]

from measuring import comparison, in_a_process, machine, peak_bytes, timed  # noqa: E402

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "model": {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                  "input_embedding_size": 8, "output_embedding_size": 24, "intermediate_size": 32},
        "batch": (2, 16, 3),
    },
    "quickstart": {
        "model": {"vocab_size": 900, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                  "input_embedding_size": 32, "output_embedding_size": 128, "intermediate_size": 128, "hidden_act": "relu"},
        "batch": (16, 64, 10),
    },
    "small": {
        "model": {"vocab_size": 30_000, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6,
                  "input_embedding_size": 128, "output_embedding_size": 512, "intermediate_size": 1536},
        "batch": (16, 128, 19),
    },
    "wide": {
        "model": {"vocab_size": 250_300, "hidden_size": 1152, "num_hidden_layers": 4, "num_attention_heads": 18,
                  "input_embedding_size": 256, "output_embedding_size": 1664, "intermediate_size": 4608},
        "batch": (4, 128, 19),
    },
}  # fmt: skip
"""Model, and rows, length and predictions a row of a batch. "small" and "wide" are those of docs/performance.md."""
OURS, GATHERED, PLAIN = "rembert_jax", "transformers, head on masked positions", "transformers"
COMPILED = ", torch.compile"
LIMIT = "limit"


def batch_of(size: str) -> dict[str, Any]:
    """Random words of one document a row, the same for every contender."""
    import numpy as np

    rows, length, predictions = SIZES[size]["batch"]
    words = SIZES[size]["model"]["vocab_size"]
    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(5, words, (rows, length)).astype(np.int32),
        "segment_ids": np.ones((rows, length), np.int32),
        "position_ids": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "masked_positions": np.sort(
            [rng.choice(length, predictions, replace=False) for _ in range(rows)], axis=1
        ).astype(np.int32),
        "masked_labels": rng.integers(5, words, (rows, predictions)).astype(np.int32),
        "masked_weights": np.ones((rows, predictions), np.float32),
    }


def products(size: str) -> list[tuple[int, int, int]]:
    """Rows, inner and outer width of the larger matrix products of a step."""
    model, (rows, length, predictions) = SIZES[size]["model"], SIZES[size]["batch"]
    hidden, inner, wide = model["hidden_size"], model["intermediate_size"], model["output_embedding_size"]
    tokens, masked = rows * length, rows * predictions
    return [
        (tokens, hidden, inner),
        (tokens, inner, hidden),
        (hidden, tokens, inner),
        (masked, wide, model["vocab_size"]),
    ]


def our_program(size: str, dtype: str) -> Any:
    """The package's own, as the trainer has it."""
    from rembert_jax import sharding
    from rembert_jax.config import Execution, RemBertConfig
    from rembert_jax.data.pipeline import DataConfig
    from rembert_jax.training import program
    from rembert_jax.training.optimizer import OptimizerConfig
    from rembert_jax.training.settings import TrainingConfig

    rows, length, predictions = SIZES[size]["batch"]
    return program.pretraining(
        RemBertConfig(**SIZES[size]["model"]),
        execution=Execution(scan_layers=False, compute_dtype=dtype),  # pyright: ignore[reportArgumentType]
        data=DataConfig(source="synthetic", seq_length=length, max_predictions=predictions),
        optimizer=OptimizerConfig(learning_rate=1e-4),
        training=TrainingConfig(batch_size=rows, steps=1000),
        seed=0,
        mesh=sharding.make_mesh(sharding.MeshConfig()),
    )


def our_step(size: str, dtype: str, batches: Iterator[dict[str, Any]] | None = None) -> Callable[[], Any]:
    """Its step, on one batch again and again or on the next of `batches`."""
    from rembert_jax import sharding

    made = our_program(size, dtype)
    with made.on_mesh():
        state = made.create()
        same = sharding.to_global(batch_of(size), made.mesh)

    def run() -> float:
        nonlocal state
        with made.on_mesh():
            batch = sharding.to_global(next(batches), made.mesh) if batches else same
            state, sums = made.step(state, batch)
        return float(sums["loss"] / sums["weight"])

    return run


def torch_step(size: str, dtype: str, gathered: bool, compiled: bool) -> Callable[[], Any]:
    """The step that a PyTorch user writes around transformers' model."""
    import torch
    import transformers

    torch.manual_seed(0)
    batch = {name: torch.from_numpy(value) for name, value in batch_of(size).items()}
    ids, positions = batch["input_ids"].long(), batch["masked_positions"].long()
    targets = batch["masked_labels"].long()
    config = transformers.RemBertConfig(
        **SIZES[size]["model"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model = transformers.RemBertForMaskedLM(config).train()
    labels = torch.full_like(ids, -100).scatter(1, positions, targets)

    def loss() -> torch.Tensor:
        if not gathered:
            return model(input_ids=ids, labels=labels).loss
        hidden = model.rembert(input_ids=ids).last_hidden_state
        picked = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[2]))
        return torch.nn.functional.cross_entropy(model.cls(picked).flatten(0, 1).float(), targets.flatten())

    loss = torch.compile(loss) if compiled else loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01, fused=True)

    def run() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(value)

    return run


def limit(size: str, dtype: str, repeats: int) -> dict[str, float]:
    """The fastest matrix product in FLOP/s, and bytes per second of a copy (read and written), by JAX or PyTorch."""
    rates, bandwidth = [], []

    def jax_rates() -> None:
        import jax
        import jax.numpy as jnp

        for rows, inner, outer in products(size):
            left, right = jnp.ones((rows, inner), dtype), jnp.ones((inner, outer), dtype)
            multiply = functools.partial(jax.jit(jnp.matmul), left, right)
            seconds = timed(lambda run=multiply: jax.block_until_ready(run()), repeats, 0.2)
            rates.append(2 * rows * inner * outer / statistics.median(seconds))
        values = jnp.ones(2**26, jnp.float32)
        copy = jax.jit(lambda x: x + 1.0, donate_argnums=0)

        def run() -> None:
            nonlocal values
            values = jax.block_until_ready(copy(values))

        bandwidth.append(2 * 4 * 2**26 / min(timed(run, repeats, 0.2)))

    def torch_rates() -> None:
        import torch

        for rows, inner, outer in products(size):
            left = torch.ones(rows, inner, dtype=getattr(torch, dtype))
            right = torch.ones(inner, outer, dtype=getattr(torch, dtype))
            multiply = functools.partial(torch.matmul, left, right)
            rates.append(2 * rows * inner * outer / statistics.median(timed(multiply, repeats, 0.2)))
        values = torch.ones(2**26)
        bandwidth.append(2 * 4 * 2**26 / min(timed(lambda: values.add_(1.0), repeats, 0.2)))

    if util.find_spec("jax"):
        jax_rates()
    if util.find_spec("torch"):
        torch_rates()
    return {"flops_per_second": max(rates), "bytes_per_second": max(bandwidth)}


def measure(name: str, size: str, dtype: str, repeats: int) -> dict[str, Any]:
    """What a child process finds out about one contender."""
    if name == LIMIT:
        return limit(size, dtype, repeats)
    packages = ("jax", "flax", "optax") if name == OURS else ("torch", "transformers")
    if name == OURS:
        step = our_step(size, dtype)
    else:
        step = torch_step(size, dtype, gathered=GATHERED in name, compiled=name.endswith(COMPILED))
    begin = time.perf_counter()
    loss = step()
    first = time.perf_counter() - begin
    seconds = timed(step, repeats)
    return {
        "seconds": seconds,
        "first_step": first,
        "first_loss": loss,
        "peak_bytes": peak_bytes(),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in packages},
    }


def model_flops(size: str) -> int:
    """Of a step, by the shapes: forward and twice as much backward, the head on the masked positions."""
    from rembert_jax.config import RemBertConfig

    return RemBertConfig(**SIZES[size]["model"]).training_flops(*SIZES[size]["batch"])


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each contender, ours first."""
    flops, peak = result["model_flops"], result["limit"]["flops_per_second"]
    title = f"{result['size']}, {result['dtype']}"
    lines = comparison(title, result["results"], OURS, "of the limit", lambda s: f"{100 * flops / peak / s:.0f} %")
    return "\n".join(
        [
            *lines,
            "",
            f"{flops / 1e9:,.0f} GFLOP a step; the limit is {peak / 1e9:,.0f} GFLOP/s; a copy moves "
            f"{result['limit']['bytes_per_second'] / 1e9:.0f} GB/s.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds after which a contender is given up")
    parser.add_argument("--torch_python", default=sys.executable, help="interpreter that has PyTorch and transformers")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.child:
        print(json.dumps(measure(flags.child, flags.size, flags.dtype, flags.repeats)))
        return
    names = [OURS]
    elsewhere = flags.torch_python != sys.executable
    if elsewhere or (util.find_spec("torch") and util.find_spec("transformers")):
        names += [GATHERED, GATHERED + COMPILED, PLAIN, PLAIN + COMPILED]

    def child(python: str, name: str) -> dict[str, Any]:
        options = [f"--size={flags.size}", f"--dtype={flags.dtype}", f"--repeats={flags.repeats}", f"--child={name}"]
        return in_a_process(__file__, options, python=python, timeout=flags.timeout)

    results = {name: child(sys.executable if name == OURS else flags.torch_python, name) for name in names}
    limits = [child(python, LIMIT) for python in sorted({sys.executable, flags.torch_python})]
    result = {
        "benchmark": "train_step",
        "size": flags.size,
        "dtype": flags.dtype,
        **machine(),
        "model_flops": model_flops(flags.size),
        "limit": {key: max(one[key] for one in limits) for key in limits[0]},
        "results": results,
    }
    print(table(result))
    if len(names) == 1:
        print("PyTorch or transformers is not installed: not compared")
    if flags.output:
        flags.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
