"""Dropout at each of its places, and another mask in each layer; all other parameters are zero, so that each shows alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rembert_jax import RemBertForCausalLM, RemBertModel
from rembert_jax.config import Execution
from rembert_jax.tree import flatten, unflatten

IDS = jnp.array([[5, 9, 40, 7, 11, 3]])
# Of a place in the block: the one bias that is not zero. A constant that nothing drops is levelled by the layer norm.
PLACES = {
    "attention": "attention/output/bias",
    "feed-forward": "output/bias",
    "cross-attention": "crossattention/output/bias",
}


def silent(model, *ones):
    """Parameters of which only the layer norms' scales, and those that end in one of `ones`, are not zero."""
    shapes = flatten(jax.eval_shape(model.init, jax.random.key(0), IDS)["params"])
    values = {}
    for name, leaf in shapes.items():
        leaf = getattr(leaf, "value", leaf)
        is_one = name.endswith("LayerNorm/scale") or any(f"/{name}".endswith(f"/{one}") for one in ones)
        values[name] = jnp.full(leaf.shape, 1.0 if is_one else 0.0)
    return unflatten(values)


def states(config, place, scan_layers, deterministic):
    cross = place == "cross-attention"
    config = dataclasses.replace(config, hidden_dropout_prob=0.5, is_decoder=cross, add_cross_attention=cross)
    execution = Execution(scan_layers=scan_layers)
    model = RemBertForCausalLM(config, execution) if cross else RemBertModel(config, execution)
    layer = "layer" if scan_layers else "layer_{}"
    ones = [f"{layer.format(i)}/{PLACES[place]}" for i in range(config.num_hidden_layers)]
    params = silent(model, *ones)
    memory = {"encoder_hidden_states": jnp.zeros((1, 2, config.hidden_size))} if cross else {}
    output = model.apply(
        {"params": params},
        IDS,
        deterministic=deterministic,
        output_hidden_states=True,
        rngs={"dropout": jax.random.key(0)},
        **memory,
    )
    return [np.asarray(state[0]) for state in output.hidden_states]


@pytest.mark.parametrize("scan_layers", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize("place", PLACES)
def test_each_place_of_a_block_drops_in_every_layer_by_a_mask_of_its_own(tiny_config, place, scan_layers):
    assert all(np.abs(state).max() < 1e-3 for state in states(tiny_config, place, scan_layers, deterministic=True))
    embeddings, first, second = states(tiny_config, place, scan_layers, deterministic=False)
    assert np.abs(embeddings).max() == 0
    counts = [[len(np.unique(row.round(3))) for row in state] for state in (first, second)]
    assert max(counts[0]) == 2, "dropped or not"
    assert max(counts[1]) > 2, "with the same mask in both layers there would be two values again"
    assert len({row.round(3).tobytes() for row in first}) > 1, "and another one for each token"


def test_embeddings_are_dropped_before_they_are_projected(tiny_config):
    config = dataclasses.replace(tiny_config, hidden_dropout_prob=0.5)
    model = RemBertModel(config)
    params = silent(model, "embeddings/LayerNorm/bias", "embedding_hidden_mapping_in/kernel")
    first = [
        model.apply({"params": params}, IDS, deterministic=deterministic, output_hidden_states=True,
                    rngs={"dropout": jax.random.key(0)}).hidden_states[0][0]
        for deterministic in (True, False)
    ]  # fmt: skip
    np.testing.assert_allclose(first[0], config.input_embedding_size)
    dropped = np.unique(first[1])
    assert len(dropped) > 1 and set(dropped) <= set(2.0 * np.arange(config.input_embedding_size + 1))


@pytest.mark.parametrize("scan_layers", [True, False], ids=["scanned", "unrolled"])
def test_probabilities_are_dropped_by_another_mask_in_each_layer(tiny_config, scan_layers):
    config = dataclasses.replace(
        tiny_config, attention_probs_dropout_prob=0.5, is_decoder=True, add_cross_attention=True
    )
    model = RemBertForCausalLM(config, Execution(scan_layers=scan_layers))
    memory = {"encoder_hidden_states": jnp.zeros((1, 5, config.hidden_size))}
    output = model.apply({"params": silent(model)}, IDS, deterministic=False, output_attentions=True,
                         rngs={"dropout": jax.random.key(0)}, **memory)  # fmt: skip
    for layers in (output.attentions, output.cross_attentions):
        one, two = (np.asarray(layer) == 0 for layer in layers)
        assert one.any() and not one.all() and (one != two).any()
