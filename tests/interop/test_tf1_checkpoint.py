"""A TensorFlow 1 checkpoint with the public variable names of the BERT family, written by TensorFlow itself."""

import importlib.util
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop import tf1_release
from interop.tf1_release import FEED_FORWARD, HIDDEN, INPUT, LAYERS, OUTPUT, VOCABULARY, variables

from rembert_jax import RemBertForMaskedLM, RemBertForSequenceClassification
from rembert_jax.errors import RemBertError
from rembert_jax.interop import names, tf1_checkpoint
from rembert_jax.sharding import unbox
from rembert_jax.tools import convert
from rembert_jax.training import checkpoint

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed: pip install '.[tensorflow]'"
)


@pytest.fixture(scope="module")
def checkpoints(made_once):
    """Two checkpoints in folders of their own: as released (as far as known), and with the names of BERT's own head."""
    names = ("plain/rembert.ckpt", "bert/rembert.ckpt")

    def write(folder):
        options = ({}, {"transform": "transform/", "output_embedding": "output_embeddings"})
        tf1_release.write({folder / name: variables(**option) for name, option in zip(names, options, strict=True)})

    folder = made_once("tf1_checkpoint", write)
    return [folder / name for name in names]


def run(*arguments):
    return convert.convert(convert.parser().parse_args(list(map(str, arguments))))


@pytest.mark.parametrize("which", [0, 1])
def test_everything_arrives_with_the_output_embedding_and_the_head(checkpoints, which, tmp_path, capsys):
    source, values = checkpoints[which], variables(**([{}, {"transform": "transform/"}][which]))
    plan = run("--from", "tf1", "--to", "hf", "--input", source, "--output", tmp_path, "--drop", "optimizer", "pooler")
    model, params = RemBertForMaskedLM.from_pretrained(tmp_path)
    c = model.config
    assert (c.vocab_size, c.hidden_size, c.num_hidden_layers, c.num_attention_heads) == (VOCABULARY, HIDDEN, LAYERS, 2)
    assert (c.input_embedding_size, c.output_embedding_size, c.intermediate_size) == (INPUT, OUTPUT, FEED_FORWARD)
    assert (c.max_position_embeddings, c.type_vocab_size, c.tie_word_embeddings) == (16, 2, False)
    table = params["cls"]["decoder"]
    np.testing.assert_array_equal(table["embedding"], values["cls/predictions/output_embedding"])
    np.testing.assert_array_equal(table["bias"], values["cls/predictions/output_bias"])
    layers = params["rembert"]["encoder"]["layer"]
    for i, name in itertools.product(range(LAYERS), ("query", "key", "value")):
        expected = values[f"bert/encoder/layer_{i}/attention/self/{name}/kernel"]
        np.testing.assert_array_equal(layers["attention"][name]["kernel"][i], expected)
    np.testing.assert_array_equal(
        layers["attention_LayerNorm"]["scale"][0], values["bert/encoder/layer_0/attention/output/LayerNorm/gamma"]
    )
    report = capsys.readouterr().out
    assert "architecture by the shapes: 2 layers of 128, 2 heads of 64, hidden_act=gelu" in report
    converted = [piece for pieces in plan.pieces.values() for piece in pieces]
    assert (
        len(converted) + len(plan.dropped) == 3 * (len(converted) + 2) + 1
    )  # Twice as many slots, the pooler, the step.
    for piece in converted:
        assert any(piece.source in line and f"->  {piece.target}" in line for line in report.splitlines())


def test_what_is_not_named_is_an_error(checkpoints, tmp_path):
    with pytest.raises(RemBertError, match=r"--drop optimizer pooler[^$]*adam_m") as error:
        run("--from", "tf1", "--to", "hf", "--input", checkpoints[0], "--output", tmp_path)
    assert "bert/embeddings/LayerNorm/beta/adam_m" in str(error.value) and not list(tmp_path.iterdir())
    with pytest.raises(RemBertError, match=r"--drop cls[^$]*cls/predictions/output_bias"):
        run("--from", "tf1", "--to", "hf", "--head", "base", "--input", checkpoints[0], "--output", tmp_path,
            "--drop", "optimizer")  # fmt: skip


def test_our_own_format_keeps_pooler_and_head_and_starts_fine_tuning(checkpoints, tmp_path):
    run("--from", "tf1", "--to", "jax", "--input", checkpoints[0].parent, "--output", tmp_path, "--drop", "optimizer")
    stored = checkpoint.load_params(checkpoint.find(tmp_path))
    assert "rembert/pooler/dense/kernel" in stored and "cls/decoder/embedding" in stored
    config = tf1_checkpoint.infer_config(tf1_checkpoint.TF1Checkpoint(checkpoints[0]).shapes, "")
    model = RemBertForSequenceClassification(config, num_labels=2)
    fresh = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    params, report = checkpoint.load_pretrained(checkpoint.find(tmp_path), unbox(fresh))
    np.testing.assert_array_equal(params["rembert"]["pooler"]["dense"]["kernel"], stored["rembert/pooler/dense/kernel"])
    assert set(report.fresh) == {"classifier/dense/kernel", "classifier/dense/bias"}


def test_a_config_says_what_shapes_cannot(checkpoints, tmp_path):
    config = tf1_checkpoint.infer_config(tf1_checkpoint.TF1Checkpoint(checkpoints[0]).shapes, "").to_dict()
    (tmp_path / "given").mkdir()
    given = {**config, "num_attention_heads": 4, "hidden_act": "gelu_new", "model_type": "rembert"}
    (tmp_path / "given" / "config.json").write_text(json.dumps(given))
    run("--from", "tf1", "--to", "hf", "--input", checkpoints[0], "--output", tmp_path / "out", "--drop", "optimizer",
        "pooler", "--config", tmp_path / "given")  # fmt: skip
    model, _ = RemBertForMaskedLM.from_pretrained(tmp_path / "out")
    assert model.config.num_attention_heads == 4 and model.config.hidden_act == "gelu_new"


def test_two_variables_for_one_parameter_are_refused(checkpoints):
    source = tf1_checkpoint.TF1Checkpoint(checkpoints[0])
    source.shapes["bert/embeddings/output_embedding"] = (VOCABULARY, OUTPUT)
    row = names.parameter("cls/decoder/embedding")
    with pytest.raises(RemBertError, match="could be cls/decoder/embedding; leave one out by --drop"):
        tf1_checkpoint.name_in(source)(row)
    chosen = tf1_checkpoint.name_in(source, ["bert/embeddings/output_embedding"])(row)
    assert chosen == "cls/predictions/output_embedding"


def test_another_kind_of_checkpoint_is_refused(checkpoints):
    shapes = dict(tf1_checkpoint.TF1Checkpoint(checkpoints[0]).shapes)
    del shapes["bert/embeddings/word_embeddings"]
    with pytest.raises(RemBertError, match="expected a RemBERT checkpoint, or give --config"):
        tf1_checkpoint.infer_config(shapes, "here")
    shapes["bert/embeddings/word_embeddings"] = (50,)
    with pytest.raises(RemBertError, match=r"word_embeddings.* has shape \[50\], expected 2 axes"):
        tf1_checkpoint.infer_config(shapes, "here")
