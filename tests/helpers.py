"""What several test files share: a transparent tokenizer, a small real one, tiny configs, `train.py` as a process."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from rembert_jax.data import synthetic, synthetic_world
from rembert_jax.tokenization import RemBertTokenizer, train_vocabulary

ROOT = pathlib.Path(__file__).resolve().parent.parent


class NumberTokenizer:
    """Reads text as piece ids: "17 23" is [17, 23] and the one word "17-23" too, so tests know every token.

    Ids below 5 are special as in a trained vocabulary; even ids begin a word.
    """

    pad_token_id, unk_token_id, cls_token_id, sep_token_id, mask_token_id = range(5)
    space_token_id = None
    vocab_size = 400

    def encode(self, text: str, add_special_tokens: bool = True, *, split_special_tokens: bool = False) -> list[int]:
        assert split_special_tokens, "the package reads text, in which the names of special pieces are plain"
        ids = [int(number) for number in re.findall(r"\d+", text)]
        return [self.cls_token_id, *ids, self.sep_token_id] if add_special_tokens else ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = list(re.finditer(r"\d+", text))
        return [int(match[0]) for match in found], [match.span() for match in found]

    def special_ids(self) -> np.ndarray:
        return np.arange(5, dtype=np.int32)

    def starts_word(self) -> np.ndarray:
        return np.arange(self.vocab_size) % 2 == 0


def synthetic_texts(count: int = 60) -> list[str]:
    """Documents of all four synthetic languages (three other scripts than Latin)."""
    return [synthetic.document(code, "train", index) for code in synthetic_world.LANGUAGES for index in range(count)]


@functools.cache
def real_tokenizer() -> RemBertTokenizer:
    """A vocabulary of 400 pieces over the synthetic languages."""
    path = pathlib.Path(tempfile.mkdtemp()) / "sentencepiece.model"
    train_vocabulary(iter(synthetic_texts()), path, vocab_size=400, character_coverage=1.0)
    return RemBertTokenizer(path)


def unmasked(batch: dict[str, np.ndarray]) -> np.ndarray:
    """The token ids of a batch before masking, from its labels."""
    ids = batch["input_ids"].copy()
    for row, positions, labels, weights in zip(
        ids, batch["masked_positions"], batch["masked_labels"], batch["masked_weights"], strict=True
    ):
        used = weights > 0
        row[positions[used]] = labels[used]
    return ids


def assert_same_batches(left: list[dict[str, np.ndarray]], right: list[dict[str, np.ndarray]]) -> None:
    """Both lists hold the same arrays, bit for bit."""
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def with_changes(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A deep copy of a config with dotted keys replaced."""
    copy = {key: with_changes(value, {}) if isinstance(value, dict) else value for key, value in config.items()}
    for path, value in changes.items():
        *sections, last = path.split(".")
        node = copy
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return copy


TINY_MODEL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "input_embedding_size": 8,
    "output_embedding_size": 24,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}

TINY_PRETRAINING: dict[str, Any] = {
    "seed": 0,
    "model": TINY_MODEL,
    "tokenizer": {"vocab_size": 300, "sample_sentences": 150, "character_coverage": 1.0},
    "data": {
        "source": "synthetic",
        "synthetic": {"documents": 0.02},
        "languages": ("qaa", "qab"),
        "eval_split": "validation",
        "eval_texts": 4,
        "seq_length": 32,
        "parallel_texts": 0,
    },
    "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2},
    "training": {"batch_size": 8, "steps": 6, "log_every": 2, "eval_every": 3, "checkpoint_every": 3},
}


def train_command(config: str | pathlib.Path, workdir: str | pathlib.Path, *flags: str) -> list[str]:
    """The command line of a training run."""
    return [sys.executable, str(ROOT / "train.py"), f"--config={config}", f"--workdir={workdir}", *flags]


def process_environment() -> dict[str, str]:
    """Environment of a training process: one CPU device, and the compiled programs of the other tests (conftest.py)."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # Compiling takes longer than running.
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def load_benchmark(name: str) -> Any:
    """A program of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", ROOT / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_process(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command in the repository's root and returns its exit status and texts."""
    return subprocess.run(
        command, cwd=ROOT, env=process_environment(), capture_output=True, text=True, timeout=300, check=False
    )


def stored_state(step_folder) -> Any:
    """The training state in a checkpoint as NumPy arrays, whatever wrote it."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    metadata: Any = ocp.metadata(str(step_folder), "state").metadata
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), metadata)
    return jax.tree.map(np.asarray, ocp.load(str(step_folder), abstract, checkpointable_name="state"))


def assert_same_trees(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=jax.tree_util.keystr(path))


def logged_steps(workdir) -> list[int]:
    """The steps of all training lines in the order in which they were written."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if "train/loss" in line]
