import io
import json
import logging
import re
import sys
import types

import pytest
from absl import logging as absl_logging

from rembert_jax.reports import plots
from rembert_jax.training import writers
from rembert_jax.training.writers import MetricWriter, Progress


@pytest.fixture(autouse=True)
def package_logger(monkeypatch):
    """The package's logger as it is before `log_to_terminal`, and again after the test."""
    logger = logging.getLogger("rembert_jax")
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    verbosity = absl_logging.get_verbosity()
    yield logger
    absl_logging.set_verbosity(verbosity)


def read(workdir):
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "time"} for line in lines]


class FailingBoard:
    calls = 0

    def __init__(self, folder):
        pass

    def add_scalar(self, name, value, step):
        type(self).calls += 1
        raise OSError("disk full")

    def close(self):
        raise OSError("still full")


def test_lines_have_the_time_in_milliseconds(tmp_path, monkeypatch):
    monkeypatch.setattr(writers.time, "time", lambda: 1234.56789)
    writer = MetricWriter(tmp_path, enabled=True)
    writer.write(1, {"x": 0.5})
    writer.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "time": 1234.568, "x": 0.5}


def test_scalars_go_to_json_lines_and_event_files(tmp_path):
    writer = MetricWriter(tmp_path, enabled=True)
    writer.write(1, {"train/loss": 2.5})
    assert read(tmp_path) == [{"step": 1, "train/loss": 2.5}], "a line is on disk before the run ends"
    writer.write(2, {"train/loss": 2.0, "train/accuracy": 0.5})
    writer.close()
    assert read(tmp_path)[1] == {"step": 2, "train/loss": 2.0, "train/accuracy": 0.5}
    (events,) = (tmp_path / "tensorboard").glob("events.*")
    content = events.read_bytes()
    assert b"train/loss" in content and b"train/accuracy" in content


def test_what_is_not_finite_is_text_since_json_has_no_name_for_it(tmp_path):
    writer = MetricWriter(tmp_path, enabled=True)
    writer.write(1, {"x": float("nan"), "y": float("-inf")})
    writer.close()
    assert [(line["x"], line["y"]) for line in read(tmp_path)] == [("nan", "-inf")]


def test_a_file_that_a_killed_process_left_empty_begins_with_a_line(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    writer = MetricWriter(tmp_path, enabled=True)
    writer.write(1, {"x": 0.5})
    writer.close()
    assert read(tmp_path) == [{"step": 1, "x": 0.5}]


def test_a_resumed_run_appends(tmp_path):
    for step in (1, 2):
        writer = MetricWriter(tmp_path, enabled=True)
        writer.write(step, {"x": 0.0})
        writer.close()
    assert [line["step"] for line in read(tmp_path)] == [1, 2]


def test_a_line_that_a_killed_process_left_unfinished_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes('{"step": 1, "x": 0.5}\n{"step": 2, "name": "é'.encode()[:-1])
    writer = MetricWriter(tmp_path, enabled=True)
    writer.write(3, {"x": 1.5})
    writer.close()
    assert plots.read_metrics(path) == {"x": [(1, 0.5), (3, 1.5)]}


def test_a_figure_that_fails_is_a_warning(tmp_path, caplog):
    plots.plot_loss(tmp_path / "no.jsonl", tmp_path / "loss.png", "title")
    plots.plot_languages({}, tmp_path / "languages.png", "title", "%")
    assert [line.split(",")[0] for line in caplog.messages] == ["plot_loss failed", "plot_languages failed"]


def test_other_processes_write_nothing(tmp_path):
    writer = MetricWriter(tmp_path, enabled=False, wandb_project="project")
    writer.write(1, {"x": 0.0})
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_names_values_and_steps(tmp_path, monkeypatch):
    added = []
    board = types.SimpleNamespace(add_scalar=lambda *scalar: added.append(scalar), close=lambda: added.append("closed"))
    monkeypatch.setattr(writers, "_event_writer", lambda folder: added.append(folder) or board)
    writer = MetricWriter(tmp_path, enabled=True)
    writer.write(7, {"train/loss": 1.5, "train/accuracy": 0.5})
    writer.close()
    assert added == [str(tmp_path / "tensorboard"), ("train/loss", 1.5, 7), ("train/accuracy", 0.5, 7), "closed"]


def test_a_failing_sink_is_reported_once_and_dropped(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(FailingBoard, "calls", 0)
    monkeypatch.setattr(writers, "_event_writer", FailingBoard)
    writer = MetricWriter(tmp_path, enabled=True)
    for step in (1, 2, 3):
        writer.write(step, {"x": float(step)})
    assert FailingBoard.calls == 1
    assert [record.getMessage() for record in caplog.records] == [
        "a metric writer failed and will not be used again: disk full"
    ]
    assert [line["step"] for line in read(tmp_path)] == [1, 2, 3]
    writer.close()
    assert caplog.records[-1].getMessage() == "a metric writer failed to close: still full"


def test_missing_wandb_is_reported_and_does_not_stop(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    writer = MetricWriter(tmp_path, enabled=True, wandb_project="project")
    writer.write(1, {"x": 0.0})
    writer.close()
    (warning,) = caplog.messages
    assert warning.startswith("Weights & Biases is not available and will not be used: import of wandb halted")
    assert len(read(tmp_path)) == 1


def test_wandb_gets_config_and_scalars(tmp_path, monkeypatch):
    logged, opened = [], {}
    run = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append("finished")
    )
    fake = types.SimpleNamespace(init=lambda **arguments: opened.update(arguments) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    writer = MetricWriter(tmp_path, enabled=True, wandb_project="project", config={"seed": 3})
    writer.write(7, {"x": 1.5})
    writer.close()
    assert opened == {"project": "project", "config": {"seed": 3}, "dir": str(tmp_path), "name": tmp_path.name}
    assert logged == [(7, {"x": 1.5}), "finished"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_file_is_one_plain_line_a_time():
    stream = io.StringIO()
    progress = Progress(True, stream)
    progress.show("step 1/2")
    progress.clear()
    progress.show("step 2/2", final=True)
    assert stream.getvalue() == "step 1/2\nstep 2/2\n"


def test_progress_in_a_terminal_replaces_its_line_until_the_last():
    stream = Terminal()
    progress = Progress(True, stream)
    progress.show("step 1/2")
    progress.show("step 2/2", final=True)
    assert stream.getvalue() == "\r\x1b[Kstep 1/2\r\x1b[Kstep 2/2\n"
    progress.clear()
    assert stream.getvalue().count("\n") == 1


def test_clearing_ends_an_open_line_once():
    stream = Terminal()
    progress = Progress(True, stream)
    progress.clear()
    assert stream.getvalue() == ""
    progress.show("step 1/2")
    progress.clear()
    progress.clear()
    assert stream.getvalue() == "\r\x1b[Kstep 1/2\n"


def test_disabled_progress_is_silent():
    stream = Terminal()
    progress = Progress(False, stream)
    progress.show("step 1/2", final=True)
    progress.clear()
    assert stream.getvalue() == ""


def test_messages_of_the_package_are_shown_once(package_logger, capsys):
    before = list(logging.getLogger().handlers)
    writers.log_to_terminal()
    writers.log_to_terminal()
    logging.getLogger("rembert_jax.training.hooks").info("step %d", 3)
    logging.getLogger("another").info("unseen")
    assert re.fullmatch(r"\d\d:\d\d:\d\d step 3\n", capsys.readouterr().err)
    assert logging.getLogger().handlers == before and not package_logger.propagate, "of other packages nothing changes"
    writers.log_to_terminal(process=1)
    package_logger.info("what the first process says too")
    package_logger.warning("a warning")
    assert re.fullmatch(r"\d\d:\d\d:\d\d a warning\n", capsys.readouterr().err)
