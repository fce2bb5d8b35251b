"""What a pod runs, on eight devices: scanned layers, rematerialisation, accumulation and dropout on a mesh of three axes."""

import subprocess

import numpy as np
import pytest
from experiments.runs import interrupt
from helpers import (
    ROOT,
    TINY_PRETRAINING,
    assert_same_trees,
    process_environment,
    stored_state,
    train_command,
    with_changes,
)

from rembert_jax.errors import RemBertError
from rembert_jax.experiments import run
from rembert_jax.reports.plots import read_metrics

POD = {
    "mesh": {"data": 2, "fsdp": 2, "tensor": 2},
    "execution.remat": "dots",
    "optimizer.accumulation": 2,
    "model.hidden_dropout_prob": 0.1,
    "training.batch_size": 16,
}
ALL_DATA = {"mesh": {"data": 8}}
LOSSES = ("train/loss", "train/grad_norm", "dev/average/loss")


def losses(workdir):
    """By name, over the steps at which they were logged."""
    metrics = read_metrics(workdir / "metrics.jsonl")
    return {name: np.array([value for _, value in metrics[name]]) for name in LOSSES}


WORDS = {"float32": 300, "bfloat16": 301}
"""Two devices do not divide the second vocabulary."""


@pytest.fixture(scope="module", params=WORDS)
def pod_run(request, made_once):
    """The finished run on three axes: its config and its folder, by the type it computes in."""
    changes = {"execution.compute_dtype": request.param, "tokenizer.vocab_size": WORDS[request.param]}
    config = with_changes(TINY_PRETRAINING, {**POD, **changes})
    return config, made_once(f"pod_{request.param}", lambda folder: run.run(config, folder))


@pytest.mark.long
def test_an_interrupted_run_ends_bit_for_bit_like_one_that_was_not(pod_run, tmp_path):
    config, whole = pod_run
    interrupt(config, tmp_path, 6)
    run.run(config, tmp_path)
    states = [stored_state(folder / "checkpoints" / "6") for folder in (tmp_path, whole)]
    assert_same_trees(*states)
    params = states[0]["params"]
    assert params["rembert"]["encoder"]["layer"]["output"]["kernel"].shape == (2, 32, 16), "scanned"
    assert params["cls"]["decoder"]["embedding"].shape == (config["tokenizer"]["vocab_size"], 24)


@pytest.mark.long
def test_losses_are_those_of_data_parallelism_alone(pod_run, tmp_path):
    config, whole = pod_run
    run.run(with_changes(config, ALL_DATA), tmp_path)
    rounding = config["execution"]["compute_dtype"] == "bfloat16"
    assert_same_losses(tmp_path, whole, *((3e-4, 5e-3) if rounding else (1e-5, 1e-5)))


@pytest.mark.long
@pytest.mark.parametrize("pod_run", ["float32"], indirect=True)
def test_the_optimising_compiler_computes_the_same(pod_run, tmp_path):
    """The other tests do without most of XLA's passes, some of which only act where a program is split over a mesh."""
    config, whole = pod_run
    path = tmp_path / "config.py"
    path.write_text(f"def get_config():\n    import ml_collections\n    return ml_collections.ConfigDict({config!r})\n")
    environment = {**process_environment(), "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = train_command(path, tmp_path / "run")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "on mesh {'data': 2, 'fsdp': 2, 'tensor': 2}" in done.stderr
    assert_same_losses(tmp_path / "run", whole, 1e-5, 1e-5)


def assert_same_losses(found, expected, tolerance, of_norms):
    """Of two runs' folders, within relative tolerances."""
    one, other = losses(found), losses(expected)
    for name in LOSSES:
        np.testing.assert_allclose(one[name], other[name], rtol=of_norms if "norm" in name else tolerance, err_msg=name)


def test_a_mesh_that_would_split_heads_is_refused_before_anything_is_made(tmp_path):
    config = with_changes(TINY_PRETRAINING, {"mesh": {"data": 1, "fsdp": 2, "tensor": 4}})
    with pytest.raises(RemBertError, match=r"mesh\.tensor=4 would split attention heads, .*=2; choose one of 1, 2"):
        run.run(config, tmp_path)
    assert not list(tmp_path.iterdir())
