"""Greedy and sampled continuation of token sequences, compiled as one program."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from rembert_jax.config import ids_of
from rembert_jax.errors import RemBertError
from rembert_jax.modeling.cache import KeyValueCache


class Sampling(struct.PyTreeNode):
    """How a token is drawn; the static fields decide which program is compiled.

    Attributes:
      temperature: logits are divided by it; unused without `do_sample`.
      do_sample: draw from the distribution; False takes the most probable token.
      top_k: draw from this many most probable tokens only; 0 for all.
      top_p: draw from the smallest set of most probable tokens whose probabilities reach this sum; 1 for all.
    """

    temperature: jax.Array
    do_sample: bool = struct.field(pytree_node=False, default=False)
    top_k: int = struct.field(pytree_node=False, default=0)
    top_p: float = struct.field(pytree_node=False, default=1.0)

    def draw(self, key: jax.Array, logits: Float[Array, "B V"]) -> Int[Array, " B"]:
        """One token for each row."""
        if not self.do_sample:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return jax.random.categorical(key, self.filtered(logits), axis=-1).astype(jnp.int32)

    def filtered(self, logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """Logits by temperature, minus infinity for tokens that must not be drawn; the most probable one always stays."""
        logits = logits / self.temperature
        if self.top_k:
            smallest = jax.lax.top_k(logits, min(self.top_k, logits.shape[-1]))[0][:, -1:]
            logits = jnp.where(logits < smallest, -jnp.inf, logits)
        if self.top_p < 1.0:
            order = jnp.argsort(-logits, axis=-1)
            probabilities = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
            before = jnp.cumsum(probabilities, axis=-1) - probabilities
            kept = jnp.take_along_axis(before < self.top_p, jnp.argsort(order, axis=-1), axis=-1)
            logits = jnp.where(kept, logits, -jnp.inf)
        return logits


class _State(struct.PyTreeNode):
    """Between two tokens: T is the length of prompt and continuation."""

    tokens: Int[Array, "B T"]
    valid: Bool[Array, "B T"]  # Real tokens: no padding of the prompt, nothing behind the end of a row.
    finished: Bool[Array, " B"]
    count: Int[Array, ""]  # Tokens generated.
    cache: KeyValueCache | None


def generate(
    model: Any,
    params: Any,
    input_ids: Int[Array, "B L"],
    attention_mask: Int[Array, "B _"] | None = None,
    *,
    max_new_tokens: int,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rng: jax.Array | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    use_cache: bool = True,
    encoder_hidden_states: Float[Array, "B S H"] | None = None,
    encoder_attention_mask: Int[Array, "B S"] | None = None,
) -> Int[Array, "B T"]:
    """Continues each prompt until the end token, or for `max_new_tokens`.

    Prompts of different lengths may be padded on either side: positions count real tokens only, and new tokens stand
    behind the longest prompt. The result does not depend on `use_cache`, beyond rounding.

    Args:
      model: a `RemBertForCausalLM`.
      params: its parameters.
      input_ids: prompts; at least one real token in each row.
      attention_mask: 0 at padding; all ones by default.
      max_new_tokens: tokens to add at most.
      do_sample, temperature, top_k, top_p: see `Sampling`.
      rng: key for sampling; required with `do_sample`.
      eos_token_id: token after which a row is finished, or several, each of which ends any row; `config.eos_token_id` by
        default, -1 or [] for none.
      pad_token_id: what stands behind the end token; `config.pad_token_id` by default, and where that is None the first end
        token.
      use_cache: keep keys and values; False computes the whole sequence anew for each token.
      encoder_hidden_states, encoder_attention_mask: for cross-attention.

    Returns:
      [B, L + max_new_tokens]: the prompts and their continuations.

    Raises:
      RemBertError: if the sequence would exceed `max_position_embeddings`, an option makes no sense, or a special id that is
        needed is outside the vocabulary.
    """
    c = model.config
    input_ids = jnp.asarray(input_ids)
    if not isinstance(input_ids, Tracer):
        c.check_ids({"input_ids": np.asarray(input_ids)})
    _check_options(c, input_ids.shape[1], max_new_tokens, do_sample, temperature, top_k, top_p, rng)
    attention_mask = jnp.ones(input_ids.shape, jnp.int32) if attention_mask is None else jnp.asarray(attention_mask)
    if attention_mask.shape != input_ids.shape:
        raise RemBertError(
            f"attention_mask of shape {attention_mask.shape}, expected that of input_ids, {input_ids.shape}"
        )
    ends, pad = _special_ids(c, eos_token_id, pad_token_id)
    sampling = Sampling(jnp.float32(temperature), do_sample=do_sample, top_k=top_k, top_p=top_p)
    return _generate(
        model,
        max_new_tokens,
        use_cache,
        params,
        input_ids,
        attention_mask,
        sampling,
        jax.random.key(0) if rng is None else rng,
        jnp.array(ends, jnp.int32),
        jnp.int32(pad),
        encoder_hidden_states,
        encoder_attention_mask,
    )


def _special_ids(config: Any, eos: int | Sequence[int] | None, pad: int | None) -> tuple[tuple[int, ...], int]:
    """The end tokens, and what stands behind them."""
    if isinstance(eos, np.integer):
        eos = int(eos)
    ends = ids_of(config.eos_token_id if eos is None else eos)
    ends = () if ends == (-1,) else ends
    pad = config.pad_token_id if pad is None else pad
    pad = (ends or (0,))[0] if pad is None else pad  # Without an end nothing stands behind it.
    for name, ids in (("eos_token_id", ends), ("pad_token_id", (pad,))):
        if strange := [i for i in ids if not 0 <= i < config.vocab_size]:
            none = ", or -1 for no end" if name == "eos_token_id" else ""
            raise RemBertError(
                f"{name}={strange[0]} is outside the vocabulary of {config.vocab_size}; give generate another{none}"
            )
    return ends, pad


def _check_options(
    config: Any, length: int, new: int, do_sample: bool, temperature: float, top_k: int, top_p: float, rng: Any
) -> None:
    if new < 1:
        raise RemBertError(f"max_new_tokens={new}: expected at least 1")
    if length + new > config.max_position_embeddings:
        raise RemBertError(
            f"a prompt of {length} tokens and max_new_tokens={new} exceed "
            f"max_position_embeddings={config.max_position_embeddings}; shorten one of them"
        )
    if do_sample and rng is None:
        raise RemBertError("do_sample=True needs rng=jax.random.key(seed)")
    if not temperature > 0 or top_k < 0 or not 0 < top_p <= 1:
        raise RemBertError(
            f"temperature={temperature}, top_k={top_k}, top_p={top_p}: expected temperature > 0, top_k >= 0, 0 < top_p <= 1"
        )


def _positions(valid: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """Number of real tokens before each one."""
    return jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(
    model: Any,
    max_new_tokens: int,
    use_cache: bool,
    params: Any,
    prompt: jax.Array,
    prompt_mask: jax.Array,
    sampling: Sampling,
    rng: jax.Array,
    ends: jax.Array,
    pad: jax.Array,
    memory: jax.Array | None,
    memory_mask: jax.Array | None,
) -> jax.Array:
    rows, length = prompt.shape
    total = length + max_new_tokens

    def logits(tokens: jax.Array, valid: jax.Array, at: jax.Array, positions: jax.Array, cache: Any) -> Any:
        """Logits [B, V] at column `at` [B] of `tokens`, and the cache after it."""
        output = model.apply(
            {"params": params},
            tokens,
            attention_mask=valid.astype(jnp.int32),
            position_ids=positions,
            encoder_hidden_states=memory,
            encoder_attention_mask=memory_mask,
            past_key_values=cache,
            logit_positions=at[:, None],
        )
        return output.logits[:, 0], output.past_key_values

    def add(state: _State, last: jax.Array) -> _State:
        drawn = sampling.draw(jax.random.fold_in(rng, state.count), last)
        token = jnp.where(state.finished, pad, drawn)
        column = length + state.count
        return state.replace(
            tokens=jax.lax.dynamic_update_slice(state.tokens, token[:, None], (0, column)),
            valid=jax.lax.dynamic_update_slice(state.valid, ~state.finished[:, None], (0, column)),
            finished=state.finished | jnp.isin(token, ends),
            count=state.count + 1,
        )

    def step(state: _State) -> _State:
        column = length + state.count - 1
        positions = _positions(state.valid)
        if not use_cache:
            at = jnp.full((rows,), column, jnp.int32)
            return add(state, logits(state.tokens, state.valid, at, positions, None)[0])

        def newest(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, column, 1, axis=1)

        at = jnp.zeros((rows,), jnp.int32)
        last, cache = logits(newest(state.tokens), newest(state.valid), at, newest(positions), state.cache)
        return add(state.replace(cache=cache), last)

    valid = prompt_mask > 0
    cache = KeyValueCache.empty(model.config, model.execution, rows, total) if use_cache else None
    # The last real token of each prompt, wherever its padding is.
    at = (length - 1 - jnp.argmax(valid[:, ::-1], axis=1)).astype(jnp.int32)
    last, cache = logits(prompt, valid, at, _positions(valid), cache)
    room = jnp.zeros((rows, max_new_tokens), jnp.int32)
    state = _State(
        tokens=jnp.concatenate([prompt.astype(jnp.int32), room + pad], axis=1),
        valid=jnp.concatenate([valid, room > 0], axis=1),
        finished=jnp.zeros((rows,), bool),
        count=jnp.zeros((), jnp.int32),
        cache=cache,
    )
    state = add(state, last)
    state = jax.lax.while_loop(lambda s: (s.count < max_new_tokens) & ~jnp.all(s.finished), step, state)
    return state.tokens
