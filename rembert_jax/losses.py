"""Losses as (sum, weight) pairs, never means: the caller divides one global sum by one global weight.

Only question answering is the mean of two means, as it is documented for the model; see there when it is a plain sum.

Letters: T positions, E output embedding width, V vocabulary, B batch, L length, C labels. All sums are float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rembert_jax.errors import RemBertError
from rembert_jax.ops.split import Split
from rembert_jax.ops.vocabulary_loss import vocabulary_loss

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
    z_loss: float = 0.0,
    split: Split = Split(),
) -> dict[str, Float[Array, ""]]:
    """Masked-LM loss on gathered positions, by `ops.vocabulary_loss`.

    Only the predicted positions come in; an array of [batch, length, V] never exists.

    Args:
      features: output of the prediction head at the predicted positions.
      table: output embedding.
      bias: output bias.
      labels: original token ids.
      weights: 1 for a real prediction, 0 for an unused slot.
      z_loss: coefficient of a penalty on the logarithm of the softmax's normaliser (PaLM, arXiv:2204.02311, takes 1e-4).
      split: how the arrays lie on the mesh.

    Returns:
      `loss`: summed negative log-likelihood in nats; `weight`: number of predictions; `correct`: number of predictions
      whose largest logit is the label. With a `z_loss` also `penalty`: summed z_loss * logsumexp(logits)**2; the gradient of
      `loss` holds that of the penalty, which by itself has none.
    """
    flat = features.reshape(-1, features.shape[-1]), labels.reshape(-1), weights.reshape(-1).astype(jnp.float32)
    features, labels, weights = flat
    sums = vocabulary_loss(features, table, bias, labels, weights, z_loss, split)
    found = {"loss": sums.loss, "weight": jnp.sum(weights), "correct": sums.correct}
    return {**found, "penalty": sums.penalty} if z_loss else found


def classification_loss(logits: Float[Array, "*lead C"], labels: Int[Array, "*lead"]) -> dict[str, Float[Array, ""]]:
    """Cross-entropy over labels; positions labelled `IGNORED_LABEL` weigh nothing.

    Serves sequence classification and multiple choice (labels [B]), token classification (labels [B, L]), and a masked
    language model whose logits are there for all positions (labels [B, L]).

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


def next_token_loss(logits: Float[Array, "B L V"], labels: Int[Array, "B L"]) -> dict[str, Float[Array, ""]]:
    """Left-to-right language modelling: the logits at a position are compared with the label of the next one.

    Args:
      logits: of a `RemBertForCausalLM`.
      labels: usually the input ids; `IGNORED_LABEL` weighs nothing, the first label of a row is not used.

    Returns:
      `loss`, `weight` and `correct` as in `masked_lm_loss`.
    """
    return classification_loss(logits[:, :-1], labels[:, 1:])


def multi_label_loss(logits: Float[Array, "B C"], labels: Float[Array, "B C"]) -> dict[str, Float[Array, ""]]:
    """Sigmoid cross-entropy of each label by itself.

    Args:
      labels: 1 where the label applies, 0 where it does not.

    Returns:
      `loss`: sum over rows and labels; `weight`: their number.
    """
    logits, labels = logits.astype(jnp.float32), labels.astype(jnp.float32)
    loss = jnp.maximum(logits, 0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return {"loss": jnp.sum(loss), "weight": jnp.float32(labels.size)}


def regression_loss(
    predictions: Float[Array, "B C"], targets: Float[Array, "B C"] | Float[Array, " B"]
) -> dict[str, Float[Array, ""]]:
    """Squared error of each predicted number; targets may be [B] where one is predicted.

    Returns:
      `loss`: sum over rows and numbers; `weight`: their number.
    """
    difference = predictions.astype(jnp.float32) - targets.reshape(predictions.shape).astype(jnp.float32)
    return {"loss": jnp.sum(difference**2), "weight": jnp.float32(predictions.size)}


PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")


def sequence_classification_loss(
    logits: Float[Array, "B C"], labels: jax.Array, problem_type: str | None = None
) -> dict[str, Float[Array, ""]]:
    """The loss of `RemBertForSequenceClassification` for each of the three kinds of problem.

    Args:
      labels: class numbers [B], or [B, C] ones and zeros, or [B, C] or [B] real numbers.
      problem_type: one of `PROBLEM_TYPES`; None decides as the model is documented: one label is regression, whole numbers
        are a single label, others are multiple labels.

    Raises:
      RemBertError: for another problem type.
    """
    if problem_type is None:
        whole = jnp.issubdtype(labels.dtype, jnp.integer)
        problem_type = PROBLEM_TYPES[2 if logits.shape[-1] == 1 else 0 if whole else 1]
    if problem_type not in PROBLEM_TYPES:
        raise RemBertError(f"problem_type={problem_type!r}: expected one of {', '.join(PROBLEM_TYPES)}")
    if problem_type == "single_label_classification":
        return classification_loss(logits, labels)
    return multi_label_loss(logits, labels) if problem_type == PROBLEM_TYPES[1] else regression_loss(logits, labels)


def question_answering_loss(
    start_logits: Float[Array, "B L"],
    end_logits: Float[Array, "B L"],
    start_positions: Int[Array, " B"],
    end_positions: Int[Array, " B"],
) -> dict[str, Float[Array, ""]]:
    """Half the sum of the mean cross-entropies of start and end.

    A position at or behind L (an answer outside of this window) weighs nothing; a negative one counts as 0.

    Returns:
      `loss` and `weight`, whose quotient is the loss: `weight` is the larger number of counted starts or ends, and `loss`
      is a plain sum wherever the two numbers agree; `correct`: spans whose both ends have the largest logits.
    """
    length = start_logits.shape[-1]

    def one(logits: jax.Array, positions: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        positions = jnp.maximum(positions, 0)
        labels = jnp.where(positions < length, positions, IGNORED_LABEL)
        return classification_loss(logits, labels), jnp.argmax(logits, axis=-1) == labels

    (start, start_right), (end, end_right) = one(start_logits, start_positions), one(end_logits, end_positions)
    weight = jnp.maximum(start["weight"], end["weight"])
    mean = sum(part["loss"] / jnp.maximum(part["weight"], 1.0) for part in (start, end)) / 2
    return {"loss": mean * weight, "weight": weight, "correct": jnp.sum((start_right & end_right).astype(jnp.float32))}
