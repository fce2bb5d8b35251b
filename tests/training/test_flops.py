"""Operations of traced functions, worked by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from rembert_jax.training.flops import executed_flops

X, W = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8, 8), jnp.float32)
PRODUCT = 2 * 4 * 8 * 8


def flops(function, *arguments):
    return executed_flops(jax.make_jaxpr(function)(*arguments))


def layers(count, remat):
    def layer(x, w):
        return jnp.tanh(jnp.tanh(x @ w) @ w), None

    def loss(x, w):
        body = jax.checkpoint(layer) if remat else layer
        return jax.lax.scan(lambda x, _: body(x, w), x, length=count)[0].sum()

    return jax.grad(loss, argnums=(0, 1))


def test_a_product_is_twice_its_multiplications():
    assert flops(lambda x, w: x @ w, X, W) == PRODUCT
    assert flops(lambda x, w: x @ w[:, :3], X, W) == 2 * 4 * 8 * 3
    assert flops(lambda x, w: x @ w[:, :3], X, W) == flops(lambda x, w: w[:3] @ x.T, X, W)
    assert (
        flops(lambda x: jnp.einsum("bld,bmd->blm", x, x), jax.ShapeDtypeStruct((3, 5, 7), jnp.float32))
        == 2 * 3 * 25 * 7
    )
    assert flops(lambda x: jnp.sin(x).sum(), X) == 0


@pytest.mark.parametrize("count", [1, 5])
def test_what_a_scan_repeats_counts_as_often_and_what_is_computed_again_counts_again(count):
    # Two products forward, of each two backward; with rematerialisation the forward ones, or but the last, once more.
    assert flops(layers(count, remat=False), X, W) == 6 * count * PRODUCT
    assert flops(layers(count, remat=True), X, W) in (7 * count * PRODUCT, 8 * count * PRODUCT)


def test_a_branch_counts_once_and_a_part_of_a_mesh_as_often_as_there_are_parts():
    def branch(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert flops(branch, X, W) == 2 * PRODUCT
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    split = jax.shard_map(
        jnp.matmul,
        mesh=mesh,
        in_specs=(PartitionSpec("a"), PartitionSpec()),
        out_specs=PartitionSpec("a"),
        axis_names={"a"},
    )
    assert flops(split, X, W) == PRODUCT
