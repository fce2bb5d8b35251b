"""The table at the end of several stages, and the lines below it."""

import json

import pytest

from rembert_jax.reports import report
from rembert_jax.reports.report import Comparison


def _fine_tuning(values, baseline=None):
    test = {language: {"accuracy": value} for language, value in values.items()}
    return {
        "kind": "fine-tuning",
        "metric": "accuracy",
        "seed": 7,
        "test": {**test, "average": {"accuracy": -1.0}},
        "baseline": {lang: {"accuracy": value} for lang, value in (baseline or dict.fromkeys(values, 0.25)).items()},
        "train_language": "qaa",
        "parameters": {"total": 1, "output_head": 0},
    }


def _pretraining(retrieval=True):
    found = {"retrieval_0": 0.05, "retrieval_1": 0.6} if retrieval else {}
    fresh = {"retrieval_0": 0.02, "retrieval_1": 0.01} if retrieval else {}
    return {
        "kind": "pretraining",
        "seed": 7,
        "test": {"average": {"loss": 1.25, "accuracy": 0.625, **found}},
        "baseline": {"average": {"loss": 4.5, **fresh}},
        "parameters": {"total": 3000, "output_head": 1000},
    }


RESULTS = {
    "pretrain": _pretraining(),
    "a": _fine_tuning({"qaa": 0.9, "qab": 0.5, "qac": 0.7}),
    "b": _fine_tuning({"qaa": 0.8, "qab": 0.1, "qac": 0.2}),
}


def test_rows_worked_by_hand():
    rows = report.transfer_rows(Comparison(title="Task", pretrained="a", scratch="b"), RESULTS)
    assert list(rows) == ["qaa", "qab", "qac", "zero-shot"]
    assert rows["qab"] == pytest.approx({"pre-trained": 50.0, "scratch": 10.0, "no context": 25.0})
    assert rows["zero-shot"] == pytest.approx({"pre-trained": 60.0, "scratch": 15.0, "no context": 25.0})


def test_the_table_as_it_is_read(tmp_path):
    other = _fine_tuning({"qaa": 0.4, "qab": 0.3}, {"qaa": 0.2, "qab": 0.1})
    results = {**RESULTS, "c": other, "d": _fine_tuning({"qaa": 0.35, "qab": 0.15}, {"qaa": 0.0, "qab": 0.0})}
    tasks = (("One", "a", "b"), ("Two", "c", "d"))
    report.write([Comparison(title=t, pretrained=p, scratch=s) for t, p, s in tasks], results, tmp_path)
    assert (tmp_path / "results.md").read_text().splitlines()[:6] == [
        "| language | One, pre-trained | One, scratch | One, no context "
        "| Two, pre-trained | Two, scratch | Two, no context |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| qaa (labels) | 90.0 | 80.0 | 25.0 | 40.0 | 35.0 | 20.0 |",
        "| qab | 50.0 | 10.0 | 25.0 | 30.0 | 15.0 | 10.0 |",
        "| qac | 70.0 | 20.0 | 25.0 | – | – | – |",
        "| mean, no labels | 60.0 | 15.0 | 25.0 | 30.0 | 15.0 | 10.0 |",
    ]


@pytest.mark.parametrize(
    ("expected", "verdict"), [((59.9, 60.0), "within"), ((60.1, 70.0), "below"), ((50.0, 59.9), "above")]
)
def test_result_is_placed_in_the_range_of_earlier_seeds(tmp_path, capsys, expected, verdict):
    comparison = Comparison(title="Task", pretrained="a", scratch="b", expected=expected)
    report.write([comparison], RESULTS, tmp_path)
    low, high = expected
    line = f"Task: seed 7 gave 60.0 without labels, {verdict} the range of earlier runs, {low} to {high}"
    assert line in (tmp_path / "results.md").read_text() and line in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text())["Task"]["zero-shot"]["scratch"] == pytest.approx(15.0)
    assert (tmp_path / "task.png").read_bytes().startswith(b"\x89PNG")


def test_lines_of_pretraining():
    assert report.pretraining_lines("pretrain", _pretraining()) == [
        "pretrain: held-out loss 1.25, 62.5 % of the masked tokens right; frequencies of words alone: 4.50",
        "pretrain: sentences that find their translations, by layer: 5 60 %; untrained: 2 1 %",
        "pretrain: 3,000 parameters, 1,000 of them the output embedding and its head; 2,000 remain when it is dropped",
    ]
    assert len(report.pretraining_lines("pretrain", _pretraining(retrieval=False))) == 2


@pytest.mark.parametrize("expected", [(1.0,), (2.0, 1.0), (1.0, 2.0, 3.0)])
def test_range_that_is_none_is_refused(expected):
    with pytest.raises(ValueError, match="expected the lowest and the highest value, or nothing"):
        Comparison(title="Task", pretrained="a", scratch="b", expected=expected)
