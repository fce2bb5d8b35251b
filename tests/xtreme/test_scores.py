"""Whole folders: scores worked by hand, averages, intervals, warnings, and files that do not fit."""

import json

import numpy as np
import pytest
from xtreme.folders import LABELS, PREDICTIONS, SCORES, SQUAD, write

from rembert_jax.xtreme import scores
from rembert_jax.xtreme.benchmark import TASKS
from rembert_jax.xtreme.files import FileError


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return write(tmp_path_factory.mktemp("labels"), LABELS)


@pytest.fixture(scope="module")
def results(tmp_path_factory, labels):
    return scores.score_folder(write(tmp_path_factory.mktemp("predictions"), PREDICTIONS), labels)


def test_every_task_is_scored_as_worked_by_hand(results):
    assert {name: result["score"] for name, result in results["tasks"].items()} == pytest.approx(SCORES)
    assert results["tasks"]["udpos"]["metrics"]["accuracy"] == pytest.approx(80.0)
    assert results["tasks"]["xquad"]["metrics"] == pytest.approx({"exact_match": 50.0, "f1": 250 / 3})
    assert results["tasks"]["panx"]["languages"]["yo"]["examples"] == 2
    assert all(not result["missing"] for result in results["tasks"].values())


def test_averages_are_over_tasks_and_over_categories(results):
    assert results["overall"] == pytest.approx(sum(SCORES.values()) / 9)
    answers = (SCORES["xquad"] + SCORES["mlqa"] + SCORES["tydiqa"]) / 3
    assert results["categories"] == pytest.approx(
        {"sentence-pair classification": 75.0, "structured prediction": 62.5, "question answering": answers}
    )
    assert results["category_average"] == pytest.approx((75.0 + 62.5 + answers) / 3)


def test_languages_count_alike_whatever_their_sizes(tmp_path, labels):
    predictions = write(tmp_path / "p", {"pawsx": "0\n1\n1\n0\n"})
    (predictions / "pawsx" / "test-de.tsv").write_text("1\n")
    for language in TASKS["pawsx"].languages:
        source = labels / "pawsx" / f"test-{language}.tsv"
        target = tmp_path / "l" / "pawsx" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("0\n" if language == "de" else source.read_text())
    found = scores.score_folder(predictions, tmp_path / "l")["tasks"]["pawsx"]
    assert found["score"] == pytest.approx(100 * 6 / 7), (
        "one language of seven is all wrong, though it is one line of 25"
    )


def test_a_part_is_scored_and_says_what_is_missing(tmp_path, labels):
    languages = {"xnli": ("en", "sw")}
    found = scores.score_folder(write(tmp_path, {"xnli": PREDICTIONS["xnli"]}, languages), labels)
    assert list(found["tasks"]) == ["xnli"] and len(found["tasks"]["xnli"]["missing"]) == 13
    assert found["overall"] is None and found["category_average"] is None and found["categories"] == {}


def test_the_interval_is_that_of_resampling(tmp_path):
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.7
    for folder, lines in (("l", ["0", "1"] * 200), ("p", [str((i + (not ok)) % 2) for i, ok in enumerate(right)])):
        (tmp_path / folder / "pawsx").mkdir(parents=True)
        (tmp_path / folder / "pawsx" / "test-en.tsv").write_text("\n".join(lines))
    found = scores.score_folder(tmp_path / "p", tmp_path / "l")["tasks"]["pawsx"]
    share = right.mean()
    assert found["score"] == pytest.approx(100 * share)
    low, high = found["interval"]
    # Normal approximation of a binomial share; a thousand draws leave some tenths of uncertainty.
    half = 196 * np.sqrt(share * (1 - share) / 400)
    assert (low, high) == pytest.approx((100 * share - half, 100 * share + half), abs=0.7)


def test_intervals_of_spans_resample_sentences_not_tokens():
    # Every sentence of one has all spans right or none: few draws, wide interval. Of the other all are alike: none.
    mixed = np.array([[10, 10, 10, 10, 10]] * 5 + [[0, 10, 10, 0, 10]] * 5, float)
    alike = np.array([[5, 10, 10, 5, 10]] * 10, float)
    rng = np.random.default_rng(0)
    low, high = scores.interval(TASKS["panx"], {"en": mixed}, rng)
    assert (low, high) == pytest.approx((0.2, 0.8), abs=0.11)
    assert scores.interval(TASKS["panx"], {"en": alike}, rng) == pytest.approx((0.5, 0.5))


def warnings(tmp_path, task, labels, predictions):
    write(tmp_path / "l", {task: labels}, {task: ("de",)})
    write(tmp_path / "p", {task: predictions}, {task: ("de",)})
    return scores.score_folder(tmp_path / "p", tmp_path / "l")["tasks"][task]["warnings"]


@pytest.mark.parametrize(
    ("task", "predictions", "message"),
    [
        ("xnli", "neutral\n" * 4, "de: every prediction is 'neutral'"),
        ("xnli", "neutral\nneutral\nneutral\nentailment\n", "de: 25.0 % right, no more than always 'neutral' (50.0 %)"),
        ("udpos", "NOUN\nNOUN\nNOUN\n\nNOUN\nNOUN\n", "de: every prediction is 'NOUN'"),
        ("tatoeba", "3\n3\n3\n1\n", "de: 3 of 4 predictions are line 3"),
        ("bucc2018", "", "de: no pair is predicted"),
        ("mlqa", json.dumps({"q1": "", "q2": " "}), "de: 2 of 2 answers are empty"),
        ("mlqa", json.dumps({"q1": "cat"}), "de: 1 of 2 questions have no answer and count as wrong"),
    ],
)
def test_collapsed_runs_are_flagged(tmp_path, task, predictions, message):
    assert warnings(tmp_path, task, LABELS[task], predictions) == [message]


@pytest.mark.parametrize("task", ["xnli", "udpos", "mlqa", "bucc2018"])
def test_sound_runs_are_not(tmp_path, task):
    assert warnings(tmp_path, task, LABELS[task], PREDICTIONS[task]) == []


HIDDEN = json.loads(json.dumps(SQUAD).replace('"the cat"', '""').replace('"cats"', '""').replace('"a dog"', '""'))
DOUBLE = json.loads(json.dumps(SQUAD).replace('"q2"', '"q1"'))


@pytest.mark.parametrize(
    ("task", "labels", "predictions", "message"),
    [
        ("xnli", LABELS["xnli"], "neutral\nneutra\n", r"p/xnli/test-de\.tsv, line 2: found 'neutra', expected one of contra"),
        ("xnli", LABELS["xnli"], "neutral\n", r"p/xnli/test-de\.tsv: 1 predictions, expected 4"),
        ("xnli", LABELS["xnli"], "neutral\n" * 5, "5 predictions, expected 4"),
        ("panx", LABELS["panx"], "B-PER\nI-PER\nO\n\nB-LOC\n", "sentence 2: 1 tags predicted, expected 2"),
        ("panx", LABELS["panx"], "B-PER\nI-PER\nO\n", "1 sentences predicted, expected 2"),
        ("panx", LABELS["panx"], "B-PER\nI-PERS\n", r"line 2: found 'I-PERS', expected a tag alone, one of B-LOC"),
        ("panx", LABELS["panx"], "Bonn\tB-LOC\n", r"p/panx/test-de\.tsv, line 1: found 2 columns, expected a tag alone"),
        ("bucc2018", LABELS["bucc2018"], "de-1 en-1\n", "line 1: found 1 columns, expected two ids with a tab between"),
        ("bucc2018", LABELS["bucc2018"], "a\tb\nc\td\na\tb\n", "line 3: the pair a b stands in line 1 already"),
        ("tatoeba", LABELS["tatoeba"], "0\n1\nx\n2\n", "line 3: found 'x', expected the number of a line"),
        ("tatoeba", LABELS["tatoeba"], "0\n1\n4\n2\n", "line 3: found 4, expected at most 3"),
        ("xquad", LABELS["xquad"], '{"q1": "a", "q1": "b"}', "'q1' stands there more than once"),
        ("xquad", LABELS["xquad"], '{"q9": "a"}', "1 questions that the labels do not have, the first is q9; expected"),
        ("xquad", LABELS["xquad"], '["a"]', "found a list, expected an object from ids of questions to answers"),
        ("xquad", LABELS["xquad"], '{"q1": 3}', "question q1: found a int, expected the answer as text"),
        ("xquad", LABELS["xquad"], '{"q1": "a",\n', r"p/xquad/test-de\.json, line \d: no JSON"),
        ("xquad", LABELS["xquad"], "{}", "no answers, expected up to 2"),
        ("xquad", '{"data": [{"paragraphs": 3}]}', PREDICTIONS["xquad"], r"l/xquad/test-de\.json: not in the form of SQuAD"),
        ("xquad", json.dumps(DOUBLE), '{"q1": "a"}', "question q1 stands there more than once"),
        ("xquad", json.dumps(HIDDEN), PREDICTIONS["xquad"], "all labels are the same, as in test files whose labels are hid"),
        ("xnli", "neutral\n" * 4, PREDICTIONS["xnli"], r"l/xnli/test-de\.tsv: all labels are the same"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_named(tmp_path, task, labels, predictions, message):
    write(tmp_path / "l", {task: labels}, {task: ("de",)})
    write(tmp_path / "p", {task: predictions}, {task: ("de",)})
    with pytest.raises(FileError, match=message):
        scores.score_folder(tmp_path / "p", tmp_path / "l")


def test_bytes_that_are_no_utf_8_are_placed(tmp_path, labels):
    path = write(tmp_path, {"xnli": PREDICTIONS["xnli"]}, {"xnli": ("en",)}) / "xnli" / "test-en.tsv"
    path.write_bytes(b"neutral\nneutral\nne\xfftral\n")
    with pytest.raises(FileError, match=r"test-en\.tsv, line 3: byte 18 is not UTF-8"):
        scores.score_folder(tmp_path, labels)


def test_folders_and_languages_that_are_none(tmp_path, labels):
    with pytest.raises(FileError, match="no predictions; expected files as xnli/test-en"):
        scores.score_folder(tmp_path, labels)
    with pytest.raises(FileError, match="absent: no such folder"):
        scores.score_folder(tmp_path / "absent", labels)
    write(tmp_path, {"xnli": PREDICTIONS["xnli"]}, {"xnli": ("en", "xx")})
    with pytest.raises(FileError, match=r"test-xx\.tsv: xnli has no language 'xx'; it has ar, bg"):
        scores.score_folder(tmp_path, labels)


def test_predictions_without_labels_are_named(tmp_path):
    write(tmp_path / "p", {"xnli": PREDICTIONS["xnli"]}, {"xnli": ("en", "de")})
    write(tmp_path / "l", {"xnli": LABELS["xnli"]}, {"xnli": ("en",)})
    with pytest.raises(
        FileError, match=r"p/xnli/test-de\.tsv: there are no labels for it; expected .*l/xnli/test-de\.tsv"
    ):
        scores.score_folder(tmp_path / "p", tmp_path / "l")


def test_line_ends_and_marks_of_other_systems_are_read(tmp_path):
    write(tmp_path / "l", {"xnli": LABELS["xnli"]}, {"xnli": ("en",)})
    write(tmp_path / "p", {"xnli": "\ufeff" + PREDICTIONS["xnli"].replace("\n", "\r\n")}, {"xnli": ("en",)})
    assert scores.score_folder(tmp_path / "p", tmp_path / "l")["tasks"]["xnli"]["score"] == 75.0
