"""Whole runs on tiny models: what they write, how they stop, and that an interrupted one ends like any other."""

import itertools
import json
import math
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from experiments.runs import FINE_TUNING, interrupt, on_one_device
from helpers import (
    TINY_PRETRAINING,
    assert_same_trees,
    logged_steps,
    stored_state,
    with_changes,
)

from rembert_jax import sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.experiments import run
from rembert_jax.reports import plots
from rembert_jax.reports.plots import read_metrics
from rembert_jax.tasks.sequence_classification import SequenceClassification
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.training import checkpoint, evaluators, train_state
from rembert_jax.training.settings import TrainingError
from rembert_jax.tree import flatten


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
    config = json.loads((workdir / "resolved_config.json").read_text())
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
    counts = RemBertConfig.from_dict(manifest["model"]).parameter_counts()
    assert results["parameters"] == {"total": counts["pre_training"], "output_head": counts["output_head"]}
    assert abs(dict(read_metrics(workdir / "metrics.jsonl")["train/loss"])[2] - math.log(300)) < 0.3


def test_retrieval_in_another_world_is_measured_during_training_and_of_the_fresh_encoder(
    pretrained, tmp_path, one_device, caplog
):
    caplog.set_level("INFO")
    changes = {"data.parallel_texts": 12, "training.steps": 3, "data.synthetic": {"seed": 5}}
    results = run.run(with_changes(TINY_PRETRAINING, changes), tmp_path)
    assert _steps(tmp_path, "dev/average/retrieval_1") == _steps(tmp_path, "dev/qab/retrieval_0") == [3]
    for source in ("test", "baseline"):
        assert {f"retrieval_{layer}" for layer in (0, 1)} <= set(results[source]["average"])
        assert 0.0 <= results[source]["average"]["retrieval_1"] <= 1.0
    assert results["test"]["average"] != results["baseline"]["average"]
    assert 3.0 < results["baseline"]["qaa"]["loss"] < math.log(300), "pieces are not all equally frequent"
    assert any("sentences that find their translations, by layer: " in line for line in caplog.messages)
    assert results["seed"] == 0
    assert RemBertTokenizer(tmp_path).sha256 != RemBertTokenizer(pretrained[0]).sha256


def test_finished_run_returns_at_once(pretrained, tmp_path, one_device, monkeypatch):
    workdir, results = shutil.copytree(pretrained[0], tmp_path / "run"), pretrained[1]
    before = (workdir / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(run, "_train_stage", None)  # Nothing may be built again, or looked for.
    monkeypatch.setattr(run.stages, "_check_stage", None)
    assert run.run(TINY_PRETRAINING, workdir) == results
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_interrupted_run_goes_on_with_other_settings_of_no_consequence(
    pretrained, interrupted, tmp_path, one_device, monkeypatch
):
    workdir = tmp_path / "moved"
    shutil.copytree(interrupted, workdir)
    saved = json.loads((workdir / "resolved_config.json").read_text())
    del saved["data"]["whole_word_masking"]  # As if that key were new; its default counts.
    (workdir / "resolved_config.json").write_text(json.dumps(saved))
    checked, drawn = [], []
    check_ids = RemBertConfig.check_ids
    monkeypatch.setattr(RemBertConfig, "check_ids", lambda c, batch: checked.append(type(batch)) or check_ids(c, batch))
    monkeypatch.setattr(plots, "plot_loss", lambda *_: drawn.append((workdir / "results.json").is_file()))
    monkeypatch.setattr(train_state, "create", None)  # There is no second state beside the restored one.
    changes = {"log_every": 1, "checkpoint_every": 2, "keep_checkpoints": 1, "wandb_project": "none"}
    changes = {f"training.{name}": value for name, value in changes.items()} | {"data.prefetch": 1}
    results = run.run(with_changes(TINY_PRETRAINING, changes), workdir)
    assert results["test"] == pretrained[1]["test"]
    assert_same_trees(stored_state(workdir / "checkpoints" / "6"), stored_state(pretrained[0] / "checkpoints" / "6"))
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["6"]
    assert logged_steps(workdir) == [2, 4, 6, 4, 5, 6], "the first step after a start is logged too"
    assert len(checked) >= 3 + 2, "three steps, and two languages"
    assert drawn == [True], "figures come after the results"
    assert json.loads((workdir / "resolved_config.json").read_text())["training"]["log_every"] == 1


@pytest.mark.long
@pytest.mark.smoke
def test_run_on_eight_devices_goes_on_on_one_with_rematerialisation(pretrained, tmp_path, monkeypatch):
    mesh = with_changes(TINY_PRETRAINING, {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}})
    interrupt(mesh, tmp_path, 6)
    on_one_device(monkeypatch)
    remat = {"mesh": {"data": 1}, "execution.remat": "full"}
    results = run.run(with_changes(TINY_PRETRAINING, remat), tmp_path)
    for name in ("train/loss", "train/grad_norm"):
        alone, both = (read_metrics(workdir / "metrics.jsonl")[name] for workdir in (pretrained[0], tmp_path))
        np.testing.assert_allclose(np.array(both)[[0, 2]], np.array(alone)[[0, 2]], rtol=1e-4)
    assert results["test"]["qaa"]["loss"] == pytest.approx(pretrained[1]["test"]["qaa"]["loss"], rel=1e-4)


def _spoil(monkeypatch, step):
    """Makes the loss of one step infinite."""
    seen, to_global = [], sharding.to_global

    def place(batch, mesh, *size):
        if "masked_weights" not in batch:
            return to_global(batch, mesh, *size)
        seen.append(batch)
        infinite = {"masked_weights": np.full_like(batch["masked_weights"], np.inf)} if len(seen) == step else {}
        return to_global({**batch, **infinite}, mesh, *size)

    monkeypatch.setattr(sharding, "to_global", place)


def test_non_finite_loss_stops_and_spares_the_last_checkpoint(tmp_path, one_device, monkeypatch):
    _spoil(monkeypatch, 5)
    changes = {"training.checkpoint_every": 3, "training.log_every": 6, "training.eval_every": 0}
    config = with_changes(TINY_PRETRAINING, changes)
    message = rf"step 5: loss .*not finite.*--workdir with init_from={tmp_path}, where step 3 is saved, and lower optim"
    with pytest.raises(TrainingError, match=message):
        run.run(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 5], "what was open is written too"
    assert lines[0]["train/loss"] == pytest.approx(math.log(300), abs=0.3), "a mean, not a sum"
    assert not math.isfinite(float(lines[1]["train/loss"]) + float(lines[1]["train/grad_norm"]))
    assert checkpoint.find(tmp_path).name == "3"
    state = stored_state(checkpoint.find(tmp_path))
    assert state["healthy"] and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state["params"]))
    assert not (tmp_path / "results.json").exists()


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_learning_rate_that_is_not_finite_stops_before_anything_is_saved(tmp_path, one_device):
    changes = {"optimizer.learning_rate": 1e300, "optimizer.warmup_steps": 0, "training.checkpoint_every": 1}
    with pytest.raises(
        TrainingError, match=r"step 1: .* learning_rate inf \(not finite\).*choose a new --workdir and lower"
    ):
        run.run(with_changes(TINY_PRETRAINING, changes), tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_pre_training_starts_from_another_one(pretrained, tmp_path, no_training):
    run.run(with_changes(TINY_PRETRAINING, {"init_from": str(pretrained[0])}), tmp_path)
    assert_same_trees(no_training[0].params, stored_state(checkpoint.find(pretrained[0]))["params"])


def test_accumulated_gradients_train_alike(pretrained, tmp_path, one_device):
    changes = {"optimizer.accumulation": 4, "training.checkpoint_every": 0, "training.eval_every": 0}
    run.run(with_changes(TINY_PRETRAINING, changes), tmp_path)
    for name in ("train/loss", "train/grad_norm"):
        whole, parts = (read_metrics(workdir / "metrics.jsonl")[name] for workdir in (pretrained[0], tmp_path))
        np.testing.assert_allclose(np.array(parts), np.array(whole), rtol=2e-4)


@pytest.mark.long
@pytest.mark.smoke
def test_a_run_with_muon_frozen_embeddings_factors_and_z_loss(pretrained, tmp_path, one_device):
    changes = {
        "init_from": str(pretrained[0]),
        "optimizer.name": "muon",
        "optimizer.freeze": ("word_embeddings",),
        "optimizer.learning_rate_factors": {"cls": 0.0},
        "training.z_loss": 1e-4,
        "training.checkpoint_every": 3,
    }
    config = with_changes(TINY_PRETRAINING, changes)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run.run(config, whole)
    interrupt(config, stopped, 6)
    run.run(config, stopped)
    final = stored_state(whole / "checkpoints" / "6")
    assert_same_trees(stored_state(stopped / "checkpoints" / "6"), final)

    start = flatten(stored_state(checkpoint.find(pretrained[0]))["params"])
    kept = {name for name, value in flatten(final["params"]).items() if name in start and (value == start[name]).all()}
    assert kept == {name for name in start if name.startswith("cls/") or "word_embeddings" in name}
    penalties = dict(read_metrics(whole / "metrics.jsonl")["train/penalty"])
    # The logits of a fresh model are small, so the normaliser of 300 words is near 300.
    assert penalties[2] == pytest.approx(1e-4 * math.log(300) ** 2, rel=0.1)


@pytest.fixture
def scripted(monkeypatch):
    """Development accuracies 0.5, 0.9, 0.9 in turn; the parameters that were evaluated, and those that were tested."""
    script, seen, tested = itertools.cycle([0.5, 0.9, 0.9]), [], []

    def score(self, params, examples):
        assert list(examples) == ["qaa"]
        seen.append(jax.tree.map(np.array, params))
        return evaluators.with_average({"qaa": {"accuracy": next(script)}})

    def predict(self, params, examples):
        tested[:] = [jax.tree.map(np.array, params)]
        return ["paraphrase"] * len(examples)

    def metrics(self, examples, predictions):
        return evaluators.with_average({"qaa": {"accuracy": 0.25}, "qab": {"accuracy": 0.75}})

    monkeypatch.setattr(evaluators.TaskEvaluator, "__call__", score)
    monkeypatch.setattr(evaluators.TaskEvaluator, "predictions", predict)
    monkeypatch.setattr(evaluators.TaskEvaluator, "metrics", metrics)
    return SimpleNamespace(seen=seen, tested=tested)


@pytest.mark.long
@pytest.mark.smoke
def test_fine_tuning_keeps_the_first_of_the_best_development_steps_also_when_interrupted(
    pretrained, tmp_path, one_device, scripted
):
    config = with_changes(FINE_TUNING, {"init_from": str(pretrained[0]), "training.checkpoint_every": 2})
    whole, first, moved = tmp_path / "whole", tmp_path / "first", tmp_path / "moved"
    results = run.run(config, whole)
    assert results["selected_step"] == 4 and results["steps"] == 6
    assert results["test"]["average"] == {"accuracy": 0.5} and results["train_language"] == "qaa"
    assert len(scripted.seen) == 3 and len(scripted.tested) == 1
    for best, last, final in zip(*map(jax.tree.leaves, (*scripted.seen[1:], scripted.tested[0])), strict=True):
        np.testing.assert_array_equal(final, best)
        if best.any():
            assert (best != last).any()
    assert checkpoint.find(whole) == whole / "best" / "4"
    assert results["parameters"]["output_head"] == 0
    assert set(results["baseline"]) == {"qaa", "qab", "average"}
    assert set((whole / "predictions" / "test-qab.tsv").read_text().splitlines()) == {"paraphrase"}
    assert RemBertTokenizer(whole).sha256 == RemBertTokenizer(pretrained[0]).sha256

    interrupt(config, first, 6)
    assert checkpoint.find(first) == first / "best" / "4" and not (first / "checkpoints" / "6").exists()
    first.rename(moved)
    changing = {"seconds": 0, "run": ""}
    assert run.run(config, moved) | changing == results | changing
    for folder in ("best/4", "checkpoints/6"):
        assert_same_trees(stored_state(moved / folder), stored_state(whole / folder))


def test_fine_tuning_starts_from_the_encoder_or_afresh(pretrained, tmp_path, no_training, monkeypatch):
    monkeypatch.setattr(SequenceClassification, "baseline", None)  # It is for the end.
    stored = stored_state(checkpoint.find(pretrained[0]))["params"]["rembert"]["encoder"]
    for key, equal in (("init_from", True), ("model_from", False)):
        run.run(FINE_TUNING | {key: str(pretrained[0])}, tmp_path / key)
        encoder = no_training[-1].params["rembert"]["encoder"]
        same = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(encoder), jax.tree.leaves(stored), strict=True)]
        assert all(same) == equal
