"""Every model against transformers and PyTorch, live: outputs within 1e-5, gradients within 1e-4."""

import inspect
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT
from interop.reference import (  # Skips the file where they are absent.
    CHOICES,
    LENGTH,
    ROWS,
    assert_close,
    assert_equal_gradients,
    assert_equal_outputs,
    make_inputs,
    pair,
    torch,
    transformers,
)

import rembert_jax
from rembert_jax import losses
from rembert_jax.tree import flatten

IGNORED = losses.IGNORED_LABEL
# Odd sizes; head widths of 5, 3, 24 and 7; the input embedding wider and the output embedding narrower than the model.
CONFIGS = {
    "odd": dict(vocab_size=61, hidden_size=15, num_attention_heads=3, input_embedding_size=7, output_embedding_size=29,
                intermediate_size=37, num_hidden_layers=3, hidden_act="gelu"),
    "wide-input": dict(vocab_size=53, hidden_size=12, num_attention_heads=4, input_embedding_size=31,
                       output_embedding_size=9, intermediate_size=20, num_hidden_layers=2, hidden_act="gelu_new"),
    "wide-heads": dict(vocab_size=47, hidden_size=48, num_attention_heads=2, input_embedding_size=16,
                       output_embedding_size=64, intermediate_size=50, num_hidden_layers=2, hidden_act="relu"),
    "one-layer": dict(vocab_size=71, hidden_size=21, num_attention_heads=3, input_embedding_size=21,
                      output_embedding_size=21, intermediate_size=11, num_hidden_layers=1, hidden_act="silu"),
}  # fmt: skip
HEADS = (
    "RemBertModel",
    "RemBertForMaskedLM",
    "RemBertForCausalLM",
    "RemBertForSequenceClassification",
    "RemBertForMultipleChoice",
    "RemBertForTokenClassification",
    "RemBertForQuestionAnswering",
)
# Embeddings narrower and wider than the model, and the other way round; the other sizes are compared without gradients, and
# so is the base model, which has no loss.
WITH_GRADIENTS = ("odd", "wide-input")
CASES = [(head, name) for head in HEADS for name in CONFIGS if head == "RemBertModel" or name not in WITH_GRADIENTS]


def pairs(cases):
    """All cases, of which one for each first part is run with every change, and the others with the slow tests.

    The second parts take turns, so that each of them is run too.
    """
    firsts = list(dict.fromkeys(first for first, _ in cases))
    of = {first: [second for one, second in cases if one == first] for first in firsts}
    chosen = {(first, of[first][i % len(of[first])]) for i, first in enumerate(firsts)}
    return [pytest.param(*case, marks=[] if case in chosen else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("head, name", pairs(CASES))
def test_outputs(head, name, tmp_path):
    sizes = CONFIGS[name]
    extra = {"num_labels": 5} if head in ("RemBertForSequenceClassification", "RemBertForTokenClassification") else {}
    both = pair(head, sizes, tmp_path, is_decoder=head == "RemBertForCausalLM", **extra)
    theirs, ours = both.outputs(**make_inputs(head, sizes["vocab_size"]))
    assert_equal_outputs(ours, theirs)


def _labels(kind, rng, vocab_size):
    token = rng.integers(0, 5, (ROWS, LENGTH))
    token[:, ::3] = IGNORED
    words = rng.integers(0, vocab_size, (ROWS, LENGTH))
    words[:, ::2] = IGNORED
    return {
        "masked_lm": {"labels": words},
        "next_token": {"labels": words},
        "single_label_classification": {"labels": np.array([0, 4, IGNORED, 2])},
        "multi_label_classification": {"labels": rng.integers(0, 2, (ROWS, 5)).astype(np.float32)},
        "regression": {"labels": rng.standard_normal((ROWS, 5)).astype(np.float32)},
        "regression of one": {"labels": rng.standard_normal(ROWS).astype(np.float32)},
        "multiple_choice": {"labels": rng.integers(0, CHOICES, ROWS)},
        "token_classification": {"labels": token},
        "question_answering": {
            # Rows 1 and 3 have a position beyond the sequence, row 3 in its end only.
            "start_positions": np.array([2, 40, 0, 5]),
            "end_positions": np.array([4, LENGTH, 6, 99]),
        },
    }[kind]


LOSSES = {
    "masked_lm": ("RemBertForMaskedLM", {}),
    "next_token": ("RemBertForCausalLM", {"is_decoder": True}),
    "single_label_classification": ("RemBertForSequenceClassification", {"num_labels": 5}),
    "multi_label_classification": ("RemBertForSequenceClassification", {"num_labels": 5}),
    "regression": ("RemBertForSequenceClassification", {"num_labels": 5, "problem_type": "regression"}),
    "regression of one": ("RemBertForSequenceClassification", {"num_labels": 1}),
    "multiple_choice": ("RemBertForMultipleChoice", {}),
    "token_classification": ("RemBertForTokenClassification", {"num_labels": 5}),
    "question_answering": ("RemBertForQuestionAnswering", {}),
}


def _our_loss(kind, output, labels, problem_type):
    if kind == "question_answering":
        return losses.question_answering_loss(
            output.start_logits, output.end_logits, labels["start_positions"], labels["end_positions"]
        )
    if kind == "next_token":
        return losses.next_token_loss(output.logits, labels["labels"])
    if kind in ("masked_lm", "multiple_choice", "token_classification"):
        return losses.classification_loss(output.logits, labels["labels"])
    return losses.sequence_classification_loss(output.logits, labels["labels"], problem_type)


def _assert_equal_with_gradients(kind, both, inputs, vocab_size, problem_type=None):
    labels = _labels(kind, np.random.default_rng(5), vocab_size)
    arrays = {name: jnp.asarray(value) for name, value in labels.items()}
    theirs, (ours, loss), expected, found = both.gradients(
        lambda output: _our_loss(kind, output, arrays, problem_type), inputs, labels
    )
    assert_equal_outputs(ours, theirs)
    np.testing.assert_allclose(loss, theirs.loss.item(), rtol=1e-5)
    assert_equal_gradients(found, expected)


@pytest.mark.parametrize("kind, name", pairs([(kind, name) for kind in LOSSES for name in WITH_GRADIENTS]))
def test_outputs_losses_and_gradients(kind, name, tmp_path):
    head, extra = LOSSES[kind]
    both, vocab_size = pair(head, CONFIGS[name], tmp_path, **extra), CONFIGS[name]["vocab_size"]
    inputs = make_inputs(head, vocab_size)
    _assert_equal_with_gradients(kind, both, inputs, vocab_size, extra.get("problem_type"))


def test_the_other_tanh_gelu_and_one_program_for_each_layer(tmp_path):
    both = pair("RemBertModel", {**CONFIGS["odd"], "hidden_act": "gelu_pytorch_tanh"}, tmp_path, scan_layers=False)
    theirs, ours = both.outputs(**make_inputs("RemBertModel", 61))
    assert_equal_outputs(ours, theirs)


def test_defaults_and_embeddings_in_place_of_ids(tmp_path):
    both = pair("RemBertModel", CONFIGS["odd"], tmp_path)
    rng = np.random.default_rng(1)
    assert_equal_outputs(*reversed(both.outputs(input_ids=rng.integers(3, 61, (2, 9)))))
    assert_equal_outputs(*reversed(both.outputs(inputs_embeds=rng.standard_normal((2, 9, 7)).astype(np.float32))))


DECODER = dict(is_decoder=True, add_cross_attention=True)


def encoder_output(width):
    rng = np.random.default_rng(2)
    mask = np.ones((ROWS, 5), np.int64)
    mask[2, 3:] = 0
    return {
        "encoder_hidden_states": rng.standard_normal((ROWS, 5, width)).astype(np.float32),
        "encoder_attention_mask": mask,
    }


def test_cross_attention(tmp_path):
    both = pair("RemBertModel", CONFIGS["odd"], tmp_path, **DECODER)
    theirs, ours = both.outputs(**make_inputs("RemBertModel", 61), **encoder_output(15))
    assert len(theirs.cross_attentions) == 3
    assert_equal_outputs(ours, theirs)


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_gradients_through_cross_attention(name, tmp_path):
    """Of all parameters of the decoder, those of the cross-attention included, and of what the encoder gave it."""
    sizes = CONFIGS[name]
    both = pair("RemBertForCausalLM", sizes, tmp_path, **DECODER)
    inputs = make_inputs("RemBertForCausalLM", sizes["vocab_size"]) | encoder_output(sizes["hidden_size"])
    _assert_equal_with_gradients("next_token", both, inputs, sizes["vocab_size"])


@pytest.mark.parametrize("name, scan_layers", [("odd", True), ("wide-input", False)])
def test_cache_of_a_decoder_with_cross_attention(name, scan_layers, tmp_path):
    """The prompt in one call and three tokens in two: logits and hidden states as transformers', with its own cache."""
    both = pair("RemBertForCausalLM", CONFIGS[name], tmp_path, scan_layers=scan_layers, **DECODER)
    ids = np.random.default_rng(3).integers(3, CONFIGS[name]["vocab_size"], (ROWS, 9))
    mask = np.ones((ROWS, 9), np.int64)
    mask[1, :2] = 0
    memory = encoder_output(CONFIGS[name]["hidden_size"])
    their_cache = our_cache = None
    known = inspect.signature(both.theirs.forward).parameters
    cache_name = "cache" if "cache" in known else "past_key_values"  # Before transformers 5.24.
    for start, stop in ((0, 6), (6, 7), (7, 9)):
        with torch.no_grad():
            theirs = both.theirs(
                torch.as_tensor(ids[:, start:stop]), attention_mask=torch.as_tensor(mask[:, :stop]),
                use_cache=True, output_hidden_states=True, **{cache_name: their_cache},
                **{name: torch.as_tensor(value) for name, value in memory.items()},
            )  # fmt: skip
        ours = jax.jit(
            lambda params, ids, mask, cache, memory: both.ours.apply(
                {"params": params}, ids, attention_mask=mask, past_key_values=cache, use_cache=True,
                output_hidden_states=True, **memory,
            )
        )(both.params, ids[:, start:stop], mask[:, start:stop], our_cache, memory if our_cache is None else {})  # fmt: skip
        their_cache, our_cache = theirs[cache_name], ours.past_key_values
        assert int(our_cache.length) == stop
        assert_close(ours.logits, theirs.logits, f"logits {start}:{stop}")
        for i, hidden in enumerate(theirs.hidden_states):
            assert_close(ours.hidden_states[i], hidden, f"hidden_states[{i}] {start}:{stop}")
    for i, layer in enumerate(their_cache.self_attention_cache.layers):
        stored = np.asarray(our_cache.layers.key[i, :, :9]).transpose(0, 2, 1, 3)
        assert_close(stored, layer.keys, f"key[{i}]")


def test_greedy_generation_with_padded_prompts(tmp_path):
    both = pair("RemBertForCausalLM", CONFIGS["odd"], tmp_path, is_decoder=True, eos_token_id=7)
    ids = np.random.default_rng(4).integers(8, 61, (6, 5))
    mask = np.ones((6, 5), np.int64)
    mask[1, :2] = mask[2, :3] = 0
    ids = np.where(mask > 0, ids, 0)
    expected = both.theirs.generate(
        torch.as_tensor(ids), attention_mask=torch.as_tensor(mask), max_new_tokens=9, do_sample=False
    )
    found = np.asarray(both.ours.generate(both.params, jnp.asarray(ids), jnp.asarray(mask), max_new_tokens=9))
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected.numpy())
    assert (found[:, expected.shape[1] :] == 0).all()


def test_several_end_tokens_as_in_transformers(tmp_path):
    both = pair(
        "RemBertForCausalLM", CONFIGS["odd"], tmp_path, is_decoder=True, eos_token_id=[16, 7, 50], pad_token_id=0
    )
    ids = np.random.default_rng(5).integers(8, 61, (12, 4))
    expected = both.theirs.generate(torch.as_tensor(ids), max_new_tokens=11, do_sample=False)
    found = np.asarray(both.ours.generate(both.params, jnp.asarray(ids), max_new_tokens=11))
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected.numpy())
    assert {16, 50} <= set(found[:, 4:].ravel().tolist()), "both end rows, or else one of them was not compared"


# Configs that other people have, and outputs by place.


@pytest.mark.parametrize(
    "extra",
    [
        {"hidden_act": "gelu_fast"},
        {"hidden_act": "tanh"},
        {"hidden_act": "swish"},
        {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None},
        {"bos_token_id": 300, "eos_token_id": [2, 313]},
        {"tie_word_embeddings": True, "output_embedding_size": 7},
        {"tie_word_embeddings": True},
    ],
    ids=str,
)
def test_configs_of_other_people_give_the_same_model(extra, tmp_path):
    both = pair("RemBertForMaskedLM", {**CONFIGS["odd"], **extra}, tmp_path)
    assert_equal_outputs(*reversed(both.outputs(**make_inputs("RemBertForMaskedLM", 61))))


@pytest.mark.parametrize("head", HEADS)
def test_places_of_outputs_are_those_of_transformers(head, tmp_path):
    both = pair(head, CONFIGS["odd"], tmp_path, is_decoder=head == "RemBertForCausalLM")
    theirs, ours = both.outputs(**make_inputs(head, 61))
    names = [name for name in theirs if "cache" not in name and name != "past_key_values"]
    assert ours.keys()[: len(names)] == names, "what ours has more, the states below a head, comes last"
    assert_close(ours[0], theirs[0], names[0])
    assert_close(ours[names[0]], theirs[names[0]], names[0])


def test_a_config_alone_goes_both_ways(tmp_path):
    config = rembert_jax.RemBertConfig.named("tiny", eos_token_id=(3, 4), hidden_act="gelu_fast")
    config.save_pretrained(tmp_path)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    found = {key: getattr(theirs, key) for key in config.to_dict()}
    assert found == {**config.to_dict(), "eos_token_id": [3, 4]}
    theirs.save_pretrained(tmp_path / "again")
    assert rembert_jax.RemBertConfig.from_pretrained(tmp_path / "again") == config


# What transformers makes of our files, and we of its pickles.


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("shard_bytes", [10**9, 4000])
def test_transformers_loads_what_we_write(head, shard_bytes, tmp_path):
    """No missing and no unexpected key, the same outputs, and two different tables."""
    extra = {"num_labels": 5} if head in ("RemBertForSequenceClassification", "RemBertForTokenClassification") else {}
    sizes = {**CONFIGS["odd"], "output_embedding_size": 7}  # Tables of one shape, which could be taken for tied ones.
    both = pair(head, sizes, tmp_path / "first", is_decoder=head == "RemBertForCausalLM", **extra)
    rembert_jax.save_pretrained(both.ours, both.params, tmp_path / "second", shard_bytes=shard_bytes)
    again, report = getattr(transformers, head).from_pretrained(tmp_path / "second", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    for name, expected in both.theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], expected), name
    if again.get_output_embeddings() is not None:
        assert not torch.equal(again.get_input_embeddings().weight, again.get_output_embeddings().weight)
    assert again.config.tie_word_embeddings is False and again.config.hidden_act == "gelu"
    assert extra.get("num_labels", 2) == again.config.num_labels


def test_our_reader_of_pickles_reads_those_of_pytorch(tmp_path):
    both = pair("RemBertForMaskedLM", CONFIGS["odd"], tmp_path)
    os.remove(tmp_path / "model.safetensors")
    torch.save(both.theirs.state_dict(), tmp_path / "pytorch_model.bin")
    _, params = rembert_jax.RemBertForMaskedLM.from_pretrained(tmp_path, allow_pickle=True)
    found, expected = flatten(params), flatten(both.params)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


FULL_SIZE = """
import json, re, sys, time
import jax
import rembert_jax
def peak():  # Not ru_maxrss, which a process inherits from the one that started it.
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1))
start = time.monotonic()
model, params = rembert_jax.RemBertModel.from_pretrained(sys.argv[1])
jax.block_until_ready(params)
seconds, loaded = time.monotonic() - start, peak()
import numpy as np
inputs = {name: jax.numpy.asarray(value) for name, value in np.load(sys.argv[2]).items()}
apply = jax.jit(lambda p, kwargs: model.apply({"params": p}, **kwargs, output_hidden_states=True))
output = apply(params, inputs)
np.savez(sys.argv[3], *[np.asarray(h) for h in output.hidden_states], pooler=np.asarray(output.pooler_output))
print(json.dumps({"seconds": seconds, "peak": loaded}))
"""


@pytest.mark.slow
def test_full_size(tmp_path, capsys):
    """576M random parameters: every layer within 1e-4, and loading takes less than 1.6 times the file's size."""
    torch.manual_seed(0)
    theirs = transformers.RemBertModel(transformers.RemBertConfig()).eval()
    theirs.save_pretrained(tmp_path)
    size = sum((tmp_path / name).stat().st_size for name in os.listdir(tmp_path) if name.endswith(".safetensors"))
    rng = np.random.default_rng(0)
    mask = np.ones((2, 48), np.int64)
    mask[1, 30:] = 0
    inputs = {"input_ids": rng.integers(3, 250_300, (2, 48)) * mask, "attention_mask": mask}
    np.savez(tmp_path / "inputs.npz", **inputs)
    with torch.no_grad():
        expected = theirs(**{k: torch.as_tensor(v) for k, v in inputs.items()}, output_hidden_states=True)
    command = [sys.executable, "-c", FULL_SIZE, tmp_path, tmp_path / "inputs.npz", tmp_path / "outputs.npz"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=True)
    found = json.loads(done.stdout)
    with np.load(tmp_path / "outputs.npz") as outputs:
        worst = [np.abs(outputs[f"arr_{i}"] - h.numpy()).max() for i, h in enumerate(expected.hidden_states)]
        pooled = np.abs(outputs["pooler"] - expected.pooler_output.numpy()).max()
    with capsys.disabled():
        print(
            f"\nfile {size / 1e9:.2f} GB, loaded in {found['seconds']:.1f} s, peak {found['peak'] / size:.2f} of the file's "
            f"size; largest difference {max(worst):.1e} in hidden states, {pooled:.1e} in the pooler", file=sys.stderr,
        )  # fmt: skip
    assert len(worst) == 33 and max(worst) < 1e-4 and pooled < 1e-4
    assert found["peak"] < 1.6 * size
