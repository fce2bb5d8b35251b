"""Hidden states of some positions only: what the last layer leaves out, nobody reads."""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rembert_jax.config import Execution
from rembert_jax.errors import RemBertError
from rembert_jax.modeling.models import RemBertModel

IDS = jax.ShapeDtypeStruct((2, 4), jnp.int32)


@pytest.fixture(params=["encoder", "decoder"])
def config(request, tiny_config):
    return dataclasses.replace(tiny_config, is_decoder=request.param == "decoder")


def arguments(batch):
    return {name: jnp.asarray(batch[name]) for name in ("input_ids", "position_ids", "segment_ids")}


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("scan", [False, True])
def test_they_and_all_gradients_are_those_of_the_whole(config, tiny_batch, random_params, scan, remat):
    model = RemBertModel(config, Execution(scan_layers=scan, remat=remat))
    params = random_params(model, IDS)
    positions = jnp.asarray(tiny_batch["masked_positions"])
    weights = np.random.default_rng(0).standard_normal((*positions.shape, config.hidden_size)).astype(np.float32)

    def loss(params, whole):
        read = {} if whole else {"read_positions": positions}
        output = model.apply({"params": params}, **arguments(tiny_batch), **read)
        hidden = output.last_hidden_state
        hidden = jnp.take_along_axis(hidden, positions[:, :, None], axis=1) if whole else hidden
        return jnp.sum(hidden * weights), hidden

    run = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    (found, hidden), (expected, whole) = run(params, False), run(params, True)
    np.testing.assert_allclose(hidden, whole, atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * max(1.0, np.abs(b).max())), found, expected)


def test_a_pooler_takes_the_first_of_them(config, tiny_batch, random_params):
    model = RemBertModel(config, Execution(scan_layers=False))
    params = {"params": random_params(model, IDS)}
    first = jnp.zeros((8, 1), jnp.int32)
    pooled, whole = (
        model.apply(params, **arguments(tiny_batch), **read).pooler_output for read in ({"read_positions": first}, {})
    )
    np.testing.assert_allclose(pooled, whole, atol=1e-6)


def test_the_last_layer_multiplies_fewer_tokens(tiny_config, tiny_batch, random_params):
    """80 tokens, 24 of which are read: of the two layers one feeds all of them forward."""
    for scan, expected in ((False, {80: 1, 24: 1}), (True, {80: 1})):
        model = RemBertModel(tiny_config, Execution(scan_layers=scan), add_pooling_layer=False)
        positions = jnp.asarray(tiny_batch["masked_positions"])
        params = {"params": random_params(model, IDS)}
        jaxpr = jax.make_jaxpr(lambda p, m=model, at=positions: m.apply(p, **arguments(tiny_batch), read_positions=at))
        products = re.findall(r":f32\[(\d+),(\d+),32\] = dot_general", str(jaxpr(params)))
        assert collections.Counter(int(rows) * int(tokens) for rows, tokens in products) == expected


def test_what_cannot_be_returned_with_them_is_refused(tiny_config):
    model = RemBertModel(tiny_config)
    ids, read = jnp.ones((2, 4), jnp.int32), jnp.zeros((2, 1), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), ids)
    for asked in ("output_hidden_states", "output_attentions"):
        with pytest.raises(RemBertError, match="with read_positions no hidden states, attentions or cache"):
            jax.eval_shape(lambda p, asked=asked: model.apply(p, ids, read_positions=read, **{asked: True}), params)
