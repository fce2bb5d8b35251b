"""The benchmark of the start, with a tiny model."""

import json
import sys

import pytest
from helpers import run_process


@pytest.mark.slow
def test_points_in_time_rise_and_are_in_the_table(tmp_path):
    done = run_process([sys.executable, "benchmarks/start_up.py", "--size=tiny", f"--output={tmp_path / 'out.json'}"])
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    for cache in ("empty", "filled"):
        points = list(result[cache].values())
        assert len(points) == 4 and points == sorted(points) and points[0] > 0
    assert f"{result['empty']['first']:.1f} | {result['filled']['first']:.1f} |" in done.stdout
