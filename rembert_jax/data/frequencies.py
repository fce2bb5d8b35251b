"""What the frequencies of words alone tell of masked tokens: the loss that pre-training has to fall well below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rembert_jax.data.masking import Features
from rembert_jax.data.tokenized import encode
from rembert_jax.tokenization import RemBertTokenizer

SAMPLE = 5000
"""Training texts of each language that are counted at most."""


def frequency_losses(
    texts: Mapping[str, Sequence[str] | Sequence[list[int]]],
    batches: Mapping[str, Sequence[Features]],
    tokenizer: RemBertTokenizer,
    sample: int = SAMPLE,
) -> dict[str, float]:
    """Loss (nats per masked token) by language of a guess that knows the language and how frequent each piece is in it.

    Args:
      texts: language to training texts, or to their token ids.
      batches: language to held-out batches (`pipeline.eval_batches`).
      tokenizer: of both.
      sample: how many training texts of each language are counted, spread evenly over all of them.
    """
    return {language: _loss(texts[language], rows, tokenizer, sample) for language, rows in batches.items()}


def _loss(texts: Sequence[Any], batches: Sequence[Features], tokenizer: RemBertTokenizer, sample: int) -> float:
    counts = np.ones(tokenizer.vocab_size)  # One more than seen, so that nothing is impossible.
    step = max(1, len(texts) // sample)
    for index in range(0, len(texts), step):
        text = texts[index]
        ids = encode(tokenizer, text) if isinstance(text, str) else text
        counts += np.bincount(np.array(ids, np.int64), minlength=len(counts))
    nats = -np.log(counts / counts.sum())
    loss = sum(float(np.sum(batch["masked_weights"] * nats[batch["masked_labels"]])) for batch in batches)
    return loss / sum(float(np.sum(batch["masked_weights"])) for batch in batches)
