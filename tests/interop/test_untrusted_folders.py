"""Folders in the format of transformers that are damaged, lie, or come from elsewhere."""

import json
import logging
import os

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import assert_same_trees
from interop.folders import edit, rewrite

from rembert_jax import RemBertForMaskedLM, RemBertModel, hub
from rembert_jax.errors import RemBertError


def test_unknown_keys_are_reported_and_have_no_effect(folder, caplog):
    edit(folder, rotary_base=5, transformers_version="9.9")
    with caplog.at_level(logging.WARNING):
        RemBertForMaskedLM.from_pretrained(folder)
    assert [record.getMessage().rsplit(": ", 1)[1] for record in caplog.records] == ["rotary_base"]


def test_the_old_name_of_the_input_embedding_is_read(folder):
    edit(folder, embedding_size=8, input_embedding_size=...)
    assert RemBertForMaskedLM.from_pretrained(folder)[0].config.input_embedding_size == 8
    edit(folder, input_embedding_size=9)
    with pytest.raises(RemBertError, match="embedding_size=8 contradicts input_embedding_size=9"):
        RemBertForMaskedLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "warnings"),
    [
        ({"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}, []),
        ({"eos_token_id": [2, 3]}, []),
        ({"bos_token_id": 312, "eos_token_id": [2, 313]}, ["bos_token_id=312", "eos_token_id=313"]),
        ({"eos_token_id": -1}, ["eos_token_id=-1"]),
        ({"tie_word_embeddings": True}, ["tie_word_embeddings=true, but the tables have the widths 8 and 24"]),
        ({"hidden_act": "gelu_fast"}, []),
        ({"hidden_act": "tanh"}, []),
    ],
)
def test_configs_of_other_people_are_taken(folder, changes, warnings, caplog):
    edit(folder, **changes)
    with caplog.at_level(logging.WARNING):
        model, params = RemBertForMaskedLM.from_pretrained(folder)
    assert len(caplog.records) == len(warnings)
    assert all(w in record.getMessage() for w, record in zip(warnings, caplog.records, strict=True))
    assert np.isfinite(model.apply({"params": params}, jnp.array([[5, 0, 9]])).logits).all()


def test_a_value_of_the_file_that_is_replaced_is_not_looked_at(folder, caplog):
    edit(folder, pad_token_id=300, eos_token_id="end", hidden_act="mish", bos_token_id=900)
    good = {"pad_token_id": 0, "eos_token_id": 3, "hidden_act": "gelu", "bos_token_id": 1}
    with caplog.at_level(logging.WARNING):
        config = RemBertForMaskedLM.from_pretrained(folder, **good)[0].config
    assert {name: getattr(config, name) for name in good} == good and not caplog.records


def test_an_activation_is_read_under_its_other_name(folder):
    edit(folder, hidden_act="swish", architectures=None)
    assert RemBertForMaskedLM.from_pretrained(folder)[0].config.hidden_act == "silu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertForMaskedLM"]}, r"architectures=\['BertForMaskedLM'\]: expected names such as"),
        ({"model_type": "bert"}, "model_type='bert'"),
        ({"architectures": ..., "model_type": ...}, "expected 'rembert'"),
        ({"architectures": "RemBertModel"}, "expected a list of names"),
        ({"hidden_size": "16"}, r"hidden_size: found '16' \(str\), expected int"),
        ({"hidden_size": 17}, "hidden_size=17 is not divisible by num_attention_heads=4"),
        ({"eos_token_id": "end"}, "eos_token_id: found 'end'"),
        ({"eos_token_id": [2, "end"]}, r"eos_token_id: found \[2, 'end'\]"),
        ({"pad_token_id": 48}, "pad_token_id=48 is outside the vocabulary of 48.*or None for none"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers=1000000000000: expected at most 1000"),
        ({"hidden_act": "mish"}, "hidden_act='mish': expected one of gelu"),
        ({"id2label": {"0": "A", "2": "B"}}, "id2label"),
        ({"problem_type": 3}, "problem_type=3"),
        ({"id2label": ..., "num_labels": True}, "num_labels=True, expected a whole number"),
        ({"id2label": {"0": "A", "1": "B"}, "num_labels": 3}, "num_labels=3, but id2label has 2 names"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
    ],
)
def test_configs_that_do_not_fit_are_refused(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(RemBertError, match=message) as error:
        RemBertForMaskedLM.from_pretrained(folder)
    assert str(folder / "config.json") in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"9" * 5000, "not JSON"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b'{"a":', "not JSON"),
        (b"[1]", "found list"),
        (b"[" * 10**5, "not JSON"),
    ],
)
def test_broken_json_is_refused(folder, content, message):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(RemBertError, match=message):
        RemBertForMaskedLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vocab_size": 50},
            r"word_embeddings.weight: saved \[48, 8\], expected \[50, 8\] by vocab_size, input_embedding",
        ),
        (
            {"intermediate_size": 30},
            r"intermediate.dense.weight: saved \[32, 16\], expected \[30, 16\] by hidden_size, inter",
        ),
        (
            {"output_embedding_size": 25},
            r"decoder.weight: saved \[48, 24\], expected \[48, 25\] by vocab_size, output_emb",
        ),
        ({"num_hidden_layers": 3}, r"lacks parameters[^$]*encoder/layer_2/attention"),
        ({"num_hidden_layers": 1}, r"no place for arrays[^$]*--drop PATTERN[^$]*encoder.layer.1.attention"),
    ],
)
def test_sizes_that_disagree_name_both_and_the_field(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(RemBertError, match=message):
        RemBertForMaskedLM.from_pretrained(folder)


def test_a_matrix_in_the_other_orientation_is_refused(folder):
    name = "rembert.encoder.embedding_hidden_mapping_in.weight"
    rewrite(folder, lambda tensors: {**tensors, name: np.ascontiguousarray(tensors[name].T)})
    with pytest.raises(
        RemBertError, match=r"mapping_in.weight: saved \[8, 16\], expected \[16, 8\] by input_embedding"
    ):
        RemBertForMaskedLM.from_pretrained(folder)


def test_quantised_weights_are_refused(folder):
    name = "rembert.encoder.layer.1.output.dense.weight"
    rewrite(folder, lambda tensors: {**tensors, name: tensors[name].astype(np.int8)})
    with pytest.raises(RemBertError, match=rf"{name} has dtype I8, expected one of F64, F32, F16, BF16; quantised"):
        RemBertForMaskedLM.from_pretrained(folder)
    rewrite(folder, lambda tensors: {**tensors, name: tensors[name].astype(ml_dtypes.float8_e4m3fn)})
    with pytest.raises(RemBertError, match=f"{name} has dtype F8_E4M3"):
        RemBertForMaskedLM.from_pretrained(folder)


def test_arrays_left_over_are_refused_unless_named(folder):
    rewrite(folder, lambda tensors: {**tensors, "rembert.strange.weight": np.zeros(3, np.float32)})
    with pytest.raises(RemBertError, match=r"rembert.strange.weight \[3\]"):
        RemBertForMaskedLM.from_pretrained(folder)
    RemBertForMaskedLM.from_pretrained(folder, drop=("*.strange.*",))


def test_the_buffer_of_old_releases_is_no_parameter(folder):
    buffer = {"rembert.embeddings.position_ids": np.arange(12)[None]}
    rewrite(folder, lambda tensors: {**tensors, **buffer})
    RemBertForMaskedLM.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights_are_refused(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RemBertError, match=r"model.safetensors: cannot be read as safetensors .* get it again"):
        RemBertForMaskedLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../model.safetensors"}, "expected a file beside the index"),
        ({"a": "missing.safetensors"}, "names missing.safetensors, which is missing"),
        ({"a": "part.safetensors"}, "part.safetensors: lacks a, which the index says"),
        ({}, "weight_map is missing or empty"),
        ([], "weight_map is missing or empty"),
    ],
)
def test_indexes_that_lie_are_refused(folder, weight_map, message):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(RemBertError, match=message):
        RemBertForMaskedLM.from_pretrained(folder)


def test_what_is_no_folder(folder, tmp_path, monkeypatch):
    with pytest.raises(RemBertError, match=r"nowhere: no such folder"):
        RemBertModel.from_pretrained(tmp_path / "nowhere")
    os.remove(folder / "model.safetensors")
    with pytest.raises(RemBertError, match=r"no weights; expected model\.safetensors"):
        RemBertForMaskedLM.from_pretrained(folder)
    os.remove(folder / "config.json")
    with pytest.raises(RemBertError, match=r"config.json: no such file"):
        RemBertForMaskedLM.from_pretrained(folder)


def test_repositories_of_the_hub(folder, masked_lm, monkeypatch):
    asked = {}

    def download(repository, revision, allow_patterns):
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        if repository == "no/network":
            raise OSError("cannot connect\nlong trace")
        return str(folder)

    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", download)
    assert_same_trees(RemBertForMaskedLM.from_pretrained("someone/rembert", revision="v2")[1], masked_lm[1])
    assert asked["repository"] == "someone/rembert" and asked["revision"] == "v2"
    assert not any("bin" in pattern or "py" in pattern for pattern in asked["patterns"])
    with pytest.raises(RemBertError, match=r"no/network: .*\(cannot connect\); check the name and the connection"):
        RemBertModel.from_pretrained("no/network")
