"""The benchmark of scoring, with few predictions."""

import json
import sys

from helpers import run_process


def test_table_and_json_hold_what_was_measured(tmp_path):
    command = [sys.executable, "benchmarks/xtreme_scoring.py", "--scale=0.002", f"--output={tmp_path / 'out.json'}"]
    done = run_process(command)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    # xnli 15 x 10, pawsx 7 x 4, panx 40 x 20, udpos 33 x 20, bucc 4 x 10, tatoeba 36 x 2, answers 11 x 2, 7 x 10 and 9 x 2.
    assert result["predictions"] == 1860
    for what, seconds in result["seconds"].items():
        assert f"| {what} | {seconds:.2f} |" in done.stdout
    assert ("the same by seqeval" in result["seconds"]) == (not result["seqeval"].startswith("not"))
