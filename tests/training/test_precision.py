"""Under bfloat16 every matrix product of a training step takes bfloat16 operands, forward and backward, on every platform."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rembert_jax import RemBertForMaskedLM, RemBertForTokenClassification
from rembert_jax.config import Execution
from rembert_jax.ops.products import einsum_float32
from rembert_jax.training import objectives

PRODUCT = re.compile(
    r"stablehlo\.dot_general .*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\) -> tensor<[\dx]*x(\w+)>"
)


def products(function, platform, *arguments):
    """The dtypes of both operands of every matrix product of the gradient, as lowered for a platform."""
    text = jax.jit(jax.grad(function)).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    found = [match.groups()[:2] for match in PRODUCT.finditer(text)]
    assert len(found) == text.count("stablehlo.dot_general")
    return found


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["masked_lm", "token_classification"])
def test_no_product_takes_a_float32_operand(kind, dropout, platform, tiny_config, tiny_batch, random_params):
    config = dataclasses.replace(tiny_config, attention_probs_dropout_prob=dropout, hidden_dropout_prob=dropout)
    execution = Execution(compute_dtype="bfloat16")
    batch = {name: jnp.asarray(value) for name, value in tiny_batch.items()}
    if kind == "masked_lm":
        model = RemBertForMaskedLM(config, execution)
        objective = objectives.masked_lm(model)
    else:
        model = RemBertForTokenClassification(config, num_labels=3, execution=execution)
        objective = objectives.task(model)
        ids = batch["input_ids"]
        batch = {"input_ids": ids, "attention_mask": jnp.ones_like(ids), "token_type_ids": 0 * ids, "labels": 0 * ids}
    params = random_params(model, jax.ShapeDtypeStruct((1, 4), jnp.int32))
    found = products(lambda p: objective(p, batch, jax.random.key(0))["loss"], platform, params)
    assert len(found) > 20 and set(found) == {("bf16", "bf16")}


def test_a_product_is_accumulated_in_float32_and_its_gradients_are_those_of_einsum():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.standard_normal(shape), jnp.bfloat16) for shape in ((2, 3, 4, 5), (2, 6, 4, 5)))
    weights = jnp.asarray(rng.standard_normal((2, 4, 3, 6)), jnp.float32)
    letters = "BQND,BKND->BNQK"
    found = einsum_float32(letters, a, b)
    wide = jnp.einsum(letters, a.astype(jnp.float32), b.astype(jnp.float32))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wide, rtol=1e-5, atol=1e-5)
    narrow, exact = (
        jax.grad(lambda a, b, f=f: jnp.sum(f(letters, a, b) * weights), argnums=(0, 1))(*inputs)
        for f, inputs in ((einsum_float32, (a, b)), (jnp.einsum, (a.astype(jnp.float32), b.astype(jnp.float32))))
    )
    for one, other in zip(narrow, exact, strict=True):
        assert one.dtype == jnp.bfloat16
        assert np.linalg.norm(one.astype(jnp.float32) - other) < 0.005 * np.linalg.norm(other)
    ours = jax.grad(lambda a: jnp.sum(einsum_float32(letters, a, b.astype(jnp.float32)) * weights))(
        a.astype(jnp.float32)
    )
    np.testing.assert_allclose(ours, exact[0], rtol=1e-5, atol=1e-5)
