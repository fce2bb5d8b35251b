"""From a model to the summed loss that training differentiates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rembert_jax import losses, sharding
from rembert_jax.modeling.models import RemBertForMaskedLM, RemBertForSequenceClassification
from rembert_jax.ops.split import Split
from rembert_jax.training.train_state import Params
from rembert_jax.training.train_step import Batch, Objective, Sums


def _dropout(key: jax.Array | None) -> dict[str, Any]:
    return {"deterministic": True} if key is None else {"deterministic": False, "rngs": {"dropout": key}}


def masked_lm(model: RemBertForMaskedLM, z_loss: float = 0.0) -> Objective:
    """Objective over batches of `data.pipeline`: packed rows with masked positions; `z_loss` as in `losses.masked_lm_loss`."""

    def objective(params: Params, batch: Batch, key: jax.Array | None) -> Sums:
        prediction: Any = model.apply(
            {"params": params},
            batch["input_ids"],
            position_ids=batch["position_ids"],
            segment_ids=batch["segment_ids"],  # Padding is a segment of its own, which no document sees.
            masked_positions=batch["masked_positions"],
            method="prediction_features",
            **_dropout(key),
        )
        features, table, bias = prediction
        split = Split.of(*sharding.mesh_axes("batch", "vocab", "embed"))
        return losses.masked_lm_loss(
            features, table, bias, batch["masked_labels"], batch["masked_weights"], z_loss, split
        )

    return objective


def hidden_states(model: nn.Module, params: Params, batch: Batch) -> tuple[jax.Array, ...]:
    """The projected embeddings and the output of each layer, each [B, L, H], of a batch of single texts.

    The model is one that has its encoder as `rembert`.
    """

    def encode(module: Any) -> Any:
        return module.rembert(batch["input_ids"], batch["attention_mask"], output_hidden_states=True).hidden_states

    return model.apply({"params": params}, method=encode)  # pyright: ignore[reportReturnType]


def _mean(states: jax.Array, mask: jax.Array) -> jax.Array:
    weights = mask[:, :, None].astype(jnp.float32)
    return (states * weights).sum(1) / jnp.maximum(weights.sum(1), 1.0)


POOLINGS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "mean": _mean,
    "cls": lambda states, mask: states[:, 0].astype(jnp.float32),
}
"""From a layer's output [B, L, H] and the attention mask [B, L] to a vector for each text, [B, H] float32."""


def sentence_vectors(model: nn.Module, layers: Sequence[int], pooling: str) -> Callable[[Params, Batch], Any]:
    """From parameters and a batch to `vectors`, [B, layers, H] float32; layer 0 is the projected embedding."""

    def vectors(params: Params, batch: Batch) -> dict[str, jax.Array]:
        states, pool = hidden_states(model, params, batch), POOLINGS[pooling]
        return {"vectors": jnp.stack([pool(states[layer], batch["attention_mask"]) for layer in layers], axis=1)}

    return vectors


def task_output(model: nn.Module, params: Params, batch: Batch, key: jax.Array | None) -> Any:
    """What a model with a head gives for a batch of rows of a task."""
    read = {}
    if isinstance(model, RemBertForSequenceClassification):  # It reads the first token alone.
        read["read_positions"] = jnp.zeros((batch["input_ids"].shape[0], 1), jnp.int32)
    return model.apply(
        {"params": params},
        batch["input_ids"],
        attention_mask=batch["attention_mask"],
        token_type_ids=batch["token_type_ids"],
        **read,
        **_dropout(key),
    )


LOSSES: dict[str, Callable[[Any, Batch], Sums]] = {
    "labels": lambda output, batch: losses.classification_loss(output.logits, batch["labels"]),
    "span": lambda output, batch: losses.question_answering_loss(
        output.start_logits, output.end_logits, batch["start_positions"], batch["end_positions"]
    ),
}
"""What a task may be trained for (`tasks.base.Task.loss`), from the output of its model and the batch."""

OUTPUTS: dict[str, Callable[[Any], dict[str, jax.Array]]] = {
    "classes": lambda output: {"classes": output.logits.argmax(-1)},
    "span_logits": lambda output: {"start_logits": output.start_logits, "end_logits": output.end_logits},
}
"""What the evaluation of a task may take from the output of its model (`tasks.base.Task.outputs`)."""


def task_outputs(model: nn.Module, outputs: str) -> Callable[[Params, Batch], dict[str, jax.Array]]:
    """What the evaluation of a task takes, from parameters and a batch."""
    return lambda params, batch: OUTPUTS[outputs](task_output(model, params, batch, None))


def task(model: nn.Module, loss: str = "labels") -> Objective:
    """Objective over batches of rows of a task."""

    def objective(params: Params, batch: Batch, key: jax.Array | None) -> Sums:
        return LOSSES[loss](task_output(model, params, batch, key), batch)

    return objective
