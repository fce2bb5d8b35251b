"""Whole runs on tiny models: what they write, how they stop, and that an interrupted one ends like any other."""

import itertools
import json
import math
import pathlib
import shutil
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from helpers import (
    TINY_PRETRAINING,
    assert_same_trees,
    logged_steps,
    real_tokenizer,
    stored_state,
    with_changes,
)

from rembert_jax import sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.data import synthetic_tfds
from rembert_jax.errors import RemBertError
from rembert_jax.tasks.sequence_classification import SequenceClassification
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.training import checkpoint, evaluators, plots, preparation, settings, trainer
from rembert_jax.training.plots import read_metrics
from rembert_jax.training.settings import TrainingError

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


def _interrupt(config, workdir, step):
    """Runs until `step` has been trained, and neither evaluated nor saved."""
    evaluate = trainer._Run._evaluate

    def stop(run, now, state):
        if now == step:
            raise KeyboardInterrupt
        evaluate(run, now, state)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer._Run, "_evaluate", stop)
        trainer.run(config, workdir)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> pathlib.Path:
    """The workdir of the same pre-training, interrupted in step 6 when step 3 was the last one saved."""
    workdir = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        _one_device(patch)
        _interrupt(TINY_PRETRAINING, workdir, 6)
    return workdir


@pytest.fixture
def no_training(one_device, monkeypatch) -> list[Any]:
    """Runs end where training would start; the states they would start from."""
    states = []
    monkeypatch.setattr(trainer._Run, "_loop", lambda run, state: states.append(state))
    monkeypatch.setattr(trainer._Run, "_finish", lambda run, state: {})
    return states


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
    monkeypatch.setattr(trainer, "_Run", None)  # Nothing may be built again, or looked for.
    monkeypatch.setattr(preparation, "_check_stage", None)
    assert trainer.run(TINY_PRETRAINING, workdir) == results
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"optimizer.learning_rate": 2e-3}, r"optimizer\.learning_rate: 0\.001 -> 0\.002"),
        ({"data.alpha": 0.7}, r"data\.alpha: 0\.5 -> 0\.7"),
        ({"data.workers": 2}, r"data\.workers: 0 -> 2"),
        ({"training.steps": 7}, r"training\.steps: 6 -> 7"),
        ({"training.eval_every": 2}, r"training\.eval_every: 3 -> 2"),
        ({"execution.scan_layers": True}, r"execution\.scan_layers: False -> True"),
        ({"execution.compute_dtype": "bfloat16"}, r"execution\.compute_dtype: float32 -> bfloat16"),
    ],
)
def test_other_config_on_the_same_workdir_is_refused(interrupted, changes, line):
    with pytest.raises(TrainingError, match=rf"holds a run with another config; .*\n  {line}$"):
        trainer.run(with_changes(TINY_PRETRAINING, changes), interrupted)


def test_interrupted_run_goes_on_with_other_settings_of_no_consequence(
    pretrained, interrupted, tmp_path, one_device, monkeypatch
):
    workdir = tmp_path / "moved"
    shutil.copytree(interrupted, workdir)
    saved = json.loads((workdir / "config.json").read_text())
    del saved["data"]["whole_word_masking"]  # As if that key were new; its default counts.
    (workdir / "config.json").write_text(json.dumps(saved))
    checked, drawn = [], []
    check_ids = RemBertConfig.check_ids
    monkeypatch.setattr(RemBertConfig, "check_ids", lambda c, batch: checked.append(type(batch)) or check_ids(c, batch))
    monkeypatch.setattr(plots, "plot_loss", lambda *_: drawn.append((workdir / "results.json").is_file()))
    monkeypatch.setattr(trainer.train_state, "create", None)  # There is no second state beside the restored one.
    changes = {"log_every": 1, "checkpoint_every": 2, "keep_checkpoints": 1, "wandb_project": "none"}
    changes = {f"training.{name}": value for name, value in changes.items()} | {"data.prefetch": 1}
    results = trainer.run(with_changes(TINY_PRETRAINING, changes), workdir)
    assert results["test"] == pretrained[1]["test"]
    assert_same_trees(stored_state(workdir / "checkpoints" / "6"), stored_state(pretrained[0] / "checkpoints" / "6"))
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["6"]
    assert logged_steps(workdir) == [2, 4, 6, 4, 5, 6], "the first step after a start is logged too"
    assert len(checked) >= 3 + 2, "three steps, and two languages"
    assert drawn == [True], "figures come after the results"
    assert json.loads((workdir / "config.json").read_text())["training"]["log_every"] == 1


def test_run_on_eight_devices_goes_on_on_one_with_rematerialisation(pretrained, tmp_path, monkeypatch):
    mesh = with_changes(TINY_PRETRAINING, {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}})
    _interrupt(mesh, tmp_path, 6)
    _one_device(monkeypatch)
    remat = {"mesh": {"data": 1}, "execution.remat": "full"}
    results = trainer.run(with_changes(TINY_PRETRAINING, remat), tmp_path)
    for name in ("train/loss", "train/grad_norm"):
        alone, both = (read_metrics(workdir / "metrics.jsonl")[name] for workdir in (pretrained[0], tmp_path))
        np.testing.assert_allclose(np.array(both)[[0, 2]], np.array(alone)[[0, 2]], rtol=1e-4)
    assert results["test"]["qaa"]["loss"] == pytest.approx(pretrained[1]["test"]["qaa"]["loss"], rel=1e-4)


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_damaged_files_of_a_run_are_named(pretrained, tmp_path, name):
    for file in ("config.json", "results.json"):
        shutil.copy(pretrained[0] / file, tmp_path)
    (tmp_path / name).write_text('{"seed": ')
    with pytest.raises(TrainingError, match=rf"{name} cannot be read \(.+\); restore it, or choose a new --workdir"):
        trainer.run(TINY_PRETRAINING, tmp_path)


@pytest.mark.parametrize(
    "bad",
    [
        {"optimizer.warmup_steps": 6},
        {"data.source": "text", "data.path": "/nowhere/{language}/{split}"},
        {"model.vocab_size": 301},
        {"init_from": "pretrained", "model": {"intermediate_size": 48}},
    ],
)
def test_start_that_fails_does_not_bind_the_workdir(pretrained, tmp_path, no_training, bad):
    bad = {key: str(pretrained[0]) if value == "pretrained" else value for key, value in bad.items()}
    with pytest.raises(RemBertError):
        trainer.run(with_changes(TINY_PRETRAINING, bad), tmp_path)
    assert not (tmp_path / "config.json").exists() and not no_training
    trainer.run(TINY_PRETRAINING, tmp_path)
    assert (tmp_path / "config.json").is_file() and len(no_training) == 1


def test_vocabulary_of_a_failed_start_serves_if_it_was_made_in_the_same_way(tmp_path, no_training, monkeypatch):
    made = []
    train_vocabulary = preparation.train_vocabulary
    monkeypatch.setattr(preparation, "train_vocabulary", lambda *a, **k: made.append(k) or train_vocabulary(*a, **k))

    def start(**changes):
        trainer.run(with_changes(TINY_PRETRAINING, changes), tmp_path)

    with pytest.raises(TrainingError, match=r"the vocabulary .* has 300"):
        start(**{"model.vocab_size": 301})
    with pytest.raises(TrainingError, match=r"the vocabulary .* has 300"):
        start(**{"model.vocab_size": 301, "optimizer.learning_rate": 1.0})
    assert len(made) == 1
    with pytest.raises(TrainingError, match=r"the vocabulary .* has 280"):
        start(**{"model.vocab_size": 301, "tokenizer.vocab_size": 280})
    with pytest.raises(TrainingError, match=r"the vocabulary .* has 400"):
        start(**{"model.vocab_size": 301, "tokenizer.path": str(real_tokenizer().model_file)})
    start()
    assert [arguments["vocab_size"] for arguments in made] == [300, 280, 300]
    assert RemBertTokenizer(tmp_path).vocab_size == 300
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("index", [0, 1])
def test_no_process_waits_for_a_vocabulary_that_cannot_be_made(tmp_path, monkeypatch, index):
    told = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(preparation.multihost_utils, "broadcast_one_to_all", lambda x: told.append(x) or np.array(True))
    config = settings.resolve(with_changes(TINY_PRETRAINING, {"tokenizer.path": "/nowhere/v.model"}))
    with pytest.raises(RemBertError, match=("/nowhere/v.model: no such folder", "the first process could not")[index]):
        preparation.open_tokenizer(config, tmp_path, {})
    assert [bool(failed) for failed in told] == [index == 0]


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
        ({"training.steps": 0, "training.epochs": 3}, r"training\.epochs is for fine-tuning; pre-training needs"),
        ({"training.keep_checkpoints": 0}, r"config\.training: keep_checkpoints=0: expected at least 1"),
        ({"training.checkpoint_every": -1}, r"config\.training: checkpoint_every=-1: expected at least 0"),
        ({"model.hiden_size": 16}, r"model: unknown key 'hiden_size' \(did you mean 'hidden_size'"),
        ({"task": FINE_TUNING["task"]}, "exactly one of the sections data .* and task"),
        ({"data.seq_length": 64}, r"data\.seq_length=64 exceeds model\.max_position_embeddings=32; shorten"),
        ({"data.languages": ("qaa", "qzz")}, "unknown synthetic language 'qzz': expected one of qaa"),
        ({"data.source": "text"}, r"data\.path"),
        ({"data.source": "tfds", "data.path": "none/{language}"}, r"TFDS dataset 'none/qaa'.*data_dir"),
        ({"tokenizer.path": "/nowhere/v.model"}, r"/nowhere/v\.model: no such folder"),
        ({"tokenizer.vocab_size": 0}, r"no vocabulary: set tokenizer\.path, or tokenizer\.vocab_size"),
        ({"tokenizer.vocab_size": 50_000}, r"tokenizer\.vocab_size=50000: the sampled text supports at most \d+ pieces"),
        ({"model.vocab_size": 301}, r"model\.vocab_size=301, but the vocabulary .* has 300; leave the key out"),
        ({"init_from": "/nowhere"}, "init_from=/nowhere: no checkpoint found there"),
        ({"optimizer.warmup_steps": 6}, r"warmup_steps=6 is not shorter than the run of 6 steps"),
        ({"mesh": {"tensor": 3}}, r"mesh .*'tensor': 3\} needs \d+ devices, found 1; change mesh\.data"),
    ],
)  # fmt: skip
def test_wrong_configs_are_explained_before_training(tmp_path, one_device, changes, message):
    with pytest.raises(RemBertError, match=message):
        trainer.run(with_changes(TINY_PRETRAINING, changes), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    made = (tmp_path / "run" / "sentencepiece.model").exists()
    assert made == ("the vocabulary .* has" in message), "nothing is made before all is checked that can be"


@pytest.mark.parametrize("name", ["batch_size", "eval_batch_size"])
def test_batch_that_does_not_divide_is_refused(tmp_path, name):
    with pytest.raises(RemBertError, match=rf"training\.{name}=12 is not divisible by .*= 8 x 1 x 1 .*multiple of 8"):
        trainer.run(with_changes(TINY_PRETRAINING, {f"training.{name}": 12}), tmp_path)
    assert not (tmp_path / "sentencepiece.model").exists()


def test_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match=r"--workdir=.*file/run cannot be written \(.+\); choose another folder"):
        trainer.run(TINY_PRETRAINING, tmp_path / "file" / "run")
    with pytest.raises(TrainingError, match="--workdir is empty"):
        trainer.run(TINY_PRETRAINING, "")


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


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (TINY_PRETRAINING | {"optimizer": {"learning_rate": 1.0, "warmup_steps": 6}}, "warmup_steps=6 is not shorter"),
        (with_changes(TINY_PRETRAINING, {"training.batch_size": 0}), r"config.*batch_size=0|b\.training: batch_size=0"),
        (with_changes(TINY_PRETRAINING, {"model.hiden_size": 1}), "model: unknown key 'hiden_size'"),
        (FINE_TUNING | {"init_from": "/nowhere"}, "init_from=/nowhere: no checkpoint found there"),
        (with_changes(FINE_TUNING, {"init_from": "{workdir}/a", "task.max_length": 64}), r"task\.max_length=64 exceeds"),
        (
            with_changes(FINE_TUNING, {"init_from": "{workdir}/a", "task.test_languages": ("qaa", "qzz")}),
            "unknown synthetic language 'qzz'; expected one of qaa",
        ),
        (
            with_changes(FINE_TUNING, {"init_from": "{workdir}/a", "task.path": "none/{language}"}),
            r"TFDS dataset 'none/qaa'",
        ),
        (
            with_changes(FINE_TUNING, {
                "init_from": "{workdir}/a", "task.kind": "token_classification", "task.source": "conllu",
                "task.path": "{workdir}/{language}/{split}.conllu", "task.text_fields": ("tokens",),
            }),
            "no file for language 'qaa', split 'train'",
        ),
    ],
)  # fmt: skip
def test_mistakes_of_a_later_stage_are_found_before_the_first_one(tmp_path, one_device, stage, message):
    with pytest.raises(RemBertError, match=message) as error:
        trainer.run({"stages": {"a": TINY_PRETRAINING, "b": stage}, "order": ("a", "b")}, tmp_path)
    assert str(error.value).startswith(("stage b:", "b.")), "the stage is named"
    assert not (tmp_path / "a").exists()


def _spoil(monkeypatch, step):
    """Makes the loss of one step infinite."""
    seen, to_global = [], sharding.to_global

    def place(batch, mesh):
        seen.append(batch)
        infinite = {"masked_weights": np.full_like(batch["masked_weights"], np.inf)} if len(seen) == step else {}
        return to_global({**batch, **infinite}, mesh)

    monkeypatch.setattr(sharding, "to_global", place)


def test_non_finite_loss_stops_and_spares_the_last_checkpoint(tmp_path, one_device, monkeypatch):
    _spoil(monkeypatch, 5)
    changes = {"training.checkpoint_every": 3, "training.log_every": 6, "training.eval_every": 0}
    config = with_changes(TINY_PRETRAINING, changes)
    message = rf"step 5: loss .*not finite.*--workdir with init_from={tmp_path}, where step 3 is saved, and lower optim"
    with pytest.raises(TrainingError, match=message):
        trainer.run(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 5], "what was open is written too"
    assert lines[0]["train/loss"] == pytest.approx(math.log(300), abs=0.3), "a mean, not a sum"
    assert not math.isfinite(float(lines[1]["train/loss"]) + float(lines[1]["train/grad_norm"]))
    assert checkpoint.find(tmp_path).name == "3"
    state = stored_state(checkpoint.find(tmp_path))
    assert state["healthy"] and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state["params"]))
    assert not (tmp_path / "results.json").exists()


def test_non_finite_update_stops_before_anything_is_saved(tmp_path, one_device):
    changes = {"optimizer.learning_rate": 1e30, "optimizer.warmup_steps": 0, "training.checkpoint_every": 1}
    with pytest.raises(
        TrainingError, match=r"step 1: .* update_norm inf \(not finite\).*choose a new --workdir and lower"
    ):
        trainer.run(with_changes(TINY_PRETRAINING, changes), tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_pre_training_starts_from_another_one(pretrained, tmp_path, no_training):
    trainer.run(with_changes(TINY_PRETRAINING, {"init_from": str(pretrained[0])}), tmp_path)
    assert_same_trees(no_training[0].params, stored_state(checkpoint.find(pretrained[0]))["params"])


def test_accumulated_gradients_train_alike(pretrained, tmp_path, one_device):
    changes = {"optimizer.accumulation": 4, "training.checkpoint_every": 0, "training.eval_every": 0}
    trainer.run(with_changes(TINY_PRETRAINING, changes), tmp_path)
    for name in ("train/loss", "train/grad_norm"):
        whole, parts = (read_metrics(workdir / "metrics.jsonl")[name] for workdir in (pretrained[0], tmp_path))
        np.testing.assert_allclose(np.array(parts), np.array(whole), rtol=2e-4)


@pytest.fixture
def small_sets(monkeypatch):
    monkeypatch.setattr(synthetic_tfds, "LABELLED_SIZES", {"train": 40, "validation": 8, "test": 8})


@pytest.fixture
def scripted(monkeypatch):
    """Development accuracies 0.5, 0.9, 0.7 in turn; the parameters that were evaluated, and those that were tested."""
    script, seen, tested = itertools.cycle([0.5, 0.9, 0.7]), [], []

    def score(self, params, examples):
        copy = jax.tree.map(np.array, params)
        if list(examples) == ["qaa"]:
            seen.append(copy)
            return evaluators.with_average({"qaa": {"accuracy": next(script)}})
        tested.append(copy)
        return evaluators.with_average({"qaa": {"accuracy": 0.25}, "qab": {"accuracy": 0.75}})

    monkeypatch.setattr(evaluators.TaskEvaluator, "__call__", score)
    return SimpleNamespace(seen=seen, tested=tested)


def test_fine_tuning_keeps_the_best_development_step_also_when_interrupted(
    pretrained, tmp_path, one_device, small_sets, scripted
):
    config = with_changes(FINE_TUNING, {"init_from": str(pretrained[0]), "training.checkpoint_every": 2})
    whole, first, moved = tmp_path / "whole", tmp_path / "first", tmp_path / "moved"
    results = trainer.run(config, whole)
    assert results["selected_step"] == 4 and results["steps"] == 6
    assert results["test"]["average"] == {"accuracy": 0.5} and results["train_language"] == "qaa"
    assert len(scripted.seen) == 3 and len(scripted.tested) == 1
    for best, last, final in zip(*map(jax.tree.leaves, (*scripted.seen[1:], scripted.tested[0])), strict=True):
        np.testing.assert_array_equal(final, best)
        if best.any():
            assert (best != last).any()
    assert checkpoint.find(whole) == whole / "best" / "4"
    assert results["parameters"]["output_head"] == 0
    assert set(results["baseline"]) == {"qaa", "qab"}
    assert RemBertTokenizer(whole).sha256 == RemBertTokenizer(pretrained[0]).sha256

    _interrupt(config, first, 6)
    assert checkpoint.find(first) == first / "best" / "4" and not (first / "checkpoints" / "6").exists()
    first.rename(moved)
    assert trainer.run(config, moved) | {"seconds": 0} == results | {"seconds": 0}
    for folder in ("best/4", "checkpoints/6"):
        assert_same_trees(stored_state(moved / folder), stored_state(whole / folder))


def test_fine_tuning_starts_from_the_encoder_or_afresh(pretrained, tmp_path, no_training, small_sets, monkeypatch):
    monkeypatch.setattr(SequenceClassification, "context_free_baseline", None)  # It is for the end.
    stored = stored_state(checkpoint.find(pretrained[0]))["params"]["rembert"]["encoder"]
    for key, equal in (("init_from", True), ("model_from", False)):
        trainer.run(FINE_TUNING | {key: str(pretrained[0])}, tmp_path / key)
        encoder = no_training[-1].params["rembert"]["encoder"]
        same = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(encoder), jax.tree.leaves(stored), strict=True)]
        assert all(same) == equal


def test_more_rows_than_examples_are_refused(pretrained, tmp_path, one_device, small_sets):
    config = with_changes(FINE_TUNING | {"init_from": str(pretrained[0])}, {"training.batch_size": 64})
    with pytest.raises(ValueError, match=r"training\.batch_size=64 exceeds the 40 training examples of qaa"):
        trainer.run(config, tmp_path)
