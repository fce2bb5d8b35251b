"""The reference implementation for parity tests: transformers 5 on CPU PyTorch. Importing this skips where they are absent.

The same parameters and inputs on both sides, and the comparison of what comes out.
"""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rembert_jax
from rembert_jax import Execution
from rembert_jax.interop import conversion, huggingface
from rembert_jax.modeling.pretrained import abstract_params
from rembert_jax.tree import flatten

REASON = "the reference is not installed: pip install '.[torch]' (CPU builds: Python 3.11, torch==2.13.0)"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason=REASON)
    transformers = pytest.importorskip("transformers", minversion="5", reason=REASON)

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def random_model(head, **sizes):
    """A model of transformers in evaluation mode, every parameter random, so that leaving one out shows.

    Matrices keep the size of what goes through them, so that 1e-5 is far above rounding and far below a mistake.
    """
    torch.manual_seed(0)
    config = transformers.RemBertConfig(**{"bos_token_id": 1, "eos_token_id": 2, **sizes})
    config._attn_implementation = "eager"
    model = getattr(transformers, head)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            deviation = 0.3 if parameter.ndim == 1 or "embeddings" in name else parameter.shape[-1] ** -0.5
            parameter.copy_(deviation * torch.randn_like(parameter) + (1.0 if "LayerNorm.weight" in name else 0.0))
    return model


ROWS, LENGTH, CHOICES = 4, 11, 3
EVERYTHING = dict(output_hidden_states=True, output_attentions=True)
OUTPUTS = ("last_hidden_state", "pooler_output", "logits", "start_logits", "end_logits")


@dataclasses.dataclass
class Pair:
    """The same parameters on both sides."""

    theirs: object
    ours: object
    params: dict

    def outputs(self, **inputs):
        """All outputs, theirs and ours."""
        with torch.no_grad():
            theirs = self.theirs(**_tensors(inputs), **EVERYTHING)
        arrays = {name: jnp.asarray(value) for name, value in inputs.items()}
        return theirs, jax.jit(lambda p: self.ours.apply({"params": p}, **arrays, **EVERYTHING))(self.params)

    def gradients(self, loss, inputs, labels):
        """Their outputs with the loss, our outputs and our loss, and the two gradients by the names of our parameters.

        The gradients are of all parameters, and of those inputs that are floating-point numbers, by the names of these.

        Args:
          loss: a function from our outputs to a sum and a weight; theirs has its own.
        """
        floats = {name: jnp.asarray(value) for name, value in inputs.items() if value.dtype == np.float32}
        rest = {name: jnp.asarray(value) for name, value in inputs.items() if name not in floats}
        tensors = _tensors(inputs)
        for name in floats:
            tensors[name].requires_grad_()
        theirs = self.theirs(**tensors, **_tensors(labels), **EVERYTHING)
        theirs.loss.backward()

        def our_loss(params, floats):
            output = self.ours.apply({"params": params}, **floats, **rest, **EVERYTHING)
            sums = loss(output)
            return sums["loss"] / sums["weight"], output

        run = jax.jit(jax.value_and_grad(our_loss, argnums=(0, 1), has_aux=True))
        (value, output), (of_params, of_inputs) = run(self.params, floats)
        expected = self._in_our_order() | {name: tensors[name].grad.numpy() for name in floats}
        return theirs, (output, value), expected, {**flatten(of_params), **of_inputs}

    def _in_our_order(self):
        """The gradients of their parameters by the names of ours, as if they were read from a file."""
        _, shapes = abstract_params(self.ours)
        source = Gradients(self.theirs)
        plan = conversion.plan(source, shapes, huggingface.name_in(source))
        return conversion.assemble(plan, source, shapes, np.float32, lambda _, array: array)


def _tensors(arrays):
    return {name: torch.as_tensor(np.array(value)) for name, value in arrays.items()}


def pair(head, sizes, tmp_path, scan_layers=True, **extra):
    """A model of transformers with random parameters, and ours loaded from the folder that it saved."""
    theirs = random_model(head, **{"max_position_embeddings": 16, "type_vocab_size": 2, **sizes, **extra})
    theirs.save_pretrained(tmp_path)
    ours, params = getattr(rembert_jax, head).from_pretrained(tmp_path, execution=Execution(scan_layers=scan_layers))
    return Pair(theirs, ours, params)


def make_inputs(head, vocab_size):
    """Padding on both sides, both token types, positions in any order."""
    rng = np.random.default_rng(0)
    lead = (ROWS, CHOICES) if head == "RemBertForMultipleChoice" else (ROWS,)
    mask = np.ones((*lead, LENGTH), np.int64)
    mask[0, ..., 7:] = 0
    mask[1, ..., :2] = 0  # Padding on the left as well.
    ids = rng.integers(3, vocab_size, (*lead, LENGTH))
    positions = np.stack([rng.permutation(16)[:LENGTH] for _ in range(mask.size // LENGTH)]).reshape(mask.shape)
    return {
        "input_ids": np.where(mask > 0, ids, 0),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (*lead, LENGTH)),
        "position_ids": positions,
    }


def assert_close(ours, theirs, what):
    difference = np.max(np.abs(np.asarray(ours) - theirs.detach().numpy()))
    assert ours.shape == tuple(theirs.shape) and difference < 1e-5, f"{what}: {difference}"


def assert_equal_outputs(ours, theirs):
    fields = [name for name in OUTPUTS if getattr(theirs, name, None) is not None]
    more = {name for name in OUTPUTS if getattr(ours, name, None) is not None} - set(fields)
    assert fields and more <= {"last_hidden_state", "pooler_output"}, "of what is below a head, ours tell more"
    if "last_hidden_state" not in fields:
        assert_close(ours.last_hidden_state, theirs.hidden_states[-1], "last_hidden_state")
    for name in fields:
        assert_close(getattr(ours, name), getattr(theirs, name), name)
    for name in ("hidden_states", "attentions", "cross_attentions"):
        found, expected = getattr(ours, name), getattr(theirs, name, None)
        for i, layer in enumerate(expected or ()):
            assert_close(found[i], layer, f"{name}[{i}]")
        assert len(found or ()) == len(expected or ())


def assert_equal_gradients(ours, theirs):
    """Each parameter's within 1e-4 of its size, layer by layer; those that are zero but for rounding, on both sides.

    The softmax does not see the bias of the keys, nor the bias that is the same for all choices or positions.
    """
    assert ours.keys() == theirs.keys()
    largest = max(np.abs(array).max() for array in theirs.values())
    for name, expected in theirs.items():
        layers = range(len(expected)) if "encoder/layer/" in name else [...]
        for i in layers:
            size, difference = np.linalg.norm(expected[i]), np.linalg.norm(np.asarray(ours[name])[i] - expected[i])
            limit = 1e-4 * size if size > 1e-6 * largest else 1e-6 * largest
            assert difference < limit, f"{name}, layer {i}: {difference}, limit {limit}"


class Gradients(conversion.Source):
    """The gradients of a PyTorch model as if they were a file, so that they can be brought into our order."""

    path = "gradients"

    def __init__(self, model):
        self.arrays = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
        self.shapes = {name: array.shape for name, array in self.arrays.items()}

    def read(self, name):
        return self.arrays[name]
