"""What the objectives see of a batch, and what they must not see: held by properties of their sums."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rembert_jax import RemBertForMaskedLM, RemBertForSequenceClassification, RemBertForTokenClassification
from rembert_jax.config import Execution
from rembert_jax.training import objectives
from rembert_jax.training.flops import executed_flops

LENGTH = 12
DOCUMENTS = [[5, 9, 40, 7, 11], [30, 2, 6, 3]]
MASKED = [[1, 4], [0, 2]]  # Places in each document.


def packed(rows):
    """A batch of `data.pipeline`: each row holds documents one behind the other, then padding."""
    names = ("input_ids", "segment_ids", "position_ids", "masked_positions", "masked_labels", "masked_weights")
    batch = {name: np.zeros((len(rows), LENGTH if "masked" not in name else 4), np.int32) for name in names}
    for row, documents in enumerate(rows):
        at = slot = 0
        for number, which in enumerate(documents, start=1):
            ids = DOCUMENTS[which]
            span = slice(at, at + len(ids))
            batch["input_ids"][row, span] = ids
            batch["segment_ids"][row, span] = number
            batch["position_ids"][row, span] = np.arange(len(ids))
            for place in MASKED[which]:
                batch["masked_positions"][row, slot], batch["masked_labels"][row, slot] = at + place, 10 + place
                batch["masked_weights"][row, slot] = 1
                slot += 1
            at += len(ids)
    batch["masked_weights"] = batch["masked_weights"].astype(np.float32)
    return {name: jnp.asarray(value) for name, value in batch.items()}


@pytest.fixture(scope="module", params=[True, False], ids=["scanned", "unrolled"])
def masked_lm(request, tiny_config, random_params):
    model = RemBertForMaskedLM(tiny_config, Execution(scan_layers=request.param))
    return model, random_params(model, jax.ShapeDtypeStruct((1, 4), jnp.int32))


def sums_of(model, params, batch, key=None):
    return {name: float(value) for name, value in jax.jit(objectives.masked_lm(model))(params, batch, key).items()}


def test_documents_of_a_packed_row_are_learnt_as_if_each_had_a_row_of_its_own(masked_lm):
    model, params = masked_lm
    together, apart = sums_of(model, params, packed([[0, 1]])), sums_of(model, params, packed([[0], [1]]))
    assert together["weight"] == apart["weight"] == 4 and together["loss"] > 1
    assert together["loss"] == pytest.approx(apart["loss"], rel=1e-5)


def test_the_loss_is_the_cross_entropy_of_the_logits_at_what_is_masked(masked_lm):
    model, params = masked_lm
    batch = packed([[0, 1], [1]])
    seen = {name: batch[name] for name in ("input_ids", "position_ids", "segment_ids")}
    logits = np.asarray(model.apply({"params": params}, **seen).logits, np.float64)
    chosen = [(row, batch["masked_positions"][row, slot], batch["masked_labels"][row, slot])
              for row, slots in ((0, 4), (1, 2)) for slot in range(slots)]  # fmt: skip
    expected = sum(np.log(np.exp(logits[row, at]).sum()) - logits[row, at, label] for row, at, label in chosen)
    sums = sums_of(model, params, batch)
    assert (sums["loss"], sums["weight"]) == (pytest.approx(expected, rel=1e-5), 6)
    assert set(sums) == {"loss", "weight", "correct"}, "no penalty unless it is asked for"


def test_what_stands_in_padding_does_not_matter(masked_lm):
    model, params = masked_lm
    batch = packed([[0]])
    other = {**batch, "input_ids": batch["input_ids"].at[0, 7:].set(33)}
    assert sums_of(model, params, batch) == pytest.approx(sums_of(model, params, other), rel=1e-6)


def test_layers_of_sentences_do_not_see_padding(masked_lm):
    model, params = masked_lm
    ids, mask = jnp.array([[5, 9, 40, 0, 0]]), jnp.array([[1, 1, 1, 0, 0]])
    states = [
        objectives.hidden_states(model, params, {"input_ids": given, "attention_mask": mask})
        for given in (ids, ids.at[0, 3:].set(33))
    ]
    assert len(states[0]) == 1 + model.config.num_hidden_layers
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(one[:, :3], other[:, :3], atol=1e-6)


@pytest.mark.parametrize("kind", [RemBertForSequenceClassification, RemBertForTokenClassification])
def test_a_task_sees_types_and_no_padding(kind, tiny_config, random_params):
    model = kind(tiny_config, num_labels=3)
    params = random_params(model, jax.ShapeDtypeStruct((1, 4), jnp.int32))
    ids, mask = jnp.array([[5, 9, 40, 7, 0, 0]]), jnp.array([[1, 1, 1, 1, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": jnp.zeros_like(ids)}
    logits = jax.jit(lambda p, b: objectives.task_output(model, p, b, None).logits)
    plain = np.asarray(logits(params, batch))
    plain = plain[:, :4] if plain.ndim == 3 else plain
    padded = np.asarray(logits(params, {**batch, "input_ids": ids.at[0, 4:].set(33)}))
    np.testing.assert_allclose(padded[:, :4] if padded.ndim == 3 else padded, plain, atol=1e-6)
    typed = np.asarray(logits(params, {**batch, "token_type_ids": jnp.array([[0, 0, 1, 1, 0, 0]])}))
    assert np.abs((typed[:, :4] if typed.ndim == 3 else typed) - plain).max() > 1e-3


def test_a_classifier_computes_its_last_layer_for_the_first_token_alone(tiny_config, random_params):
    execution = Execution(scan_layers=False, attention="xla")
    model = RemBertForSequenceClassification(tiny_config, num_labels=3, execution=execution)
    params = random_params(model, jax.ShapeDtypeStruct((1, 4), jnp.int32))
    ids = jnp.array([[5, 9, 40, 7, 11, 0], [30, 2, 6, 3, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).astype(jnp.int32), "token_type_ids": jnp.zeros_like(ids)}

    def part(params):
        return objectives.task_output(model, params, batch, None).logits

    def whole(params):
        return model.apply({"params": params}, **batch).logits

    np.testing.assert_allclose(part(params), whole(params), atol=1e-6)
    width, inner, others = tiny_config.hidden_size, tiny_config.intermediate_size, 2 * 5
    # Of each other token: query and output, scores and values of six neighbours, and two products of the feed-forward layer.
    saved = others * 2 * (2 * width**2 + 2 * 6 * width + 2 * width * inner)
    flops = [executed_flops(jax.make_jaxpr(function)(params)) for function in (whole, part)]
    assert flops[0] - flops[1] == saved


@pytest.mark.parametrize("kind", ["masked_lm", "classification"])
def test_dropout_is_on_in_training_and_off_in_evaluation(kind, tiny_config, random_params):
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.2)
    if kind == "masked_lm":
        model, batch = RemBertForMaskedLM(config), packed([[0, 1]])
        objective = objectives.masked_lm(model)
    else:
        model, batch = RemBertForSequenceClassification(config, num_labels=3), packed([[0]])
        batch = {"input_ids": batch["input_ids"], "attention_mask": (batch["segment_ids"] > 0).astype(jnp.int32),
                 "token_type_ids": jnp.zeros_like(batch["input_ids"]), "labels": jnp.array([1])}  # fmt: skip
        objective = objectives.task(model)
    params = random_params(model, jax.ShapeDtypeStruct((1, 4), jnp.int32))
    loss = jax.jit(lambda key: objective(params, batch, key)["loss"])
    plain = float(jax.jit(lambda: objective(params, batch, None)["loss"])())
    assert plain == float(jax.jit(lambda: objective(params, batch, None)["loss"])())
    noisy = [float(loss(jax.random.key(seed))) for seed in (0, 1)]
    assert len({plain, *noisy}) == 3 and noisy[0] == float(loss(jax.random.key(0)))


def test_texts_are_pooled_over_their_own_tokens():
    states = jnp.arange(24.0).reshape(3, 4, 2)
    mask = jnp.array([[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]])
    # Tokens 0, 1 and 3 of the first, token 1 of the second, none of padding.
    np.testing.assert_allclose(
        objectives.POOLINGS["mean"](states, mask), [[8 / 3, 11 / 3], [10.0, 11.0], [0.0, 0.0]], rtol=1e-6
    )
    np.testing.assert_array_equal(objectives.POOLINGS["cls"](states, mask), [[0.0, 1.0], [8.0, 9.0], [16.0, 17.0]])
