"""How often each language is seen: p_l proportional to n_l ** alpha."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from rembert_jax.data.schedules import Schedule, value_at
from rembert_jax.errors import RemBertError

logger = logging.getLogger(__name__)

TABLE = 2**16
"""Texts of which an order is kept as a table; Grain's function of the index takes longer for fewer."""


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


class MixedTexts(grain.IterDataset):
    """Token ids of the texts of all languages, mixed, without end.

    One stage for all languages, since Grain takes longer for a stage than for most texts. The language that is furthest behind
    its share comes next. All processes and workers together read each text of a language once in an epoch, also when its share
    changes.

    Args:
      texts: of each language, or their token ids.
      encode: makes token ids of either.
      alpha: of the shares. The step of a text is taken from the tokens drawn before it; what is drawn waits in open rows before
        it is trained on, so the mixture is ahead by a few batches.
      tokens_per_step: tokens of this stream that a step of training takes.
      seed: of the order of texts.
      index, count: which texts are of this stream: every `count`-th of each language, from `index` on.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[Any]],
        encode: Callable[[Any], list[int]],
        *,
        alpha: Schedule,
        tokens_per_step: float,
        seed: int,
        index: int = 0,
        count: int = 1,
    ) -> None:
        super().__init__()
        self.texts, self.encode, self.alpha, self.tokens_per_step = texts, encode, alpha, tokens_per_step
        self.texts_seed, self.index, self.count = seed, index, count

    def set_slice(self, sl: slice, sequential_slice: bool = False) -> None:
        """Gives a worker its part: Grain calls this in each of them."""
        assert not sequential_slice, "texts are dealt out in turn"
        self.index, self.count = self.index + self.count * sl.start, self.count * sl.step

    def __iter__(self) -> grain.DatasetIterator:
        return _MixedTextsIterator(self)


class _MixedTextsIterator(grain.DatasetIterator):
    def __init__(self, dataset: MixedTexts) -> None:
        super().__init__()
        self._dataset = dataset
        self._languages = [_Shuffled(texts, [dataset.texts_seed, n]) for n, texts in enumerate(dataset.texts)]
        self._counts = [len(texts) for texts in dataset.texts]
        self._tokens, self._drawn, self._due = 0, [0] * len(self._counts), np.zeros(len(self._counts))
        self._step, self._shares = -1, self._due

    def __next__(self) -> list[int]:
        dataset = self._dataset
        step = int(self._tokens / dataset.tokens_per_step)
        if step != self._step:
            self._step, self._shares = step, smoothed_shares(self._counts, value_at(dataset.alpha, step))
        self._due += self._shares
        chosen = int(self._due.argmax())
        self._due[chosen] -= 1.0
        ids = dataset.encode(self._languages[chosen][dataset.index + dataset.count * self._drawn[chosen]])
        self._drawn[chosen] += 1
        self._tokens += len(ids) + 2  # With [CLS] and [SEP].
        return ids

    def get_state(self) -> dict[str, Any]:
        return {"tokens": self._tokens, "drawn": self._drawn.copy(), "due": self._due.tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        self._tokens, self._drawn, self._due = state["tokens"], list(state["drawn"]), np.array(state["due"])
        self._step = -1


class _Shuffled:
    """The texts of one language without end, each epoch in an order of its own."""

    def __init__(self, texts: Sequence[Any], seed: list[int]) -> None:
        self._texts, self._seed = texts, seed
        self._epoch, self._order = -1, _permutation(1, seed)

    def __getitem__(self, position: int) -> Any:
        epoch, index = divmod(position, len(self._texts))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _permutation(len(self._texts), [*self._seed, epoch])
        return self._texts[self._order(index)]


def _permutation(size: int, seed: list[int]) -> Callable[[int], int]:
    if size <= TABLE:
        return np.random.default_rng(seed).permutation(size).tolist().__getitem__
    number, last = int(np.random.SeedSequence(seed).generate_state(1)[0]), size - 1
    # Where the last index is a power of four, Grain's function (0.2.18) leaves out one and gives another one twice.
    largest = last if last & (last - 1) else last - 1

    def shuffled(index: int) -> int:
        return grain.experimental.index_shuffle(index, max_index=largest, seed=number, rounds=4)

    return lambda index: shuffled(index) if index <= largest else last
