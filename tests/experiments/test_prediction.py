"""Stages that train nothing: the parameters of another run predict."""

import json

import pytest
from experiments.runs import FINE_TUNING
from helpers import assert_same_trees, stored_state, with_changes

from rembert_jax.errors import RemBertError
from rembert_jax.experiments import run
from rembert_jax.training import checkpoint, evaluators


@pytest.fixture
def tuned(pretrained, tmp_path, one_device):
    """A run fine-tuned for pairs, with its config."""
    config = with_changes(FINE_TUNING | {"init_from": str(pretrained[0])}, {"training.eval_every": 3})
    run.run(config, tmp_path / "tuned")
    return config, tmp_path / "tuned"


def _predicting(config, **changes):
    """The same task as a stage that predicts."""
    stage = {key: value for key, value in config.items() if key not in ("optimizer", "init_from")}
    return with_changes(stage | {"training": {"batch_size": 8}}, changes)


@pytest.mark.long
def test_a_stage_predicts_what_the_run_that_it_names_predicted(tuned, tmp_path, monkeypatch):
    config, folder = tuned
    before = json.loads((folder / "results.json").read_text())
    predicting = _predicting(config, predict_with="{workdir}/../tuned", **{"task.test_languages": ("qab",)})
    used = []
    predict = evaluators.TaskEvaluator.predictions
    monkeypatch.setattr(
        evaluators.TaskEvaluator, "predictions", lambda *given: used.append(given[1]) or predict(*given)
    )
    found = run.run(predicting, tmp_path / "again")
    assert_same_trees(used[0], stored_state(checkpoint.find(folder))["params"])
    assert found["test"]["qab"] == before["test"]["qab"] and set(found["test"]) == {"qab", "average"}
    files = [path / "predictions" / "test-qab.tsv" for path in (folder, tmp_path / "again")]
    assert files[0].read_text() == files[1].read_text()
    assert found["kind"] == "prediction" and found["steps"] == 0
    assert found["source"] == {"run": before["run"], "step": before["selected_step"]}
    assert run.run(predicting, tmp_path / "again") == found, "finished"

    # Other labels, another head, and parts that make no sense.
    tags = {"kind": "token_classification", "path": "synthetic_pos/{language}-0-64", "text_fields": ("tokens",)}
    tags = {f"task.{key}": value for key, value in (tags | {"label_field": "upos"}).items()}
    with pytest.raises(
        RemBertError, match="was trained for the labels different_meaning, paraphrase, and the task has ADJ"
    ):
        run.run(_predicting(config, predict_with=str(folder), **tags), tmp_path / "b")
    with pytest.raises(
        RemBertError, match=r"predict_with is for a task, and trains nothing; leave out training\.steps"
    ):
        run.run(_predicting(config, predict_with=str(folder), **{"training.steps": 3}), tmp_path / "c")


def test_the_head_must_be_there(pretrained, tmp_path, one_device, monkeypatch):
    monkeypatch.setattr(run.checkpoint, "read_manifest", _with_labels(run.checkpoint.read_manifest))
    with pytest.raises(
        RemBertError, match=r"has no classifier/.*, rembert/pooler/.*; predict_with a run that was fine-tuned"
    ):
        run.run(_predicting(FINE_TUNING, predict_with=str(pretrained[0])), tmp_path / "a")


def _with_labels(read):
    return lambda folder: {**read(folder), "labels": ["different_meaning", "paraphrase"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"batch_size": 8}}, "training: steps=0, epochs=0: set one of them"),
        (
            {"model_from": "x", "predict_with": "y", "training": {"batch_size": 8}},
            "init_from, model_from and predict_with excl",
        ),
    ],
)
def test_what_is_neither_training_nor_prediction_is_refused(tmp_path, changes, message):
    with pytest.raises(RemBertError, match=message):
        run.run(FINE_TUNING | {"model_from": "x"} | changes, tmp_path)


def test_training_needs_an_optimizer(tmp_path):
    config = {key: value for key, value in FINE_TUNING.items() if key != "optimizer"}
    with pytest.raises(RemBertError, match="config: missing optimizer; add it to this section"):
        run.run(config | {"model_from": "x"}, tmp_path)
