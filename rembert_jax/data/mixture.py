"""How often each language is seen: p_l proportional to n_l ** alpha."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from rembert_jax.data.schedules import Schedule, value_at
from rembert_jax.data.shuffled import Shuffled
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


GOLDEN_RATIO = 0.5 * (5**0.5 - 1)


class MixedTexts(grain.IterDataset):
    """Token ids of the texts of all languages, mixed, without end: one of the streams that rows of batches come from.

    One stage for all languages, since Grain takes longer for a stage than for most texts. Each language is an arc of a circle,
    as long as its share; the next text is of the language that lies a golden angle further on, so after any number of texts
    each language has had its share but for a few of them. All streams together read each text of a language once in an epoch,
    also when its share changes.

    Args:
      texts: of each language, or their token ids, in the order in which they are read; streams may have them in common.
      counts: texts in an epoch of each language.
      encode: makes token ids of either.
      alpha: of the shares. The step of a text is taken from the tokens drawn before it; what is drawn waits in open rows before
        it is trained on, so the mixture is ahead by up to `packing.OPEN_ROWS` batches.
      tokens_per_step: tokens of this stream that a step of training takes.
      start: where on the circle it begins, from 0 to 1.
      index, count: which texts are of this stream: every `count`-th of each language, from `index` on.
    """

    def __init__(
        self,
        texts: Sequence[Shuffled],
        counts: Sequence[int],
        encode: Callable[[Any], list[int]],
        *,
        alpha: Schedule,
        tokens_per_step: float,
        start: float = 0.0,
        index: int = 0,
        count: int = 1,
    ) -> None:
        super().__init__()
        self.texts, self.counts, self.encode, self.alpha = texts, counts, encode, alpha
        self.tokens_per_step, self.start, self.index, self.count = tokens_per_step, start, index, count

    def __iter__(self) -> grain.DatasetIterator:
        return _MixedTextsIterator(self)


class _MixedTextsIterator(grain.DatasetIterator):
    def __init__(self, dataset: MixedTexts) -> None:
        super().__init__()
        self._dataset = dataset
        self.set_state({"tokens": 0, "drawn": np.zeros(len(dataset.texts), np.int64)})

    def __next__(self) -> list[int]:
        dataset = self._dataset
        step = int(self._tokens / dataset.tokens_per_step)
        if step != self._step:
            self._step = step
            self._ends = np.cumsum(smoothed_shares(dataset.counts, value_at(dataset.alpha, step)))
        where = (dataset.start + self._all_drawn * GOLDEN_RATIO) % 1.0
        chosen = min(int(self._ends.searchsorted(where, "right")), len(self._ends) - 1)  # The sum may fall short of 1.
        ids = dataset.encode(dataset.texts[chosen][dataset.index + dataset.count * int(self._drawn[chosen])])
        self._drawn[chosen] += 1
        self._all_drawn += 1
        self._tokens += len(ids) + 2  # With [CLS] and [SEP].
        return ids

    def get_state(self) -> dict[str, Any]:
        return {"tokens": self._tokens, "drawn": self._drawn.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        self._tokens, self._drawn, self._step = state["tokens"], np.array(state["drawn"]), -1
        self._all_drawn = int(self._drawn.sum())
