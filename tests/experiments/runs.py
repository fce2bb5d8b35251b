"""Configs of tiny runs, and how to stop one and keep one small."""

from typing import Any

import jax
import pytest

from rembert_jax import sharding
from rembert_jax.experiments import run
from rembert_jax.training import hooks

FINE_TUNING: dict[str, Any] = {
    "task": {
        "kind": "sequence_classification",
        "source": "tfds",
        "path": "synthetic_paws_x/{language}-0-64",
        "data_dir": "{workdir}/data",
        "train_language": "qaa",
        "test_languages": ("qaa", "qab"),
        "max_length": 24,
    },
    "optimizer": {"learning_rate": 1e-3},
    "training": {"batch_size": 8, "steps": 6, "log_every": 2, "eval_every": 2},
}


def on_one_device(patch):
    """Runs on one of the eight devices: what is tested here does not depend on their number, the time does."""
    make_mesh = sharding.make_mesh
    patch.setattr(sharding, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))


def interrupt(config, workdir, step):
    """Runs until `step` has been trained, and neither evaluated nor saved."""
    evaluate = hooks.Evaluate.after

    def stop(hook, now, state, sums):
        if now == step:
            raise KeyboardInterrupt
        evaluate(hook, now, state, sums)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(hooks.Evaluate, "after", stop)
        run.run(config, workdir)
