"""Runs of several processes: real ones, connected over this machine's own network."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from experiments.runs import FINE_TUNING
from helpers import ROOT, TINY_PRETRAINING, process_environment, train_command, with_changes

from rembert_jax.data import synthetic
from rembert_jax.experiments import processes, run
from rembert_jax.experiments.processes import ProcessError
from rembert_jax.reports.plots import read_metrics

STEPS = 30
CONFIG = with_changes(
    TINY_PRETRAINING,
    {
        "model.num_attention_heads": 4,
        "mesh": {"data": 2, "fsdp": 1, "tensor": 4},
        "training.steps": STEPS,
        "training.log_every": 1,
        "training.eval_every": 0,
        "training.checkpoint_every": 2,
    },
)


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Processes:
    """As many processes as asked for, of a command of which each knows its number; they have eight devices together."""

    def __init__(self, folder: pathlib.Path, count: int, command: list[str], *, cwd=ROOT) -> None:
        self.logs = [folder / f"{count}-{index}.log" for index in range(count)]
        address = f"--coordinator_address=127.0.0.1:{free_port()}"
        environment = process_environment() | {"JAX_NUM_CPU_DEVICES": str(8 // count), "PYTHONPATH": str(ROOT)}
        self.running = []
        for index, log in enumerate(self.logs):
            flags = [address, f"--num_processes={count}", f"--process_id={index}", "--connect_timeout=120"]
            place = cwd if isinstance(cwd, pathlib.Path) else cwd[index]
            with log.open("w") as file:
                started = subprocess.Popen([*command, *flags], cwd=place, env=environment, stdout=file, stderr=file)
            self.running.append(started)

    def wait_for(self, path: pathlib.Path) -> None:
        deadline = time.monotonic() + 200
        while not path.exists():
            assert time.monotonic() < deadline and all(one.poll() is None for one in self.running), self.text()
            time.sleep(0.01)

    def codes(self) -> list[int]:
        return [one.wait(200) for one in self.running]

    def text(self, *indices: int) -> str:
        return "\n".join(self.logs[index].read_text() for index in (indices or range(len(self.logs))))


@pytest.fixture
def started():
    """Processes that do not outlive the test."""
    made: list[Processes] = []
    yield lambda *arguments, **options: made.append(Processes(*arguments, **options)) or made[-1]
    for group in made:
        for one in group.running:
            one.kill()
            one.wait()


@pytest.mark.long
def test_two_processes_one_killed_then_four_stopped_then_one_are_a_run_like_any_other(tmp_path, started):
    file = tmp_path / "config.py"
    file.write_text(f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({CONFIG!r})\n")
    workdir = tmp_path / "run"
    command = train_command(file, workdir, "--compile_cache=off", "--heartbeat_timeout=20")

    two = started(tmp_path, 2, command)
    two.wait_for(workdir / "checkpoints" / "4" / "_CHECKPOINT_METADATA")
    two.running[1].kill()
    first, second = two.codes()
    # It notices while it talks to the other, or JAX ends it once the heartbeats are missed.
    words = {1: "process 0 of 2 ends, and so will the others", -signal.SIGABRT: "another task died"}
    assert second == -signal.SIGKILL and words[first] in two.text(0)
    assert "parameters on mesh" in two.text(0) and "parameters on mesh" not in two.text(1), "the first one speaks"

    # "tensor" now reaches over two processes. One is told to stop, and all do, after the same step.
    four = started(tmp_path, 4, command)
    last = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    four.wait_for(workdir / "checkpoints" / str(last + 4) / "_CHECKPOINT_METADATA")
    four.running[3].send_signal(signal.SIGTERM)
    assert four.codes() == [128 + signal.SIGTERM] * 4, four.text()
    steps = {text.partition("saved after step ")[2].partition(";")[0] for text in map(four.text, range(4))}
    assert len(steps) == 1 and (workdir / "checkpoints" / steps.pop()).is_dir()

    # Alone, and without the checkpoints in between, which take longer than the steps.
    alone = with_changes(CONFIG, {"training.checkpoint_every": 0})
    run.run(alone, workdir)
    run.run(alone, tmp_path / "alone")
    found, expected = (read_metrics(folder / "metrics.jsonl") for folder in (workdir, tmp_path / "alone"))
    for name in ("train/loss", "train/grad_norm"):
        assert len(found[name]) == STEPS
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)


@pytest.mark.long
def test_two_processes_predict_and_look_up_what_one_does(pretrained, tmp_path, started):
    words = synthetic.document("qaa", "train", 0).split()
    texts = [" ".join(words[2 * number : 2 * number + 6]) for number in range(11)]
    for side in ("english", "source"):
        rows = [{"id": str(number), "text": text, "translations": [str(number)]} for number, text in enumerate(texts)]
        (tmp_path / f"test-de-{side}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    path = str(tmp_path / "{split}-{language}-{side}.jsonl")
    pairs = {**FINE_TUNING, "init_from": str(pretrained[0])}
    looked_up = {
        "kind": "retrieval", "source": "jsonl", "path": path, "train_language": "qaa", "test_languages": ("de",),
        "dev_split": "", "text_fields": ("text",), "label_field": "translations", "options": {"method": "nearest"},
        "max_length": 24,
    }  # fmt: skip
    stages = {
        # The last batch of the test set is short, and so is that of the sentences.
        "pairs": with_changes(
            pairs, {"training.steps": 2, "training.eval_batch_size": 24, "task.data_dir": str(tmp_path)}
        ),
        "tatoeba": {"predict_with": str(pretrained[0]), "task": looked_up, "training": {"batch_size": 8}},
    }
    config = {"order": ("pairs", "tatoeba"), "stages": stages}
    file = tmp_path / "config.py"
    file.write_text(f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({config!r})\n")
    two = started(tmp_path, 2, train_command(file, tmp_path / "two", "--compile_cache=off"))
    run.run(config, tmp_path / "one")
    assert two.codes() == [0, 0], two.text()
    names = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("predictions/*.tsv")}
    assert len(names) == 3
    for name in names:
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()


TALK = """
import json, os, sys
from rembert_jax.experiments import processes
from rembert_jax.experiments.processes import ProcessError
from rembert_jax.reports.plots import read_metrics

def refused(check, *arguments):
    try:
        check(*arguments)
    except ProcessError as error:
        return str(error)

flags = dict(flag.lstrip("-").split("=") for flag in sys.argv[1:])
number = processes.connect(flags["coordinator_address"], int(flags["num_processes"]), int(flags["process_id"]))
print(json.dumps({
    "number": number,
    "said": processes.gather("é" * number),
    "same": refused(processes.agree, {"config": {"seed": 1}}),
    "differ": refused(processes.agree, {"config": {"seed": 1 + number // 2}, "versions": {"jax": "1"}}),
    "seen": refused(processes.check_shared, sys.path[0], "--workdir"),
    "blind": refused(processes.check_shared, ".", "--workdir"),
    "end": processes.gather(""),
    "left": os.listdir("."),
}))
"""


def test_processes_agree_before_they_start(tmp_path, started):
    script = tmp_path / "talk.py"
    script.write_text(TALK)
    places = [tmp_path / name for name in "ab"]
    for place in places:
        place.mkdir()
    three = started(tmp_path, 3, [sys.executable, str(script)], cwd=[places[0], places[1], places[0]])
    assert three.codes() == [0, 0, 0], three.text()
    for index in range(3):
        answers = eval(three.text(index).splitlines()[-1], {"null": None})
        assert answers["number"] == index and answers["said"] == ["", "é", "éé"]
        assert answers["same"] is None and answers["seen"] is None
        assert answers["differ"].endswith("the same command, code and packages\n  process 2: config.seed: 1 -> 2")
        assert answers["blind"].startswith("--workdir=.: processes 1 do not see what the first one writes there")
        assert answers["left"] == []


def alone(*arguments):
    """What comes of a process that waits two seconds for others."""
    script = f"from rembert_jax.experiments import processes; processes.connect(*{arguments!r}, timeout=2)"
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=process_environment(), capture_output=True, text=True, timeout=60
    )


def test_processes_that_do_not_come_are_waited_for_no_longer_than_said():
    address = f"127.0.0.1:{free_port()}"
    first, second = alone(address, 2, 0), alone(address, 2, 1)
    assert first.returncode == second.returncode == 1
    assert "process 0 of 2: the other processes have not all come after 2 s; start 2 of them" in first.stderr
    assert f"process 1 of 2: no answer from the first process at {address} after 2 s; start the one" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("host:1", 2, None),
            "--process_id: missing; give all of --coordinator_address, --num_processes, --process_id",
        ),
        (("", 2, 0), "--coordinator_address: missing"),
        (("host", 2, 0), "--coordinator_address=host: expected host:port"),
        (("host:1", 2, 2), "--process_id=2: expected 0 to 1, as --num_processes=2"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(arguments, message):
    with pytest.raises(ProcessError, match=message):
        processes.connect(*arguments)


def test_a_process_by_itself_looks_for_no_others():
    assert processes.connect("", 1) == 0
    assert processes.gather("alone") == ["alone"]
    processes.agree({"seed": 1})
    processes.check_shared(pathlib.Path(os.devnull), "--workdir")
    processes.abandon("not one of several")
