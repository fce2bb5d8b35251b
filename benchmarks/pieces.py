"""The pieces of a layer by themselves, forward and backward: ours, what JAX and Flax bring, and PyTorch's.

    python benchmarks/pieces.py [--dtype=bfloat16] [--output results.json]

Shapes are those of "small" in train_step.py. JAX and PyTorch are measured in a process each.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Sequence
from importlib import util
from typing import Any

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]

from measuring import in_a_process, machine, timed  # noqa: E402

ROWS, LENGTH, HEADS, HEAD, HIDDEN, INNER, WORDS, WIDTH = 16, 128, 6, 64, 384, 1536, 30_000, 128
OURS, PLAIN, TORCH = "rembert_jax", "jax and flax", "PyTorch"


def jax_pieces(dtype: str) -> dict[str, dict[str, Callable[[], Any]]]:
    """Piece to contender to a call."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from rembert_jax.config import Execution, RemBertConfig
    from rembert_jax.modeling.layers import LayerNorm, gelu
    from rembert_jax.ops.attention import Visible, attention
    from rembert_jax.ops.embedding import lookup

    keys = jax.random.split(jax.random.key(0), 8)

    def values(number: int, *shape: int) -> Any:
        return jax.random.normal(keys[number], shape).astype(dtype)

    def call(function: Callable[..., Any], cotangent: Any, *arguments: Any) -> Callable[[], Any]:
        both = jax.jit(lambda *given: jax.vjp(function, *given)[1](cotangent))
        return lambda: jax.block_until_ready(both(*arguments))

    inner, hidden = (ROWS * LENGTH, INNER), (ROWS * LENGTH, HIDDEN)
    heads = (ROWS, LENGTH, HEADS, HEAD)
    query, key, value = (values(n, *heads) for n in range(3))
    seen = jnp.ones((ROWS, LENGTH), bool)
    ids = jax.random.randint(keys[3], (ROWS, LENGTH), 0, WORDS)
    table = values(4, WORDS, WIDTH).astype(jnp.float32)
    config = RemBertConfig(hidden_size=HIDDEN, num_attention_heads=HEADS)
    norm, their_norm = LayerNorm(config, Execution(compute_dtype=dtype)), nn.LayerNorm(epsilon=1e-12, dtype=dtype)  # pyright: ignore
    x = values(5, *hidden)
    ours_norm, theirs_norm = norm.init(keys[6], x), their_norm.init(keys[6], x)
    mask = seen[:, None, None, :]
    return {
        "GELU": {
            OURS: call(gelu, values(6, *inner), values(7, *inner)),
            PLAIN: call(lambda x: jax.nn.gelu(x, approximate=False), values(6, *inner), values(7, *inner)),
        },
        "attention": {
            OURS: call(lambda q, k, v: attention(q, k, v, Visible(keys=seen)), values(6, *heads), query, key, value),
            PLAIN: call(
                lambda q, k, v: jax.nn.dot_product_attention(q, k, v, mask=mask), values(6, *heads), query, key, value
            ),
        },
        "layer norm": {
            OURS: call(norm.apply, x, ours_norm, x),
            PLAIN: call(their_norm.apply, x, theirs_norm, x),
        },
        "lookup": {
            OURS: call(lambda t: lookup(t, ids), jnp.ones((ROWS, LENGTH, WIDTH)), table),
            PLAIN: call(lambda t: t[ids], jnp.ones((ROWS, LENGTH, WIDTH)), table),
        },
    }


def torch_pieces(dtype: str) -> dict[str, dict[str, Callable[[], Any]]]:
    """The same by PyTorch."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=getattr(torch, dtype)).requires_grad_()

    def call(function: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> dict[str, Callable[[], Any]]:
        cotangent = torch.ones_like(function(*arguments))

        def run() -> None:
            torch.autograd.grad(function(*arguments), arguments, cotangent)

        return {TORCH: run}

    heads = (ROWS, HEADS, LENGTH, HEAD)
    seen = torch.ones(ROWS, 1, 1, LENGTH, dtype=torch.bool)
    ids = torch.randint(0, WORDS, (ROWS, LENGTH))
    scale, bias = values(HIDDEN), values(HIDDEN)
    return {
        "GELU": call(functional.gelu, values(ROWS * LENGTH, INNER)),
        "attention": call(
            lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, attn_mask=seen),
            *(values(*heads) for _ in range(3)),
        ),
        "layer norm": call(
            lambda x, s, b: functional.layer_norm(x, (HIDDEN,), s, b, 1e-12), values(ROWS * LENGTH, HIDDEN), scale, bias
        ),
        "lookup": call(lambda t: functional.embedding(ids, t), torch.randn(WORDS, WIDTH).requires_grad_()),
    }


def measure(name: str, dtype: str, repeats: int) -> dict[str, dict[str, float]]:
    """What a child process finds out: piece to contender to milliseconds."""
    pieces = torch_pieces(dtype) if name == TORCH else jax_pieces(dtype)
    return {
        piece: {who: 1000 * statistics.median(timed(run, repeats, 0.3)) for who, run in calls.items()}
        for piece, calls in pieces.items()
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each piece."""
    names = list(dict.fromkeys(who for calls in result["results"].values() for who in calls))
    lines = [f"| {result['dtype']}, ms | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for piece, calls in result["results"].items():
        lines.append(f"| {piece} | {' | '.join(f'{calls[name]:.2f}' for name in names)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.child:
        print(json.dumps(measure(flags.child, flags.dtype, flags.repeats)))
        return
    results: dict[str, dict[str, float]] = {}
    for name in (OURS, TORCH) if util.find_spec("torch") else (OURS,):
        options = [f"--dtype={flags.dtype}", f"--repeats={flags.repeats}", f"--child={name}"]
        found = in_a_process(__file__, options)
        if "failed" in found:
            raise SystemExit(f"{name}: {found['failed']}")
        for piece, calls in found.items():
            results.setdefault(piece, {}).update(calls)
    result = {"benchmark": "pieces", "dtype": flags.dtype, **machine(), "results": results}
    print(table(result))
    if flags.output:
        flags.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
