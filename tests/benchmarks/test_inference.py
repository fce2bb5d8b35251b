"""The benchmark of inference: its batches, and a tiny encoder of ours."""

import json

import pytest
from helpers import load_benchmark


@pytest.fixture
def inference():
    return load_benchmark("inference")


def test_batches_by_length_hold_as_many_as_fit_once_they_are_padded(inference):
    sentences = [[7] * length for length in (3, 16, 16, 17, 24, 30, 100)]
    lengths = [[len(one) for one in batch] for batch in inference.by_length(sentences, 64)]
    assert lengths == [[3, 16, 16], [17, 24], [30], [100]]


def test_rows_hold_each_sentence_once_and_leave_little_room(inference):
    sentences = [[number] * length for number, length in enumerate((3, 16, 16, 17, 24, 30, 40, 50))]
    length, rows = inference.packed(sentences)
    assert length == 64
    assert [[len(one) for one in row] for row in rows] == [[50, 3], [40, 24], [30, 17, 16], [16]]
    assert sorted(one for row in rows for one in row) == sentences
    assert inference.packed([[7] * 65])[0] == 128


@pytest.mark.slow
def test_table_and_json_hold_what_was_measured(inference, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inference.util, "find_spec", lambda name: None)  # Without PyTorch.
    inference.main(
        ["--size=tiny", "--sentences=20", "--vocab_size=300", "--repeats=1", f"--output={tmp_path / 'out.json'}"]
    )
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["sentences"] == 20 and result["padded_tokens"] >= result["tokens"] <= result["packed_tokens"]
    assert len(result["results"]["rembert_jax"]["seconds"]) == 1
    assert "not compared" in capsys.readouterr().out
