"""What each step of a run draws and sees, recorded from within its compiled step: keys, rows, initial values, speed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY_PRETRAINING, with_changes

from rembert_jax.experiments import pretraining
from rembert_jax.experiments import run as runs
from rembert_jax.reports.plots import read_metrics

STEPS, ROWS = 5, 8


@dataclasses.dataclass
class Recorded:
    """One entry for each call of the objective."""

    keys: list[tuple[int, ...]]
    rows: list[np.ndarray]
    first_value: list[float]
    metrics: dict

    @property
    def tokens(self) -> list[int]:
        """Of each call, without padding."""
        return [int(np.count_nonzero(rows)) for rows in self.rows]


@pytest.fixture
def record(tmp_path, one_device, monkeypatch):
    """Runs five steps of a model whose loss is the square of its parameters, and says what its objective was given."""
    prepare = pretraining.prepare

    def run(accumulation=1, **changes):
        recorded = Recorded([], [], [], {})

        def note(key, rows, value):
            recorded.keys.append(tuple(np.asarray(key).tolist()))
            recorded.rows.append(np.asarray(rows))
            recorded.first_value.append(float(value))

        def objective(params, batch, key):
            table = params["rembert"]["embeddings"]["word_embeddings"]["embedding"]
            jax.debug.callback(note, jax.random.key_data(key), batch["segment_ids"], table[5, 0], ordered=True)
            return {"loss": (table**2).sum(), "weight": jnp.ones(()), "correct": jnp.zeros(())}

        def job(*arguments):
            nothing = {"qaa": {"loss": 1.0, "accuracy": 0.5}, "average": {"loss": 1.0, "accuracy": 0.5}}
            judge = dict.fromkeys(("evaluate", "test"), lambda *given: nothing)
            stage = prepare(*arguments)
            program = dataclasses.replace(stage.program, objective=objective)
            return dataclasses.replace(stage, program=program, baseline=lambda: nothing, **judge)

        monkeypatch.setattr(pretraining, "prepare", job)
        settings = {"training.steps": STEPS, "training.checkpoint_every": 0, "optimizer.accumulation": accumulation}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        runs.run(with_changes(TINY_PRETRAINING, settings | changes), folder)
        jax.effects_barrier()
        recorded.metrics = {name: dict(values) for name, values in read_metrics(folder / "metrics.jsonl").items()}
        return recorded

    return run


def test_a_step_is_as_many_micro_batches_as_the_config_says_each_with_a_key_of_its_own(record):
    parts, whole = record(accumulation=2), record()
    assert [len(rows) for rows in parts.rows] == [ROWS // 2] * 2 * STEPS
    assert [len(rows) for rows in whole.rows] == [ROWS] * STEPS
    assert len(set(parts.keys)) == 2 * STEPS and len(set(whole.keys)) == STEPS
    for step in range(STEPS):
        found = np.concatenate(parts.rows[2 * step : 2 * step + 2])
        assert sorted(map(tuple, found)) == sorted(map(tuple, whole.rows[step]))


def test_initial_values_and_dropout_are_those_of_the_seed(record):
    one, again, other = (record(seed=seed) for seed in (0, 0, 1))
    assert one.keys == again.keys and one.first_value == again.first_value
    assert not set(one.keys) & set(other.keys)
    assert one.first_value[0] != other.first_value[0]


def test_tokens_per_second_are_tokens_by_the_time_of_their_steps(record):
    run = record(**{"training.log_every": 2})
    speed, seconds = run.metrics["time/tokens_per_second"], run.metrics["time/seconds_per_step"]
    assert min(run.tokens) > 0 and len(set(run.tokens)) > 1
    # The first step compiles and is not timed.
    for last, steps in {2: [2], 4: [3, 4], 5: [5]}.items():
        tokens = sum(run.tokens[step - 1] for step in steps)
        assert speed[last] * seconds[last] * len(steps) == pytest.approx(tokens, rel=1e-6)
