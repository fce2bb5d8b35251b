import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rembert_jax import (
    Execution,
    KeyValueCache,
    RemBertForCausalLM,
    RemBertForMaskedLM,
    RemBertForMultipleChoice,
    RemBertForSequenceClassification,
    RemBertModel,
)
from rembert_jax.errors import RemBertError
from rembert_jax.modeling.generation import Sampling
from rembert_jax.sharding import MeshConfig, make_mesh, param_shardings

IDS = jax.ShapeDtypeStruct((2, 4), jnp.int32)
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def decoder_config(tiny_config):
    return dataclasses.replace(tiny_config, is_decoder=True, add_cross_attention=True)


@pytest.fixture(scope="module")
def decoder(decoder_config, random_params):
    model = RemBertForCausalLM(decoder_config)
    return model, random_params(model, IDS)


@pytest.fixture
def memory(decoder_config):
    states = np.random.default_rng(1).standard_normal((2, 3, decoder_config.hidden_size)).astype(np.float32)
    return {"encoder_hidden_states": jnp.asarray(states), "encoder_attention_mask": jnp.array([[1, 1, 1], [1, 1, 0]])}


PROMPTS = jnp.array([[5, 9, 40, 7], [0, 0, 30, 2]])
MASK = jnp.array([[1, 1, 1, 1], [0, 0, 1, 1]])


def call(model, params, ids, **inputs):
    """`model.apply`, compiled as a whole."""
    fixed = {name: value for name, value in inputs.items() if isinstance(value, bool)}
    arrays = {name: value for name, value in inputs.items() if name not in fixed}
    return jax.jit(lambda p, i, given: model.apply({"params": p}, i, **given, **fixed))(params, ids, arrays)


# The cache.


@pytest.mark.parametrize("parts", [[(0, 4)], [(0, 1), (1, 2), (2, 3), (3, 4)], [(0, 3), (3, 4)]])
def test_calls_with_a_cache_equal_one_call_without(decoder, memory, parts):
    model, params = decoder
    whole = call(model, params, PROMPTS, attention_mask=MASK, output_attentions=True, **memory)
    cache, logits = KeyValueCache.empty(model.config, model.execution, 2, 6), []
    for start, stop in parts:
        output = call(
            model,
            params,
            PROMPTS[:, start:stop],
            attention_mask=MASK[:, start:stop],
            past_key_values=cache,
            output_attentions=True,
            **(memory if start == 0 else {}),  # Afterwards the cache holds it.
        )
        cache = output.past_key_values
        logits.append(output.logits)
    real = MASK > 0  # What stands at padding means nothing, and depends on what else there is.
    np.testing.assert_allclose(jnp.concatenate(logits, axis=1)[real], whole.logits[real], atol=ROUNDING)
    last = output.attentions[-1][:, :, -1]
    np.testing.assert_allclose(last[..., :4], whole.attentions[-1][:, :, -1], atol=ROUNDING)
    assert (last[..., 4:] == 0).all() and int(cache.length) == 4
    np.testing.assert_array_equal(cache.mask, [[True] * 4 + [False] * 2, [False, False, True, True, False, False]])


def test_a_cache_is_made_where_it_is_asked_for_and_continues_positions(decoder, memory):
    model, params = decoder
    first = call(model, params, PROMPTS[:, :3], use_cache=True, **memory)
    assert first.past_key_values.room == model.config.max_position_embeddings
    second = call(model, params, PROMPTS[:, 3:], past_key_values=first.past_key_values)
    whole = call(model, params, PROMPTS, **memory)
    np.testing.assert_allclose(second.logits[:, 0], whole.logits[:, 3], atol=ROUNDING)
    assert whole.past_key_values is None


def test_misuse_of_caches_is_refused(tiny_config, decoder, random_params):
    model, params = decoder
    encoder = RemBertModel(tiny_config)
    with pytest.raises(RemBertError, match=r"is_decoder=True"):
        encoder.apply({"params": random_params(encoder, IDS)}, PROMPTS, use_cache=True)
    full = KeyValueCache.empty(model.config, model.execution, 2, 4)
    full = call(model, params, PROMPTS, past_key_values=full).past_key_values
    with pytest.raises(RemBertError, match=r"room for 4 tokens holds 4, but 1 more"):
        model.apply({"params": params}, PROMPTS[:, :1], past_key_values=full)
    with pytest.raises(RemBertError, match=r"cache for 13 tokens, but max_position_embeddings=12"):
        KeyValueCache.empty(model.config, model.execution, 1, 13)
    with pytest.raises(RemBertError, match="segment_ids"):
        model.apply({"params": params}, PROMPTS, use_cache=True, segment_ids=PROMPTS)


def test_misuse_of_cross_attention_is_refused(tiny_config, decoder, random_params):
    model, params = decoder
    with pytest.raises(RemBertError, match=r"width 5, expected hidden_size=16"):
        model.apply({"params": params}, PROMPTS, encoder_hidden_states=jnp.zeros((2, 3, 5)))
    plain = RemBertForCausalLM(tiny_config)
    with pytest.raises(RemBertError, match=r"add_cross_attention=True"):
        plain.apply({"params": random_params(plain, IDS)}, PROMPTS, encoder_hidden_states=jnp.zeros((2, 3, 16)))
    with pytest.raises(RemBertError, match=r"set is_decoder=True"):
        dataclasses.replace(tiny_config, add_cross_attention=True)


def test_padding_of_the_memory_is_not_seen(decoder, memory):
    model, params = decoder
    changed = {**memory, "encoder_hidden_states": memory["encoder_hidden_states"].at[1, 2].add(3.0)}
    one, other = (call(model, params, PROMPTS, **m).logits for m in (memory, changed))
    np.testing.assert_array_equal(one, other)


def test_a_causal_model_is_a_decoder_whatever_its_config_says(tiny_config):
    assert RemBertForCausalLM(tiny_config).config.is_decoder
    assert not RemBertForMaskedLM(tiny_config).config.is_decoder


# Generation.


SAMPLED = {"do_sample": True, "rng": 7, "temperature": 1.5, "top_k": 20, "top_p": 0.95}


@pytest.mark.parametrize(("execution", "options"), [(Execution(), SAMPLED), (Execution(scan_layers=False), {})])
def test_cached_and_uncached_generation_agree(decoder_config, random_params, memory, execution, options):
    model = RemBertForCausalLM(decoder_config, execution)
    params = random_params(model, IDS)
    options = {**options, "rng": jax.random.key(options["rng"])} if options else {}
    options |= {"max_new_tokens": 8, "eos_token_id": -1, **memory}
    cached, uncached = (model.generate(params, PROMPTS, MASK, use_cache=use, **options) for use in (True, False))
    np.testing.assert_array_equal(cached, uncached)
    assert cached.shape == (2, 12) and (cached[:, :4] == PROMPTS).all()


@pytest.fixture(scope="module")
def plain(tiny_config, random_params):
    model = RemBertForCausalLM(tiny_config)
    return model, random_params(model, IDS)


def test_greedy_tokens_are_the_most_probable_ones(plain):
    model, params = plain
    tokens = np.asarray(model.generate(params, PROMPTS[:1], max_new_tokens=5, eos_token_id=-1))
    logits = call(model, params, jnp.asarray(tokens)).logits
    np.testing.assert_array_equal(tokens[0, 4:], np.argmax(logits[0, 3:-1], axis=-1))


def test_each_sampled_token_is_drawn_anew(plain):
    model, params = plain
    even = jax.tree.map(jnp.zeros_like, params)  # All words are equally likely, whatever stands before.
    options = {"max_new_tokens": 8, "do_sample": True, "eos_token_id": -1}
    one, again, other = (
        model.generate(even, PROMPTS, MASK, rng=jax.random.key(k), **options)[:, 4:] for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() and (one[0] != one[1]).any()
    assert all(len(set(row.tolist())) > 4 for row in one)  # Of 8 from 48; the same key would give one word 8 times.


def test_the_side_of_the_padding_does_not_matter(plain):
    model, params = plain
    right, right_mask = jnp.array([[30, 2, 0, 0]]), jnp.array([[1, 1, 0, 0]])
    alone = model.generate(params, jnp.array([[30, 2]]), max_new_tokens=6, eos_token_id=-1)[0, 2:]
    for ids, mask in ((PROMPTS[1:], MASK[1:]), (right, right_mask)):
        np.testing.assert_array_equal(
            model.generate(params, ids, mask, max_new_tokens=6, eos_token_id=-1)[0, 4:], alone
        )


def test_a_row_ends_with_its_end_token_and_the_others_go_on(plain):
    model, params = plain
    free = np.asarray(model.generate(params, PROMPTS, MASK, max_new_tokens=6, eos_token_id=-1))[:, 4:]
    end = int(free[0, 2])
    first = {row: list(free[row]).index(end) if end in free[row] else None for row in (0, 1)}
    found = np.asarray(model.generate(params, PROMPTS, MASK, max_new_tokens=6, eos_token_id=end, pad_token_id=45))[
        :, 4:
    ]
    for row, at in first.items():
        expected = free[row] if at is None else [*free[row][: at + 1], *[45] * (5 - at)]
        np.testing.assert_array_equal(found[row], expected)


def test_of_several_end_tokens_each_ends_any_row(plain):
    model, params = plain
    free = np.asarray(model.generate(params, PROMPTS, MASK, max_new_tokens=6, eos_token_id=-1))[:, 4:]
    ends = [int(free[1, 1]), int(free[0, 2])]  # As many as rows, in the other order.
    config = dataclasses.replace(model.config, eos_token_id=tuple(ends), pad_token_id=None)
    by_option = model.generate(params, PROMPTS, MASK, max_new_tokens=6, eos_token_id=ends, pad_token_id=ends[0])
    by_config = model.copy(config=config).generate(params, PROMPTS, MASK, max_new_tokens=6)
    for found in (np.asarray(by_option)[:, 4:], np.asarray(by_config)[:, 4:]):
        for row in (0, 1):
            at = next(i for i, token in enumerate(free[row]) if token in ends)
            np.testing.assert_array_equal(found[row], [*free[row][: at + 1], *[ends[0]] * (5 - at)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"eos_token_id": 48},
            "eos_token_id=48 is outside the vocabulary of 48; give generate another, or -1 for no end",
        ),
        ({"eos_token_id": [2, 99]}, "eos_token_id=99 is outside"),
        ({"pad_token_id": -5}, "pad_token_id=-5 is outside"),
    ],
)
def test_special_ids_that_generation_needs_must_be_there(plain, options, message):
    model, params = plain
    with pytest.raises(RemBertError, match=message):
        model.generate(params, PROMPTS, MASK, max_new_tokens=2, **options)
    config = dataclasses.replace(model.config, **{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()
                                                  if k == "eos_token_id"})  # fmt: skip
    if config != model.config:
        with pytest.raises(RemBertError, match=message):
            model.copy(config=config).generate(params, PROMPTS, MASK, max_new_tokens=2)


def test_sampling_follows_key_and_temperature(plain):
    model, params = plain

    def sample(seed, **options):
        return model.generate(
            params,
            PROMPTS,
            MASK,
            max_new_tokens=8,
            do_sample=True,
            rng=jax.random.key(seed),
            eos_token_id=-1,
            **options,
        )

    greedy = model.generate(params, PROMPTS, MASK, max_new_tokens=8, eos_token_id=-1)
    np.testing.assert_array_equal(sample(0), sample(0))
    assert (sample(0) != sample(1)).any()
    np.testing.assert_array_equal(sample(0, temperature=1e-4), greedy)
    np.testing.assert_array_equal(sample(0, top_k=1), greedy)
    np.testing.assert_array_equal(sample(0, top_p=1e-6), greedy)


def test_filters_of_a_worked_example():
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3]]))

    def kept(**options):
        filtered = Sampling(jnp.float32(1.0), do_sample=True, **options).filtered(logits)
        return np.flatnonzero(np.isfinite(filtered[0])).tolist()

    assert kept(top_k=2) == [1, 3]
    assert kept(top_p=0.39) == [1]
    assert kept(top_p=0.41) == [1, 3]  # 0.4 alone does not reach it.
    assert kept(top_p=0.71) == [1, 2, 3]
    assert kept(top_k=3, top_p=0.5) == [1, 3]  # 0.4 of 0.9 is 0.44.
    np.testing.assert_allclose(Sampling(jnp.float32(2.0), do_sample=True).filtered(logits), logits / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 9}, "a prompt of 4 tokens and max_new_tokens=9 exceed max_position_embeddings=12"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"max_new_tokens": 1, "do_sample": True}, "rng=jax.random.key"),
        ({"max_new_tokens": 1, "temperature": 0.0}, "temperature=0.0"),
        ({"max_new_tokens": 1, "top_p": 0.0}, "top_p=0.0"),
    ],
)
def test_options_without_sense_are_refused(plain, options, message):
    model, params = plain
    with pytest.raises(RemBertError, match=message):
        model.generate(params, PROMPTS, **options)


def test_ids_and_masks_that_do_not_fit_are_refused(plain, decoder):
    model, params = plain
    with pytest.raises(RemBertError, match="id 9999 in row 0"):
        model.generate(params, jnp.array([[5, 9999]]), max_new_tokens=2)
    with pytest.raises(RemBertError, match=r"attention_mask of shape \(2, 3\), expected that of input_ids, \(2, 4\)"):
        model.generate(params, PROMPTS, MASK[:, :3], max_new_tokens=2)
    cache = KeyValueCache.empty(decoder[0].config, decoder[0].execution, 2, 6)
    with pytest.raises(
        RemBertError, match=r"attention_mask of shape \(2, 4\), expected \(2, 1\): that of the tokens given"
    ):
        decoder[0].apply({"params": decoder[1]}, PROMPTS[:, :1], attention_mask=MASK, past_key_values=cache)


# The other heads of the family.


def test_choices_are_scored_one_by_one(tiny_config, random_params):
    ids = jnp.array([[[5, 9, 7], [5, 9, 8], [5, 2, 0]], [[6, 1, 7], [6, 9, 8], [6, 2, 0]]])
    mask = (ids > 0).astype(jnp.int32)
    model = RemBertForMultipleChoice(tiny_config)
    params = random_params(model, ids)
    logits = call(model, params, ids, attention_mask=mask).logits
    single = RemBertForSequenceClassification(tiny_config, num_labels=1)
    for row in range(2):
        alone = call(single, params, ids[row], attention_mask=mask[row]).logits[:, 0]
        np.testing.assert_allclose(logits[row], alone, atol=ROUNDING)
    with pytest.raises(RemBertError, match=r"\[batch, choices, length\]"):
        model.apply({"params": params}, ids[0])


@pytest.mark.parametrize("new_size", [40, 50])
@pytest.mark.parametrize("tied", [False, True])
def test_resizing_changes_both_tables_and_the_bias_together(tiny_config, random_params, new_size, tied):
    width = {"output_embedding_size": tiny_config.input_embedding_size} if tied else {}
    model = RemBertForMaskedLM(dataclasses.replace(tiny_config, tie_word_embeddings=tied, **width))
    params = random_params(model, IDS)
    larger, resized = model.resize_token_embeddings(params, new_size, jax.random.key(0))
    assert larger.config.vocab_size == new_size
    kept = min(new_size, 48)
    words = resized["rembert"]["embeddings"]["word_embeddings"]["embedding"]
    decoder = resized["cls"]["decoder"]
    assert words.shape == (new_size, 8) and decoder["bias"].shape == (new_size,) and ("embedding" in decoder) != tied
    if not tied:
        assert decoder["embedding"].shape == (new_size, 24)
        assert np.abs(decoder["embedding"][kept:]).max(initial=0) <= 0.04 and (decoder["bias"][kept:] == 0).all()
        if new_size > 48:  # New rows of the two tables are drawn apart, and are no copies of each other.
            assert np.abs(decoder["embedding"][48:, :8] - words[48:]).min() > 0
    ids = jnp.array([[5, 9, 39]])
    before, after = call(model, params, ids).logits, call(larger, resized, ids).logits
    np.testing.assert_allclose(after[..., :kept], before[..., :kept], atol=ROUNDING)
    assert after.shape[-1] == new_size


def test_resizing_takes_boxed_parameters_and_no_foreign_ones(tiny_config, random_params):
    model = RemBertForMaskedLM(tiny_config)
    boxed = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    _, resized = model.resize_token_embeddings(boxed, 50, jax.random.key(0))
    assert resized["cls"]["decoder"]["embedding"].shape == (50, 24)
    foreign = random_params(RemBertForSequenceClassification(tiny_config, num_labels=2), IDS)
    with pytest.raises(RemBertError, match="give the parameters of this model"):
        model.resize_token_embeddings(foreign, 50, jax.random.key(0))


def test_resized_parameters_stay_where_they_were(tiny_config, random_params, caplog):
    model = RemBertForMaskedLM(tiny_config)
    abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 2), jnp.int32))["params"]
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    params = jax.device_put(random_params(model, IDS), param_shardings(abstract, mesh))
    _, resized = model.resize_token_embeddings(params, 52, jax.random.key(0))
    same = jax.tree.map(lambda new, old: new.sharding == old.sharding, resized, params)
    assert all(jax.tree.leaves(same))
    table = resized["cls"]["decoder"]["embedding"]
    assert table.addressable_shards[0].data.shape == (13, 12)
    assert not caplog.records
    _, resized = model.resize_token_embeddings(params, 50, jax.random.key(0))  # Not divisible by 4.
    table = resized["cls"]["decoder"]["embedding"]
    assert table.sharding.is_fully_replicated and table.sharding.mesh == mesh
    assert "50 is not divisible by mesh axis tensor=4" in caplog.text
