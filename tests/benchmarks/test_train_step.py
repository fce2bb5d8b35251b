"""The benchmark of the pre-training step: a tiny one of ours, and what its table says."""

import json

import jax
import pytest
from helpers import load_benchmark

from rembert_jax import sharding
from rembert_jax.experiments import architecture, settings, stages


@pytest.fixture
def benchmark():
    return load_benchmark("train_step")


@pytest.mark.slow
def test_a_step_and_the_limit_are_measured(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark.util, "find_spec", lambda name: None)  # Without PyTorch.
    benchmark.main(["--size=tiny", "--repeats=2", f"--output={tmp_path / 'out.json'}"])
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    ours = result["results"]["rembert_jax"]
    assert len(ours["seconds"]) == 2 and ours["peak_bytes"] > 0 and ours["packages"]["jax"]
    assert 3.5 < ours["first_loss"] < 6.0, "ln 100 = 4.6"
    # 2 x 16 tokens through a layer of 16 and 32, 6 predictions of 100 words through 24; backward is twice forward.
    tokens, predictions = 32 * (4 * 16 * 16 + 2 * 16 * 32 + 2 * 16 * 16 + 8 * 16), 6 * (16 * 24 + 24 * 100)
    assert result["model_flops"] == 6 * (tokens + predictions)
    assert "not compared" in capsys.readouterr().out


def test_the_step_is_that_of_a_run_with_such_a_config(benchmark, monkeypatch):
    make_mesh = sharding.make_mesh
    monkeypatch.setattr(sharding, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
    rows, length, predictions = benchmark.SIZES["tiny"]["batch"]
    model = dict(benchmark.SIZES["tiny"]["model"])
    config = settings.resolve(
        {
            "tokenizer": {"vocab_size": model.pop("vocab_size")},
            "model": model,
            "execution": {"scan_layers": False},
            "data": {"source": "synthetic", "seq_length": length, "max_predictions": predictions},
            "optimizer": {"learning_rate": 1e-4},
            "training": {"batch_size": rows, "steps": 1000},
        }
    )
    program = stages.make_program(config, architecture.expected_model(config, {}), sharding.make_mesh(config.mesh))
    assert benchmark.our_program("tiny", "float32").lower().as_text() == program.lower().as_text()


def test_the_table_says_how_much_faster_ours_is_and_what_share_of_the_limit_it_reaches(benchmark):
    gibibyte = 2**30
    result = {
        "size": "small",
        "dtype": "float32",
        "model_flops": 100e9,
        "limit": {"flops_per_second": 200e9, "bytes_per_second": 50e9},
        "results": {
            "rembert_jax": {"seconds": [1.0, 0.8, 9.0], "peak_bytes": 2 * gibibyte},
            "transformers": {"seconds": [2.0], "peak_bytes": 3 * gibibyte},
            "transformers, torch.compile": {"failed": "not done after 600 s"},
        },
    }
    lines = benchmark.table(result).splitlines()
    assert lines[2:5] == [
        "| rembert_jax | 1 | 1.00x | 50 % | 2.0 |",
        "| transformers | 2 | 2.00x | 25 % | 3.0 |",
        "| transformers, torch.compile | not done after 600 s | | | |",
    ]
    assert lines[-1] == "100 GFLOP a step; the limit is 200 GFLOP/s; a copy moves 50 GB/s."
