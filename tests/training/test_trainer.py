"""Whole runs on tiny models: what they write, how they stop, and that an interrupted one ends like any other."""

import json
import math
import os
import pathlib
import signal
import subprocess
import time
from typing import Any

import jax
import numpy as np
import pytest
from helpers import (
    ROOT,
    TINY_PRETRAINING,
    process_environment,
    real_tokenizer,
    run_process,
    train_command,
    with_changes,
)
from orbax.checkpoint import v1 as ocp

from rembert_jax import sharding
from rembert_jax.data import synthetic_tfds
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.training import checkpoint, evaluators, trainer
from rembert_jax.training.plots import read_metrics
from rembert_jax.training.trainer import TrainingError

FINE_TUNING: dict[str, Any] = {
    "execution": {"scan_layers": False},
    "task": {
        "kind": "sequence_classification",
        "source": "tfds",
        "path": "synthetic_paws_x/{language}",
        "data_dir": "{workdir}/data",
        "train_language": "qaa",
        "test_languages": ("qaa", "qab"),
        "max_length": 24,
    },
    "optimizer": {"learning_rate": 1e-3},
    "training": {"batch_size": 8, "steps": 6, "log_every": 2, "eval_every": 2},
}


def _one_device(patch):
    """Runs on one of the eight devices: what is tested here does not depend on their number, the time does."""
    make_mesh = sharding.make_mesh
    patch.setattr(sharding, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))


@pytest.fixture
def one_device(monkeypatch):
    _one_device(monkeypatch)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> tuple[pathlib.Path, dict[str, Any]]:
    """The workdir of a finished pre-training and what it returned."""
    workdir = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch:
        _one_device(patch)
        return workdir, trainer.run(TINY_PRETRAINING, workdir)


def _stored(step_folder) -> Any:
    """The training state in a checkpoint as NumPy arrays, whatever wrote it."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    metadata: Any = ocp.metadata(str(step_folder), "state").metadata
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), metadata)
    return jax.tree.map(np.asarray, ocp.load(str(step_folder), abstract, checkpointable_name="state"))


def _steps(workdir, name) -> list[int]:
    return [step for step, _ in read_metrics(workdir / "metrics.jsonl")[name]]


def test_run_writes_everything(pretrained):
    workdir, results = pretrained
    assert _steps(workdir, "train/loss") == [2, 4, 6]
    assert _steps(workdir, "dev/average/loss") == _steps(workdir, "dev/qab/accuracy") == [3, 6]
    assert {"train/learning_rate", "train/grad_norm", "time/tokens_per_second"} <= set(
        read_metrics(workdir / "metrics.jsonl")
    )
    events = list((workdir / "tensorboard").iterdir())
    assert len(events) == 1 and b"train/loss" in events[0].read_bytes()
    for name in ("loss.png", "languages.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((workdir / "results.json").read_text()) == results
    config = json.loads((workdir / "config.json").read_text())
    assert config["optimizer"]["learning_rate"] == 1e-3 and config["data"]["alpha"] == 0.5, "defaults are resolved"
    assert RemBertTokenizer(workdir).vocab_size == 300
    assert checkpoint.read_manifest(checkpoint.find(workdir))["tokenizer_sha256"] == RemBertTokenizer(workdir).sha256
    assert not list(workdir.glob("*partial*")) and not list(workdir.glob(".writable*"))


def test_results_agree_with_metrics_and_model(pretrained):
    workdir, results = pretrained
    assert (results["kind"], results["steps"], results["selected_step"]) == ("pretraining", 6, 6)
    held_out = dict(read_metrics(workdir / "metrics.jsonl")["dev/qaa/loss"])
    assert results["test"]["qaa"]["loss"] == pytest.approx(held_out[6])
    assert set(results["test"]) == {"qaa", "qab", "average"}
    manifest = checkpoint.read_manifest(checkpoint.find(workdir))
    counts = trainer.RemBertConfig.from_dict(manifest["model"]).parameter_counts()
    assert results["parameters"] == {"total": counts["pre_training"], "output_head": counts["output_head"]}
    assert abs(dict(read_metrics(workdir / "metrics.jsonl")["train/loss"])[2] - math.log(300)) < 0.3


def test_finished_run_returns_at_once(pretrained, one_device, monkeypatch):
    workdir, results = pretrained
    before = (workdir / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(trainer, "_Run", None)  # Nothing may be built again.
    assert trainer.run(TINY_PRETRAINING, workdir) == results
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"optimizer.learning_rate": 2e-3}, r"optimizer\.learning_rate: 0\.001 -> 0\.002"),
        ({"data.alpha": 0.7}, r"data\.alpha: 0\.5 -> 0\.7"),
        ({"training.steps": 7}, r"training\.steps: 6 -> 7"),
    ],
)
def test_other_config_on_the_same_workdir_is_refused(pretrained, changes, line):
    with pytest.raises(TrainingError, match=rf"holds a run with another config; .*\n  {line}$"):
        trainer.run(with_changes(TINY_PRETRAINING, changes), pretrained[0])


def test_keys_that_change_nothing_computed_may_change(pretrained):
    changes = {"training.log_every": 1, "training.keep_checkpoints": 5, "data.prefetch": 2}
    assert trainer.run(with_changes(TINY_PRETRAINING, changes), pretrained[0]) == pretrained[1]


def test_other_vocabulary_than_the_checkpoints_is_refused(pretrained, tmp_path, one_device):
    config = FINE_TUNING | {"init_from": str(pretrained[0]), "tokenizer": {"path": str(real_tokenizer().model_file)}}
    with pytest.raises(TrainingError, match=r"is not the vocabulary of .*leave tokenizer\.path empty"):
        trainer.run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.learning_rat": 1}, r"config\.optimizer: unknown key 'learning_rat' \(did you mean 'learning_rate'"),
        ({"optimiser": {}}, r"config: unknown key 'optimiser' \(did you mean 'optimizer'\?\)"),
        ({"training.steps": "many"}, r"config\.training\.steps: found 'many' \(str\), expected int"),
        ({"optimizer": {}}, r"config\.optimizer: missing learning_rate"),
        ({"data.source": "web"}, r"config\.data\.source: found 'web', expected one of 'text', 'jsonl', 'tfds', 'synth"),
        ({"training.epochs": 3}, r"config\.training: steps=6, epochs=3: set one of them"),
        ({"model.hiden_size": 16}, r"model: unknown key 'hiden_size' \(did you mean 'hidden_size'"),
        ({"task": FINE_TUNING["task"]}, "exactly one of the sections data .* and task"),
        ({"data.seq_length": 64}, r"data\.seq_length=64 exceeds model\.max_position_embeddings=32; shorten"),
        ({"data.languages": ("qaa", "qzz")}, "unknown synthetic language 'qzz': expected one of qaa"),
        ({"data.source": "text"}, r"data\.path"),
        ({"tokenizer.path": "/nowhere/v.model"}, r"/nowhere/v\.model: no such vocabulary"),
        ({"tokenizer.vocab_size": 0}, r"no vocabulary: set tokenizer\.path, or tokenizer\.vocab_size"),
        ({"tokenizer.vocab_size": 50_000}, r"tokenizer\.vocab_size=50000: the sampled text supports at most \d+ pieces"),
        ({"model.vocab_size": 301}, r"model\.vocab_size=301, but the vocabulary .* has 300; leave the key out"),
        ({"init_from": "/nowhere"}, "init_from=/nowhere: no checkpoint found there"),
        ({"optimizer.warmup_steps": 6}, r"warmup_steps=6 is not shorter than the run of 6 steps"),
        ({"mesh": {"tensor": 3}}, r"mesh .*'tensor': 3\} needs \d+ devices, found 1; change mesh\.data"),
    ],
)  # fmt: skip
def test_wrong_configs_are_explained_before_training(tmp_path, one_device, changes, message):
    with pytest.raises((ValueError, TrainingError), match=message):
        trainer.run(with_changes(TINY_PRETRAINING, changes), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"batch_size=12 is not divisible by .*= 8 x 1 x 1 .*use a multiple of 8"):
        trainer.run(with_changes(TINY_PRETRAINING, {"training.batch_size": 12}), tmp_path)


def test_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match=r"--workdir=.*file/run cannot be written \(.+\); choose another folder"):
        trainer.run(TINY_PRETRAINING, tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": ("a",)}, r"config\.order \['a'\] does not name each of \['a', 'b'\] once"),
        ({"extra": 1}, "unknown key 'extra' beside stages; known: order, report, stages"),
        (
            {"report": {"x": {"title": "X", "pretrained": "a", "scratch": "c"}}},
            "config.report: no stage 'c'; expected one of a, b",
        ),
    ],
)
def test_wrong_stages_are_explained_before_the_first_one(tmp_path, changes, message):
    stages = {"stages": {"a": TINY_PRETRAINING, "b": TINY_PRETRAINING}, "order": ("a", "b")}
    with pytest.raises(ValueError, match=message):
        trainer.run(stages | changes, tmp_path)
    assert not list(tmp_path.rglob("config.json"))


def test_non_finite_loss_stops_and_spares_the_last_checkpoint(tmp_path, one_device):
    changes = {"optimizer.learning_rate": 1e30, "optimizer.warmup_steps": 0, "training.checkpoint_every": 1}
    config = with_changes(TINY_PRETRAINING, changes)
    with pytest.raises(TrainingError, match=r"step 2: loss .*not finite.*saved since step 1\. Lower optimizer\.learn"):
        trainer.run(config, tmp_path)
    last = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["step"] == 2 and not math.isfinite(float(last["train/loss"]) + float(last["train/grad_norm"]))
    assert checkpoint.find(tmp_path).name == "1"
    params = _stored(checkpoint.find(tmp_path))["params"]
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(params))
    assert not (tmp_path / "results.json").exists()
    with pytest.raises(TrainingError, match="step 2"):  # It goes on from step 1 and meets the same.
        trainer.run(config, tmp_path)


def test_accumulated_gradients_train_alike(pretrained, tmp_path, one_device):
    changes = {"optimizer.accumulation": 4, "training.checkpoint_every": 0, "training.eval_every": 0}
    trainer.run(with_changes(TINY_PRETRAINING, changes), tmp_path)
    for name in ("train/loss", "train/grad_norm"):
        whole, parts = (read_metrics(workdir / "metrics.jsonl")[name] for workdir in (pretrained[0], tmp_path))
        np.testing.assert_allclose(np.array(parts), np.array(whole), rtol=2e-4)


@pytest.fixture
def small_sets(monkeypatch):
    monkeypatch.setattr(synthetic_tfds, "LABELLED_SIZES", {"train": 40, "validation": 8, "test": 8})


def test_fine_tuning_keeps_the_best_development_step(pretrained, tmp_path, one_device, small_sets, monkeypatch):
    script, seen, tested = iter([0.5, 0.9, 0.7]), [], []

    def scripted(self, params, examples):
        copy = jax.tree.map(np.array, params)
        if list(examples) == ["qaa"]:
            seen.append(copy)
            return evaluators.with_average({"qaa": {"accuracy": next(script)}})
        tested.append(copy)
        return evaluators.with_average({"qaa": {"accuracy": 0.25}, "qab": {"accuracy": 0.75}})

    monkeypatch.setattr(evaluators.TaskEvaluator, "__call__", scripted)
    results = trainer.run(FINE_TUNING | {"init_from": str(pretrained[0])}, tmp_path)
    assert results["selected_step"] == 4 and results["steps"] == 6
    assert results["test"]["average"] == {"accuracy": 0.5} and results["train_language"] == "qaa"
    assert len(seen) == 3 and len(tested) == 1
    for best, last, final in zip(*map(jax.tree.leaves, (seen[1], seen[2], tested[0])), strict=True):
        np.testing.assert_array_equal(final, best)
        if best.any():
            assert (best != last).any()
    assert checkpoint.find(tmp_path) == tmp_path / "best" / "4"
    assert results["parameters"]["output_head"] == 0
    assert set(results["baseline"]) == {"qaa", "qab"}
    assert RemBertTokenizer(tmp_path).sha256 == RemBertTokenizer(pretrained[0]).sha256


def test_fine_tuning_starts_from_the_encoder_or_afresh(pretrained, tmp_path, one_device, small_sets, monkeypatch):
    stored = _stored(checkpoint.find(pretrained[0]))["params"]["rembert"]["encoder"]
    for key, equal in (("init_from", True), ("model_from", False)):
        with monkeypatch.context() as patch:
            states = []
            patch.setattr(trainer._Run, "_loop", lambda self, state, states=states: states.append(state) or state)
            patch.setattr(trainer._Run, "_finish", lambda self, state: {})
            trainer.run(FINE_TUNING | {key: str(pretrained[0])}, tmp_path / key)
        encoder = states[0].params["rembert"]["encoder"]
        same = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(encoder), jax.tree.leaves(stored), strict=True)]
        assert all(same) == equal


def test_more_rows_than_examples_are_refused(pretrained, tmp_path, one_device, small_sets):
    config = with_changes(FINE_TUNING | {"init_from": str(pretrained[0])}, {"training.batch_size": 64})
    with pytest.raises(ValueError, match=r"training\.batch_size=64 exceeds the 40 training examples of qaa"):
        trainer.run(config, tmp_path)


# The command line, in processes of their own.

STEPS, EVERY = 120, 20


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def _write_config(path, **changes) -> pathlib.Path:
    config = with_changes(TINY_PRETRAINING, changes)
    path.write_text(f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({config!r})\n")
    return path


def test_killed_run_ends_with_the_same_parameters(tmp_path, cache):
    changes = {"steps": STEPS, "checkpoint_every": EVERY, "eval_every": 0, "log_every": 10}
    changes = {f"training.{key}": value for key, value in changes.items()}
    config = _write_config(tmp_path / "config.py", **changes)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finished = run_process(train_command(config, whole), cache)
    assert finished.returncode == 0, finished.stderr
    assert f"step {STEPS}/{STEPS}" in finished.stderr

    with (tmp_path / "killed.log").open("w") as log:
        process = subprocess.Popen(
            train_command(config, killed), cwd=ROOT, env=process_environment(cache), stdout=log, stderr=log
        )
        deadline = time.monotonic() + 200
        while not (killed / "checkpoints" / str(EVERY) / "_CHECKPOINT_METADATA").exists():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "killed.log").read_text()
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    stopped_at = int(checkpoint.find(killed).name)
    assert EVERY <= stopped_at < STEPS

    resumed = run_process(train_command(config, killed), cache)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from step" in resumed.stderr
    vocabularies = [(run / "sentencepiece.model").read_bytes() for run in (whole, killed)]
    assert vocabularies[0] == vocabularies[1], "the text or the code changed between the two runs"
    expected, found = (_stored(run / "checkpoints" / str(STEPS)) for run in (whole, killed))
    assert jax.tree.structure(expected) == jax.tree.structure(found)
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=jax.tree_util.keystr(path))
    last = [json.loads((run / "results.json").read_text())["test"] for run in (whole, killed)]
    assert last[0] == last[1]
    steps = _steps(killed, "train/loss")
    assert steps[0] == 10 and steps[-1] == STEPS and len(steps) == len(set(steps))


@pytest.mark.parametrize(
    ("flags", "message", "own"),
    [
        (("--batch_size=3",), "Unknown command line flag 'batch_size'", False),
        (("--config.optimizer.learning_rat=1",), "learning_rat", False),
        (("--config.optimizer.learning_rate=-1",), "SchemaError: config.optimizer: learning_rate=-1", True),
    ],
)
def test_wrong_command_line_is_explained(tmp_path, cache, flags, message, own):
    config = _write_config(tmp_path / "config.py")
    result = run_process(train_command(config, tmp_path / "run", *flags), cache)
    assert result.returncode != 0
    assert message in result.stderr
    if own:
        assert "Traceback" not in result.stderr and result.stderr.count("\n") <= 3
    assert not (tmp_path / "run" / "checkpoints").exists()
