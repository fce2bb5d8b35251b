"""Use of the devices in the log, and profiles of some steps."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY_PRETRAINING, with_changes

from rembert_jax.config import RemBertConfig
from rembert_jax.experiments import run
from rembert_jax.reports.plots import read_metrics
from rembert_jax.training import chips, hooks, timing
from rembert_jax.training.settings import TrainingConfig, TrainingError


def test_flops_of_a_worked_model():
    config = RemBertConfig(
        vocab_size=100, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, input_embedding_size=4,
        output_embedding_size=16, intermediate_size=32,
    )  # fmt: skip
    # A token: 4 x 8 down to 8; a layer 4 x 8 x 8, 2 x 8 x 32 and twice its 5 neighbours by 8. A prediction: 8 x 16, 16 x 100.
    token, prediction = 4 * 8 + 2 * (4 * 64 + 2 * 256 + 2 * 5 * 8), 8 * 16 + 16 * 100
    # Two operations for each, forward once and backward twice.
    assert config.training_flops(rows=3, length=5, predictions=2) == 6 * (15 * token + 6 * prediction)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("cpu", None),
    ],
)
def test_the_peak_is_that_of_all_devices_of_their_kind(kind, peak):
    devices = [types.SimpleNamespace(device_kind=kind)] * 4
    assert chips.peak_flops(devices) == (None if peak is None else 4 * peak)


def test_what_a_run_uses_of_its_devices_and_a_profile_are_written(tmp_path, one_device, monkeypatch, capsys, caplog):
    caplog.set_level("INFO", logger="rembert_jax")
    monkeypatch.setitem(chips.PEAK_FLOPS, "cpu", 1e10)
    run.run(with_changes(TINY_PRETRAINING, {"training.profile_steps": (3, 4)}), tmp_path)
    metrics = {name: dict(values) for name, values in read_metrics(tmp_path / "metrics.jsonl").items()}
    config = RemBertConfig(vocab_size=300, **TINY_PRETRAINING["model"])
    flops = config.training_flops(rows=8, length=32, predictions=5)  # 15 % of 32.
    for step, used in metrics["time/mfu"].items():
        assert used == pytest.approx(flops / metrics["time/seconds_per_step"][step] / 1e10)
    assert list(metrics["time/mfu"]) == [2, 4, 6]
    assert list(metrics["time/compile_seconds"]) == [2] and metrics["time/compile_seconds"][2] > 0
    assert "MFU" in capsys.readouterr().err
    losses = metrics["dev/average/loss"]
    assert list(losses) == [3, 6]
    for step, loss in losses.items():
        assert any(line.startswith(f"step {step}, held out: loss {loss:.3f}  accuracy ") for line in caplog.messages)
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


def test_the_numbers_of_the_log_are_those_of_the_clock(monkeypatch, caplog):
    monkeypatch.setitem(chips.PEAK_FLOPS, "cpu", 1e9)
    devices = np.array([types.SimpleNamespace(device_kind="cpu")] * 2)
    program = types.SimpleNamespace(
        mesh=types.SimpleNamespace(devices=devices), total_steps=5, step_flops=3_000_000_000
    )
    feed, now, written, shown = types.SimpleNamespace(tokens=0), [0.0], {}, []
    log = hooks.Log(
        program,
        feed,
        types.SimpleNamespace(write=written.__setitem__),
        types.SimpleNamespace(show=lambda line, final: shown.append((line, final))),
        every=2,
    )
    log.stopwatch = timing.Stopwatch(lambda: now[0])

    def step(number, called, returned, tokens, loss):
        sums = {"loss": loss, "weight": 4.0, "correct": 1.0, "grad_norm": 0.5, "learning_rate": 0.1, "finite": True}
        now[0] = called
        log.before(number)
        now[0], feed.tokens = returned, tokens
        log.after(number, None, sums)

    with caplog.at_level("INFO"):
        step(1, 2.0, 7.0, 100, 8.0)
    assert "first step after 7.0 s, 5.0 of them for compiling it" in caplog.messages
    step(2, 7.0, 10.0, 400, 12.0)
    step(3, 10.0, 12.0, 700, 4.0)
    step(4, 12.0, 14.0, 1000, 4.0)
    step(5, 14.0, 15.0, 1200, 4.0)
    # Without the first step; the loss is the mean over what was predicted since the last line.
    assert shown == [
        ("step 2/5  loss 2.500  accuracy 25.0 %  100 tokens/s  MFU 50.0 %  ETA 0:09", False),
        ("step 4/5  loss 1.000  accuracy 25.0 %  150 tokens/s  MFU 75.0 %  ETA 0:02", False),
        ("step 5/5  loss 1.000  accuracy 25.0 %  200 tokens/s  MFU 150.0 %  ETA 0:00", True),
    ]
    assert [values["time/mfu"] for values in written.values()] == [0.5, 0.75, 1.5]
    assert [values.get("time/compile_seconds") for values in written.values()] == [5.0, None, None]


SUMS = {"loss": 1.0, "weight": 1.0, "correct": 1.0, "grad_norm": 0.5, "learning_rate": 0.1, "finite": True}


def _log(total_steps):
    """A log that writes nothing and has a line at the end only."""
    mesh = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(device_kind="cpu")]))
    program = types.SimpleNamespace(mesh=mesh, total_steps=total_steps, step_flops=1)
    ignore = types.SimpleNamespace(write=lambda *_: None, show=lambda *_, **__: None, clear=lambda: None)
    return hooks.Log(program, types.SimpleNamespace(tokens=0, position=None), ignore, ignore, every=0)


def test_the_host_runs_ahead_of_the_devices_between_the_lines_of_the_log(monkeypatch):
    monkeypatch.setattr(hooks, "READ_EVERY", 3)
    log, read, get = _log(total_steps=8), [], hooks.jax.device_get
    monkeypatch.setattr(hooks.jax, "device_get", lambda window: (read.append(step), get(window))[1])
    for step in range(1, 9):
        log.before(step)
        log.after(step, None, SUMS)
    assert list(dict.fromkeys(read)) == [3, 6, 8]


@pytest.mark.parametrize(("every", "steps"), [(0, [8]), (3, [3, 6, 8]), (4, [4, 8])])
def test_the_last_step_is_evaluated_and_saved_whatever_the_interval(every, steps):
    log, evaluated, saved = _log(total_steps=8), [], []
    store = types.SimpleNamespace(save=lambda step, *_: saved.append(step), wait=lambda: saved.append("waited for"))
    evaluate = hooks.Evaluate(log, lambda params: evaluated.append(params) or {"average": {}}, every, None, None, {})
    for step in range(1, 9):
        log.before(step)
        for hook in (log, evaluate, hooks.Save(log, store, every, {})):
            hook.after(step, types.SimpleNamespace(params=step, healthy=True), SUMS)
    assert evaluated == steps and saved == [*steps, "waited for"]


@pytest.mark.parametrize("hook", ["evaluation", "checkpoint"])
def test_nothing_is_evaluated_or_saved_after_a_step_that_is_not_finite(hook):
    log = _log(total_steps=8)
    if hook == "evaluation":
        second = hooks.Evaluate(log, lambda params: pytest.fail("evaluated"), 4, None, None, {})
    else:
        store = types.SimpleNamespace(
            wait=lambda: None, latest_step=None, save=lambda *_: pytest.fail("saved"), directory=None
        )
        second = hooks.Save(log, store, 4, {})
    with pytest.raises(TrainingError, match=r"^step 3: loss 3, .*not finite.*; the update was not made"):
        for step in range(1, 9):
            log.before(step)
            for one in (log, second):
                one.after(step, None, {**SUMS, "loss": float(step), "finite": step < 3})
    assert step == 4


def test_a_profile_starts_with_the_first_and_ends_with_the_last_of_its_steps(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(hooks.jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(hooks.jax.profiler, "stop_trace", lambda: calls.append("stop"))

    def profiled(steps, wanted):
        calls.clear()
        profile = hooks.Profile(tmp_path, wanted)
        for step in steps:
            profile.before(step)
            calls.append(step)
            profile.after(step, None, jnp.zeros(()))
        profile.close()
        return list(calls)

    assert profiled(range(1, 6), (2, 3)) == [1, "start", 2, 3, "stop", 4, 5]
    assert profiled(range(3, 6), (2, 4)) == ["start", 3, 4, "stop", 5], "a run that goes on within them"
    assert profiled(range(5, 7), (2, 4)) == [5, 6] and profiled(range(1, 3), ()) == [1, 2]
    assert profiled(range(1, 3), (2, 4)) == [1, "start", 2, "stop"], "a run that ends within them"
    first = TrainingConfig(batch_size=8, steps=10, profile_steps=(1, 1)).profile_steps
    assert profiled(range(1, 3), first) == ["start", 1, "stop", 2]


@pytest.mark.parametrize("steps", [(1,), (0, 3), (4, 3), (1, 2, 3)])
def test_steps_that_are_no_range_are_refused(steps):
    with pytest.raises(TrainingError, match=r"profile_steps=.*: expected the first and the last step, counted from 1"):
        TrainingConfig(batch_size=8, steps=10, profile_steps=steps)
