"""The command that scores predictions: what it prints and writes."""

import json

import pytest
from xtreme.folders import LABELS, PREDICTIONS, write

from rembert_jax.tools import xtreme_score


@pytest.fixture
def folders(tmp_path):
    return write(tmp_path / "p", PREDICTIONS), write(tmp_path / "l", LABELS)


def test_it_writes_results_table_and_figures(folders, tmp_path, capsys):
    predictions, labels = folders
    output = tmp_path / "out" / "results.json"
    xtreme_score.main([f"--predictions={predictions}", f"--labels={labels}", f"--output={output}", "--name=mine"])
    text = capsys.readouterr().out
    written = output.with_suffix(".md").read_text()
    assert written.startswith(text) and "## panx" in written and "| yo | 50.0 | 50.0 | 50.0 | 80.0 | 2 |" in written
    results = json.loads(output.read_text())
    assert results["name"] == "mine" and results["protocol"] == "official"
    assert results["tasks"]["bucc2018"]["score"] == pytest.approx(40.0)
    for name in ("results_languages.png", "results_tasks.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    lines = text.splitlines()
    (xquad,) = [line for line in lines if line.startswith("| xquad |")]
    assert xquad.startswith("| xquad | 66.7 | ") and xquad.endswith(" | exact match 50.0, f1 83.3 | 11 of 11 |")
    assert "- XTREME, mean of nine tasks: 60.1" in lines
    assert "| RemBERT | 87.5 | 80.8 | 70.1 | 76.5 | – | – | 64.0 / 79.6 | 55.0 / 73.1 | 63.0 / 77.0 |" in lines
    assert "| **mine** | 75.0 | 75.0 | 50.0 | 75.0 | 40.0 | 75.0 | 50.0 / 83.3 | 7.1 / 61.9 | 50.0 / 50.0 |" in lines
    assert lines[-1] == "Parts of speech by the protocol 'official' (docs/xtreme.md)."
    assert "tydiqa, en: 1 of 2 questions have no answer and count as wrong" in text.partition("| task |")[0]


def test_a_part_is_called_a_part(folders, capsys):
    predictions, labels = folders
    for path in (predictions / "xnli").glob("test-[a-e]*"):
        path.unlink()
    for task in ("udpos", "bucc2018"):
        for path in (predictions / task).iterdir():
            path.unlink()
    xtreme_score.main([f"--predictions={predictions}", f"--labels={labels}", "--protocol=hf_compat"])
    text = capsys.readouterr().out
    assert "| 9 of 15, without ar bg de el en es |" in text
    assert (
        "- a partial set: xnli, udpos, bucc2018 are missing or lack languages, so averages over them are left out"
        in text
    )
    assert "mean of nine" not in text and "| **this run** | 75.0 | 75.0* |" in text and "protocol" not in text


def test_errors_are_one_message(folders):
    predictions, labels = folders
    (predictions / "xnli" / "test-de.tsv").write_text("neutral\n")
    with pytest.raises(
        SystemExit, match=r"FileError: .*test-de\.tsv: 1 predictions, expected 4, as many as there are labels"
    ):
        xtreme_score.main([f"--predictions={predictions}", f"--labels={labels}"])
