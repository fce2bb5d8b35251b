"""A wrong gradient of XLA's partitioner, as small as we could make it, and that what this package does instead is right.

Rows that are gathered from their positions go through a layer norm and are multiplied with a table, both split over a mesh on
which data, fsdp and tensor are all larger than 1 (jax 0.10.2 and 0.12.0, on CPUs). `modeling/heads.py` constrains the features,
and `ops/vocabulary_loss.py` leaves the partitioner nothing to split. Once the first test fails, both reasons are gone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rembert_jax import sharding
from rembert_jax.ops.split import Split
from rembert_jax.ops.vocabulary_loss import vocabulary_loss

ROWS, LENGTH, SLOTS, HIDDEN, WIDTH, WORDS = 8, 10, 3, 16, 24, 48
BATCH = PartitionSpec(("data", "fsdp"))
PLACES = (
    PartitionSpec("fsdp", "tensor"),
    PartitionSpec("tensor", "fsdp"),
    BATCH,
)  # Of kernel, table and hidden states.
rng = np.random.default_rng(0)
ARRAYS = [
    rng.standard_normal(shape).astype(np.float32) for shape in ((HIDDEN, WIDTH), (WORDS, WIDTH), (ROWS, LENGTH, HIDDEN))
]
POSITIONS = rng.integers(0, LENGTH, (ROWS, SLOTS))
LABELS = rng.integers(0, WORDS, ROWS * SLOTS).astype(np.int32)


def features(kernel, hidden, constrained):
    gathered = jnp.take_along_axis(hidden, POSITIONS[:, :, None], 1)
    x = jax.nn.gelu(gathered.reshape(-1, HIDDEN) @ kernel).reshape(ROWS, SLOTS, WIDTH)
    centred = x - x.mean(-1, keepdims=True)
    x = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    x = jax.lax.with_sharding_constraint(x, BATCH) if constrained else x
    return x.reshape(-1, WIDTH)


def plain(kernel, table, hidden, constrained=False):
    logits = jnp.einsum("TE,VE->TV", features(kernel, hidden, constrained), table)
    target = jnp.take_along_axis(logits, LABELS[:, None], 1)[:, 0]
    return jnp.sum(jax.nn.logsumexp(logits, -1) - target)


def by_constraint(kernel, table, hidden):
    return plain(kernel, table, hidden, constrained=True)


def by_island(kernel, table, hidden):
    split = Split(rows=("data", "fsdp"), vocabulary="tensor", width="fsdp")
    ones = jnp.ones(ROWS * SLOTS)
    x = features(kernel, hidden, constrained=False)
    return vocabulary_loss(x, table, jnp.zeros(WORDS), jnp.asarray(LABELS), ones, split=split).loss


def largest_error(loss):
    """Of each gradient on the mesh against that on one device, relative to its largest value."""
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
    expected = jax.jit(jax.grad(plain, (0, 1, 2)))(*ARRAYS)
    with jax.set_mesh(mesh):
        places = tuple(NamedSharding(mesh, place) for place in PLACES)
        found = jax.jit(jax.grad(loss, (0, 1, 2)), out_shardings=places)(*map(jax.device_put, ARRAYS, places))
    pairs = [(np.asarray(one), np.asarray(other)) for one, other in zip(found, expected, strict=True)]
    return max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs)


def test_left_to_itself_the_partitioner_computes_a_wrong_gradient():
    assert largest_error(plain) > 0.1


@pytest.mark.parametrize("loss", [by_constraint, by_island])
def test_what_is_done_instead_is_right(loss):
    assert largest_error(loss) < 1e-5
