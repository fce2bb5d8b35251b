"""Dynamic masking for masked-language modelling."""

from __future__ import annotations

import dataclasses

import grain
import numpy as np

from rembert_jax.errors import RemBertError

Features = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class MaskTokens(grain.transforms.RandomMap):
    """Chooses positions to predict and hides them: 80 % [MASK], 10 % a random token, 10 % unchanged (BERT).

    The result depends only on the row and on the generator that Grain derives from (seed, index of the row).

    Attributes:
      mask_token_id: id of [MASK].
      special_ids: ids that are neither masked nor drawn as random token.
      vocab_size: random tokens are drawn from all other ids below it.
      rate: share of maskable tokens to predict, where a row does not bring its own `mask_rate`; at least one where there is
        any.
      max_predictions: fixed number of slots per row.
      starts_word: for whole-word masking, whether each id begins a word; None masks tokens independently. At most two
        words of a row are masked in part, so that every token has the same chance and the rate is exact.
    """

    mask_token_id: int
    special_ids: np.ndarray
    vocab_size: int
    rate: float
    max_predictions: int
    starts_word: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 1.0:
            raise RemBertError(f"data.mask_rate={self.rate}: expected a share between 0 and 1")
        if self.max_predictions < 1:
            raise RemBertError(f"data.max_predictions={self.max_predictions}: expected at least 1")
        ordinary = np.setdiff1d(np.arange(self.vocab_size, dtype=np.int32), self.special_ids)
        object.__setattr__(self, "_ordinary", ordinary)
        is_special = np.zeros(self.vocab_size, bool)
        is_special[self.special_ids] = True
        object.__setattr__(self, "_is_special", is_special)

    def random_map(self, element: Features, rng: np.random.Generator) -> Features:
        """Adds `masked_positions`, `masked_labels` and `masked_weights` [max_predictions], hides `input_ids` [L]."""
        element = dict(element)
        rate = float(element.pop("mask_rate", self.rate))
        ids = element["input_ids"]
        candidates = np.flatnonzero(~self._is_special[ids])  # pyright: ignore[reportAttributeAccessIssue]
        positions = self._choose(ids, candidates, element["segment_ids"], rate, rng)
        labels = ids[positions]
        kind = rng.random(len(positions))
        ordinary: np.ndarray = self._ordinary  # pyright: ignore[reportAttributeAccessIssue]
        random_tokens = ordinary[rng.integers(len(ordinary), size=len(positions))]
        masked = ids.copy()
        masked[positions] = np.where(kind < 0.8, self.mask_token_id, np.where(kind < 0.9, random_tokens, labels))
        slots = np.zeros((2, self.max_predictions), np.int32)
        slots[:, : len(positions)] = positions, labels
        weights = np.zeros(self.max_predictions, np.float32)
        weights[: len(positions)] = 1.0
        return {
            **element,
            "input_ids": masked,
            "masked_positions": slots[0],
            "masked_labels": slots[1],
            "masked_weights": weights,
        }

    def _choose(
        self, ids: np.ndarray, candidates: np.ndarray, segments: np.ndarray, rate: float, rng: np.random.Generator
    ) -> np.ndarray:
        if not len(candidates):
            return candidates
        wanted = min(self.max_predictions, max(1, round(len(candidates) * rate)))
        if self.starts_word is None:
            return np.sort(rng.permutation(candidates)[:wanted])
        # A word begins at a piece that starts one, after a gap (a special token), and in a new document.
        begins = self.starts_word[ids[candidates]]
        begins[0] = True
        begins[1:] |= (np.diff(candidates) > 1) | (np.diff(segments[candidates]) != 0)
        words = np.split(candidates, np.flatnonzero(begins)[1:])
        # An arc of a circle of shuffled words. Taking words until the budget is full would prefer short words, and never
        # take one that is longer than the budget.
        circle = np.concatenate([words[index] for index in rng.permutation(len(words))])
        return np.sort(np.roll(circle, rng.integers(len(circle)))[:wanted])
