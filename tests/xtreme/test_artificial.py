"""The benchmark in artificial languages: every task has its files, and its labels score themselves."""

import json

import pytest

from rembert_jax.data import synthetic_tasks
from rembert_jax.errors import RemBertError
from rembert_jax.tools import prepare_xtreme
from rembert_jax.xtreme import artificial, files, prepare, scores
from rembert_jax.xtreme.benchmark import TASKS


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artificial")
    prepare_xtreme.main(["--artificial", "--size", "64", "--seed", "3", "--output", str(folder)])
    return folder


def test_every_task_has_what_it_trains_selects_and_is_tested_on(written):
    names = set(json.loads((written / "manifest.json").read_text())["files"])
    assert {f"{task}/train-en" for task in ("squad", "xnli", "pawsx", "panx", "udpos", "tydiqa")} <= names
    assert {name for name in names if "/dev-" in name and "bucc" not in name} == {
        f"{task}/dev-en" for task in ("squad", "xnli", "pawsx", "panx", "udpos")
    }
    for task in TASKS:
        tested = {name for name in names if name.startswith(f"{task}/test-")}
        assert len(tested) == {"bucc2018": 6, "tatoeba": 6}.get(task, 4), task
    assert artificial.languages("mlqa") == {"en": "qaa", "es": "qab", "de": "qac", "zh": "qad"}
    assert artificial.languages("tydiqa") == {"en": "qaa", "ru": "qab", "ar": "qac", "fi": "qad"}


def test_labels_score_themselves(written, tmp_path):
    gold = json.loads((written / "labels" / "xquad" / "test-de.json").read_text())
    for task in TASKS:
        for path in (written / "labels" / task).iterdir():
            target = tmp_path / task / path.name
            target.parent.mkdir(exist_ok=True)
            if path.suffix == ".json":
                found = {name: texts[0] for name, texts in files.read_gold_answers(path).items()}
                target.write_text(json.dumps(found), encoding="utf-8")
            else:
                target.write_bytes(path.read_bytes())
    scored = scores.score_folder(tmp_path, written / "labels", 0)["tasks"]
    assert {task: scored[task]["score"] for task in TASKS} == dict.fromkeys(TASKS, 100.0)
    assert len(gold["data"][0]["paragraphs"][0]["qas"]) == 8


def test_the_world_is_that_of_the_seed(written):
    first = next(iter(prepare.read_records(written / "udpos" / "test-en.array_record")))
    assert first["tokens"] == synthetic_tasks.parts_of_speech("qaa", "test", 0, 3)["tokens"]
    assert first["tokens"] != synthetic_tasks.parts_of_speech("qaa", "test", 0, 0)["tokens"]
    assert json.loads((written / "manifest.json").read_text())["seed"] == 3


def test_questions_of_two_tasks_differ(written):
    read = {
        task: {record["context"] for record in prepare.read_records(written / task / "test-de.array_record")}
        for task in ("xquad", "mlqa")
    }
    assert not read["xquad"] & read["mlqa"]


@pytest.mark.parametrize(
    ("size", "seed", "message"), [(8, 0, "size=8: expected at least 64"), (64, -1, "seed=-1: expected at least 0")]
)
def test_what_makes_no_world_is_refused(tmp_path, size, seed, message):
    with pytest.raises(RemBertError, match=message):
        artificial.write(tmp_path / "new", size, seed)
    assert not (tmp_path / "new").exists()
