"""The benchmark of inference: its batches, and a tiny encoder of ours."""

import json

import pytest
from helpers import load_benchmark


@pytest.fixture
def inference():
    return load_benchmark("inference")


def test_what_does_not_fill_a_batch_goes_to_the_next_bucket(inference):
    sentences = [[7] * length for length in (3, 16, 16, 17, 24, 30, 100)]
    batches = inference.buckets(sentences, 64)
    assert [(rows, length, [len(one) for one in inside]) for rows, length, inside in batches] == [
        (2, 24, [3, 16]),
        (2, 24, [16, 17]),
        (2, 32, [24, 30]),
        (1, 112, [100]),
    ]
    assert inference.buckets([[7] * 3] * 9, 256) == [(16, 8, [[7] * 3] * 9)]
    assert inference.buckets([[7] * 3] * 3, 256) == [(4, 8, [[7] * 3] * 3)], "an eighth of 32 rows holds them"


@pytest.mark.slow
def test_table_and_json_hold_what_was_measured(inference, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inference.util, "find_spec", lambda name: None)  # Without PyTorch.
    inference.main(
        ["--size=tiny", "--sentences=20", "--vocab_size=300", "--repeats=1", f"--output={tmp_path / 'out.json'}"]
    )
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["sentences"] == 20 and result["padded_tokens"] >= result["tokens"]
    assert len(result["results"]["rembert_jax"]["seconds"]) == 1
    assert "not compared" in capsys.readouterr().out
