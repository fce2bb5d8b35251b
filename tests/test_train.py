"""`train.py` in processes of its own."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from absl.testing import flagsaver
from helpers import (
    ROOT,
    TINY_PRETRAINING,
    assert_same_trees,
    logged_steps,
    process_environment,
    run_process,
    stored_state,
    train_command,
    with_changes,
)

import train
from rembert_jax.errors import RemBertError
from rembert_jax.experiments import sweep
from rembert_jax.training import checkpoint

STEPS, EVERY = 120, 20


def _write_config(path, **changes) -> pathlib.Path:
    config = with_changes(TINY_PRETRAINING, changes)
    path.write_text(f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({config!r})\n")
    return path


@pytest.mark.long
def test_killed_run_ends_with_the_same_parameters(tmp_path):
    changes = {"steps": STEPS, "checkpoint_every": EVERY, "eval_every": 0, "log_every": 10}
    changes = {f"training.{key}": value for key, value in changes.items()}
    config = _write_config(tmp_path / "config.py", **changes)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finished = run_process(train_command(config, whole))
    assert finished.returncode == 0, finished.stderr
    assert f"step {STEPS}/{STEPS}" in finished.stderr

    with (tmp_path / "killed.log").open("w") as log:
        process = subprocess.Popen(
            train_command(config, killed), cwd=ROOT, env=process_environment(), stdout=log, stderr=log
        )
        deadline = time.monotonic() + 200
        while not (killed / "checkpoints" / str(EVERY) / "_CHECKPOINT_METADATA").exists():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "killed.log").read_text()
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    stopped_at = int(checkpoint.find(killed).name)
    assert EVERY <= stopped_at < STEPS

    resumed = run_process(train_command(config, killed))
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from step" in resumed.stderr
    vocabularies = [(run / "sentencepiece.model").read_bytes() for run in (whole, killed)]
    assert vocabularies[0] == vocabularies[1], "the text or the code changed between the two runs"
    assert_same_trees(*(stored_state(run / "checkpoints" / str(STEPS)) for run in (whole, killed)))
    last = [json.loads((run / "results.json").read_text())["test"] for run in (whole, killed)]
    assert last[0] == last[1]
    steps = logged_steps(killed)
    before = len(steps) - (STEPS - stopped_at) // 10
    assert steps[:before] == list(range(10, 10 * before + 1, 10)), "until it was killed"
    assert steps[before:] == list(range(stopped_at + 10, STEPS + 1, 10)), "and since it was resumed"


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections'
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--batch_size=3",), "Unknown command line flag 'batch_size'"),
        (
            ("--config.optimizer.learning_rat=1",),
            "--config.optimizer.learning_rat: the config file has no key 'learning_rat' in config.optimizer; "
            "it has learning_rate, warmup_steps",
        ),
        (("--config=configs/nowhere.py:smoke",), "--config=configs/nowhere.py: there is no such file"),
        (("--workdir=",), "TrainingError: --workdir is empty"),
        (("--config.optimizer.learning_rate=-1",), "SchemaError: config.optimizer: learning_rate=-1"),
        (
            ("--config=configs/quickstart.py:seed=abc",),
            "--config: config argument 'seed=abc': expected int as in seed=0",
        ),
        (("--config=configs/quickstart.py:seed=-3",), "--config: pretrain.data.synthetic: seed=-3: expected 0 or more"),
        (
            ("--config=configs/output_embedding.py", "--sweep_index=-1"),
            "SweepError: --sweep_index=-1: the sweep has members 0 to 11",
        ),
        (("--sweep_index=0",), "SweepError: --config={config} has no function sweep()"),
        (
            ("--config=configs/output_embedding.py", "--sweep_index=12"),
            "SweepError: --sweep_index=12: the sweep has members 0 to 11",
        ),
        (
            (
                "--config=configs/output_embedding.py",
                "--sweep_index=3",
                "--config.stages.pretrain.model.output_embedding_size=7",
            ),
            "SweepError: --config.stages.pretrain.model.output_embedding_size: the sweep sets it; leave the flag out",
        ),
    ],
)
def test_wrong_command_line_is_explained(tmp_path, capsys, monkeypatch, flags, message):
    config = _write_config(tmp_path / "config.py")
    given = [] if any(flag.startswith("--config=") for flag in flags) else [f"--config={config}"]
    monkeypatch.setattr(train.writers, "log_to_terminal", lambda process: None)
    workdir = f"--workdir={tmp_path / 'run'}"
    monkeypatch.setattr(sys, "argv", ["train.py", *given, workdir, "--num_processes=1", *flags])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
        train.main(train.parse_flags(sys.argv))
    said = str(end.value)
    assert message.format(config=config) in said
    assert said.count("\n") <= 2 and not capsys.readouterr().out
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.long
def test_a_wrong_flag_ends_the_process_with_one_line(tmp_path):
    config = _write_config(tmp_path / "config.py")
    result = run_process(train_command(config, tmp_path / "run", "--config.optimizer.learning_rate=-1"))
    assert result.returncode != 0 and not result.stdout
    assert (
        result.stderr.startswith("SchemaError: config.optimizer: learning_rate=-1") and result.stderr.count("\n") == 1
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only there")
@pytest.mark.parametrize(("given", "expected"), [(None, "glibc.malloc.hugetlb=1"), ("other", "other")])
@pytest.mark.long
def test_a_run_has_huge_pages_unless_the_c_library_is_told_otherwise(tmp_path, given, expected):
    config = tmp_path / "config.py"
    config.write_text("import os\n\n\ndef get_config():\n    raise ValueError(os.environ['GLIBC_TUNABLES'])\n")
    environment = {name: value for name, value in process_environment().items() if name != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": given} if given else {}
    command = train_command(config, tmp_path / "run")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == f"--config: {expected}", done.stderr


@pytest.mark.parametrize(
    ("error", "shown"), [(RemBertError("wrong"), True), (ValueError("shapes (3,) and (4,)"), False)]
)
def test_only_what_the_package_refuses_is_cut_to_one_line(monkeypatch, error, shown):
    def run(config, workdir, *, shared):
        raise error

    monkeypatch.setattr(train.run, "run", run)
    monkeypatch.setattr(train, "_COMPILE_CACHE", SimpleNamespace(value=""))
    monkeypatch.setattr(train.writers, "log_to_terminal", lambda process: None)
    monkeypatch.setattr(train, "_NUM_PROCESSES", SimpleNamespace(value=1))
    monkeypatch.setattr(train, "_CONFIG", SimpleNamespace(value=SimpleNamespace(to_dict=dict)))
    monkeypatch.setattr(train, "_WORKDIR", SimpleNamespace(value="run"))
    monkeypatch.setattr(train, "_SHARED", SimpleNamespace(value=None))
    with pytest.raises(SystemExit if shown else ValueError, match="RemBertError: wrong" if shown else "shapes"):
        train.main(["train.py"])


def test_a_member_of_a_sweep_is_its_arguments_and_overrides(monkeypatch):
    monkeypatch.setattr(train, "_overrides", {})
    spec = "configs/output_embedding.py:smoke"
    member = sweep.load_members(spec)[1]
    argv = train._choose_member(["train.py", f"--config={spec}", "--sweep_index=1", "--workdir=run"])
    assert argv == ["train.py", f"--config={spec},seed=0", "--sweep_index=1", "--workdir=run"]
    assert member == {"stages.pretrain.model.output_embedding_size": 320, "seed": 0}
    assert train._overrides == {"stages.pretrain.model.output_embedding_size": 320}
    assert train._choose_member(["train.py", "--config", spec, "--sweep_index", "0"])[2] == f"{spec},seed=0"
