import json
import logging
import os
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import rembert_jax
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
from rembert_jax.interop import huggingface, names, pickled
from rembert_jax.modeling.models import MODELS
from rembert_jax.modeling.pretrained import abstract_params
from rembert_jax.sharding import MeshConfig, make_mesh
from rembert_jax.tree import flatten

IDS = jax.ShapeDtypeStruct((2, 4), jnp.int32)


def make(kind, config, random_params, **fields):
    model = kind(config, **fields)
    shape = jax.ShapeDtypeStruct((2, 3, 4), jnp.int32) if kind is rembert_jax.RemBertForMultipleChoice else IDS
    return model, random_params(model, shape)


def assert_same(left, right):
    left, right = flatten(left), flatten(right)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def edit(folder, **changes):
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")


@pytest.fixture(scope="module")
def masked_lm(tiny_config, random_params):
    return make(RemBertForMaskedLM, tiny_config, random_params)


@pytest.fixture
def folder(masked_lm, tmp_path):
    """A folder with a masked language model."""
    save_pretrained(*masked_lm, tmp_path / "model")
    return tmp_path / "model"


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
        assert_same(loaded, params)


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


def test_two_tables_in_the_file_are_not_tied_whatever_its_config_says(tiny_config, random_params, tmp_path):
    config = RemBertConfig(**{**tiny_config.to_dict(), "output_embedding_size": 8})
    model, params = make(RemBertForMaskedLM, config, random_params)
    save_pretrained(model, params, tmp_path)
    edit(tmp_path, tie_word_embeddings=True)
    with pytest.raises(RemBertError, match=r"holds an output table of its own.*give tie_word_embeddings=False"):
        RemBertForMaskedLM.from_pretrained(tmp_path)
    assert_same(RemBertForMaskedLM.from_pretrained(tmp_path, tie_word_embeddings=False)[1], params)


def test_weights_in_several_files(masked_lm, tmp_path):
    save_pretrained(*masked_lm, tmp_path, shard_bytes=6000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert index["metadata"]["total_size"] == 4 * sum(leaf.size for leaf in jax.tree.leaves(masked_lm[1]))
    assert_same(RemBertForMaskedLM.from_pretrained(tmp_path)[1], masked_lm[1])
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
    assert_same(again, params)
    logits = model.apply({"params": params}, jnp.array([[5, 9, 40]])).logits
    expected = masked_lm[0].apply({"params": masked_lm[1]}, jnp.array([[5, 9, 40]])).logits
    np.testing.assert_allclose(logits, expected, atol=0.3)


def test_parameters_are_placed_on_a_mesh(folder, masked_lm):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    params = RemBertForMaskedLM.from_pretrained(folder, sharding=mesh)[1]
    assert_same(params, masked_lm[1])
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
    assert_same(params["rembert"], base)
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
    assert_same(params["rembert"]["encoder"], other["rembert"]["encoder"])


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


def test_fields_of_the_config_can_be_changed(public):
    model, _ = RemBertForSequenceClassification.from_pretrained(public, num_labels=2, classifier_dropout_prob=0.3)
    assert model.config.classifier_dropout_prob == 0.3
    with pytest.raises(RemBertError, match="unknown field 'clasifier_dropout'"):
        RemBertModel.from_pretrained(public, clasifier_dropout=0.3)
    decoder, params = RemBertForCausalLM.from_pretrained(
        public, is_decoder=True, add_cross_attention=True, init=("cls", "*crossattention*")
    )
    assert "crossattention" in params["rembert"]["encoder"]["layer"] and decoder.config.is_decoder


# Untrusted and damaged folders.


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


def test_an_activation_is_read_under_its_other_name(folder):
    edit(folder, hidden_act="swish", architectures=None)
    assert RemBertForMaskedLM.from_pretrained(folder)[0].config.hidden_act == "silu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertForMaskedLM"]}, r"architectures=\['BertForMaskedLM'\]: expected 'rembert'"),
        ({"model_type": "bert"}, "model_type='bert'"),
        ({"architectures": ..., "model_type": ...}, "expected 'rembert'"),
        ({"architectures": "RemBertModel"}, "expected a list of names"),
        ({"hidden_size": "16"}, r"hidden_size: found '16' \(str\), expected int"),
        ({"hidden_size": 17}, "hidden_size=17 is not divisible by num_attention_heads=4"),
        ({"eos_token_id": None}, "eos_token_id: found None"),
        ({"hidden_act": "mish"}, "hidden_act='mish': expected one of gelu"),
        ({"id2label": {"0": "A", "2": "B"}}, "id2label"),
        ({"problem_type": 3}, "problem_type=3"),
        ({"id2label": ..., "num_labels": True}, "num_labels=True, expected a whole number"),
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

    monkeypatch.setattr(huggingface.huggingface_hub, "snapshot_download", download)
    assert_same(RemBertForMaskedLM.from_pretrained("someone/rembert", revision="v2")[1], masked_lm[1])
    assert asked["repository"] == "someone/rembert" and asked["revision"] == "v2"
    assert not any("bin" in pattern or "py" in pattern for pattern in asked["patterns"])
    with pytest.raises(RemBertError, match=r"no/network: .*\(cannot connect\); check the name and the connection"):
        RemBertModel.from_pretrained("no/network")


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


# Pickled weights.


class Storage:
    """Pickles as PyTorch pickles a storage: by a persistent id."""

    def __init__(self, key, array):
        self.key, self.array = key, array


class Call:
    """Pickles as a call of a function that is known by its name only."""

    def __init__(self, module, name, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


def write_pickle(path, values):
    """A file as `torch.save` makes it, without PyTorch: protocol 2, globals by name."""

    def encode(value):
        if isinstance(value, dict):
            return b"}" + b"".join(encode(k) + encode(v) + b"s" for k, v in value.items())
        if isinstance(value, str):
            return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            return b"J" + value.to_bytes(4, "little", signed=True)
        if isinstance(value, tuple):
            return b"(" + b"".join(map(encode, value)) + b"t"
        if isinstance(value, Storage):
            kind = f"ctorch\n{'LongStorage' if value.array.dtype == np.int64 else 'FloatStorage'}\n".encode()
            parts = encode("storage") + kind + encode(value.key) + encode("cpu") + encode(value.array.size)
            return b"(" + parts + b"tQ"
        return f"c{value.module}\n{value.name}\n".encode() + encode(value.arguments) + b"R"

    def storages(value):
        items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
        items = value.arguments if isinstance(value, Call) else items
        found = [value] if isinstance(value, Storage) else []
        return found + [storage for item in items for storage in storages(item)]

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + encode(values) + b".")
        for storage in storages(values):
            archive.writestr(f"model/data/{storage.key}", storage.array.tobytes())


def tensor(key, array):
    flat = Storage(key, np.ascontiguousarray(array).reshape(-1))
    strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
    return Call("torch._utils", "_rebuild_tensor_v2", flat, 0, array.shape, strides, False, {})


def test_pickled_weights_only_where_allowed(folder, masked_lm):
    tensors = load_file(folder / "model.safetensors")
    os.remove(folder / "model.safetensors")
    write_pickle(folder / "pytorch_model.bin", {n: tensor(str(i), a) for i, (n, a) in enumerate(tensors.items())})
    with pytest.raises(RemBertError, match=r"only pickled weights .* allow_pickle=True"):
        RemBertForMaskedLM.from_pretrained(folder)
    assert_same(RemBertForMaskedLM.from_pretrained(folder, allow_pickle=True)[1], masked_lm[1])


def test_views_of_a_storage_are_read_as_such(tmp_path):
    base = np.arange(12, dtype=np.float32)
    view = Call("torch._utils", "_rebuild_tensor_v2", Storage("0", base), 1, (2, 3), (1, 4), False, {})
    write_pickle(tmp_path / "file", {"a": view})
    arrays = pickled.PickledArrays([tmp_path / "file"], "file")
    np.testing.assert_array_equal(arrays.read("a"), [[1, 5, 9], [2, 6, 10]])
    assert arrays.shapes == {"a": (2, 3)}


def _touch(path):
    return Call("builtins", "open", path, "w")


def test_a_pickle_that_runs_something_is_refused_and_does_not_run_it(tmp_path):
    target = tmp_path / "written"
    for hostile in (_touch(str(target)), Call("os", "system", f"touch {target}"), Call("torch", "load", str(target))):
        write_pickle(tmp_path / "file", {"a": hostile})
        with pytest.raises(pickled.PickleError, match="it asks for"):
            pickled.PickledArrays([tmp_path / "file"], "file")
    assert not target.exists()


@pytest.mark.parametrize("what", ["tensor", "storage type", "function"])
def test_a_pickle_cannot_change_what_it_has_made(tmp_path, what):
    """The opcode BUILD (b) with (None, {"offset": -6}) would have set attributes behind the checks."""
    change = b"N}X\x06\x00\x00\x00offsetJ\xfa\xff\xff\xffs\x86b"
    write_pickle(tmp_path / "file", {"a": tensor("0", np.zeros(4, np.float32))})
    with zipfile.ZipFile(tmp_path / "file") as archive:
        content = archive.read("model/data.pkl")
    if what == "tensor":
        content = content.replace(b"Rs", b"R" + change + b"s")
    elif what == "storage type":
        content = content.replace(b"ctorch\nFloatStorage\n", b"ctorch\nFloatStorage\n" + change)
    else:
        content = content.replace(b"_rebuild_tensor_v2\n", b"_rebuild_tensor_v2\n" + change)
    assert change in content
    with zipfile.ZipFile(tmp_path / "other", "w") as archive:
        archive.writestr("model/data.pkl", content)
        archive.writestr("model/data/0", bytes(16))
    with pytest.raises(pickled.PickleError, match="it changes an object after making it"):
        pickled.PickledArrays([tmp_path / "other"], "file")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": 3}, "names and tensors only"),
        (
            {"a": Call("torch._utils", "_rebuild_tensor_v2", Storage("0", np.zeros(4, np.float32)), 0, (5,), (1,))},
            "beyond",
        ),
        (
            {"a": Call("torch._utils", "_rebuild_tensor_v2", Storage("0", np.zeros(4, np.float32)), -1, (1,), (1,))},
            "strange",
        ),
        ({"a": Call("torch._utils", "_rebuild_tensor_v2", 3, 0, (1,), (1,))}, "strange"),
        (
            {"a": Call("torch._utils", "_rebuild_tensor_v2", Storage("0", np.zeros(4, np.float32)), 0, (1,), (1, 1))},
            "length",
        ),
    ],
)
def test_pickles_that_lie_are_refused(tmp_path, values, message):
    write_pickle(tmp_path / "file", values)
    with pytest.raises(pickled.PickleError, match=message):
        pickled.PickledArrays([tmp_path / "file"], "file").read("a")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "file"
    for content in (b"", pickle.dumps({"a": 1}), b"PK\x03\x04 nothing"):
        path.write_bytes(content)
        with pytest.raises(pickled.PickleError, match=r"saved by PyTorch 1\.6 or newer"):
            pickled.PickledArrays([path], "file")
    write_pickle(path, {"a": tensor("0", np.zeros(4, np.float32))})
    content = path.read_bytes()
    for stop in range(0, len(content), 17):
        path.write_bytes(content[:stop])
        with pytest.raises(pickled.PickleError):
            pickled.PickledArrays([path], "file").read("a")
