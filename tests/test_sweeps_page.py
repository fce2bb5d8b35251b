"""Runs the commands of docs/sweeps.md as they stand, but for the smoke variant of their config."""

import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys

import pytest
from helpers import ROOT, process_environment

pytestmark = pytest.mark.slow
TEXT = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each command printed, in the order of the page; one layer is enough here."""
    folder = tmp_path_factory.mktemp("page")
    outputs = []
    for program, *arguments in COMMANDS:
        assert program == "python"
        arguments = [
            argument.replace("configs/output_embedding.py", f"{ROOT}/configs/output_embedding.py:smoke").replace(
                "train.py", f"{ROOT}/train.py"
            )
            for argument in arguments
        ]
        if "--workdir=runs/one" in arguments or "--workdir=runs/output_embedding" in arguments:
            arguments.append("--config.stages.pretrain.model.num_hidden_layers=1")
            outputs.append(in_a_process(arguments, folder))
        else:
            outputs.append(here(arguments, folder))
    return folder, outputs


def in_a_process(arguments, folder):
    """Training, with as many processes as it starts."""
    environment = {**process_environment(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, (arguments, result.stderr)
    return result.stdout


def here(arguments, folder):
    """A tool that starts none."""
    assert arguments[0] == "-m"
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        importlib.import_module(arguments[1]).main(arguments[2:])
    return printed.getvalue()


def test_the_worked_example_ends_with_a_table_of_both_widths(said):
    folder, outputs = said
    assert "2 of 2 finished" in outputs[0]
    lines = outputs[1].splitlines()
    assert lines[0].startswith(
        "| output_embedding_size | pretrain/average/loss (nats) | tagging_pretrained/zero-shot/accuracy (%)"
    )
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| 32", "| 320"]
    assert all(line.count("(1)") == 2 for line in lines[2:4]) and "not in the table" not in outputs[1]
    for name in ("collected.md", "collected.csv", "collected.png", "curves.png"):
        assert (folder / "runs" / "output_embedding" / name).stat().st_size > 0


def test_two_rows_are_compared(said):
    assert "output_embedding_size=320 less output_embedding_size=32, seed by seed" in said[1][2]


def test_one_member_is_run_alone_and_the_rest_is_printed(said):
    folder, outputs = said
    assert (folder / "runs" / "one" / "tagging_pretrained" / "results.json").is_file()
    assert len(outputs[4].splitlines()) == 2 and "--sweep_index=1" in outputs[4]
    assert outputs[5].startswith("#!/bin/bash") and "--array=0-1%4" in outputs[5]
    assert outputs[6].count("kind: JobSet") == 2
    assert len(outputs) == 7, "a command of the page that no test looks at"
