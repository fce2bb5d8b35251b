"""Folders in the format of transformers: there and back, and heads that come and go."""

import dataclasses
import json
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same_trees
from interop.folders import IDS, edit, make, rewrite
from safetensors.numpy import load_file

from rembert_jax import (
    Execution,
    RemBertForCausalLM,
    RemBertForMaskedLM,
    RemBertForQuestionAnswering,
    RemBertForSequenceClassification,
    RemBertForTokenClassification,
    RemBertModel,
    save_pretrained,
)
from rembert_jax.config import RemBertConfig
from rembert_jax.errors import RemBertError
from rembert_jax.interop import huggingface, names
from rembert_jax.modeling.encoder import unstack_layers
from rembert_jax.modeling.models import MODELS
from rembert_jax.modeling.pretrained import abstract_params
from rembert_jax.sharding import MeshConfig, make_mesh, unbox
from rembert_jax.tree import flatten


@pytest.fixture
def public(masked_lm, tiny_config, random_params, tmp_path):
    """Like the checkpoint that is public: encoder and pooler, no output head."""
    save_pretrained(*make(RemBertModel, tiny_config, random_params), tmp_path / "public")
    return tmp_path / "public"


# There and back.


@pytest.mark.parametrize("head", MODELS)
@pytest.mark.parametrize("scan_layers", [True, False])
def test_a_saved_model_comes_back_bit_for_bit(head, scan_layers, tiny_config, random_params, tmp_path):
    fields = {"num_labels": 3} if "num_labels" in MODELS[head].__dataclass_fields__ else {}
    model, params = make(MODELS[head], tiny_config, random_params, **fields)
    save_pretrained(model, params, tmp_path)
    execution = Execution(scan_layers=scan_layers)
    again, loaded = MODELS[head].from_pretrained(tmp_path, execution=execution)
    assert again.config == model.config and getattr(again, "num_labels", None) == fields.get("num_labels")
    # The other way of stacking layers, through a second folder, so that the names of layers are compared as well.
    save_pretrained(again, loaded, tmp_path / "second")
    first, second = (load_file(path / "model.safetensors") for path in (tmp_path, tmp_path / "second"))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    if scan_layers:
        assert_same_trees(loaded, params)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_twelve_layers_stay_in_their_order(scan_layers, tiny_config, tmp_path):
    """Sorted as text, layer 10 would come before layer 2."""
    model = RemBertForMaskedLM(
        dataclasses.replace(tiny_config, num_hidden_layers=12), Execution(scan_layers=scan_layers)
    )
    params = unbox(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"])

    def numbered(path, leaf):
        name = jax.tree_util.keystr(path)
        number = re.search(r"'layer_(\d+)'", name)
        value = float(number.group(1)) if number else 0.0
        stack = np.arange(12.0).reshape(12, *[1] * (len(leaf.shape) - 1)) if "'layer'" in name else value
        return jnp.asarray(np.broadcast_to(stack, leaf.shape), jnp.float32)

    save_pretrained(model, jax.tree_util.tree_map_with_path(numbered, params), tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert [found[f"rembert.encoder.layer.{i}.output.dense.bias"][3] for i in range(12)] == [*range(12)]
    for execution in (Execution(scan_layers=True), Execution(scan_layers=False)):
        _, loaded = RemBertForMaskedLM.from_pretrained(tmp_path, execution=execution)
        layers = loaded["rembert"]["encoder"]
        layers = unstack_layers(layers) if execution.scan_layers else layers
        assert [float(layers[f"layer_{i}"]["intermediate"]["kernel"][1, 2]) for i in range(12)] == [*range(12)]


def test_names_and_orientation_in_the_file(masked_lm, folder):
    """One array of each kind, by the names of transformers."""
    params, found = flatten(masked_lm[1]), load_file(folder / "model.safetensors")
    layer = "rembert/encoder/layer"
    np.testing.assert_array_equal(
        found["rembert.encoder.layer.1.attention.self.key.weight"], params[f"{layer}/attention/key/kernel"][1].T
    )
    np.testing.assert_array_equal(
        found["rembert.encoder.layer.1.output.LayerNorm.weight"], params[f"{layer}/output_LayerNorm/scale"][1]
    )
    np.testing.assert_array_equal(found["cls.predictions.decoder.weight"], params["cls/decoder/embedding"])
    np.testing.assert_array_equal(found["cls.predictions.decoder.bias"], params["cls/decoder/bias"])
    assert len(found) == 5 + 2 + 2 * 16 + 6


def test_every_parameter_of_the_family_has_a_name(tiny_config):
    for head, model in MODELS.items():
        config = RemBertConfig(**{**tiny_config.to_dict(), "is_decoder": True, "add_cross_attention": True})
        fields = {"num_labels": 3} if "num_labels" in model.__dataclass_fields__ else {}
        _, shapes = abstract_params(model(config, execution=Execution(scan_layers=False), **fields))
        rows = [names.parameter(names.full_name(name)) for name in shapes]
        assert len({row.huggingface for row in rows}) == len(shapes), head


def test_config_keeps_every_field_and_never_ties(folder, masked_lm):
    values = json.loads((folder / "config.json").read_text())
    assert values["architectures"] == ["RemBertForMaskedLM"] and values["model_type"] == "rembert"
    assert values["tie_word_embeddings"] is False and values["dtype"] == "float32"
    assert {key: values[key] for key in masked_lm[0].config.to_dict()} == masked_lm[0].config.to_dict()


def test_tied_tables_become_two_equal_ones(tiny_config, random_params, tmp_path):
    config = RemBertConfig(**{**tiny_config.to_dict(), "output_embedding_size": 8, "tie_word_embeddings": True})
    model, params = make(RemBertForMaskedLM, config, random_params)
    save_pretrained(model, params, tmp_path)
    again, loaded = RemBertForMaskedLM.from_pretrained(tmp_path)
    words = loaded["rembert"]["embeddings"]["word_embeddings"]["embedding"]
    np.testing.assert_array_equal(loaded["cls"]["decoder"]["embedding"], words)
    ids = jnp.array([[5, 9, 40]])
    np.testing.assert_array_equal(
        again.apply({"params": loaded}, ids).logits, model.apply({"params": params}, ids).logits
    )


def test_two_tables_in_the_file_are_not_tied_whatever_its_config_says(tiny_config, random_params, tmp_path, caplog):
    config = RemBertConfig(**{**tiny_config.to_dict(), "output_embedding_size": 8})
    model, params = make(RemBertForMaskedLM, config, random_params)
    save_pretrained(model, params, tmp_path)
    edit(tmp_path, tie_word_embeddings=True)
    with caplog.at_level(logging.WARNING):
        again, loaded = RemBertForMaskedLM.from_pretrained(tmp_path)
    assert "holds an output table of its own, so that it is not tied" in caplog.text
    assert_same_trees(loaded, params)
    assert again.config.tie_word_embeddings is False
    with pytest.raises(RemBertError, match="output table of its own, which tie_word_embeddings=True leaves out"):
        RemBertForMaskedLM.from_pretrained(tmp_path, tie_word_embeddings=True)


def test_weights_in_several_files(masked_lm, tmp_path):
    save_pretrained(*masked_lm, tmp_path, shard_bytes=6000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert index["metadata"]["total_size"] == 4 * sum(leaf.size for leaf in jax.tree.leaves(masked_lm[1]))
    assert_same_trees(RemBertForMaskedLM.from_pretrained(tmp_path)[1], masked_lm[1])
    (tmp_path / "model_ema.safetensors").write_bytes(b"of somebody else")
    save_pretrained(*masked_lm, tmp_path)  # One file again, and nothing of the many is left.
    names = ["config.json", "model.safetensors", "model_ema.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_files_can_be_read_by_others(folder):
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == (folder / "config.json").stat().st_mode & 0o777


def test_bfloat16_parameters(folder, masked_lm, tmp_path):
    model, params = RemBertForMaskedLM.from_pretrained(folder, dtype="bfloat16")
    assert model.execution.compute_dtype == "bfloat16"
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    save_pretrained(model, params, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    again = RemBertForMaskedLM.from_pretrained(tmp_path, dtype="bfloat16")[1]
    assert_same_trees(again, params)
    logits = model.apply({"params": params}, jnp.array([[5, 9, 40]])).logits
    expected = masked_lm[0].apply({"params": masked_lm[1]}, jnp.array([[5, 9, 40]])).logits
    np.testing.assert_allclose(logits, expected, atol=0.3)


def test_parameters_are_placed_on_a_mesh(folder, masked_lm):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    params = RemBertForMaskedLM.from_pretrained(folder, sharding=mesh)[1]
    assert_same_trees(params, masked_lm[1])
    table = params["cls"]["decoder"]["embedding"]
    assert table.addressable_shards[0].data.shape == (24, 12)  # Words over "tensor", width over "fsdp".
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params = RemBertForMaskedLM.from_pretrained(folder, sharding=replicated)[1]
    assert all(leaf.sharding == replicated for leaf in jax.tree.leaves(params))


# Heads that come and go.


def test_public_checkpoint_loads_for_fine_tuning_without_a_word_of_warning(public, caplog):
    with caplog.at_level(logging.WARNING):
        model, params = RemBertForSequenceClassification.from_pretrained(public, num_labels=3)
    assert caplog.records == []
    base = RemBertModel.from_pretrained(public)[1]
    assert_same_trees(params["rembert"], base)
    assert params["classifier"]["dense"]["kernel"].shape == (16, 3) and model.num_labels == 3
    tagger = RemBertForTokenClassification.from_pretrained(public, num_labels=4)[1]
    assert set(tagger["rembert"]) == {"embeddings", "encoder"}
    assert set(RemBertForQuestionAnswering.from_pretrained(public)[1]) == {"rembert", "qa_outputs"}


@pytest.mark.parametrize("kind", [RemBertForMaskedLM, RemBertForCausalLM])
def test_an_output_head_is_never_random_unless_asked_for(public, kind):
    with pytest.raises(RemBertError, match=r"lacks parameters[^$]*--init cls \(in Python init=\('cls',\)\)") as error:
        kind.from_pretrained(public)
    assert "cls/decoder/embedding [48, 24]" in str(error.value)
    _, params = kind.from_pretrained(public, init=("cls",), seed=1)
    other = kind.from_pretrained(public, init=("cls",), seed=2)[1]
    assert np.abs(params["cls"]["decoder"]["embedding"] - other["cls"]["decoder"]["embedding"]).max() > 0
    assert_same_trees(params["rembert"]["encoder"], other["rembert"]["encoder"])


def test_a_missing_pooler_is_random_only_where_fine_tuning_trains_it(folder):
    with pytest.raises(RemBertError, match="--init pooler"):
        RemBertModel.from_pretrained(folder)
    assert "pooler" not in RemBertModel.from_pretrained(folder, add_pooling_layer=False)[1]
    assert "pooler" in RemBertForSequenceClassification.from_pretrained(folder, num_labels=2)[1]["rembert"]


def test_a_classifier_of_another_model_is_not_taken(tiny_config, random_params, tmp_path):
    model, params = make(RemBertForTokenClassification, tiny_config, random_params, num_labels=3)
    save_pretrained(model, params, tmp_path, labels=["A", "B", "C"])
    assert huggingface.read_config(tmp_path).labels == ("A", "B", "C")
    same = RemBertForTokenClassification.from_pretrained(tmp_path)[1]
    np.testing.assert_array_equal(same["classifier"]["dense"]["kernel"], params["classifier"]["dense"]["kernel"])
    other = RemBertForSequenceClassification.from_pretrained(tmp_path)[1]
    assert np.abs(other["classifier"]["dense"]["kernel"] - params["classifier"]["dense"]["kernel"]).max() > 0.1
    with pytest.raises(RemBertError, match=r"saved \[3, 16\], expected \[5, 16\] by hidden_size, num_labels"):
        RemBertForTokenClassification.from_pretrained(tmp_path, num_labels=5)
    fresh = RemBertForTokenClassification.from_pretrained(tmp_path, num_labels=5, init=("classifier",))[1]
    assert fresh["classifier"]["dense"]["kernel"].shape == (16, 5)


def test_a_file_that_lost_its_own_head_is_refused(tiny_config, random_params, tmp_path):
    model, params = make(RemBertForSequenceClassification, tiny_config, random_params, num_labels=3)
    save_pretrained(model, params, tmp_path)
    rewrite(tmp_path, lambda tensors: {n: a for n, a in tensors.items() if not n.startswith("classifier")})
    with pytest.raises(RemBertError, match="lacks parameters of the model; --init classifier"):
        RemBertForSequenceClassification.from_pretrained(tmp_path)


def test_strictly_nothing_starts_afresh_unless_named(public):
    with pytest.raises(RemBertError, match="--init qa_outputs"):
        RemBertForQuestionAnswering.from_pretrained(public, strict=True)
    RemBertForQuestionAnswering.from_pretrained(public, strict=True, init=("qa_outputs",))


def test_labels_that_transformers_does_not_name_are_counted(tiny_config, random_params, tmp_path):
    """It leaves out the names of two labels."""
    save_pretrained(*make(RemBertForTokenClassification, tiny_config, random_params, num_labels=2), tmp_path)
    edit(tmp_path, id2label=..., label2id=...)
    assert RemBertForTokenClassification.from_pretrained(tmp_path)[0].num_labels == 2


def test_labels_must_be_named_or_counted(public, masked_lm, tmp_path, tiny_config, random_params):
    with pytest.raises(RemBertError, match="give num_labels"):
        RemBertForSequenceClassification.from_pretrained(public)
    model, params = make(RemBertForTokenClassification, tiny_config, random_params, num_labels=3)
    with pytest.raises(RemBertError, match="2 labels were given, but the model has num_labels=3"):
        save_pretrained(model, params, tmp_path, labels=["A", "B"])


def test_names_of_classes_travel_with_the_model(tiny_config, random_params, tmp_path):
    sequence = make(RemBertForSequenceClassification, tiny_config, random_params, num_labels=2)
    save_pretrained(*sequence, tmp_path / "1", labels=["no", "yes"], problem_type="multi_label_classification")
    model, params = RemBertForSequenceClassification.from_pretrained(tmp_path / "1")
    assert (model.labels, model.problem_type) == (("no", "yes"), "multi_label_classification")
    save_pretrained(model, params, tmp_path / "2")
    assert (tmp_path / "2" / "config.json").read_bytes() == (tmp_path / "1" / "config.json").read_bytes()
    model, _ = RemBertForSequenceClassification.from_pretrained(tmp_path / "1", num_labels=3, init=["classifier"])
    assert model.labels is None  # The names of two do not name three.
    token = make(RemBertForTokenClassification, tiny_config, random_params, num_labels=2)
    save_pretrained(*token, tmp_path / "3", labels=["O", "PER"])
    assert RemBertForTokenClassification.from_pretrained(tmp_path / "3")[0].labels == ("O", "PER")


def test_layers_start_afresh_under_their_own_names_also_where_they_are_stacked(folder, masked_lm):
    stacked = "rembert/encoder/layer/intermediate/kernel"
    every = "rembert/encoder/layer_*/intermediate/kernel"
    params = RemBertForMaskedLM.from_pretrained(folder, init=[every])[1]
    before, after = flatten(masked_lm[1]), flatten(params)
    assert [name for name in before if not np.array_equal(before[name], after[name])] == [stacked]
    one = "rembert/encoder/layer_1/intermediate/kernel"
    with pytest.raises(RemBertError, match=f"names 1 of the 2 layers that are stacked in {stacked}.*{one}; name all"):
        RemBertForMaskedLM.from_pretrained(folder, init=[one])
    params = RemBertForMaskedLM.from_pretrained(folder, init=[one], execution=Execution(scan_layers=False))[1]
    layers = params["rembert"]["encoder"]
    assert not np.array_equal(layers["layer_1"]["intermediate"]["kernel"], before[stacked][1])
    np.testing.assert_array_equal(layers["layer_0"]["intermediate"]["kernel"], before[stacked][0])


def test_dtypes_by_name_or_as_in_numpy(folder):
    for dtype in ("bfloat16", jnp.bfloat16, np.dtype(jnp.bfloat16)):
        model, params = RemBertForMaskedLM.from_pretrained(folder, dtype=dtype)
        assert model.execution.compute_dtype == "bfloat16"
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("dtype", ["float16", "foo", None])
def test_other_dtypes_are_refused(folder, dtype):
    with pytest.raises(RemBertError, match=f"dtype={dtype!r}: expected one of float32, bfloat16"):
        RemBertForMaskedLM.from_pretrained(folder, dtype=dtype)


def test_no_labels_at_all_are_refused(public):
    with pytest.raises(RemBertError, match="num_labels=0: expected at least 1"):
        RemBertForSequenceClassification.from_pretrained(public, num_labels=0)


def test_fields_of_the_config_can_be_changed(public):
    model, _ = RemBertForSequenceClassification.from_pretrained(public, num_labels=2, classifier_dropout_prob=0.3)
    assert model.config.classifier_dropout_prob == 0.3
    with pytest.raises(RemBertError, match="unknown field 'clasifier_dropout'"):
        RemBertModel.from_pretrained(public, clasifier_dropout=0.3)
    decoder, params = RemBertForCausalLM.from_pretrained(
        public, is_decoder=True, add_cross_attention=True, init=("cls", "*crossattention*")
    )
    assert "crossattention" in params["rembert"]["encoder"]["layer"] and decoder.config.is_decoder


# What is not saved.


def test_other_parameters_than_the_models_are_not_saved(masked_lm, tmp_path, tiny_config, random_params):
    model, params = masked_lm
    with pytest.raises(RemBertError, match="cls/LayerNorm/bias"):
        save_pretrained(model, {"rembert": params["rembert"]}, tmp_path)
    with pytest.raises(RemBertError, match="rembert/embeddings/word_embeddings/embedding"):
        _, resized = model.resize_token_embeddings(params, 40, jax.random.key(0))
        save_pretrained(model, {**params, "rembert": resized["rembert"]}, tmp_path)
    with_pooler = RemBertForMaskedLM(tiny_config, add_pooling_layer=True)
    with pytest.raises(RemBertError, match="no language model with a pooler"):
        save_pretrained(with_pooler, random_params(with_pooler, IDS), tmp_path)
    assert not (tmp_path / "config.json").exists()


class Vocabulary:
    vocab_size = 49


def test_a_tokenizer_of_another_size_is_not_saved(masked_lm, tmp_path):
    with pytest.raises(RemBertError, match="tokenizer of 49 pieces, but the model has vocab_size=48"):
        save_pretrained(*masked_lm, tmp_path, Vocabulary())
