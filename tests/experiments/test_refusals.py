"""What is refused before anything is trained, in whole runs on tiny models."""

import shutil

import jax
import pytest
from experiments.runs import FINE_TUNING
from helpers import (
    TINY_PRETRAINING,
    real_tokenizer,
    with_changes,
)

from rembert_jax.errors import RemBertError
from rembert_jax.experiments import processes, run, settings, vocabulary
from rembert_jax.tokenization import RemBertTokenizer
from rembert_jax.training.settings import TrainingError


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"optimizer.learning_rate": 2e-3}, r"optimizer\.learning_rate: 0\.001 -> 0\.002"),
        ({"data.alpha": 0.7}, r"data\.alpha: 0\.5 -> 0\.7"),
        ({"data.alpha": 0.3}, r"data\.alpha: 0\.5 -> 0\.3"),
        ({"training.steps": 7}, r"training\.steps: 6 -> 7"),
        ({"training.eval_every": 2}, r"training\.eval_every: 3 -> 2"),
        ({"execution.scan_layers": False}, r"execution\.scan_layers: True -> False"),
        ({"execution.compute_dtype": "bfloat16"}, r"execution\.compute_dtype: float32 -> bfloat16"),
    ],
)
def test_other_config_on_the_same_workdir_is_refused(interrupted, changes, line):
    with pytest.raises(TrainingError, match=rf"holds a run with another config; .*\n  {line}$"):
        run.run(with_changes(TINY_PRETRAINING, changes), interrupted)


@pytest.mark.parametrize("name", ["resolved_config.json", "results.json"])
def test_damaged_files_of_a_run_are_named(pretrained, tmp_path, name):
    for file in ("resolved_config.json", "results.json"):
        shutil.copy(pretrained[0] / file, tmp_path)
    (tmp_path / name).write_text('{"seed": ')
    with pytest.raises(TrainingError, match=rf"{name} cannot be read \(.+\); restore it, or choose a new --workdir"):
        run.run(TINY_PRETRAINING, tmp_path)


@pytest.mark.parametrize(
    "bad",
    [
        {"optimizer.warmup_steps": 6},
        {"data.source": "text", "data.path": "/nowhere/{language}/{split}"},
        {"model.vocab_size": 301},
        {"init_from": "pretrained", "model": {"intermediate_size": 48}},
    ],
)
def test_start_that_fails_does_not_bind_the_workdir(pretrained, tmp_path, no_training, bad):
    bad = {key: str(pretrained[0]) if value == "pretrained" else value for key, value in bad.items()}
    with pytest.raises(RemBertError):
        run.run(with_changes(TINY_PRETRAINING, bad), tmp_path)
    assert not (tmp_path / "resolved_config.json").exists() and not no_training
    run.run(TINY_PRETRAINING, tmp_path)
    assert (tmp_path / "resolved_config.json").is_file() and len(no_training) == 1


def test_vocabulary_of_a_failed_start_serves_if_it_was_made_in_the_same_way(tmp_path, no_training, monkeypatch):
    made = []
    train_vocabulary = vocabulary.train_vocabulary
    monkeypatch.setattr(vocabulary, "train_vocabulary", lambda *a, **k: made.append(k) or train_vocabulary(*a, **k))

    def start(**changes):
        run.run(with_changes(TINY_PRETRAINING, changes), tmp_path)

    with pytest.raises(TrainingError, match=r"the vocabulary .* has 300"):
        start(**{"model.vocab_size": 301})
    with pytest.raises(TrainingError, match=r"the vocabulary .* has 300"):
        start(**{"model.vocab_size": 301, "optimizer.learning_rate": 1.0})
    assert len(made) == 1
    with pytest.raises(TrainingError, match=r"the vocabulary .* has 280"):
        start(**{"model.vocab_size": 301, "tokenizer.vocab_size": 280})
    with pytest.raises(TrainingError, match=r"the vocabulary .* has 400"):
        start(**{"model.vocab_size": 301, "tokenizer.path": str(real_tokenizer().model_file)})
    start()
    assert [arguments["vocab_size"] for arguments in made] == [300, 280, 300]
    assert RemBertTokenizer(tmp_path).vocab_size == 300
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("index", [0, 1])
def test_no_process_waits_for_a_vocabulary_that_cannot_be_made(tmp_path, monkeypatch, index):
    told = []
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(processes, "gather", lambda text: told.append(text) or ["a.model: no such folder", ""])
    config = settings.resolve(with_changes(TINY_PRETRAINING, {"tokenizer.path": "/nowhere/v.model"}))
    expected = ("^/nowhere/v.model: no such folder", "the first process could not .*: a.model: no such folder")[index]
    with pytest.raises(RemBertError, match=expected):
        vocabulary.open_tokenizer(config, tmp_path, {})
    assert [bool(text) for text in told] == [index == 0]


def test_other_vocabulary_than_the_checkpoints_is_refused(pretrained, tmp_path, one_device):
    config = FINE_TUNING | {"init_from": str(pretrained[0]), "tokenizer": {"path": str(real_tokenizer().model_file)}}
    with pytest.raises(TrainingError, match=r"is not the vocabulary of .*leave tokenizer\.path empty"):
        run.run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.learning_rat": 1}, r"config\.optimizer: unknown key 'learning_rat' \(did you mean 'learning_rate'"),
        ({"optimiser": {}}, r"config: unknown key 'optimiser' \(did you mean 'optimizer'\?\)"),
        ({"training.steps": "many"}, r"config\.training\.steps: found 'many' \(str\), expected int"),
        ({"optimizer": {}}, r"config\.optimizer: missing learning_rate"),
        ({"data.source": "web"}, r"config\.data\.source: found 'web', expected one of 'text', 'jsonl', 'tfds', 'tok"),
        ({"training.epochs": 3}, r"config\.training: steps=6, epochs=3: set one of them"),
        ({"training.steps": 0, "training.epochs": 3}, r"training\.epochs is for fine-tuning; pre-training needs"),
        ({"training.z_loss": float("inf")}, r"config\.training: z_loss=inf: expected at least 0, and finite"),
        ({"training.keep_checkpoints": 0}, r"config\.training: keep_checkpoints=0: expected at least 1"),
        ({"training.checkpoint_every": -1}, r"config\.training: checkpoint_every=-1: expected at least 0"),
        ({"model.hiden_size": 16}, r"model: unknown key 'hiden_size' \(did you mean 'hidden_size'"),
        ({"task": FINE_TUNING["task"]}, "exactly one of the sections data .* and task"),
        ({"data.seq_length": 64}, r"data\.seq_length=64 exceeds model\.max_position_embeddings=32; shorten"),
        ({"data.languages": ("qaa", "qzz")}, "unknown synthetic language 'qzz': expected one of qaa"),
        ({"data.synthetic": {"mixed": 1.5}}, r"config\.data\.synthetic: mixed=1\.5: expected a share between 0 and 1"),
        ({"data.synthetic": {"dictionary": -1}}, r"data\.synthetic: dictionary=-1\.0: expected a share between 0 and 1"),
        ({"data.parallel": "no/{language}", "data.parallel_texts": 4}, r"data\.parallel=no/\{language\}: files of 0 of"),
        ({"seed": -1}, "seed=-1: expected 0 or more"),
        ({"data.source": "text"}, r"data\.path"),
        ({"data.source": "tfds", "data.path": "none/{language}"}, r"TFDS dataset 'none/qaa'.*data_dir"),
        ({"tokenizer.path": "/nowhere/v.model"}, r"/nowhere/v\.model: no such folder"),
        ({"tokenizer.vocab_size": 0}, r"no vocabulary: set tokenizer\.path, or tokenizer\.vocab_size"),
        ({"tokenizer.vocab_size": 50_000}, r"tokenizer\.vocab_size=50000: the sampled text supports at most \d+ pieces"),
        ({"model.vocab_size": 301}, r"model\.vocab_size=301, but the vocabulary .* has 300; leave the key out"),
        ({"init_from": "/nowhere"}, "init_from=/nowhere: no checkpoint found there"),
        ({"optimizer.warmup_steps": 6}, r"warmup_steps=6 is not shorter than the run of 6 steps"),
        ({"optimizer.freeze": ("embeding",)}, r"optimizer\.freeze: no parameter has 'embeding' in its path; .*embeddings"),
        ({"execution.attention": "cudnn"}, r"attention='cudnn' runs on cuda and gpu, and this is cpu; .*take auto or xla"),
        ({"training.z_loss": -1.0}, r"z_loss=-1\.0: expected at least 0"),
        ({"drop_top_layers": 1}, "drop_top_layers=1: expected layers of the run that init_from or model_from names"),
        ({"mesh": {"tensor": 3}}, r"mesh .*'tensor': 3\} needs a multiple of 3 devices, found 1; change mesh\.data"),
    ],
)  # fmt: skip
def test_wrong_configs_are_explained_before_training(tmp_path, one_device, changes, message):
    with pytest.raises(RemBertError, match=message):
        run.run(with_changes(TINY_PRETRAINING, changes), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    made = (tmp_path / "run" / "sentencepiece.model").exists()
    assert made == ("the vocabulary .* has" in message), "nothing is made before all is checked that can be"


@pytest.mark.parametrize("name", ["batch_size", "eval_batch_size"])
def test_batch_that_does_not_divide_is_refused(tmp_path, name):
    with pytest.raises(
        RemBertError, match=rf"training\.{name}=12 is not divisible by .*= 8 x 1 x 1; use a multiple of 8"
    ):
        run.run(with_changes(TINY_PRETRAINING, {f"training.{name}": 12}), tmp_path)
    assert not (tmp_path / "sentencepiece.model").exists()


def test_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match=r"--workdir=.*file/run cannot be written \(.+\); choose another folder"):
        run.run(TINY_PRETRAINING, tmp_path / "file" / "run")
    with pytest.raises(TrainingError, match=r"--workdir=gs://bucket/run: expected a folder; mount the bucket"):
        run.run(TINY_PRETRAINING, "gs://bucket/run")
    with pytest.raises(TrainingError, match="--workdir is empty"):
        run.run(TINY_PRETRAINING, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": ("a",)}, r"config\.order \['a'\] does not name each of \['a', 'b'\] once"),
        ({"extra": 1}, "unknown key 'extra' beside stages; known: order, report, stages"),
        (
            {"report": {"x": {"title": "X", "pretrained": "a", "scratch": "c"}}},
            "config.report: no stage 'c'; expected one of a, b",
        ),
    ],
)
def test_wrong_stages_are_explained_before_the_first_one(tmp_path, changes, message):
    stages = {"stages": {"a": TINY_PRETRAINING, "b": TINY_PRETRAINING}, "order": ("a", "b")}
    with pytest.raises(ValueError, match=message):
        run.run(stages | changes, tmp_path)
    assert not list(tmp_path.rglob("resolved_config.json"))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (TINY_PRETRAINING | {"optimizer": {"learning_rate": 1.0, "warmup_steps": 6}}, "warmup_steps=6 is not shorter"),
        (with_changes(TINY_PRETRAINING, {"training.batch_size": 0}), r"config.*batch_size=0|b\.training: batch_size=0"),
        (with_changes(TINY_PRETRAINING, {"model.hiden_size": 1}), "model: unknown key 'hiden_size'"),
        (FINE_TUNING | {"init_from": "/nowhere"}, "init_from=/nowhere: no checkpoint found there"),
        (with_changes(FINE_TUNING, {"init_from": "{workdir}/a", "task.max_length": 64}), r"task\.max_length=64 exceeds"),
        (
            with_changes(FINE_TUNING, {"init_from": "{workdir}/a", "task.test_languages": ("qaa", "qzz")}),
            "unknown synthetic language 'qzz'; expected one of qaa",
        ),
        (
            with_changes(FINE_TUNING, {"init_from": "{workdir}/a", "task.path": "none/{language}"}),
            r"TFDS dataset 'none/qaa'",
        ),
        (
            with_changes(FINE_TUNING, {
                "init_from": "{workdir}/a", "task.kind": "token_classification", "task.source": "conllu",
                "task.path": "{workdir}/{language}/{split}.conllu", "task.text_fields": ("tokens",),
            }),
            "no file for language 'qaa', split 'train'",
        ),
    ],
)  # fmt: skip
def test_mistakes_of_a_later_stage_are_found_before_the_first_one(tmp_path, one_device, stage, message):
    with pytest.raises(RemBertError, match=message) as error:
        run.run({"stages": {"a": TINY_PRETRAINING, "b": stage}, "order": ("a", "b")}, tmp_path)
    assert str(error.value).startswith(("stage b:", "b.")), "the stage is named"
    assert not (tmp_path / "a").exists()


def test_more_rows_than_examples_are_refused(pretrained, tmp_path, one_device):
    config = with_changes(FINE_TUNING | {"init_from": str(pretrained[0])}, {"training.batch_size": 128})
    with pytest.raises(ValueError, match=r"training\.batch_size=128 exceeds the 64 training examples of qaa"):
        run.run(config, tmp_path)
