"""How often each language is seen: p_l proportional to n_l ** alpha."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from rembert_jax.errors import RemBertError

logger = logging.getLogger(__name__)


def language_shares(counts: Mapping[str, int], alpha: float) -> dict[str, float]:
    """Sampling probability of each language.

    Args:
      counts: number of sentences (or documents) of each language, all positive.
      alpha: 1 keeps the natural proportions, 0 makes all languages equal; the paper uses 0.5.

    Raises:
      RemBertError: if there is no language, a language has no text, or `alpha` is outside [0, 1].
    """
    if not counts:
        raise RemBertError("no language to mix; set data.languages")
    if not 0.0 <= alpha <= 1.0:
        raise RemBertError(f"data.alpha={alpha}: expected a number between 0 and 1")
    empty = [language for language, count in counts.items() if count < 1]
    if empty:
        raise RemBertError(f"no text for {', '.join(empty)}; add some or take the language out of data.languages")
    return dict(zip(counts, smoothed_shares(list(counts.values()), alpha).tolist(), strict=True))


def smoothed_shares(counts: Sequence[int], alpha: float) -> np.ndarray:
    """Shares proportional to counts ** alpha, in their order."""
    smoothed = (np.array(counts) / sum(counts)) ** alpha
    return smoothed / smoothed.sum()


def log_shares(counts: Mapping[str, int], shares: Mapping[str, float]) -> None:
    """Logs size, natural share and sampling share of each language."""
    total = sum(counts.values())
    for language, count in counts.items():
        logger.info("%s: %d texts, %.1f %% of all, sampled %.1f %%", language, count, 100 * count / total,
                    100 * shares[language])  # fmt: skip
