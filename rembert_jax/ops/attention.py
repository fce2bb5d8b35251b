"""Attention behind one seam: what may be seen goes in, and how it is computed is decided here.

Letters: B batch, Q queries, K keys, L length of a sequence that attends to itself, N heads, D head width.

| implementation | where | saved for the backward pass | needs |
| --- | --- | --- | --- |
| "splash" | TPU | queries, keys, values, output, one number for each query | self-attention, L a multiple of 128 |
| "cudnn" | GPU | the same | 16-bit values, D a multiple of 8 up to 128, even Q and K |
| "xla" | everywhere | probabilities [B, N, Q, K] | nothing |

"auto" takes the fused one of the platform that is computed on, and "xla" where its needs are not met, where probabilities are
dropped out, where keys come from a cache, or where a mesh of TPUs does not divide rows or heads. The platform is that of the
mesh that is set (`jax.set_mesh`), also where its devices are only described, as in ahead-of-time compilation; without a mesh,
that of JAX's first device. All agree; a query that sees nothing attends evenly to everything, but its gradient differs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from rembert_jax.errors import RemBertError
from rembert_jax.ops.products import einsum_float32
from rembert_jax.ops.split import parts

PLATFORMS = {"splash": ("tpu",), "cudnn": ("cuda", "gpu"), "xla": None}
"""Implementation to the platforms that have it; None for all."""

SPLASH_BLOCKS = (512, 384, 256, 128)
"""Queries and keys of a tile of the TPU kernel, the first that divides L: of a sequence of the released length, all of it."""
BLOCK_SIZES = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute", "block_q_dq",
               "block_kv_dq")  # fmt: skip


class Visible(struct.PyTreeNode):
    """What a query may see: keys that are tokens, of its own document, not behind it, not in an empty slot of a cache.

    Attributes:
      keys: [B, K], False at padding, which no query sees.
      segments: [B, L], in a packed row the number of the document of each token; None where a row is one document.
      length: slots of a cache that were in use before these queries, which stand in the slots that follow; None without one.
      queries: [B, Q], positions of the tokens that are queries; None where all are.
      causal: whether a query sees only itself and what stands before it; with a cache it does in any case.
    """

    keys: Bool[Array, "B K"]
    segments: Int[Array, "B L"] | None = None
    length: Int[Array, ""] | None = None
    queries: Int[Array, "B Q"] | None = None
    causal: bool = struct.field(pytree_node=False, default=False)

    def mask(self, queries: int) -> Bool[Array, "B 1 Q K"]:
        """The same for each pair of query and key."""
        keys = self.keys.shape[1]
        mask = self.keys[:, None, None, :]
        if self.segments is not None:
            own = self.segments
            if self.queries is not None:
                own = jnp.take_along_axis(own, self.queries, axis=1)
            mask = mask & (own[:, None, :, None] == self.segments[:, None, None, :])
        if self.causal or self.length is not None:
            place = jnp.arange(queries, dtype=jnp.int32)[None] if self.queries is None else self.queries
            place = place if self.length is None else place + self.length
            mask = mask & (jnp.arange(keys, dtype=jnp.int32)[None, None, :] <= place[:, :, None])[:, None]
        return jnp.broadcast_to(mask, (self.keys.shape[0], 1, queries, keys))


def probabilities(
    query: Float[Array, "B Q N D"], key: Float[Array, "B K N D"], visible: Visible
) -> Float[Array, "B N Q K"]:
    """Softmax of the scaled scores, in float32.

    A query that sees no key attends evenly to all of them instead of producing NaN; to all slots in use, where keys come
    from a cache with empty slots.
    """
    scores = einsum_float32("BQND,BKND->BNQK", query, key)
    scores = scores * (query.shape[-1] ** -0.5)
    # Added, not put in place of the scores, as the reference does: the sum is the most negative number either way, but a
    # query that sees no key keeps its gradient.
    scores = scores + jnp.where(visible.mask(query.shape[1]), 0.0, jnp.finfo(jnp.float32).min)
    if visible.length is not None:
        in_use = jnp.arange(key.shape[1], dtype=jnp.int32) < visible.length + query.shape[1]
        scores = jnp.where(in_use[None, None, None, :], scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)


def weighted_values(weights: Float[Array, "B N Q K"], value: Float[Array, "B K N D"]) -> Float[Array, "B Q N D"]:
    """Values by the probabilities of their keys, in the dtype of the values."""
    return jnp.einsum("BNQK,BKND->BQND", weights.astype(value.dtype), value)


def attention(
    query: Float[Array, "B Q N D"],
    key: Float[Array, "B K N D"],
    value: Float[Array, "B K N D"],
    visible: Visible,
    *,
    implementation: str = "auto",
    dropout: Callable[[jax.Array], jax.Array] | None = None,
    split: PartitionSpec | None = None,
) -> Float[Array, "B Q N D"]:
    """What each query takes from the values of the keys that it may see.

    Args:
      query, key, value: already projected and split into heads.
      visible: what may be seen.
      implementation: "auto", or one of the table above by name.
      dropout: what is done to the probabilities; None for nothing.
      split: mesh axes over which B, L, N and D are split, for a kernel that cannot be split by the compiler.

    Raises:
      RemBertError: if an implementation is asked for by name that this platform or these shapes do not have.
    """
    chosen = choose(query, key, visible, implementation, dropout is not None, split)
    if chosen == "splash":
        return _on_mesh(_splash, split)(query, key, value, visible)
    if chosen == "cudnn":
        return _cudnn(query, key, value, visible)
    weights = probabilities(query, key, visible)
    return weighted_values(weights if dropout is None else dropout(weights), value)


def platform() -> str:
    """Of the devices that are computed on: those of the mesh that is set, or JAX's own."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None or device.platform is None else device.platform


def choose(
    query: Any,
    key: Any,
    visible: Visible,
    implementation: str = "auto",
    dropout: bool = False,
    split: PartitionSpec | None = None,
) -> str:
    """Which implementation computes attention of these shapes here; the other arguments are as in `attention`.

    Raises:
      RemBertError: naming what is missing, if one is asked for by name that cannot.
    """
    if implementation not in ("auto", *PLATFORMS):
        raise RemBertError(f"attention={implementation!r}: expected one of auto, {', '.join(PLATFORMS)}")
    here = platform()
    fused = next((name for name, where in PLATFORMS.items() if where and here in where), "xla")
    wanted = fused if implementation == "auto" else implementation
    if wanted == "xla":
        return wanted
    missing = _missing(wanted, query, key, visible, dropout, split)
    if here not in (PLATFORMS[wanted] or ()):
        missing = [f"runs on {' and '.join(PLATFORMS[wanted] or ())}, and this is {here}", *missing]
    if missing and implementation != "auto":
        raise RemBertError(f"attention={wanted!r} {'; it '.join(missing)}; take auto or xla")
    return "xla" if missing else wanted


def _missing(
    name: str, query: Any, key: Any, visible: Visible, dropout: bool, split: PartitionSpec | None
) -> list[str]:
    """What these shapes lack for a fused implementation."""
    (rows, queries, heads, width), keys = query.shape, key.shape[1]
    missing = []
    if dropout:
        missing.append("drops out no probabilities (attention_probs_dropout_prob must be 0 in training)")
    if visible.length is not None:
        missing.append("reads no cache")
    if name == "splash":
        if visible.queries is not None:
            missing.append("takes all tokens as queries")
        if queries != keys or queries % SPLASH_BLOCKS[-1]:
            missing.append(f"needs as many queries as keys, a multiple of 128, and has {queries} and {keys}")
        of_rows, of_heads = (1, 1) if split is None else (parts(split[0]), parts(split[2]))
        if rows % of_rows or heads % of_heads:
            missing.append(
                f"needs rows and heads that are multiples of {of_rows} and {of_heads}, as the mesh splits them, and has "
                f"{rows} and {heads}"
            )
    else:
        if query.dtype not in (jnp.bfloat16, jnp.float16):
            missing.append(f"needs bfloat16 or float16 and has {query.dtype}")
        if width % 8 or width > 128:
            missing.append(f"needs heads of a width that is a multiple of 8 up to 128 and has {width}")
        if queries % 2 or keys % 2:
            missing.append(f"needs an even number of queries and keys and has {queries} and {keys}")
    return missing


def _on_mesh(kernel: Callable[..., jax.Array], split: PartitionSpec | None) -> Callable[..., jax.Array]:
    """The kernel on each device's own rows and heads; the compiler cannot split it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or split is None:
        return kernel
    rows = PartitionSpec(split[0])

    def run(query: jax.Array, key: jax.Array, value: jax.Array, visible: Visible) -> jax.Array:
        inputs = (split, split, split, rows)
        return jax.shard_map(kernel, mesh=mesh, in_specs=inputs, out_specs=split, check_vma=False)(
            query, key, value, visible
        )

    return run


def _splash(query: jax.Array, key: jax.Array, value: jax.Array, visible: Visible, interpret: bool = False) -> jax.Array:
    """Pallas's kernel for TPUs, whose tiles never leave the chip's fast memory."""
    # Not above: a tenth of every start, most of which are not on TPUs.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash_kernels

    length, heads = query.shape[1:3]
    shape = (length, length)
    one = splash_kernels.CausalMask(shape) if visible.causal else splash_kernels.FullMask(shape)
    block = next(size for size in SPLASH_BLOCKS if length % size == 0)
    kernel = splash_kernels.make_splash_mha(
        mask=splash_kernels.MultiHeadMask([one] * heads),
        block_sizes=splash_kernels.BlockSizes(**dict.fromkeys(BLOCK_SIZES, block)),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # Padding is a document of its own as a key, to which no query belongs.
    of_queries = jnp.zeros_like(visible.keys, jnp.int32) if visible.segments is None else visible.segments
    of_keys = jnp.where(visible.keys, of_queries, -1)
    segments = splash_kernels.SegmentIds(q=of_queries, kv=of_keys)
    scaled = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    by_head = [x.swapaxes(1, 2) for x in (scaled, key, value)]  # [B, N, L, D]
    attended: Any = jax.vmap(kernel)(*by_head, segment_ids=segments)
    return attended.swapaxes(1, 2)


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array, visible: Visible) -> jax.Array:
    """cuDNN's fused attention. Its own layout for packed rows attends across documents, so they are masked."""

    def save(primitive: Any, *_: Any, **__: Any) -> bool:
        return primitive.name.startswith("dot_product_attention_fwd")

    # Only what the kernel returns is saved; the mask is made anew in the backward pass.
    @functools.partial(jax.checkpoint, policy=save)
    def run(query: jax.Array, key: jax.Array, value: jax.Array, visible: Visible) -> jax.Array:
        return jax.nn.dot_product_attention(
            query, key, value, mask=visible.mask(query.shape[1]), implementation="cudnn"
        )

    return run(query, key, value, visible)
