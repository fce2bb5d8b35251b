"""The benchmark of search: all contenders that are installed find the same neighbours."""

import json

import pytest
from helpers import load_benchmark


@pytest.fixture
def search():
    return load_benchmark("search")


def test_the_table_worked_by_hand(search):
    seconds = {search.OURS: [3.0, 1.0, 2.0], search.PLAIN: [3.0]}
    result = {
        "queries": 1000,
        "candidates": 2000,
        "results": {name: {"seconds": one, "peak_bytes": 2**30} for name, one in seconds.items()},
        "same_neighbours": {search.PLAIN: 0.5},
        "limit": {"flops_per_second": 4.608e9},  # A product of 4.608 GFLOP in a second.
    }
    result["results"][search.FAISS] = {"failed": "no room"}
    text = search.table(result)
    assert "| rembert_jax | 2 | 1.00x | 50 % | 1.0 |" in text and "| PyTorch | 3 | 1.50x | 33 % | 1.0 |" in text
    assert "| faiss | no room | | | |" in text and "those of ours: PyTorch 50.000 %" in text


@pytest.mark.slow
def test_all_contenders_find_the_same(search, tmp_path, capsys):
    search.main(["--queries=5000", "--candidates=4200", "--repeats=1", f"--output={tmp_path / 'out.json'}"])
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert not [name for name, values in result["results"].items() if "failed" in values]
    assert all(share > 0.9999 for share in result["same_neighbours"].values())
    assert "| rembert_jax |" in capsys.readouterr().out
