"""The benchmark of growth: a size that differs in one thing, and the exponent of worked numbers."""

import json

import pytest
from helpers import load_benchmark


@pytest.fixture
def growth():
    return load_benchmark("growth")


def test_one_thing_changes_at_a_time(growth):
    base = growth.train_step.SIZES["small"]
    for axis, sizes in growth.AXES.items():
        changed = growth.sized(axis, sizes[-1])
        differing = [key for key in base["model"] if base["model"][key] != changed["model"][key]]
        batch = [i for i in range(3) if base["batch"][i] != changed["batch"][i]]
        expected = {
            "vocabulary": (["vocab_size"], []),
            "layers": (["num_hidden_layers"], []),
            "length": ([], [1]),
            "positions": ([], [2]),
        }
        assert (differing, batch) == expected[axis]


def test_the_exponent_is_that_of_the_upper_half(growth):
    assert growth.exponent({1: 5.0, 2: 5.0, 4: 8.0, 8: 64.0}) == pytest.approx(3.0)
    assert growth.exponent({10: 1.0, 20: 2.0}) == pytest.approx(1.0)


@pytest.mark.slow
def test_table_and_json_hold_what_was_measured(growth, tmp_path, capsys):
    growth.main(
        [
            "--axes",
            "vocabulary",
            "--base=tiny",
            "--sizes",
            "50",
            "100",
            "--repeats=1",
            f"--output={tmp_path / 'out.json'}",
        ]
    )
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["results"]["vocabulary"]
    assert list(found) == ["50", "100"]
    printed = capsys.readouterr().out
    for size, one in found.items():
        assert f"| vocabulary | {size} | {one['seconds']:.3g} |" in printed
