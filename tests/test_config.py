import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import pytest

from rembert_jax.config import SIZES, RemBertConfig
from rembert_jax.hub import ModelFolderError
from rembert_jax.modeling.models import RemBertForMaskedLM, RemBertModel
from rembert_jax.schema import SchemaError


def count(module):
    """Parameters by top-level name, from shapes only."""
    ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), ids)["params"]
    return {name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}


def test_defaults_are_the_released_model():
    c = RemBertConfig()
    assert (c.vocab_size, c.hidden_size, c.num_hidden_layers, c.num_attention_heads) == (250_300, 1152, 32, 18)
    assert (c.input_embedding_size, c.output_embedding_size, c.intermediate_size, c.head_dim) == (256, 1664, 4608, 64)
    assert (c.max_position_embeddings, c.type_vocab_size) == (512, 2)
    assert (c.hidden_act, c.layer_norm_eps, c.initializer_range) == ("gelu", 1e-12, 0.02)
    assert (c.hidden_dropout_prob, c.attention_probs_dropout_prob, c.classifier_dropout_prob) == (0.0, 0.0, 0.1)
    assert (c.pad_token_id, c.bos_token_id, c.eos_token_id) == (0, 312, 313)
    assert not c.tie_word_embeddings and not c.is_decoder and not c.add_cross_attention


def test_released_model_has_the_published_number_of_parameters():
    counts = RemBertConfig().parameter_counts()
    assert counts["fine_tuning"] == 575_920_384
    assert counts["pre_training"] == 993_263_548


@pytest.mark.parametrize(
    "config",
    [
        RemBertConfig(),
        RemBertConfig.named("tiny"),
        RemBertConfig.named("small", num_hidden_layers=3, type_vocab_size=5, max_position_embeddings=77),
        RemBertConfig.named("base", input_embedding_size=768, tie_word_embeddings=True),
    ],
    ids=["rembert", "tiny", "small", "base-tied"],
)
def test_closed_form_counts_equal_those_of_the_modules(config):
    counts = config.parameter_counts()
    body = count(RemBertModel(config))
    assert body["embeddings"] == counts["input_embedding"]
    assert body["encoder"] == counts["projection"] + counts["encoder"]
    assert body["pooler"] == counts["pooler"]
    assert sum(body.values()) == counts["fine_tuning"]
    pretraining = count(RemBertForMaskedLM(config))
    assert pretraining["cls"] == counts["output_head"]
    assert sum(pretraining.values()) == counts["pre_training"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *[
            ({name: 0}, f"{name}=0: expected at least 1")
            for name in (
                "vocab_size",
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "input_embedding_size",
                "output_embedding_size",
                "intermediate_size",
                "max_position_embeddings",
                "type_vocab_size",
            )
        ],
        ({"num_attention_heads": 7}, "hidden_size=1152 is not divisible by num_attention_heads=7"),
        (
            {"hidden_act": "swish"},
            "hidden_act='swish': expected one of gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu",
        ),
        ({"pad_token_id": -1}, "pad_token_id=-1 is outside the vocabulary of 250300"),
        (
            {"vocab_size": 313, "pad_token_id": 313},
            "pad_token_id=313 is outside the vocabulary of 313.*or None for none",
        ),
        ({"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob=1\.0: expected a probability in \[0, 1\)"),
        ({"attention_probs_dropout_prob": -0.1}, r"attention_probs_dropout_prob=-0\.1: expected a probability"),
        ({"classifier_dropout_prob": 2.0}, r"classifier_dropout_prob=2\.0: expected a probability"),
        ({"initializer_range": 0.0}, r"initializer_range=0\.0: expected a positive number"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps=-1e-12: expected a positive number"),
        ({"layer_norm_eps": math.inf}, "layer_norm_eps=inf: expected a positive number"),
        ({"tie_word_embeddings": True}, "input_embedding_size=256 and output_embedding_size=1664; make them equal"),
        ({"add_cross_attention": True}, "add_cross_attention=True is for decoders; set is_decoder=True"),
    ],
)
def test_wrong_values_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        RemBertConfig(**changes)


def test_json_round_trip_keeps_every_field():
    config = RemBertConfig.named("tiny", hidden_act="silu", layer_norm_eps=1e-5, is_decoder=True)
    assert RemBertConfig.from_json(config.to_json()) == config
    assert set(json.loads(config.to_json())) == {field.name for field in dataclasses.fields(RemBertConfig)}


def test_special_ids_that_no_model_computes_with_are_taken_as_they_are():
    config = RemBertConfig(vocab_size=10, bos_token_id=None, eos_token_id=[2, 313], pad_token_id=None)
    assert config.eos_token_id == (2, 313) and hash(config) == hash(dataclasses.replace(config))
    assert RemBertConfig.from_json(config.to_json()) == config
    with pytest.raises(
        SchemaError, match=r"eos_token_id: found '\[SEP\]', which is none of <class 'int'>, tuple\[int, ...\]"
    ):
        RemBertConfig.from_dict({"eos_token_id": "[SEP]"})


def test_a_config_alone_is_written_and_read(tmp_path):
    config = RemBertConfig.named("tiny", hidden_act="silu", eos_token_id=(3, 4))
    config.save_pretrained(tmp_path / "new")
    assert json.loads((tmp_path / "new" / "config.json").read_text())["model_type"] == "rembert"
    assert RemBertConfig.from_pretrained(tmp_path / "new") == config
    changed = RemBertConfig.from_pretrained(tmp_path / "new", num_hidden_layers=1, hidden_act="swish")
    assert changed == dataclasses.replace(config, num_hidden_layers=1)
    with pytest.raises(ModelFolderError, match="no such folder, and no repository name"):
        RemBertConfig.from_pretrained(tmp_path / "other")


def test_missing_keys_take_the_released_values():
    assert RemBertConfig.from_dict({"num_hidden_layers": 4}) == RemBertConfig(num_hidden_layers=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hiden_size": 64}, r"model: unknown key 'hiden_size' \(did you mean 'hidden_size'\?\)"),
        ({"vocab_size": "large"}, r"model\.vocab_size: found 'large' \(str\), expected int"),
        ({"num_attention_heads": 7}, "model: hidden_size=1152 is not divisible by num_attention_heads=7"),
    ],
)
def test_dict_that_does_not_fit_is_refused(values, message):
    with pytest.raises(SchemaError, match=message):
        RemBertConfig.from_dict(values)


@pytest.mark.parametrize("size", SIZES)
def test_named_sizes_exist_and_take_changes(size):
    config = RemBertConfig.named(size, num_hidden_layers=5)
    assert config.num_hidden_layers == 5
    assert config.vocab_size == SIZES[size].get("vocab_size", 250_300)


def test_named_size_keeps_special_ids_that_were_given():
    config = RemBertConfig.named("tiny", vocab_size=100, eos_token_id=7)
    assert (config.bos_token_id, config.eos_token_id) == (1, 7)


def test_unknown_size_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown model size 'huge': expected one of tiny, small, base, rembert"):
        RemBertConfig.named("huge")
