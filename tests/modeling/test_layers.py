import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rembert_jax.config import ACTIVATIONS, Execution, RemBertConfig
from rembert_jax.modeling.layers import ACTIVATION_FUNCTIONS, Embed, LayerNorm
from rembert_jax.modeling.models import (
    RemBertForMaskedLM,
    RemBertForSequenceClassification,
    RemBertForTokenClassification,
)
from rembert_jax.sharding import LOGICAL_RULES
from rembert_jax.tree import flatten

IDS = jax.ShapeDtypeStruct((2, 4), jnp.int32)
LOOP = Execution(scan_layers=False)


# Parameters.


def test_tables_start_as_a_normal_cut_at_two_deviations():
    embed = Embed(rows=500, features=100, config=RemBertConfig(), axes=("vocab", "embed"))
    values = np.asarray(
        nn.unbox(jax.jit(embed.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))["params"]["embedding"]
    )
    # Cutting at two deviations leaves 0.8796 of the nominal 0.02. Of 50,000 samples it is known to 0.3 %.
    assert values.std() == pytest.approx(0.8796 * 0.02, rel=0.01)
    assert abs(values.mean()) < 4 * 0.0176 / np.sqrt(values.size)
    assert 0.039 < np.abs(values).max() <= 0.04


def test_initial_values_of_every_parameter(tiny_config):
    model = RemBertForSequenceClassification(tiny_config, num_labels=3)
    params = flatten(nn.unbox(jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 4), jnp.int32)))["params"])
    for name, value in params.items():
        kind = name.rsplit("/", 1)[1]
        if kind in ("bias", "scale"):
            np.testing.assert_array_equal(value, {"bias": 0.0, "scale": 1.0}[kind], err_msg=name)
        else:
            assert 0.012 < np.std(value) < 0.022 and np.abs(value).max() <= 0.04, name
    kernel = params["rembert/encoder/layer/attention/query/kernel"]
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01, "layers start differently"


@pytest.mark.parametrize("scan_layers", [True, False])
def test_every_parameter_names_its_axes(tiny_config, scan_layers):
    known = {name for name, _ in LOGICAL_RULES}
    execution = Execution(scan_layers=scan_layers)
    for model in (
        RemBertForMaskedLM(tiny_config, execution),
        RemBertForSequenceClassification(tiny_config, 3, execution),
        RemBertForTokenClassification(tiny_config, 3, execution),
    ):
        boxed = jax.eval_shape(model.init, jax.random.key(0), IDS)["params"]
        boxes = jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
        assert all(isinstance(box, nn.LogicallyPartitioned) for box in boxes)
        specs = flatten(
            jax.tree.map(tuple, nn.get_partition_spec(boxed), is_leaf=lambda s: isinstance(s, PartitionSpec))
        )
        assert specs
        for box in boxes:
            assert len(box.names) == box.value.ndim
            assert {name for name in box.names if name} <= known
            assert any(box.names)
        stacked = [box for box in boxes if "layers" in box.names]
        assert len(stacked) == (16 if scan_layers else 0)
        assert all(box.names[0] == "layers" and box.value.shape[0] == 2 for box in stacked)


# Against equations written out.


def test_layer_norm_of_a_worked_example(tiny_config):
    # Mean 2.5, variance 1.25, deviation 1.1180340.
    params = {"scale": jnp.array([1.0, 2.0, 3.0, 4.0]), "bias": jnp.array([0.5, 0.0, 0.0, -1.0])}
    y = LayerNorm(tiny_config, Execution()).apply({"params": params}, jnp.array([[1.0, 2.0, 3.0, 4.0]]))
    np.testing.assert_allclose(y[0], [-0.8416408, -0.8944272, 1.3416408, 4.3665631], rtol=1e-6)


def test_layer_norm_takes_its_statistics_in_float32(tiny_config):
    # In bfloat16 1000 + 1 is 1000: the mean and the differences would be lost.
    params = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    x = jnp.array([[1000.0, 1001.0, 1002.0, 1003.0]])
    y = LayerNorm(tiny_config, Execution(compute_dtype="bfloat16")).apply({"params": params}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y[0].astype(jnp.float32), [-1.3416, -0.4472, 0.4472, 1.3416], rtol=2**-8)


def test_activations_at_one_and_minus_one():
    expected = {
        "gelu": (0.8413447, -0.1586553),
        "gelu_new": (0.8411920, -0.1588080),
        "gelu_pytorch_tanh": (0.8411920, -0.1588080),
        "gelu_fast": (0.8411920, -0.1588080),
        "tanh": (0.7615942, -0.7615942),
        "relu": (1.0, 0.0),
        "silu": (0.7310586, -0.2689414),
    }
    assert set(expected) == set(ACTIVATION_FUNCTIONS) == set(ACTIVATIONS)
    for name, values in expected.items():
        np.testing.assert_allclose(ACTIVATION_FUNCTIONS[name](jnp.array([1.0, -1.0])), values, rtol=2e-6, err_msg=name)


def reference_hidden(params, config, ids, mask, types):
    """BERT's equations in float64 (Devlin et al., 2019, and the input projection of Chung et al., 2021), row by row."""

    def dense(p, x):
        return x @ p["kernel"] + p["bias"]

    def norm(p, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + config.layer_norm_eps) * p["scale"] + p["bias"]

    def attend(p, x, visible):
        query, key, value = (dense(p[name], x) for name in ("query", "key", "value"))
        width = config.hidden_size // config.num_attention_heads
        context = []
        for head in range(config.num_attention_heads):
            part = slice(head * width, (head + 1) * width)
            scores = query[:, part] @ key[:, part].T / math.sqrt(width)
            weights = np.exp(scores) * visible[None, :]
            context.append(weights / weights.sum(-1, keepdims=True) @ value[:, part])
        return dense(p["output"], np.concatenate(context, -1))

    p, block = params["embeddings"], params["encoder"]["layer_0"]
    rows = []
    for row, visible, kinds in zip(ids, mask, types, strict=True):
        x = p["word_embeddings"]["embedding"][row] + p["position_embeddings"]["embedding"][: len(row)]
        x = norm(p["LayerNorm"], x + p["token_type_embeddings"]["embedding"][kinds])
        x = dense(params["encoder"]["embedding_hidden_mapping_in"], x)
        x = norm(block["attention_LayerNorm"], x + attend(block["attention"], x, visible))
        x = norm(block["output_LayerNorm"], x + dense(block["output"], gelu(dense(block["intermediate"], x))))
        rows.append(x)
    return np.stack(rows)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def test_one_layer_models_equal_the_equations(tiny_config, random_params):
    config = dataclasses.replace(tiny_config, num_hidden_layers=1)
    ids = np.array([[5, 9, 40, 7, 30], [2, 6, 3, 0, 0]], np.int32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    types = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]], np.int32)
    real = mask.astype(bool)

    def run(model):
        params = random_params(model, IDS)
        inputs = (jnp.asarray(ids), jnp.asarray(mask), jnp.asarray(types))
        output = jax.jit(lambda p: model.apply({"params": p}, *inputs))(params)
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        return output, wide, reference_hidden(wide["rembert"], config, ids, mask, types)

    output, p, hidden = run(RemBertForMaskedLM(config, LOOP))
    np.testing.assert_allclose(output.last_hidden_state[real], hidden[real], atol=1e-5)
    head = p["cls"]
    features = gelu(hidden @ head["dense"]["kernel"] + head["dense"]["bias"])
    features = (features - features.mean(-1, keepdims=True)) / np.sqrt(features.var(-1, keepdims=True) + 1e-12)
    features = features * head["LayerNorm"]["scale"] + head["LayerNorm"]["bias"]
    logits = features @ head["decoder"]["embedding"].T + head["decoder"]["bias"]
    np.testing.assert_allclose(output.logits[real], logits[real], atol=1e-5)

    output, p, hidden = run(RemBertForSequenceClassification(config, 3, LOOP))
    pooler, classifier = p["rembert"]["pooler"]["dense"], p["classifier"]["dense"]
    pooled = np.tanh(hidden[:, 0] @ pooler["kernel"] + pooler["bias"])
    np.testing.assert_allclose(output.pooler_output, pooled, atol=1e-5)
    np.testing.assert_allclose(output.logits, pooled @ classifier["kernel"] + classifier["bias"], atol=1e-5)

    output, p, hidden = run(RemBertForTokenClassification(config, 3, LOOP))
    classifier = p["classifier"]["dense"]
    logits = hidden @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(output.logits[real], logits[real], atol=1e-5)
