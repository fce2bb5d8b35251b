"""The benchmark of single pieces, once."""

import json
import sys

import pytest
from helpers import run_process


@pytest.mark.slow
def test_every_piece_is_measured_by_every_contender(tmp_path):
    output = tmp_path / "out.json"
    done = run_process([sys.executable, "benchmarks/pieces.py", "--repeats=1", f"--output={output}"])
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text(encoding="utf-8"))["results"]
    assert set(found) == {"GELU", "attention", "layer norm", "lookup"}
    for piece, calls in found.items():
        assert {"rembert_jax", "jax and flax"} <= set(calls)
        assert f"| {piece} | {calls['rembert_jax']:.2f} | {calls['jax and flax']:.2f}" in done.stdout
