"""The benchmark of inference: its batches, and a tiny encoder of ours."""

import importlib.util
import json

import pytest
from helpers import ROOT


@pytest.fixture
def inference():
    spec = importlib.util.spec_from_file_location("inference_benchmark", ROOT / "benchmarks" / "inference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_sentence_is_in_the_smallest_bucket_that_holds_it(inference):
    sentences = [[7] * length for length in (3, 16, 16, 17, 24, 100, 512)]
    batches = inference.buckets(sentences, 32)
    assert [(rows, length, [len(one) for one in inside]) for rows, length, inside in batches] == [
        (2, 16, [3, 16]),
        (2, 16, [16]),
        (1, 24, [17]),
        (1, 24, [24]),
        (1, 128, [100]),
        (1, 512, [512]),
    ]


@pytest.mark.long
def test_table_and_json_hold_what_was_measured(inference, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inference.util, "find_spec", lambda name: None)  # Without PyTorch.
    inference.main(
        ["--size=tiny", "--sentences=20", "--vocab_size=300", "--repeats=1", f"--output={tmp_path / 'out.json'}"]
    )
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["sentences"] == 20 and result["padded_tokens"] >= result["tokens"]
    assert len(result["results"]["rembert_jax"]["seconds"]) == 1
    assert "not compared" in capsys.readouterr().out
