"""Sentences of mixed length through the encoder, against the best that a PyTorch user gets.

    python benchmarks/inference.py [--path='corpus/{language}/train.txt'] [--output results.json]

The encoder has the released sizes and new parameters. Ours packs sentences into rows, as pre-training does, so there is one
shape and hardly any padding. PyTorch gets sentences sorted by length and pads a batch to the longest of it. Each has a process
of its own; the first pass, in which shapes are compiled, does not count. Without `--path` they are of the artificial languages.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import util
from typing import Any

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent)]

from data_pipeline import lines_of  # noqa: E402
from measuring import comparison, in_a_process, machine, peak_bytes, timed  # noqa: E402

SIZES: dict[str, dict[str, Any]] = {
    "released": {},
    "tiny": {"vocab_size": 250_300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "input_embedding_size": 8, "output_embedding_size": 24, "intermediate_size": 32},
}  # fmt: skip
ROW_MULTIPLE = 64
"""The length of rows of packed sentences is the least multiple of it that holds the longest."""
LEARN_FROM = 20_000
"""Lines for the vocabulary."""
OURS, PLAIN, COMPILED = "rembert_jax", "transformers", "transformers, torch.compile"


def token_ids(lines: Sequence[str], sentences: int, vocab_size: int) -> list[list[int]]:
    """Of the first of the lines, by a vocabulary learnt from all; with [CLS] and [SEP], the shortest first, at most 512."""
    from rembert_jax.tokenization import RemBertTokenizer, vocabulary

    with tempfile.TemporaryDirectory() as folder:
        vocabulary.train_vocabulary(iter(lines), f"{folder}/spm.model", vocab_size=vocab_size)
        tokenizer = RemBertTokenizer(f"{folder}/spm.model")
        return sorted((tokenizer.encode(line)[:512] for line in lines[:sentences]), key=len)


def by_length(sentences: Sequence[list[int]], tokens: int) -> list[list[list[int]]]:
    """Batches of sorted sentences: as many as make so many tokens once they are padded to the longest of them."""
    batches: list[list[list[int]]] = [[]]
    for sentence in sentences:
        if batches[-1] and (len(batches[-1]) + 1) * len(sentence) > tokens:
            batches.append([])
        batches[-1].append(sentence)
    return batches


def packed(sentences: Sequence[list[int]]) -> tuple[int, list[list[list[int]]]]:
    """The length of all rows, and the sentences of each: the longest first, each into the first row that has room."""
    length = -(-max(map(len, sentences)) // ROW_MULTIPLE) * ROW_MULTIPLE
    rows: list[list[list[int]]] = []
    room: list[int] = []
    for sentence in sorted(sentences, key=len, reverse=True):
        row = next((row for row, left in enumerate(room) if len(sentence) <= left), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(sentence)
        room[row] -= len(sentence)
    return length, rows


def ours(size: str, sentences: Sequence[list[int]], tokens: int) -> Callable[[], Any]:
    """A pass over all sentences, their last hidden states on the host."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from rembert_jax.config import RemBertConfig
    from rembert_jax.data.packing import fill_row
    from rembert_jax.modeling.models import RemBertModel

    model = RemBertModel(RemBertConfig(**SIZES[size]), add_pooling_layer=False)
    params = jax.jit(lambda key: model.init(key, jnp.zeros((1, 2), jnp.int32)))(jax.random.key(0))

    @jax.jit
    def encode(params: Any, batch: Any) -> jax.Array:
        output: Any = model.apply(params, **batch)
        return output.last_hidden_state

    length, rows = packed(sentences)
    rows = [fill_row(row, length, 0) for row in rows]
    count = max(1, tokens // length)
    rows += [fill_row([], length, 0)] * (-len(rows) % count)
    batches = [
        {name: np.stack([row[name] for row in rows[first : first + count]]) for name in rows[0]}
        for first in range(0, len(rows), count)
    ]
    for batch in batches:
        batch["attention_mask"] = (batch["segment_ids"] > 0).astype(np.int32)
    return lambda: [np.asarray(encode(params, batch)) for batch in batches]


def theirs(size: str, sentences: Sequence[list[int]], tokens: int, compiled: bool) -> Callable[[], Any]:
    """The same by PyTorch."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.RemBertConfig(**SIZES[size])
    model: Any = transformers.RemBertModel(config, add_pooling_layer=False).eval()
    encode = torch.compile(model, dynamic=True) if compiled else model
    batches = []
    for inside in by_length(sentences, tokens):
        ids, mask = torch.zeros((2, len(inside), len(inside[-1])), dtype=torch.long)
        for row, sentence in enumerate(inside):
            ids[row, : len(sentence)], mask[row, : len(sentence)] = torch.tensor(sentence), 1
        batches.append((ids, mask))

    def run() -> Any:
        with torch.inference_mode():
            return [encode(input_ids=ids, attention_mask=mask).last_hidden_state.numpy() for ids, mask in batches]

    return run


def measure(name: str, size: str, file: pathlib.Path, tokens: int, repeats: int) -> dict[str, Any]:
    """What a child process finds out about one contender."""
    sentences = json.loads(file.read_text(encoding="utf-8"))
    run = ours(size, sentences, tokens) if name == OURS else theirs(size, sentences, tokens, name == COMPILED)
    return {"seconds": timed(run, repeats), "peak_bytes": peak_bytes()}


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each contender, ours first."""
    title = f"{result['sentences']:,} sentences, {result['tokens']:,} tokens"
    return "\n".join(comparison(title, result["results"], OURS, "tokens/s", lambda s: f"{result['tokens'] / s:,.0f}"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="", help="text files, a text a line, with {language} in the name")
    parser.add_argument("--size", choices=SIZES, default="released")
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--vocab_size", type=int, default=500, help="pieces to learn from the text")
    parser.add_argument("--tokens", type=int, default=1024, help="about how many make a batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.child:
        name, file = flags.child
        print(json.dumps(measure(name, flags.size, pathlib.Path(file), flags.tokens, flags.repeats)))
        return
    sentences = token_ids(lines_of(flags.path, LEARN_FROM), flags.sentences, flags.vocab_size)
    compared = bool(util.find_spec("torch") and util.find_spec("transformers"))
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "sentences.json"
        file.write_text(json.dumps(sentences), encoding="utf-8")
        options = [f"--size={flags.size}", f"--tokens={flags.tokens}", f"--repeats={flags.repeats}"]
        results = {
            name: in_a_process(__file__, [*options, "--child", name, str(file)], timeout=1800.0)
            for name in ((OURS, PLAIN, COMPILED) if compared else (OURS,))
        }
    length, rows = packed(sentences)
    result = {
        "benchmark": "inference",
        "size": flags.size,
        **machine(),
        "sentences": len(sentences),
        "tokens": sum(map(len, sentences)),
        "packed_tokens": length * len(rows),
        "padded_tokens": sum(len(inside) * len(inside[-1]) for inside in by_length(sentences, flags.tokens)),
        "results": results,
    }
    print(table(result))
    if not compared:
        print("PyTorch or transformers is not installed: not compared")
    if flags.output:
        flags.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
