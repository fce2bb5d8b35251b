import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rembert_jax import losses
from rembert_jax.config import Execution
from rembert_jax.errors import RemBertError
from rembert_jax.modeling.encoder import stack_layers, unstack_layers
from rembert_jax.modeling.models import (
    RemBertForMaskedLM,
    RemBertForSequenceClassification,
    RemBertForTokenClassification,
    RemBertModel,
)
from rembert_jax.training import objectives
from rembert_jax.tree import flatten

IDS = jax.ShapeDtypeStruct((2, 4), jnp.int32)
LOOP = Execution(scan_layers=False)
# Float32 products summed in another order differ by some 1e-7 of values of order one, a little more after layers.
ROUNDING = 1e-5


def with_layers(transform, params):
    """`params` of a model with `stack_layers` or `unstack_layers` applied to its encoder."""
    encoder = transform(params["rembert"]["encoder"])
    return {**params, "rembert": {**params["rembert"], "encoder": encoder}}


def assert_trees_close(actual, expected, atol):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.fixture(scope="module")
def encode(tiny_config, random_params):
    """The compiled encoder with fixed parameters; one compilation for each shape and set of arguments."""
    model = RemBertModel(tiny_config)
    params = random_params(model, IDS)
    return jax.jit(lambda **inputs: model.apply({"params": params}, **inputs).last_hidden_state)


@pytest.fixture(scope="module")
def masked_lm_step(tiny_config, random_params):
    """From an execution to logits, loss and gradients (in scanned form) of the same masked-LM model and batch."""
    rng = np.random.default_rng(3)
    params = random_params(RemBertForMaskedLM(tiny_config), IDS)
    batch = {
        "input_ids": jnp.asarray(rng.integers(0, tiny_config.vocab_size, (2, 6)), jnp.int32),
        "attention_mask": jnp.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]),
        "token_type_ids": jnp.array([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 0, 0]]),
        "masked_positions": jnp.array([[1, 4, 5], [0, 3, 0]]),
    }
    labels, weights = jnp.array([[5, 47, 0], [9, 3, 0]]), jnp.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])

    def function(execution):
        model = RemBertForMaskedLM(tiny_config, execution)

        def loss(params):
            features, table, bias = model.apply({"params": params}, **batch, method="prediction_features")
            return losses.masked_lm_loss(features, table, bias, labels, weights)["loss"], features

        return jax.value_and_grad(loss, has_aux=True)

    def parameters(execution):
        return params if execution.scan_layers else with_layers(unstack_layers, params)

    @functools.cache
    def run(execution):
        (loss, features), gradients = jax.jit(function(execution))(parameters(execution))
        if not execution.scan_layers:
            gradients = with_layers(stack_layers, gradients)
        return {"loss": loss, "features": features, "gradients": gradients}

    run.jaxpr = lambda execution: jax.make_jaxpr(function(execution))(parameters(execution))
    return run


# What a position may depend on.


def test_extra_padding_changes_no_real_position(encode):
    ids = jnp.array([[5, 9, 40, 7, 30, 2]], jnp.int32)
    short = encode(input_ids=ids, attention_mask=jnp.ones_like(ids))
    long = encode(
        input_ids=jnp.pad(ids, ((0, 0), (0, 4))), attention_mask=jnp.pad(jnp.ones_like(ids), ((0, 0), (0, 4)))
    )
    np.testing.assert_allclose(long[:, :6], short, atol=ROUNDING)


def test_content_of_padding_is_irrelevant_and_that_of_tokens_is_not(encode):
    ids = np.array([[5, 9, 40, 7, 30, 2, 0, 0, 0, 0]], np.int32)
    mask = jnp.array([[1, 1, 1, 1, 1, 1, 0, 0, 0, 0]])
    padding_changed, token_changed = ids.copy(), ids.copy()
    padding_changed[0, 6:] = (11, 12, 13, 14)
    token_changed[0, 5] = 3
    before = encode(input_ids=jnp.asarray(ids), attention_mask=mask)
    np.testing.assert_array_equal(
        encode(input_ids=jnp.asarray(padding_changed), attention_mask=mask)[:, :6], before[:, :6]
    )
    assert np.abs(encode(input_ids=jnp.asarray(token_changed), attention_mask=mask)[:, :5] - before[:, :5]).max() > 1e-3


def test_packed_row_equals_its_documents_on_their_own(encode):
    first, second = [5, 9, 40, 7], [30, 2, 6, 22, 41]
    row = [*first, *second, 0]
    inputs = {
        "input_ids": jnp.array([row, [*first, *[0] * 6], [*second, *[0] * 5]]),
        "segment_ids": jnp.array([[1] * 4 + [2] * 5 + [0], [1] * 4 + [0] * 6, [1] * 5 + [0] * 5]),
        "position_ids": jnp.array([[0, 1, 2, 3, 0, 1, 2, 3, 4, 0], [*range(10)], [*range(10)]]),
    }
    inputs["attention_mask"] = (inputs["segment_ids"] > 0).astype(jnp.int32)
    packed, alone_first, alone_second = encode(**inputs)
    np.testing.assert_allclose(packed[:4], alone_first[:4], atol=ROUNDING)
    np.testing.assert_allclose(packed[4:9], alone_second[:5], atol=ROUNDING)
    without_segments = encode(**{**inputs, "segment_ids": jnp.ones_like(inputs["segment_ids"])})[0]
    assert np.abs(without_segments[:4] - alone_first[:4]).max() > 1e-3


def test_decoder_sees_only_the_past(tiny_config, random_params):
    model = RemBertModel(dataclasses.replace(tiny_config, is_decoder=True))
    params = random_params(model, IDS)
    encode = jax.jit(lambda ids: model.apply({"params": params}, ids).last_hidden_state)
    one, other = encode(jnp.array([[5, 9, 40, 7]])), encode(jnp.array([[5, 9, 3, 7]]))
    np.testing.assert_array_equal(one[:, :2], other[:, :2])
    assert np.abs(one[:, 3] - other[:, 3]).max() > 1e-3


# How the model is executed does not change what it computes.


def test_outputs_and_gradients_do_not_depend_on_the_execution(masked_lm_step):
    expected = masked_lm_step(Execution())
    assert float(expected["loss"]) > 1.0
    for execution in (LOOP, Execution(remat="dots"), Execution(remat="full")):
        assert_trees_close(masked_lm_step(execution), expected, atol=ROUNDING)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_remat_is_in_the_program_when_on_and_only_then(masked_lm_step, scan_layers):
    jaxprs = {r: masked_lm_step.jaxpr(Execution(remat=r, scan_layers=scan_layers)) for r in ("none", "dots", "full")}
    assert "remat" not in str(jaxprs["none"]) and "checkpoint" not in str(jaxprs["none"])
    assert all("remat" in str(jaxprs[r]) or "checkpoint" in str(jaxprs[r]) for r in ("dots", "full"))
    products = {remat: str(jaxpr).count("dot_general") for remat, jaxpr in jaxprs.items()}
    assert products["full"] > products["none"], "a block's products are computed again"


def test_dots_keeps_the_products_of_weights(tiny_config, random_params):
    def residuals(remat):
        model = RemBertModel(tiny_config, Execution(remat=remat, scan_layers=False))
        params = random_params(model, IDS)
        _, back = jax.eval_shape(
            lambda p: jax.vjp(lambda p: model.apply({"params": p}, jnp.ones((2, 4), jnp.int32)).last_hidden_state, p),
            params,
        )
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(back))

    assert residuals("none") > residuals("dots") > residuals("full")


def test_stacking_and_unstacking_layers_are_inverse(tiny_config, random_params):
    stacked = random_params(RemBertModel(tiny_config), IDS)["encoder"]
    loose = unstack_layers(stacked)
    assert set(loose) == {"embedding_hidden_mapping_in", "layer_0", "layer_1"}
    kernel = stacked["layer"]["attention"]["query"]["kernel"]
    np.testing.assert_array_equal(loose["layer_1"]["attention"]["query"]["kernel"], kernel[1])
    assert jax.tree.structure(loose) == jax.tree.structure(
        random_params(RemBertModel(tiny_config, LOOP), IDS)["encoder"]
    )
    jax.tree.map(np.testing.assert_array_equal, stack_layers(loose), stacked)


def test_twelve_layers_are_stacked_by_their_numbers():
    loose = {f"layer_{i}": {"kernel": jnp.full((2,), i)} for i in range(12)}
    stacked = stack_layers({"embedding_hidden_mapping_in": {}, **loose})
    assert stacked["layer"]["kernel"][:, 0].tolist() == list(range(12))
    assert unstack_layers(stacked)["layer_10"]["kernel"].tolist() == [10, 10]


def test_bfloat16_compute_is_close_and_keeps_float32_parameters(tiny_config, random_params):
    inputs = jnp.array([[5, 9, 40, 7, 30, 2]])

    def logits_and_hidden(dtype):
        model = RemBertForMaskedLM(tiny_config, Execution(compute_dtype=dtype))
        params = random_params(model, IDS)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
        shapes = jax.eval_shape(model.init, jax.random.key(0), IDS)
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
        output = jax.jit(lambda p: model.apply({"params": p}, inputs))(params)
        return output.logits, output.last_hidden_state

    wide, wide_hidden = logits_and_hidden("float32")
    narrow, narrow_hidden = logits_and_hidden("bfloat16")
    assert (narrow.dtype, narrow_hidden.dtype) == (jnp.float32, jnp.bfloat16)
    # bfloat16 has 8 bits: steps of 0.4 %, added up over a few dozen roundings.
    difference = np.linalg.norm(narrow - wide) / np.linalg.norm(wide)
    assert 1e-5 < difference < 0.03
    assert 1e-5 < np.linalg.norm(narrow_hidden.astype(jnp.float32) - wide_hidden) / np.linalg.norm(wide_hidden) < 0.03


# Gradients.


def assert_every_parameter_learns(gradients):
    for name, gradient in flatten(gradients).items():
        layers = gradient if "/layer/" in name else gradient[None]
        for i, layer in enumerate(layers):
            largest = np.abs(layer).max()
            if name.endswith("attention/key/bias"):
                # It adds the same amount to all scores of a query, which softmax does not see.
                assert largest < ROUNDING, f"{name}[{i}]"
            else:
                assert largest > 100 * ROUNDING, f"{name}[{i}]"


def test_masked_lm_loss_reaches_every_parameter(masked_lm_step):
    gradients = masked_lm_step(Execution())["gradients"]
    assert_every_parameter_learns(gradients)
    # The output table learns from all words, the input table from those that occur.
    tables = flatten(gradients)
    assert np.all(np.abs(tables["cls/decoder/embedding"]).max(1) > 0)
    assert 4 <= np.count_nonzero(np.abs(tables["rembert/embeddings/word_embeddings/embedding"]).max(1)) <= 10


@pytest.mark.parametrize("kind", [RemBertForSequenceClassification, RemBertForTokenClassification])
def test_classification_losses_reach_every_parameter(tiny_config, random_params, kind):
    model = kind(dataclasses.replace(tiny_config, num_hidden_layers=1), num_labels=3, execution=LOOP)
    batch = {
        "input_ids": jnp.array([[5, 9, 40, 7], [30, 2, 0, 0]]),
        "attention_mask": jnp.array([[1, 1, 1, 1], [1, 1, 0, 0]]),
        "token_type_ids": jnp.array([[0, 0, 1, 1], [0, 1, 0, 0]]),
        "labels": jnp.array([2, 0]),
    }
    if kind is RemBertForTokenClassification:
        batch["labels"] = jnp.array([[-100, 2, 0, 1], [-100, 1, -100, -100]])
    objective = objectives.task(model)
    gradients = jax.jit(jax.grad(lambda p: objective(p, batch, None)["loss"]))(random_params(model, IDS))
    assert_every_parameter_learns(gradients)


def test_logits_at_masked_positions_are_those_of_all_positions_gathered(tiny_config, random_params):
    model = RemBertForMaskedLM(tiny_config)
    params = random_params(model, IDS)
    ids, positions = jnp.array([[5, 9, 40, 7], [30, 2, 6, 3]]), jnp.array([[3, 1], [0, 0]])
    everywhere = jax.jit(lambda p: model.apply({"params": p}, ids).logits)(params)
    gathered = jax.jit(lambda p: model.apply({"params": p}, ids, masked_positions=positions).logits)(params)
    assert everywhere.shape == (2, 4, 48)
    expected = np.stack([everywhere[0, [3, 1]], everywhere[1, [0, 0]]])
    np.testing.assert_allclose(gathered, expected, atol=ROUNDING)


def test_tied_table_gets_the_gradient_of_both_its_uses(tiny_config, random_params):
    untied = dataclasses.replace(tiny_config, num_hidden_layers=1, output_embedding_size=8)
    ids = jnp.array([[5, 9, 40, 7]])
    batch = {
        "input_ids": ids,
        "segment_ids": jnp.ones_like(ids),
        "position_ids": jnp.arange(4)[None],
        "masked_positions": jnp.array([[1, 3]]),
        "masked_labels": jnp.array([[8, 40]]),
        "masked_weights": jnp.ones((1, 2)),
    }

    def gradients(config, params):
        objective = objectives.masked_lm(RemBertForMaskedLM(config, LOOP))
        return flatten(jax.jit(jax.grad(lambda p: objective(p, batch, None)["loss"]))(params))

    tied = dataclasses.replace(untied, tie_word_embeddings=True)
    params = random_params(RemBertForMaskedLM(tied, LOOP), IDS)
    assert set(params["cls"]["decoder"]) == {"bias"}
    table = params["rembert"]["embeddings"]["word_embeddings"]["embedding"]
    both_tables = {**params, "cls": {**params["cls"], "decoder": {**params["cls"]["decoder"], "embedding": table}}}
    actual, parts = gradients(tied, params), gradients(untied, both_tables)
    name = "rembert/embeddings/word_embeddings/embedding"
    as_input, as_output = parts[name], parts["cls/decoder/embedding"]
    assert np.abs(as_input).max() > 1e-3 and np.abs(as_output).max() > 1e-3
    np.testing.assert_allclose(actual[name], as_input + as_output, atol=ROUNDING)


# Dropout.


@pytest.mark.parametrize("field", ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"])
def test_each_dropout_acts_only_in_training(tiny_config, random_params, field):
    off = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"), 0.0)
    ids = jnp.array([[5, 9, 40, 7]])
    config = dataclasses.replace(tiny_config, num_hidden_layers=1, **{**off, field: 0.5})
    # Keys go through the scan in one of the cases.
    execution = Execution(scan_layers=field == "hidden_dropout_prob")
    model = RemBertForSequenceClassification(config, num_labels=3, execution=execution)
    params = random_params(model, IDS)

    @functools.partial(jax.jit, static_argnums=0)
    def logits(deterministic, key):
        return model.apply({"params": params}, ids, deterministic=deterministic, rngs={"dropout": key}).logits

    plain, key = logits(True, jax.random.key(0)), jax.random.key(1)
    np.testing.assert_array_equal(plain, logits(True, key))
    np.testing.assert_array_equal(logits(False, key), logits(False, key))
    noisy = [logits(False, jax.random.key(seed)) for seed in range(4)]
    assert all(np.abs(a - plain).max() > 1e-3 for a in noisy)
    assert len({a.tobytes() for a in map(np.asarray, noisy)}) == 4


def test_training_mode_without_a_dropout_key_is_an_error(tiny_config):
    model = RemBertForSequenceClassification(tiny_config, num_labels=3)
    params = jax.eval_shape(model.init, jax.random.key(0), IDS)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda p: model.apply(p, jnp.ones((1, 4), jnp.int32), deterministic=False), params)


# Arguments.


def test_defaults_of_the_arguments_and_embeddings_in_place_of_ids(tiny_config, random_params, encode):
    ids = jnp.array([[5, 9, 40, 7], [30, 2, 6, 3]])
    plain = encode(input_ids=ids)
    explicit = encode(
        input_ids=ids,
        attention_mask=jnp.ones_like(ids),
        token_type_ids=jnp.zeros_like(ids),
        position_ids=jnp.array([[0, 1, 2, 3]] * 2),
        segment_ids=jnp.full_like(ids, 7),
    )
    np.testing.assert_allclose(explicit, plain, atol=ROUNDING)
    table = random_params(RemBertModel(tiny_config), IDS)["embeddings"]["word_embeddings"]["embedding"]
    np.testing.assert_allclose(encode(inputs_embeds=table[ids]), plain, atol=ROUNDING)


def test_parameters_do_not_depend_on_how_the_first_call_gives_its_words(tiny_config):
    model = RemBertForMaskedLM(tiny_config)
    by_ids = jax.eval_shape(model.init, jax.random.key(0), IDS)
    embeds = jax.ShapeDtypeStruct((2, 4, tiny_config.input_embedding_size), jnp.float32)
    by_embeds = jax.eval_shape(lambda key, e: model.init(key, inputs_embeds=e), jax.random.key(0), embeds)
    assert jax.tree.structure(by_ids) == jax.tree.structure(by_embeds)


def test_exactly_one_of_ids_and_embeddings_is_required(tiny_config):
    model = RemBertModel(tiny_config)
    embeds = jax.ShapeDtypeStruct((2, 4, 8), jnp.float32)
    for arguments in ({}, {"input_ids": IDS, "inputs_embeds": embeds}):
        with pytest.raises(ValueError, match="expected exactly one of input_ids and inputs_embeds"):
            jax.eval_shape(functools.partial(model.init, jax.random.key(0)), **arguments)


def test_too_long_a_sequence_is_refused_by_name(tiny_config):
    model = RemBertModel(tiny_config)
    jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 12), jnp.int32))
    with pytest.raises(ValueError, match="sequence of 13 tokens, but max_position_embeddings=12"):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 13), jnp.int32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": [[5, 9], [7, 48]]}, r"input_ids: id 48 in row 1, expected 0 … 47 \(vocab_size=48\)"),
        ({"input_ids": [[5, 9], [-1, 7]]}, "input_ids: id -1 in row 1"),
        ({"position_ids": [[0, 12], [0, 1]]}, r"position_ids: id 12 in row 0, .* \(max_position_embeddings=12\)"),
        ({"token_type_ids": [[0, 1], [0, 2]]}, r"token_type_ids: id 2 in row 1, .* \(type_vocab_size=2\)"),
    ],
)
def test_ids_without_a_row_are_refused_where_values_are_known(tiny_config, random_params, changes, message):
    model = RemBertModel(dataclasses.replace(tiny_config, num_hidden_layers=1))
    params = random_params(model, IDS)
    inputs = {name: jnp.array(ids) for name, ids in ({"input_ids": [[5, 9], [7, 47]]} | changes).items()}
    with pytest.raises(RemBertError, match=message):
        model.apply({"params": params}, **inputs)
    jax.eval_shape(lambda given: model.apply({"params": params}, **given).pooler_output, inputs)  # Here they are not.


@pytest.mark.parametrize("scan_layers", [True, False])
def test_hidden_states_and_attentions(tiny_config, random_params, scan_layers):
    model = RemBertModel(tiny_config, Execution(scan_layers=scan_layers))
    mask = jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])

    @jax.jit
    def run(params):
        ids = jnp.array([[5, 9, 40, 7, 8], [30, 2, 6, 0, 0]])
        return model.apply({"params": params}, ids, mask, output_hidden_states=True, output_attentions=True)

    output = run(random_params(model, IDS))
    assert [h.shape for h in output.hidden_states] == [(2, 5, 16)] * 3
    np.testing.assert_array_equal(output.hidden_states[-1], output.last_hidden_state)
    assert np.abs(output.hidden_states[0] - output.hidden_states[1]).max() > 0.1
    assert [a.shape for a in output.attentions] == [(2, 4, 5, 5)] * 2
    for attention in output.attentions:
        np.testing.assert_allclose(attention.sum(-1), 1.0, rtol=1e-6)
        np.testing.assert_array_equal(attention[1, :, :, 3:], 0.0)


def test_outputs_by_name_and_by_place(tiny_config, random_params):
    """Places are counted among what was computed, the results of a head first."""
    ids = jnp.array([[5, 9, 40]])
    base = RemBertModel(tiny_config)
    output = base.apply({"params": random_params(base, ids)}, ids, output_hidden_states=True)
    assert list(output) == output.keys() == ["last_hidden_state", "pooler_output", "hidden_states"]
    assert output[0] is output["last_hidden_state"] is output.last_hidden_state and output[-1] is output.hidden_states
    assert output[:2] == (output.last_hidden_state, output.pooler_output) and dict(output).keys() == set(output.keys())
    head = RemBertForSequenceClassification(tiny_config, num_labels=3)
    output = head.apply({"params": random_params(head, ids)}, ids, output_attentions=True)
    assert output[0] is output["logits"] is output.logits and output[1] is output.attentions
    assert output.keys() == ["logits", "attentions", "last_hidden_state", "pooler_output"]
    with pytest.raises(KeyError, match="start_logits: this output has logits, attentions"):
        output["start_logits"]
    with pytest.raises(IndexError):
        output[4]


def test_nothing_is_returned_that_was_not_asked_for(tiny_config):
    present = set()

    def run(key, ids):
        output, _ = RemBertModel(tiny_config, add_pooling_layer=False).init_with_output(key, ids)
        present.update(name for name, value in vars(output).items() if value is not None)
        return output.last_hidden_state

    jax.eval_shape(run, jax.random.key(0), IDS)
    assert present == {"last_hidden_state"}
