"""A stage that was made from something else than it would be now is made again, and nothing is thrown away."""

import json
import shutil

import numpy as np
import pytest
from experiments.runs import FINE_TUNING
from helpers import TINY_PRETRAINING, with_changes

from rembert_jax.experiments import run, workdir
from rembert_jax.training import checkpoint
from rembert_jax.training.settings import TrainingError

SHORT = {"training.steps": 2, "training.eval_every": 0, "training.log_every": 0, "training.checkpoint_every": 0}


def test_a_stage_that_was_killed_knows_what_it_started_from(tmp_path):
    source = {"run": "a run", "step": 3}
    assert workdir.came_from(tmp_path) is None
    checkpoint.save_params(tmp_path, {"a": np.zeros(2, np.float32)}, {"source": source})
    assert workdir.came_from(tmp_path) == source


def test_checkpoints_of_two_runs_at_the_same_place_are_told_apart(tmp_path):
    for name in ("one", "other"):
        checkpoint.save_params(tmp_path / name, {"a": np.zeros(2, np.float32)}, {"run": name})
        assert checkpoint.origin(checkpoint.find(tmp_path / name)) == {"run": name, "step": 0}


@pytest.fixture
def experiment(tmp_path, one_device):
    """Pre-training and two fine-tunings of two steps each, which share a folder.

    Runs it and says which stages were checked before anything else, and which trained.
    """
    trained, checked = [], []

    def go(fine_tuning=None, pre_training=None):
        tuned = with_changes(FINE_TUNING | {"init_from": "{workdir}/pretrain"}, SHORT)
        stages = {
            "pretrain": with_changes(TINY_PRETRAINING, SHORT | {"optimizer.warmup_steps": 0} | (pre_training or {})),
            "one": with_changes(tuned, fine_tuning or {}),
            "two": tuned,
        }
        trained.clear()
        checked.clear()
        return run.run({"stages": stages, "order": tuple(stages)}, tmp_path)

    original, check = run._train_stage, run.stages.check_stages

    def note(config, folder, *rest):
        trained.append(folder.name)
        return original(config, folder, *rest)

    def note_checked(found, *rest):
        checked.extend(folder.name for folder in found)
        check(found, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_train_stage", note)
        patch.setattr(run.stages, "check_stages", note_checked)
        go.trained, go.checked, go.folder = trained, checked, tmp_path
        yield go


@pytest.mark.long
def test_stages_are_made_again_when_what_they_came_from_changes(experiment, caplog):
    caplog.set_level("INFO", logger="rembert_jax")
    first = experiment()
    assert experiment.trained == ["pretrain", "one", "two"]
    assert first["one"]["source"] == {"run": first["pretrain"]["run"], "step": 2}
    assert experiment() == first and not experiment.trained and not experiment.checked

    # A value of one fine-tuning costs that fine-tuning, and the old one is kept.
    second = experiment({"optimizer.learning_rate": 5e-4})
    assert experiment.trained == ["one"]
    assert second["pretrain"] == first["pretrain"] and second["two"] == first["two"]
    kept = json.loads((experiment.folder / "one.old1" / "results.json").read_text())
    assert kept == first["one"]
    assert any(
        line.startswith("one is made again, since its config changed (optimizer.learning_rate: 0.001 -> 0.0005)")
        for line in caplog.messages
    )

    # Another pre-training costs both; before it starts they are checked again.
    shutil.rmtree(experiment.folder / "pretrain")
    with pytest.raises(TrainingError, match=r"stage one: .*max_length=64 exceeds"):
        experiment({"optimizer.learning_rate": 5e-4, "task.max_length": 64})
    assert not experiment.trained and not (experiment.folder / "pretrain").exists()
    third = experiment({"optimizer.learning_rate": 5e-4})
    assert experiment.checked == experiment.trained == ["pretrain", "one", "two"]
    assert third["one"]["source"]["run"] == third["pretrain"]["run"] != first["pretrain"]["run"]
    assert (experiment.folder / "one.old2").is_dir() and (experiment.folder / "two.old1").is_dir()

    # A stage that came from another checkpoint is checked too.
    results = experiment.folder / "two" / "results.json"
    results.write_text(results.read_text().replace(third["pretrain"]["run"], "another"))
    experiment({"optimizer.learning_rate": 5e-4})
    assert experiment.checked == experiment.trained == ["two"]

    # What pre-training costs is not lost to a slip.
    with pytest.raises(TrainingError, match=r"pretrain holds a run with another config.*\n  seed: 0 -> 1"):
        experiment({"optimizer.learning_rate": 5e-4}, {"seed": 1})
