"""The benchmark of the pre-training step, on a tiny model."""

import json
import sys

import pytest
from helpers import run_process


@pytest.mark.long
def test_table_and_json_name_every_contender(tmp_path):
    command = [sys.executable, "benchmarks/train_step.py", "--size=tiny", "--repeats=2", f"--output={tmp_path / 'out.json'}"]
    done = run_process([*command, "--timeout=1"] if "torch" not in sys.modules else command)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    ours = result["results"]["rembert_jax"]
    assert len(ours["seconds"]) == 2 and ours["peak_bytes"] > 0
    # 2 x 16 tokens through 1 layer of 16 and 32, 6 predictions of 100 words through 24; backward twice forward.
    tokens, predictions = 32 * (4 * 16 * 16 + 2 * 16 * 32 + 2 * 16 * 16 + 8 * 16), 6 * (16 * 24 + 24 * 100)
    assert result["model_flops"] == 6 * (tokens + predictions)
