"""Ctrl-C and SIGTERM: the run saves after the step under way, says so in one line, and goes on as if nothing had been."""

import concurrent.futures
import os
import signal
import subprocess

import pytest
from helpers import (
    ROOT,
    TINY_PRETRAINING,
    assert_same_trees,
    process_environment,
    stored_state,
    train_command,
    with_changes,
)

from rembert_jax.experiments import run
from rembert_jax.training import checkpoint, hooks


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_saves_and_goes_on(pretrained, tmp_path, one_device, monkeypatch, number):
    after, told = hooks.Profile.after, []

    def tell(hook, step, state, sums):
        after(hook, step, state, sums)
        if step == 4 and not told:
            told.append(number)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(hooks.Profile, "after", tell)
    before = signal.getsignal(number)
    config = with_changes(TINY_PRETRAINING, {"training.checkpoint_every": 0})
    with pytest.raises(
        hooks.Stopped, match=rf"{number.name}: stopped and saved after step 4; the same command"
    ) as stopped:
        run.run(config, tmp_path)
    assert stopped.value.signal_number == number
    assert signal.getsignal(number) is before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]
    first = stored_manifest(tmp_path, 4)
    run.run(config, tmp_path)
    assert_same_trees(stored_state(tmp_path / "checkpoints" / "6"), stored_state(pretrained[0] / "checkpoints" / "6"))
    assert stored_manifest(tmp_path, 6)["run"] == first["run"], "it is the same run"


def stored_manifest(folder, step):
    return checkpoint.read_manifest(folder / "checkpoints" / str(step))


def test_a_run_in_another_thread_leaves_signals_alone():
    handlers = [signal.getsignal(number) for number in hooks.Stop.SIGNALS]
    log = hooks.Log.__new__(hooks.Log)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        stop = threads.submit(lambda: hooks.Stop(hooks.Save(log, None, 0, {}))).result()
        assert [signal.getsignal(number) for number in hooks.Stop.SIGNALS] == handlers
        threads.submit(stop.close).result()


def test_a_second_interrupt_ends_at_once(monkeypatch):
    log = hooks.Log.__new__(hooks.Log)
    stop = hooks.Stop(hooks.Save(log, None, 0, {}))
    try:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        stop.close()


@pytest.mark.long
def test_the_command_says_where_it_goes_on(tmp_path):
    command = [*train_command("configs/quickstart.py:smoke", tmp_path), "--compile_cache=off"]
    command += [
        "--config.stages.pretrain.training.steps=100000",
        "--config.stages.pretrain.training.checkpoint_every=0",
    ]
    environment = {k: v for k, v in process_environment().items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("step 8/"):
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read().splitlines()
    assert process.returncode == 128 + signal.SIGTERM, rest
    assert rest[-1].startswith("SIGTERM: stopped and saved after step ")
    assert rest[-1].endswith("; the same command goes on from there")
    assert not (tmp_path / "cache" / "rembert_jax").exists(), "--compile_cache=off"
