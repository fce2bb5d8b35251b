"""What data costs: tokens that one core makes into masked batches, and how much longer a step takes that is fed by it.

    python benchmarks/data_pipeline.py [--path='corpus/{language}/train.txt'] [--languages=110] [--output results.json]

Each line of the first table is a process of its own that reads the same lines, dealt out to so many languages, and prepares
batches as pre-training does, without a step of training between them. The second table has steps of training on one batch again
and again and on batches from text, in turn. Without `--path` the lines are of the artificial languages.
"""

from __future__ import annotations

import argparse
import glob
import itertools
import json
import pathlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]

import train_step  # noqa: E402
from measuring import in_a_process, machine, peak_bytes  # noqa: E402

STEPS = {"quickstart": 200, "small": 4}
"""Steps of a round, by the model."""
KINDS = {"text": "text", "ids": "token ids, mapped from a file"}
VOCABULARY = "spm.model"


def lines_of(pattern: str, most: int) -> list[str]:
    """Texts of the user's files, as many of each language, or artificial ones."""
    from rembert_jax.data import pipeline, sources

    if pattern:
        files = [pathlib.Path(name) for name in sorted(glob.glob(pattern.replace("{language}", "*")))]
        texts: list[Sequence[str]] = [sources.LineFiles([file]) for file in files]
    else:
        texts = list(pipeline.open_sources(pipeline.DataConfig(source="synthetic"), "train").values())
    return [text[index] for index in range(most) for text in texts if index < len(text)][:most]


def prepare(folder: pathlib.Path, lines: Sequence[str], languages: Sequence[int], vocab_size: int) -> None:
    """Writes the vocabulary, and for each number of languages the files of their lines and of their token ids."""
    from rembert_jax.data import tokenized
    from rembert_jax.tokenization import RemBertTokenizer, vocabulary

    vocabulary.train_vocabulary(iter(lines), folder / VOCABULARY, vocab_size=vocab_size)
    tokenizer = RemBertTokenizer(str(folder / VOCABULARY))
    for count in languages:
        for number in range(count):
            part = lines[number::count]
            target = folder / str(count) / f"l{number:04d}"
            target.mkdir(parents=True)
            (target / "train.txt").write_text("".join(f"{line}\n" for line in part), encoding="utf-8")
            tokenized.write(part, tokenizer, target / "ids")


def batches_of(folder: pathlib.Path, kind: str, length: int, rows: int, predictions: int = 0) -> Any:
    """Endless batches from the text or the token ids in a folder."""
    from rembert_jax.data import pipeline, tokenized
    from rembert_jax.tokenization import RemBertTokenizer

    tokenizer = RemBertTokenizer(str(folder.parent / VOCABULARY))
    path = f"{folder}/{{language}}/{{split}}.txt"
    config = pipeline.DataConfig(source="text", path=path, seq_length=length, max_predictions=predictions)
    texts: Any = pipeline.open_sources(config, "train")
    if kind == "ids":
        texts = {language: tokenized.TokenizedTexts(folder / language / "ids") for language in texts}
    return pipeline.train_batches(texts, config, tokenizer, batch_size=rows, seed=0)


def measure(folder: pathlib.Path, kind: str, length: int, rows: int, seconds: float) -> dict[str, Any]:
    """What a child process finds out: it makes batches for so many seconds, after a first one."""
    import jax
    import numpy as np

    batches = batches_of(folder, kind, length, rows)
    next(batches)
    begin, begin_cpu, tokens, made = time.perf_counter(), time.process_time(), 0, 0
    while time.perf_counter() - begin < seconds:
        tokens += int((next(batches)["segment_ids"] > 0).sum())
        made += 1
    wall, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
    return {
        "tokens_per_cpu_second": tokens / cpu,
        "tokens_per_second": tokens / wall,
        "padding": 1 - tokens / (made * rows * length),
        "threads": threading.active_count(),
        "peak_bytes": peak_bytes(),
        "state_bytes": sum(sum(np.size(leaf) for leaf in jax.tree.leaves(row)) * 8 for row in batches.get_state()),
    }


def measure_steps(folder: pathlib.Path, size: str, seconds: float) -> dict[str, Any]:
    """Seconds of a step on one batch, and of a step on batches from text, in rounds one after the other."""
    rows, length, predictions = train_step.SIZES[size]["batch"]
    batches = batches_of(folder, "text", length, rows, predictions)
    steps = {"one": train_step.our_step(size, "float32"), "fed": train_step.our_step(size, "float32", batches)}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(found["fed"]) < 3:
        for name, step in steps.items():
            begin = time.perf_counter()
            for _ in range(STEPS[size]):
                step()
            found[name].append((time.perf_counter() - begin) / STEPS[size])
    return {name: statistics.median(values) for name, values in found.items()}


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each way of reading, and a row for each model."""
    lines = [
        "| read from | languages | tokens/s a core | padding | threads | peak memory (MiB) | state (KiB) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in result["results"]:
        lines.append(
            f"| {KINDS[one['kind']]} | {one['languages']} | {one['tokens_per_cpu_second']:,.0f} | "
            f"{100 * one['padding']:.1f} % | {one['threads']} | {one['peak_bytes'] / 2**20:.0f} | "
            f"{one['state_bytes'] / 2**10:.0f} |"
        )
    lines += [
        "",
        "| step of | on one batch (ms) | on batches from text (ms) | longer |",
        "| --- | --- | --- | --- |",
    ]
    for size, one in result["steps"].items():
        longer = 100 * (one["fed"] / one["one"] - 1)
        lines.append(f"| {size} | {1000 * one['one']:.1f} | {1000 * one['fed']:.1f} | {longer:.1f} % |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="", help="text files, a text a line, with {language} in the name")
    parser.add_argument("--languages", type=int, default=110, help="among how many the lines are dealt out")
    parser.add_argument("--lines", type=int, default=100_000, help="most lines to take")
    parser.add_argument("--vocab_size", type=int, default=800)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--sizes", nargs="*", default=["quickstart"], choices=STEPS, help="models of the second table")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    for size in flags.sizes:
        if (most := train_step.SIZES[size]["model"]["vocab_size"]) < flags.vocab_size:
            parser.error(f"--vocab_size={flags.vocab_size}: the model of --sizes={size} has {most} words")
    if flags.child:
        folder, kind = pathlib.Path(flags.child[0]), flags.child[1]
        if kind in KINDS:
            print(json.dumps(measure(folder, kind, flags.length, flags.rows, flags.seconds)))
        else:
            print(json.dumps(measure_steps(folder, kind, flags.seconds)))
        return
    results, counts = [], (1, flags.languages)
    with tempfile.TemporaryDirectory() as folder:
        lines = lines_of(flags.path, flags.lines)
        prepare(pathlib.Path(folder), lines, counts, flags.vocab_size)

        def child(languages: int, kind: str) -> dict[str, Any]:
            settings = [f"--length={flags.length}", f"--rows={flags.rows}", f"--seconds={flags.seconds}"]
            found = in_a_process(__file__, [*settings, "--child", f"{folder}/{languages}", kind])
            if "failed" in found:
                raise SystemExit(found["failed"])
            return found

        for kind, count in itertools.product(KINDS, counts):
            results.append({"kind": kind, "languages": count, **child(count, kind)})
        steps = {size: child(flags.languages, size) for size in flags.sizes}
    result = {
        "benchmark": "data_pipeline",
        "lines": len(lines),
        "characters_per_line": sum(map(len, lines)) / len(lines),
        "length": flags.length,
        "rows": flags.rows,
        **machine(),
        "results": results,
        "steps": steps,
    }
    print(table(result))
    if flags.output:
        flags.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
