"""A finished pre-training and an interrupted one, made once for all tests."""

import json
import pathlib
from typing import Any

import pytest
from experiments.runs import interrupt, on_one_device
from helpers import TINY_PRETRAINING

from rembert_jax.experiments import run


@pytest.fixture
def one_device(monkeypatch):
    on_one_device(monkeypatch)


@pytest.fixture(scope="session")
def pretrained(made_once) -> tuple[pathlib.Path, dict[str, Any]]:
    """The workdir of a finished pre-training, which all tests share and none may change, and its results."""

    def fill(workdir):
        with pytest.MonkeyPatch.context() as patch:
            on_one_device(patch)
            (workdir / "returned.json").write_text(json.dumps(run.run(TINY_PRETRAINING, workdir)))

    workdir = made_once("pretrained", fill)
    return workdir, json.loads((workdir / "returned.json").read_text())


@pytest.fixture(scope="session")
def interrupted(made_once) -> pathlib.Path:
    """The workdir of the same pre-training, interrupted in step 6 when step 3 was the last one saved."""

    def fill(workdir):
        with pytest.MonkeyPatch.context() as patch:
            on_one_device(patch)
            interrupt(TINY_PRETRAINING, workdir, 6)

    return made_once("interrupted", fill)


@pytest.fixture
def no_training(one_device, monkeypatch) -> list[Any]:
    """Runs end where training would start; the states they would start from."""
    states = []
    monkeypatch.setattr(run.trainer, "train", lambda program, feed, state, hooks: states.append(state) or state)
    monkeypatch.setattr(run, "_finish", lambda *arguments: {})
    return states
