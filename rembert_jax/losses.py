"""Losses as (sum, weight) pairs, never means: the caller divides one global sum by one global weight.

Letters: T positions, E output embedding width, V vocabulary, B batch, L length, C labels. All sums are float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

IGNORED_LABEL = -100
"""Label of positions that count neither in a loss nor in a metric (later sub-words, special tokens, padding)."""


def cross_entropy(logits: Float[Array, "*lead C"], labels: Int[Array, "*lead"]) -> Float[Array, "*lead"]:
    """Negative log-likelihood of `labels` under `softmax(logits)`, in float32, one value for each position."""
    logits = logits.astype(jnp.float32)
    target = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - target


def masked_lm_loss(
    features: Float[Array, "*lead E"],
    table: Float[Array, "V E"],
    bias: Float[Array, " V"],
    labels: Int[Array, "*lead"],
    weights: Float[Array, "*lead"],
) -> dict[str, Float[Array, ""]]:
    """Masked-LM loss on gathered positions.

    Only the predicted positions come in, so the largest array is [T, V] with T = batch times predictions; an array of
    [batch, length, V] never exists.

    Args:
      features: output of the prediction head at the predicted positions.
      table: output embedding.
      bias: output bias.
      labels: original token ids.
      weights: 1 for a real prediction, 0 for an unused slot.

    Returns:
      `loss`: summed negative log-likelihood in nats; `weight`: number of predictions; `correct`: number of predictions
      whose largest logit is the label.
    """
    features = features.reshape(-1, features.shape[-1])
    labels, weights = labels.reshape(-1), weights.reshape(-1).astype(jnp.float32)
    logits = jnp.einsum("TE,VE->TV", features, table.astype(features.dtype), preferred_element_type=jnp.float32)
    logits = logits + bias[None, :].astype(jnp.float32)
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return {
        "loss": jnp.sum(cross_entropy(logits, labels) * weights),
        "weight": jnp.sum(weights),
        "correct": jnp.sum(correct * weights),
    }


def classification_loss(logits: Float[Array, "*lead C"], labels: Int[Array, "*lead"]) -> dict[str, Float[Array, ""]]:
    """Cross-entropy over labels; positions labelled `IGNORED_LABEL` weigh nothing.

    Serves sequence classification (labels [B]) and token classification (labels [B, L]).

    Returns:
      `loss`, `weight` and `correct` as in `masked_lm_loss`.
    """
    weights = (labels != IGNORED_LABEL).astype(jnp.float32)
    labels = jnp.where(labels == IGNORED_LABEL, 0, labels)
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return {
        "loss": jnp.sum(cross_entropy(logits, labels) * weights),
        "weight": jnp.sum(weights),
        "correct": jnp.sum(correct * weights),
    }
