"""The benchmark of the data pipeline, for a moment."""

import json
import sys

import pytest
from helpers import run_process


@pytest.mark.slow
def test_tables_and_json_hold_what_was_measured(tmp_path):
    options = ["--languages=3", "--lines=300", "--seconds=0.1", f"--output={tmp_path / 'out.json'}"]
    done = run_process([sys.executable, "benchmarks/data_pipeline.py", "--sizes", "--vocab_size=400", *options])
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["lines"] == 300
    assert [(one["kind"], one["languages"]) for one in result["results"]] == [
        ("text", 1), ("text", 3), ("ids", 1), ("ids", 3)
    ]  # fmt: skip
    for one in result["results"]:
        assert f"| {one['tokens_per_cpu_second']:,.0f} |" in done.stdout
        assert 0.0 < one["padding"] < 0.3


def test_a_vocabulary_that_the_model_does_not_have_is_refused():
    done = run_process([sys.executable, "benchmarks/data_pipeline.py", "--vocab_size=1000"])
    assert done.returncode == 2
    assert "--vocab_size=1000: the model of --sizes=quickstart has 900 words" in done.stderr
