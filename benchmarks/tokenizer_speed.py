"""Lines per second of the tokenizers, on the same lines, in turns in one process.

    python benchmarks/tokenizer_speed.py [--text FILE] [--output results.json]

It compares plain SentencePiece, RemBertTokenizer, RemBertTokenizerFast and, where it is installed, transformers'
RemBertTokenizer. All but the first give ids, types and attention masks, cut to 128 tokens, in batches; "corpus" is the way
of the data pipeline, one line at a time and ids alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from rembert_jax.data import synthetic, synthetic_world
from rembert_jax.tokenization import RemBertTokenizer, RemBertTokenizerFast, train_vocabulary

try:
    import transformers
except ImportError:
    transformers = None

OPTIONS = {"truncation": True, "max_length": 128, "return_token_type_ids": True}


def read_lines(path: str | None, count: int) -> list[str]:
    """The first lines of a file, or documents of the artificial languages."""
    if path:
        with open(path, encoding="utf-8") as file:
            return [line.rstrip("\n") for line in itertools.islice(file, count)]
    codes = list(synthetic_world.LANGUAGES)
    return [synthetic.document(codes[i % len(codes)], "train", i // len(codes)) for i in range(count)]


def contenders(folder: pathlib.Path, lines: Sequence[str], batch: int) -> dict[str, Callable[[], None]]:
    """Name to a function that tokenizes all lines once."""
    slow, fast = RemBertTokenizer.from_pretrained(folder), RemBertTokenizerFast.from_pretrained(folder)

    def in_batches(function: Callable[..., Any], **options: Any) -> None:
        for start in range(0, len(lines), batch):
            function(list(lines[start : start + batch]), **options)

    def corpus() -> None:
        for line in lines:
            slow.encode(line, add_special_tokens=False, split_special_tokens=True)

    found: dict[str, Callable[[], None]] = {
        "SentencePiece, ids alone": lambda: in_batches(slow.pieces.encode),
        "RemBertTokenizer, corpus": corpus,
        "RemBertTokenizer": lambda: in_batches(slow, **OPTIONS),
        "RemBertTokenizerFast": lambda: in_batches(fast, **OPTIONS),
    }
    if transformers is not None:
        other = transformers.RemBertTokenizer.from_pretrained(str(folder))
        found["transformers' RemBertTokenizer"] = lambda: in_batches(other, **OPTIONS)
    return found


def measure(functions: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and processor seconds of each repeat; a first round, which is not counted, fills caches."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            begin = time.perf_counter(), time.process_time()
            function()
            if repeat:
                seconds[name].append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    return seconds


def report(seconds: dict[str, list[tuple[float, float]]], lines: Sequence[str]) -> dict[str, Any]:
    """What is written as JSON."""
    packages = ["sentencepiece", "tokenizers", *(["transformers"] if transformers else [])]
    size = sum(len(line.encode()) for line in lines)
    medians = {name: [statistics.median(kind) for kind in zip(*v, strict=True)] for name, v in seconds.items()}
    return {
        "benchmark": "tokenizer_speed",
        "lines": len(lines),
        "bytes": size,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "results": {
            name: {
                "lines_per_second": round(len(lines) / wall),
                "lines_per_processor_second": round(len(lines) / cpu),
                "megabytes_per_second": round(size / wall / 1e6, 2),
                "seconds": [round(value, 4) for value, _ in seconds[name]],
            }
            for name, (wall, cpu) in medians.items()
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="UTF-8 file, one text a line; artificial languages where it is left out")
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--vocab_size", type=int, default=800)
    parser.add_argument("--batch", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    flags = parser.parse_args(arguments)
    lines = read_lines(flags.text, flags.lines)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "sentencepiece.model"
        train_vocabulary(iter(lines[:10_000]), path, vocab_size=flags.vocab_size)
        RemBertTokenizerFast(path).save_pretrained(folder)
        result = report(measure(contenders(pathlib.Path(folder), lines, flags.batch), flags.repeats), lines)
    print(f"| {len(lines):,} lines, {result['bytes'] / 1e6:.1f} MB | lines/s | lines per processor second | MB/s |")
    print("| --- | --- | --- | --- |")
    for name, values in result["results"].items():
        speed, cpu = values["lines_per_second"], values["lines_per_processor_second"]
        print(f"| {name} | {speed:,} | {cpu:,} | {values['megabytes_per_second']} |")
    if transformers is None:
        print("transformers is not installed: not compared")
    if flags.output:
        flags.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
