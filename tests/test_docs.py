"""Runs the commands of docs/interop.md as they stand, on small files."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, TINY_PRETRAINING, process_environment, real_tokenizer, with_changes
from interop import tf1_release

from rembert_jax import RemBertConfig, RemBertModel, save_pretrained
from rembert_jax.experiments import run
from rembert_jax.tools import convert
from rembert_jax.training import checkpoint

TEXT = (ROOT / "docs" / "interop.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)

PICKLE = """
import torch, safetensors.torch
torch.save(safetensors.torch.load_file("hf/model.safetensors"), "pickled/pytorch_model.bin")
"""


def has(*modules):
    return all(importlib.util.find_spec(module) is not None for module in modules)


@pytest.fixture(scope="module")
def folder(made_once, random_params):
    """What the page takes for granted: `hf`, `pickled` (both the public checkpoint), `tf1`, `runs/pretrain`."""

    def fill(root):
        config = RemBertConfig.named(
            "tiny", vocab_size=400, hidden_size=64, num_attention_heads=1, num_hidden_layers=1, pad_token_id=0,
            bos_token_id=2, eos_token_id=3,
        )  # fmt: skip
        model = RemBertModel(config)
        params = random_params(model, jax.ShapeDtypeStruct((2, 4), jnp.int32))
        save_pretrained(model, params, root / "hf", real_tokenizer())
        changes = {"training.steps": 1, "optimizer.warmup_steps": 0, "data.eval_texts": 2}
        run.run(with_changes(TINY_PRETRAINING, changes), root / "runs" / "pretrain")
        if has("tensorflow"):
            tf1_release.write({root / "tf1" / "rembert.ckpt": tf1_release.variables()})

    return made_once("interop", fill)


def commands(block):
    """The command lines of a block, continued lines joined, without installing."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if not line.startswith("pip install")]


def run_python(arguments, folder):
    """In a process of its own, in which arguments are not checked for being arrays of JAX."""
    environment = {**process_environment(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{arguments}\n{done.stderr}"


def test_every_block_is_known():
    """A new block must be run below, or be one of the two that are not commands on the prepared files."""
    programs = [arguments[:3] for kind, block in BLOCKS if kind == "bash" for arguments in commands(block)]
    assert all(arguments[:2] == ["python", "-m"] for arguments in programs), programs
    assert [kind for kind, _ in BLOCKS].count("python") == 2


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for kind, block in BLOCKS:
        if kind == "python":
            if "from transformers import" in block and not has("torch", "transformers"):
                continue
            run_python(["-c", block], folder)
            continue
        for arguments in commands(block):
            options = convert.parser().parse_known_args(arguments[3:])[0] if arguments[2].endswith("convert") else None
            if not has("tensorflow") and ("savedmodel" in arguments or "tf1" in arguments):
                continue
            if options and options.allow_pickle:
                if not has("torch"):
                    continue
                os.makedirs(folder / "pickled", exist_ok=True)
                (folder / "pickled" / "config.json").write_bytes((folder / "hf" / "config.json").read_bytes())
                run_python(["-c", PICKLE], folder)
            if options:
                convert.main(arguments[3:])
            else:
                run_python(arguments[1:], folder)
    stored = checkpoint.load_params(checkpoint.find(folder / "runs" / "public-mlm"))
    assert stored["cls/decoder/embedding"].shape == (400, 96) and np.isfinite(stored["cls/decoder/embedding"]).all()
