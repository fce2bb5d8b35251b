"""Whole sweeps in processes of their own: checked first, killed and gone on with, failures listed, cluster files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from helpers import ROOT, TINY_PRETRAINING, process_environment, with_changes

from rembert_jax.experiments import sweep as sweeps
from rembert_jax.reports import collect, runs
from rembert_jax.tools import launch_sweep

CONFIG = """
import ml_collections
from rembert_jax.experiments import sweep as sweeps


def get_config(arg=None):
    seed = int((arg or "seed=0").removeprefix("seed="))
    return ml_collections.ConfigDict({**%r, "seed": seed})


def sweep():
    return %s
"""
MEMBERS = 'sweeps.product(sweeps.values("model.output_embedding_size", (8, 24)), sweeps.seeds(1, first=3))'


def write_config(folder, members=MEMBERS):
    config = with_changes(TINY_PRETRAINING, {"data.languages": ("qac", "qad")})  # Those with the fewest texts.
    del config["seed"]
    path = folder / "swept.py"
    path.write_text(CONFIG % (config, members))
    return path


def launch(config, workdir, *flags, **options):
    command = [
        sys.executable,
        "-m",
        "rembert_jax.tools.launch_sweep",
        f"--config={config}",
        f"--workdir={workdir}",
        *flags,
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=process_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def table(workdir):
    return collect.to_csv(collect.make_table(runs.find_runs(workdir), metrics=["average/*"]))


@pytest.mark.long
def test_a_sweep_killed_in_the_middle_ends_with_the_same_table(tmp_path):
    config, whole, killed = write_config(tmp_path), tmp_path / "whole", tmp_path / "killed"
    process = launch(config, whole, "--parallel=2")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.splitlines()[0] == f"2 members, 0 of them finished, 2 at a time, in {whole}"
    assert "1 (output_embedding_size=24, seed=3): finished" in out and "2 of 2 finished" in out
    logs = [(whole / str(number) / "log.txt").read_text() for number in range(2)]
    # Vocabulary and tokens of two languages are made once for both widths, though both start at the same time.
    assert sum(log.count("training a vocabulary") for log in logs) == 1
    assert sum(log.count("tokenising") for log in logs) == 2

    # The first member is done, and the second one is killed while it runs.
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "1")
    process = launch(config, killed, start_new_session=True)
    deadline = time.monotonic() + 200
    while not (killed / "1" / "resolved_config.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [not run.status for run in runs.find_runs(killed)] == [True, False]
    process = launch(config, killed)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.splitlines()[0].startswith("2 members, 1 of them finished, 1 at a time")
    seconds = [line for line in table(whole).splitlines() if "seconds" not in line]
    assert seconds == [line for line in table(killed).splitlines() if "seconds" not in line]
    assert len(seconds) == 1 + 2 * 2


@pytest.mark.long
def test_a_failed_member_is_listed_and_leaves_the_others(tmp_path):
    members = '[{"optimizer.learning_rate": 1e300}, {"optimizer.learning_rate": 1e-3}]'
    process = launch(write_config(tmp_path, members), tmp_path / "run")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "1 (learning_rate=0.001): finished" in out and "1 of 2 finished, 1 failed" in out
    assert err.startswith(
        "1 of 2 members failed; the same command tries them again\n  0 (learning_rate=1e+300): failed: "
    )
    assert f"(see {tmp_path}/run/0/log.txt)" in err
    status = {run.name: run.status for run in runs.find_runs(tmp_path / "run")}
    assert status["1"] == "" and status["0"].startswith("failed: TrainingError: step 1:")


def test_members_end_with_a_launcher_that_is_told_to_end(tmp_path):
    process = launch(write_config(tmp_path), tmp_path / "run")
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / "0" / "log.txt").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.endswith("stopped; the same command goes on\n")
    # Nothing of the member is left: its log grows no more.
    before = (tmp_path / "run" / "0" / "log.txt").stat().st_size
    time.sleep(1.0)
    assert (tmp_path / "run" / "0" / "log.txt").stat().st_size == before
    assert not (tmp_path / "run" / "1").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_member_that_is_being_started_ends_with_the_launcher_too(tmp_path, monkeypatch, number):
    ended = []

    class Started:
        returncode = None

        def __init__(self, *_, **__):
            os.kill(os.getpid(), number)
            for _ in range(100):  # The signal's handler runs between two instructions of these.
                pass

        def poll(self):
            return self.returncode

        def terminate(self):
            ended.append(self)

        def wait(self):
            assert self in ended

    monkeypatch.setattr(launch_sweep.subprocess, "Popen", Started)
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    try:
        message = refused(f"--config={write_config(tmp_path)}", f"--workdir={tmp_path / 'run'}", "--parallel=2")
    finally:
        for each, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(each, handler)
    assert message == "stopped; the same command goes on" and len(ended) == 2


def refused(*arguments):
    with pytest.raises(SystemExit) as error:
        launch_sweep.main([str(argument) for argument in arguments])
    return str(error.value)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("[]", "yields nothing"),
        ("sweeps.seeds(2) * 2", "members 0 and 2 of sweep() are equal: seed=0"),
        ('[{"seed": 0}, {"optimizer.learning_rat": 1}]',
         "member 1 (learning_rat=1): optimizer.learning_rat: the config file has no key 'learning_rat' in config.optimizer"),
        ('[{"seed": 0}, {"training.steps": "many"}]', "member 1 (steps=many): training.steps: found 'many' (str), expected"),
        ('[{"seed": 0}, {"optimizer.learning_rate": -1.0}]', "member 1 (learning_rate=-1.0): config.optimizer: learning_ra"),
    ],
)  # fmt: skip
def test_all_members_are_checked_before_the_first_one_starts(tmp_path, members, message):
    config = write_config(tmp_path, members)
    assert message in refused(f"--config={config}", f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_flags_that_fit_no_member_are_refused(tmp_path):
    config = write_config(tmp_path)
    options = (f"--config={config}", f"--workdir={tmp_path / 'run'}")
    assert "member 0 (output_embedding_size=8, seed=3): optimizer.lr: the config file has no key" in refused(
        *options, "--config.optimizer.lr=1"
    )
    assert "--steps=3: expected --config.KEY=value" in refused(*options, "--steps=3")
    assert "--config.model.output_embedding_size: the sweep sets it" in refused(
        *options, "--config.model.output_embedding_size=3"
    )
    assert "--parallel=0: expected at least 1" in refused(*options, "--parallel=0")


def test_a_folder_belongs_to_one_sweep_that_may_grow(tmp_path):
    def claim(members, *flags):
        launch_sweep.claim(launch_sweep.prepare(str(write_config(tmp_path, members)), str(tmp_path / "run"), flags))

    claim("sweeps.seeds(2)")
    claim("sweeps.seeds(3)")
    assert len(json.loads((tmp_path / "run" / "sweep.json").read_text())["members"]) == 3
    with pytest.raises(
        sweeps.SweepError, match=r"holds another sweep; choose another --workdir\n  members\.2: .* \(absent\)"
    ):
        claim("sweeps.seeds(2)")
    with pytest.raises(sweeps.SweepError, match=r"members\.1\.seed: 1 -> 2"):
        claim("sweeps.seeds(3, first=1)")
    with pytest.raises(sweeps.SweepError, match=r"flags: \[\] -> \['--config\.training\.steps=9'\]"):
        claim("sweeps.seeds(3)", "--config.training.steps=9")


def printed(capsys, tmp_path, *flags):
    launch_sweep.main([f"--config={write_config(tmp_path)}", "--workdir=DIR with space", *flags])
    return capsys.readouterr().out


def test_commands_are_printed_for_other_machines(tmp_path, capsys):
    lines = printed(capsys, tmp_path, "--print=list", "--config.training.steps=9").splitlines()
    assert len(lines) == 2
    assert lines[1] == (
        f"python train.py --config={tmp_path}/swept.py --sweep_index=1 '--workdir=DIR with space/1' "
        "'--shared=DIR with space/shared' --config.training.steps=9"
    )


def test_a_job_array_runs_the_same_commands(tmp_path, capsys):
    script = printed(capsys, tmp_path, "--print=slurm", "--parallel=2")
    assert "#SBATCH --array=0-1%2" in script.splitlines()
    # As a shell runs it, with `srun` and `python` that print what they are given.
    shell = "srun() { shift; printf '%s\\n' \"$@\"; }\n" + script
    result = subprocess.run(
        ["bash", "-c", shell], env={"SLURM_ARRAY_TASK_ID": "1"}, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == [
        "train.py", f"--config={tmp_path}/swept.py", "--sweep_index=1", "--workdir=DIR with space/1",
        "--shared=DIR with space/shared",
    ]  # fmt: skip


def test_job_sets_ask_for_the_hosts_of_a_slice(tmp_path, capsys):
    text = printed(
        capsys, tmp_path, "--print=gke", "--topology=2x2x4", "--image=here/train:1", "--accelerator=tpu-v5p-slice"
    )
    documents = list(yaml.safe_load_all(text))
    assert [document["metadata"]["name"] for document in documents] == ["swept-0", "swept-1"]
    job = documents[1]["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x2x4",
    }
    (container,) = pod["containers"]
    assert container["command"][2:] == [
        f"--config={tmp_path}/swept.py",
        "--sweep_index=1",
        "--workdir=DIR with space/1",
    ]
    assert container["image"] == "here/train:1" and container["resources"]["limits"] == {"google.com/tpu": 4}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--topology=16",), "--topology=16: expected chips by dimension"),
        (("--topology=2x3",), "2x3 has 6 chips, which hosts of"),
    ],
)
def test_slices_that_no_hosts_make_up_are_refused(tmp_path, flags, message):
    assert message in refused(f"--config={write_config(tmp_path)}", "--workdir=run", "--print=gke", *flags)
