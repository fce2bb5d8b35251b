import dataclasses
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, TINY_PRETRAINING, process_environment, real_tokenizer, with_changes

from rembert_jax import (
    RemBertForMaskedLM,
    RemBertForSequenceClassification,
    RemBertModel,
    RemBertTokenizer,
    save_pretrained,
)
from rembert_jax.errors import RemBertError
from rembert_jax.experiments import run as runs
from rembert_jax.tools import convert
from rembert_jax.training import checkpoint
from rembert_jax.tree import flatten

IDS = jax.ShapeDtypeStruct((2, 4), jnp.int32)
ONE_STEP = {"training.steps": 1, "optimizer.warmup_steps": 0, "data.eval_texts": 2}


def run(*arguments):
    return convert.convert(convert.parser().parse_args(list(map(str, arguments))))


@pytest.fixture
def folder(tiny_config, random_params, tmp_path):
    model = RemBertForSequenceClassification(tiny_config, num_labels=2)
    params = random_params(model, IDS)
    save_pretrained(model, params, tmp_path / "hf", labels=["no", "yes"], problem_type="multi_label_classification")
    return tmp_path / "hf"


def test_there_and_back_is_the_same_file(folder, tmp_path):
    run("--from", "hf", "--to", "jax", "--input", folder, "--output", tmp_path / "jax")
    run("--from", "jax", "--to", "hf", "--input", tmp_path / "jax", "--output", tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "no", "1": "yes"}


def test_another_head_drops_and_starts_afresh_only_what_is_named(folder, tmp_path):
    arguments = ("--from", "hf", "--to", "hf", "--input", folder, "--output", tmp_path / "out", "--head", "masked_lm")
    with pytest.raises(RemBertError, match="lacks parameters of the model; --init cls"):
        run(*arguments)
    with pytest.raises(RemBertError, match="no place for arrays of the file; --drop pooler classifier"):
        run(*arguments, "--init", "cls")
    assert not (tmp_path / "out").exists()
    run(*arguments, "--init", "cls", "--drop", "pooler", "classifier", "--seed", "3")
    params = RemBertForMaskedLM.from_pretrained(tmp_path / "out")[1]
    kept = RemBertModel.from_pretrained(folder)[1]
    np.testing.assert_array_equal(
        params["rembert"]["embeddings"]["word_embeddings"]["embedding"],
        kept["embeddings"]["word_embeddings"]["embedding"],
    )


def test_a_classifier_does_not_become_that_of_another_model(folder, tmp_path):
    arguments = ("--from", "hf", "--to", "hf", "--input", folder, "--output", tmp_path / "out")
    arguments += ("--head", "token_classification", "--drop", "pooler")
    with pytest.raises(RemBertError, match=r"holds the classifier of sequence_classification, .*; --init classifier"):
        run(*arguments)
    assert run(*arguments, "--init", "classifier").initialised == ("classifier/dense/bias", "classifier/dense/kernel")


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_numbers_of_labels_start_at_one(folder, tmp_path, number, capsys):
    with pytest.raises(SystemExit):
        run("--from", "hf", "--to", "hf", "--input", folder, "--output", tmp_path / "out", "--num_labels", number)
    assert f"--num_labels: {number!r}, expected a whole number from 1 on" in capsys.readouterr().err


def test_runs_that_cannot_be_read_are_told_in_words(tmp_path):
    arguments = ("--from", "jax", "--to", "hf", "--input", tmp_path / "run", "--output", tmp_path / "out")
    with pytest.raises(RemBertError, match=r"^--input=.*run: no checkpoint found there"):
        run(*arguments)
    checkpoint.save_params(tmp_path / "run", {"rembert/a": np.zeros(1)}, {"step": 0})
    with pytest.raises(RemBertError, match="its metadata has no `model`"):
        run(*arguments)


def test_bfloat16_halves_the_file(folder, tmp_path):
    run("--from", "hf", "--to", "hf", "--input", folder, "--output", tmp_path, "--dtype", "bfloat16")
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, tmp_path)]
    assert sizes[1] < 0.75 * sizes[0]  # The header stays.
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_vocabulary_of_another_size_is_refused(folder, tmp_path):
    vocabulary = real_tokenizer().model_file
    with pytest.raises(RemBertError, match=r"400 pieces, but the model has vocab_size=48; give the model's own"):
        run("--from", "hf", "--to", "jax", "--input", folder, "--output", tmp_path / "jax", "--tokenizer", vocabulary)
    assert not (tmp_path / "jax").exists()


@pytest.mark.long
def test_special_pieces_of_a_folder_reach_the_run(tiny_config, random_params, tmp_path):
    """Their names stand in the settings, not in the vocabulary: here the unknown piece serves as padding."""
    source = tmp_path / "hf"
    config = dataclasses.replace(tiny_config, vocab_size=400, max_position_embeddings=32)
    model = RemBertModel(config)
    save_pretrained(model, random_params(model, IDS), source, real_tokenizer())
    path = source / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "[UNK]"}))
    (source / "special_tokens_map.json").unlink()
    assert RemBertTokenizer.from_pretrained(source).pad_token_id == 2
    run("--from", "hf", "--to", "jax", "--input", source, "--output", tmp_path / "jax", "--init", "cls", "--head",
        "masked_lm")  # fmt: skip
    assert RemBertTokenizer.from_pretrained(tmp_path / "jax").pad_token_id == 2
    changes = {"init_from": str(tmp_path / "jax"), **ONE_STEP, "tokenizer": {}, "model": {}}
    runs.run(with_changes(TINY_PRETRAINING, changes), tmp_path / "run")
    assert RemBertTokenizer.from_pretrained(tmp_path / "run").pad_token_id == 2
    assert checkpoint.read_manifest(checkpoint.find(tmp_path / "run"))["model"]["pad_token_id"] == 2


def test_a_run_is_not_overwritten(folder, tmp_path):
    arguments = ("--from", "hf", "--to", "jax", "--input", folder, "--output", tmp_path / "jax")
    run(*arguments)
    with pytest.raises(RemBertError, match="holds the checkpoints of a run already"):
        run(*arguments)


def test_a_classifier_without_labels_needs_their_number(tiny_config, random_params, tmp_path):
    model = RemBertModel(tiny_config)
    save_pretrained(model, random_params(model, IDS), tmp_path / "base")
    arguments = ("--from", "hf", "--to", "jax", "--input", tmp_path / "base", "--output", tmp_path / "out")
    arguments = (*arguments, "--head", "sequence_classification", "--init", "classifier")
    with pytest.raises(RemBertError, match="give --num_labels"):
        run(*arguments)
    run(*arguments, "--num_labels", "3")
    stored = checkpoint.load_params(checkpoint.find(tmp_path / "out"))
    assert stored["classifier/dense/kernel"].shape == (16, 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the trainer, one step long."""
    workdir = tmp_path_factory.mktemp("run")
    runs.run(with_changes(TINY_PRETRAINING, {**ONE_STEP}), workdir)
    return workdir


def test_a_run_becomes_a_folder_of_transformers_with_its_vocabulary(trained, tmp_path):
    run("--from", "jax", "--to", "hf", "--input", trained, "--output", tmp_path)
    model, params = RemBertForMaskedLM.from_pretrained(tmp_path)
    stored = checkpoint.load_params(checkpoint.find(trained))
    assert model.config.vocab_size == 300
    for name in ("cls/decoder/embedding", "rembert/embeddings/word_embeddings/embedding"):
        np.testing.assert_array_equal(flatten(params)[name], stored[name])
    assert (tmp_path / "sentencepiece.model").read_bytes() == (trained / "sentencepiece.model").read_bytes()


def test_training_goes_on_from_a_converted_checkpoint(trained, tmp_path):
    run("--from", "jax", "--to", "hf", "--input", trained, "--output", tmp_path / "hf")
    run("--from", "hf", "--to", "jax", "--input", tmp_path / "hf", "--output", tmp_path / "jax")
    step = checkpoint.find(tmp_path / "jax")
    assert checkpoint.read_manifest(step)["tokenizer_sha256"] == checkpoint.read_manifest(checkpoint.find(trained))[
        "tokenizer_sha256"
    ]  # fmt: skip
    changes = {"init_from": str(tmp_path / "jax"), **ONE_STEP, "tokenizer": {}, "model": {}}
    runs.run(with_changes(TINY_PRETRAINING, changes), tmp_path / "run")
    assert checkpoint.can_resume(tmp_path / "run")


def test_masked_lm_training_does_not_go_on_from_a_random_head(trained, tmp_path):
    run("--from", "jax", "--to", "jax", "--input", trained, "--output", tmp_path / "base", "--head", "base",
        "--drop", "cls", "--init", "pooler")  # fmt: skip
    changes = {"init_from": str(tmp_path / "base"), **ONE_STEP, "tokenizer": {}, "model": {}}
    with pytest.raises(RemBertError, match=r"has no output head .* --head masked_lm --init cls"):
        runs.run(with_changes(TINY_PRETRAINING, changes), tmp_path / "run")


def test_the_command_line_reports_and_refuses_in_words(folder, tmp_path):
    command = [sys.executable, "-m", "rembert_jax.tools.convert", "--from", "hf", "--to", "hf"]
    command += ["--input", str(folder), "--output", str(tmp_path / "out")]

    def process(*more):
        return subprocess.run(
            [*command, *more], cwd=ROOT, env=process_environment(), capture_output=True, text=True, timeout=120
        )

    refused = process("--head", "base")
    assert refused.returncode == 1 and refused.stdout == ""
    assert refused.stderr.startswith("ConversionError: ") and "Traceback" not in refused.stderr
    done = process()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-2] == "43 arrays (5,410 values) converted, 0 dropped, 0 parameters initialised"
    assert "classifier.weight" in done.stdout and "classifier/dense/kernel  [16, 2]" in done.stdout
