"""Stages that look sentences up: what is wrong with one is said before anything is encoded."""

import json

import pytest
from helpers import NumberTokenizer

from rembert_jax import schema
from rembert_jax.data import synthetic
from rembert_jax.errors import RemBertError
from rembert_jax.experiments import run
from rembert_jax.experiments.retrieval import Sides, _choose
from rembert_jax.tasks.base import TaskConfig
from rembert_jax.tasks.datasets import open_task
from rembert_jax.tasks.retrieval import Match
from rembert_jax.training.retrieval import Retriever


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def config(pretrained, tmp_path, one_device):
    """Four sentences that are their own translations, in another order."""
    words = synthetic.document("qaa", "train", 0).split()
    texts = [" ".join(words[6 * number : 6 * number + 6]) for number in range(4)]
    for split in ("dev", "test"):
        write(tmp_path / f"{split}-de-source.jsonl", [{"id": f"s{n}", "text": text} for n, text in enumerate(texts)])
        rows = [{"id": f"e{n}", "text": text, "translations": [f"s{n}"]} for n, text in enumerate(texts)]
        write(tmp_path / f"{split}-de-english.jsonl", rows[::-1])
    return {
        "predict_with": str(pretrained[0]),
        "task": {
            "kind": "retrieval", "source": "jsonl", "path": str(tmp_path / "{split}-{language}-{side}.jsonl"),
            "train_language": "en", "test_languages": ("de",), "dev_split": "dev", "text_fields": ("text",),
            "label_field": "translations", "max_length": 16, "options": {"method": "margin", "neighbours": 2},
        },
        "training": {"batch_size": 4},
    }  # fmt: skip


def changed(config, **task):
    options = {**config["task"]["options"], **task.pop("options", {})}
    return {**config, "task": {**config["task"], **task, "options": options}}


def test_sentences_of_ones_own_are_looked_up(config, tmp_path):
    found = run.run(config, tmp_path / "run")
    assert found["test"]["de"] == {"f1": 1.0, "precision": 1.0, "recall": 1.0} and found["metric"] == "f1"
    pairs = (tmp_path / "run" / "predictions" / "test-de.tsv").read_text().splitlines()
    assert pairs == [f"s{n}\te{n}" for n in range(4)]
    layers = json.loads((tmp_path / "run" / "predictions" / "layers.json").read_text())
    assert layers["layer"] == 0 and layers["reason"] == "the best, mean f1 100.0 on dev"
    assert set(layers["dev"]["de"]) == {
        f"{name}_{layer}" for name in ("f1", "precision", "recall") for layer in range(3)
    }
    assert run.run(config, tmp_path / "run") == found, "finished"


def test_a_layer_that_is_named_is_taken(config, tmp_path):
    nearest = changed(config, dev_split="", options={"method": "nearest", "layer": 1})
    found = run.run(nearest, tmp_path / "run")
    assert found["test"]["de"] == {"accuracy": 1.0}
    layers = json.loads((tmp_path / "run" / "predictions" / "layers.json").read_text())
    assert layers == {"layer": 1, "thresholds": {"de": None}, "reason": "as the config says", "dev": {}}


def test_what_cannot_be_looked_up_is_refused_before_anything_is_encoded(config, tmp_path, monkeypatch):
    monkeypatch.setattr(Retriever, "matches", None)
    for number, (message, wrong) in enumerate(
        {
            "layer=3: the encoder has 2 layers; expected 0 … 2": changed(config, options={"layer": 3}),
            "memory_gib=1e-09: the vectors of 4 sentences take": changed(config, options={"memory_gib": 1e-9}),
            "kind=retrieval trains nothing; name the encoder by predict_with": {
                **{key: value for key, value in config.items() if key != "predict_with"},
                "init_from": config["predict_with"],
                "training": {"batch_size": 4, "steps": 1},
                "optimizer": {"learning_rate": 1.0},
            },
            r"no file for language 'fr', split 'dev': nothing matches .*dev-fr-english": changed(
                config, test_languages=("de", "fr")
            ),
            "no field 'gold', found id, text, translations": changed(config, label_field="gold"),
        }.items()
    ):
        with pytest.raises(RemBertError, match=message):
            run.run(wrong, tmp_path / str(number))


class Guesses:
    """Stands for a retriever: by layer the pairs that it finds, all with their score."""

    def __init__(self, by_layer):
        self.by_layer = by_layer

    def matches(self, params, english, sources, layers):
        for layer in layers:
            yield layer, [Match(score, source, target) for score, source, target in self.by_layer[layer]]


def test_the_layer_with_the_best_mean_over_languages_is_chosen_and_its_thresholds_are_kept(config):
    task = open_task(schema.from_mapping(TaskConfig, config["task"], "task"), NumberTokenizer())
    english = [{"id": f"e{number}", "translations": [f"s{number}"]} for number in range(2)]
    sides = {"de": Sides(english, [{"id": "s0"}, {"id": "s1"}]), "fr": Sides(english, [{"id": "s0"}, {"id": "s1"}])}
    # Layer 1 finds both pairs, layers 0 and 2 one and a wrong one, which the threshold leaves out.
    half, whole = [(3.0, 0, 0), (2.0, 0, 1)], [(5.0, 1, 1), (4.0, 0, 0)]
    choice = _choose(task, Guesses([half, whole, half]), None, sides, 2)
    assert choice.layer == 1 and choice.thresholds == {"de": 4.0, "fr": 4.0}
    assert [choice.dev["average"][f"f1_{layer}"] for layer in range(3)] == pytest.approx([2 / 3, 1.0, 2 / 3])
    assert _choose(task, Guesses([half, half, half]), None, sides, 2).layer == 0, "of equal ones the lowest"
