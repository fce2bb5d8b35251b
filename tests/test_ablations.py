"""The rows of the paper's ablations: their parameters, counted as the paper counts, and that each can be trained."""

import jax
import jax.numpy as jnp
import pytest
from experiments.runs import on_one_device
from test_configs import text_and_tags

from configs import ablations
from rembert_jax import schema, tree
from rembert_jax.config import RemBertConfig
from rembert_jax.experiments import run
from rembert_jax.experiments.settings import ExperimentConfig
from rembert_jax.modeling.models import RemBertForMaskedLM
from rembert_jax.training import checkpoint
from rembert_jax.training.optimizer import check_names

# Of these rows the paper's numbers fit only if the pooler is counted.
WITH_POOLER = {"hidden_1024", "english_coupled"}


def stages_of(row, text="{language}"):
    config = ablations.get_config(f"row={row},text={text},tags={text}").to_dict()
    return {name: schema.from_mapping(ExperimentConfig, config["stages"][name], name) for name in config["order"]}


def counted(stage, layers):
    """Parameters of the encoder, and of the output embedding, in millions, as the paper counts.

    It counts neither the head's dense layer, layer norm and bias, nor the pooler (save in `WITH_POOLER`), nor a projection
    of the input embedding where that is as wide as the hidden states: BERT has none there, and this package a square one.
    """
    fields = {**stage.model, "num_hidden_layers": layers, "vocab_size": stage.tokenizer.vocab_size}
    config = RemBertConfig.from_dict({**fields, "bos_token_id": 2, "eos_token_id": 3})
    shapes = jax.eval_shape(
        RemBertForMaskedLM(config, stage.execution).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32)
    )
    sizes = {name: leaf.unbox().size for name, leaf in tree.flatten(shapes["params"]).items()}
    square = config.input_embedding_size == config.hidden_size
    encoder = sum(
        size
        for name, size in sizes.items()
        if name.startswith("rembert/") and not (square and "embedding_hidden_mapping_in" in name)
    )
    return encoder / 1e6, sizes.get("cls/decoder/embedding", 0) / 1e6, config


@pytest.mark.parametrize("row", ablations.ROWS)
def test_parameters_are_the_papers(row):
    stages = stages_of(row)
    stage, drop = stages["pretrain"], stages["tagging"].drop_top_layers
    layers = stage.model["num_hidden_layers"]
    whole, table, config = counted(stage, layers)
    kept, _, _ = counted(stage, layers - drop)
    pooler = config.parameter_counts()["pooler"] / 1e6 if row in WITH_POOLER else 0.0
    pre_training, fine_tuning = ablations.ROWS[row]["paper"]
    # The paper cuts the multilingual numbers off and rounds the English ones.
    assert abs(whole + table + pooler - pre_training) < 1.0
    assert abs(kept + pooler - fine_tuning) < 1.0
    without = abs(whole + table - pre_training) < 1.0 and abs(kept - fine_tuning) < 1.0
    assert without == (row not in WITH_POOLER), "an exception that is none"


def test_every_row_of_every_table_is_there():
    rows = {table: 0 for table in ("2", "3", "4", "5", "6", "12", "13")}
    for row in ablations.ROWS.values():
        for table in row["tables"].split():
            if table in rows:
                rows[table] += 1
    # Table 5 compares the dropped layers with 128/768, Table 12 two models in each of two languages.
    assert rows == {"2": 2, "3": 2, "4": 3, "5": 2, "6": 4, "12": 4, "13": 6}
    assert [member["row"] for member in ablations.sweep()] == list(ablations.ROWS)


def test_rows_differ_from_each_other_only_in_what_they_are_about():
    plain, frozen = stages_of("decoupled"), stages_of("frozen_in_768_out_768")
    assert plain["pretrain"] == frozen["pretrain"]
    assert frozen["tagging"].optimizer.freeze == ("word_embeddings",) and not plain["tagging"].optimizer.freeze
    deep, shallow = stages_of("layers_23_drop_11"), stages_of("in_128_out_128")
    assert deep["tagging"].drop_top_layers == 11 and not shallow["tagging"].drop_top_layers
    assert schema.differences(*(schema.to_mapping(stages["pretrain"]) for stages in (deep, shallow))) == [
        "model.num_hidden_layers: 23 -> 12"
    ]


def test_frozen_names_are_parameters():
    stage = stages_of("frozen_in_128_out_768")["tagging"]
    check_names(
        stage.optimizer, {"rembert": {"embeddings": {"word_embeddings": {"embedding": 0.0}}}, "classifier": 0.0}
    )


@pytest.mark.parametrize("row", ["coupled", "english_layers_15_drop_3"])
@pytest.mark.long
def test_rows_are_trained_tagged_and_dropped(row, tmp_path, monkeypatch):
    on_one_device(monkeypatch)
    config = ablations.get_config(f"row={row},smoke,{text_and_tags(tmp_path)}").to_dict()
    results = run.run(config, tmp_path / "run")
    assert results["tagging"]["parameters"]["output_head"] == 0 < results["pretrain"]["parameters"]["output_head"]
    folders = [checkpoint.find(tmp_path / "run" / stage) for stage in ("pretrain", "tagging")]
    manifests = [checkpoint.read_manifest(folder)["model"] for folder in folders]
    assert [manifest["num_hidden_layers"] for manifest in manifests] == ([3, 2] if row.endswith("drop_3") else [2, 2])
    assert [manifest["tie_word_embeddings"] for manifest in manifests] == [row == "coupled"] * 2
    kernels = [checkpoint.load_params(folder)["rembert/encoder/layer/output/kernel"].shape[0] for folder in folders]
    assert kernels == [manifest["num_hidden_layers"] for manifest in manifests]


def test_wrong_rows_are_told_the_right_ones():
    with pytest.raises(ValueError, match="row=decouple is unknown; known: coupled, decoupled, in_768_out_128"):
        ablations.get_config("row=decouple,text=x")
    with pytest.raises(ValueError, match="needs your text"):
        ablations.get_config("row=decoupled")
