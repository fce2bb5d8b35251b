"""From a config to a stage: whose rows a process trains on, in which order, for how long, and what it is judged by."""

import jax
import numpy as np
import pytest
from helpers import NumberTokenizer, unmasked, with_changes

from rembert_jax import sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.data import pipeline
from rembert_jax.experiments import fine_tuning, pretraining, settings

MODEL = RemBertConfig(
    vocab_size=NumberTokenizer.vocab_size, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    input_embedding_size=4, output_embedding_size=12, intermediate_size=16, max_position_embeddings=16,
)  # fmt: skip
TRAIN, DEV, TEST = range(10, 42), range(110, 120), range(210, 220)
"""Tokens of each split of a language; those of the second language are larger by `OTHER`."""
OTHER = 60


def pretraining_job(folder, **changes):
    """One token a text, three a row: a row is a text."""
    for language, shift in (("aa", 0), ("bb", OTHER)):
        for split, tokens in (("train", TRAIN), ("dev", DEV)):
            (folder / f"{language}.{split}.txt").write_text("".join(f"{token + shift}\n" for token in tokens))
    config = with_changes(
        {
            "data": {"source": "text", "path": f"{folder}/{{language}}.{{split}}.txt", "seq_length": 3},
            "optimizer": {"learning_rate": 1e-3},
            "training": {"batch_size": 8, "steps": 5},
        },
        changes,
    )
    config = settings.resolve(config)
    texts = pipeline.open_sources(config.data, "train")
    return pretraining.prepare(config, MODEL, NumberTokenizer(), texts, one_device())


def fine_tuning_job(folder, **changes):
    """One word a sentence."""
    for language, shift in (("aa", 0), ("bb", OTHER)):
        for split, tokens in (("train", TRAIN), ("dev", DEV), ("test", TEST)):
            rows = (f"1\t{token + shift}\t_\tNOUN" + 6 * "\t_" + "\n\n" for token in tokens)
            (folder / f"{language}.{split}.conllu").write_text("".join(rows))
    config = with_changes(
        {
            "task": {
                "kind": "token_classification",
                "source": "conllu",
                "path": f"{folder}/{{language}}.{{split}}.conllu",
                "train_language": "aa",
                "test_languages": ("aa", "bb"),
                "dev_split": "dev",
                "text_fields": ("tokens",),
                "label_field": "upos",
                "max_length": 6,
            },
            "optimizer": {"learning_rate": 1e-3},
            "training": {"batch_size": 8, "epochs": 3},
        },
        changes,
    )
    return fine_tuning.prepare(settings.resolve(config), MODEL, NumberTokenizer(), one_device())


def one_device():
    return sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])


def tokens(batch):
    """The one token of each row, before masking; none where a row fills up a batch."""
    ids = unmasked(batch) if "masked_labels" in batch else batch["input_ids"]
    return [int(i) for i in ids[:, 1] if i]


def texts_of(job, count):
    """What the next batches hold, text by text, and their numbers of rows."""
    batches = [next(job.feed._rows) for _ in range(count)]
    job.feed.close()
    return [token for batch in batches for token in tokens(batch)], {len(batch["input_ids"]) for batch in batches}


@pytest.fixture
def judged(monkeypatch):
    """What a task's evaluator is given: word of each example by language, call by call."""
    calls = []

    class Recorder:
        def __init__(self, *arguments, **options):
            pass

        def __call__(self, params, examples):
            calls.append({language: [int(e["tokens"][0]) for e in rows] for language, rows in examples.items()})

        def predictions(self, params, examples):
            return [["VERB"]] * len(examples)

        def metrics(self, examples, predictions):
            assert {lang: len(found) for lang, found in predictions.items()} == {k: len(v) for k, v in examples.items()}
            self(None, examples)

    monkeypatch.setattr(fine_tuning, "TaskEvaluator", Recorder)
    return calls


@pytest.mark.parametrize("make", [pretraining_job, fine_tuning_job])
def test_a_process_makes_its_rows_and_no_others(tmp_path, monkeypatch, make):
    def rows(job):
        batch = next(job.feed._rows)
        job.feed.close()
        return unmasked(batch) if "masked_labels" in batch else batch["input_ids"]

    whole = rows(make(tmp_path))
    monkeypatch.setattr(sharding, "local_rows", lambda size, mesh: np.arange(size)[2:5])
    assert len(whole) == 8
    np.testing.assert_array_equal(rows(make(tmp_path)), whole[2:5])


@pytest.mark.parametrize("make", [pretraining_job, fine_tuning_job])
def test_the_order_is_that_of_the_seed(tmp_path, make):
    one, again, other = (texts_of(make(tmp_path, seed=seed), 4)[0] for seed in (3, 3, 4))
    assert one == again != other


def test_pre_training_is_judged_by_held_out_text_alone(tmp_path, monkeypatch):
    held_out = {}
    monkeypatch.setattr(pretraining, "MaskedLMEvaluator", lambda predict, batches, *rest: held_out.update(batches))
    job = pretraining_job(tmp_path, **{"data.eval_texts": 7, "training.eval_batch_size": 4})
    for language, shift in (("aa", 0), ("bb", OTHER)):
        assert {len(batch["input_ids"]) for batch in held_out[language]} == {4}
        found = {token for batch in held_out[language] for token in tokens(batch)}
        assert found == {token + shift for token in DEV[:7]}, "the first texts of the other split"
    learnt = set(texts_of(job, 10)[0])
    assert learnt <= {*TRAIN, *(token + OTHER for token in TRAIN)}
    assert job.program.total_steps == 5 and job.select_by is None


def test_a_task_is_selected_on_dev_of_one_language_and_tested_on_test_of_all(tmp_path, judged):
    job = fine_tuning_job(tmp_path)
    job.evaluate({})
    job.test({}, tmp_path / "predictions")
    assert judged == [{"aa": [*DEV]}, {"aa": [*TEST], "bb": [token + OTHER for token in TEST]}]
    assert job.select_by == ("aa", "accuracy") and job.metric == "accuracy"
    assert (tmp_path / "predictions" / "test-bb.tsv").read_text() == "\n".join(["VERB\n"] * len(TEST))
    assert set(texts_of(job, 4)[0]) == set(TRAIN), "labels of one language"


def test_only_the_first_examples_count_where_a_config_says_so(tmp_path, judged):
    limits = {"task.max_train_examples": 17, "task.max_eval_examples": 4}
    job = fine_tuning_job(tmp_path, **limits)
    job.evaluate({})
    job.test({}, tmp_path / "predictions")
    assert judged == [{"aa": [*DEV[:4]]}, {"aa": [*TEST[:4]], "bb": [token + OTHER for token in TEST[:4]]}]
    assert set(texts_of(job, 4)[0]) <= set(TRAIN[:17])
    assert job.program.total_steps == 3 * 2, "three epochs of 17 examples in whole batches of eight"


def test_epochs_are_passes_over_the_training_examples(tmp_path):
    job = fine_tuning_job(tmp_path)
    assert job.program.total_steps == 3 * 4
    assert sorted(texts_of(job, job.program.total_steps)[0]) == sorted(3 * [*TRAIN])
    assert fine_tuning_job(tmp_path, **{"training.epochs": 0, "training.steps": 7}).program.total_steps == 7
