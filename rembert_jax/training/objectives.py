"""From a model to the summed loss that training differentiates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rembert_jax import losses, sharding
from rembert_jax.modeling.models import (
    RemBertForMaskedLM,
    RemBertForSequenceClassification,
    RemBertForTokenClassification,
)
from rembert_jax.ops.split import Split
from rembert_jax.training.train_state import Params
from rembert_jax.training.train_step import Batch, Objective, Sums

ClassificationModel = RemBertForSequenceClassification | RemBertForTokenClassification


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


def hidden_states(model: RemBertForMaskedLM, params: Params, batch: Batch) -> tuple[jax.Array, ...]:
    """The projected embeddings and the output of each layer, each [B, L, H], of a batch of single texts."""

    def encode(module: Any) -> Any:
        return module.rembert(batch["input_ids"], batch["attention_mask"], output_hidden_states=True).hidden_states

    return model.apply({"params": params}, method=encode)  # pyright: ignore[reportReturnType]


def class_logits(model: ClassificationModel, params: Params, batch: Batch, key: jax.Array | None) -> jax.Array:
    """Logits of a classification model for a batch of task features."""
    read = {}
    if isinstance(model, RemBertForSequenceClassification):  # It reads the first token alone.
        read["read_positions"] = jnp.zeros((batch["input_ids"].shape[0], 1), jnp.int32)
    output: Any = model.apply(
        {"params": params},
        batch["input_ids"],
        attention_mask=batch["attention_mask"],
        token_type_ids=batch["token_type_ids"],
        **read,
        **_dropout(key),
    )
    return output.logits


def classification(model: ClassificationModel) -> Objective:
    """Objective over batches of task features."""

    def objective(params: Params, batch: Batch, key: jax.Array | None) -> Sums:
        return losses.classification_loss(class_logits(model, params, batch, key), batch["labels"])

    return objective
