"""From an encoder to pairs of sentences that may be translations, layer by layer, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rembert_jax.tasks.base import Example, TaskError
from rembert_jax.tasks.retrieval import Match, Retrieval
from rembert_jax.training import objectives
from rembert_jax.training.evaluators import Place, TaskEvaluator
from rembert_jax.training.program import Program
from rembert_jax.training.search import BLOCK, Neighbours, Search
from rembert_jax.training.train_state import Params


class Retriever:
    """Searches the English sentences of a language among its own.

    The vectors of the language's sentences are held, for as many layers at once as `memory_gib` allows; English sentences are
    encoded block by block and compared, and nothing of them is kept but their neighbours.
    """

    def __init__(
        self, task: Retrieval, program: Program, width: int, *, batch_size: int, place: Place, block: int = BLOCK
    ) -> None:
        """Prepares to search.

        Args:
          task: what is searched, and how.
          program: of the encoder.
          width: of its vectors.
          batch_size: sentences that are encoded at once.
          place: how batches get to the devices.
          block: sentences that are compared at once.
        """
        self._task, self._program, self._width = task, program, width
        self._batch_size, self._place, self._block = batch_size, place, block
        self._encoders: dict[tuple[int, ...], TaskEvaluator] = {}

    def layers_at_once(self, sentences: int) -> int:
        """How many layers' vectors of so many sentences are held at once.

        Raises:
          TaskError: if those of one layer are too many.
        """
        one = sentences * self._width * 4 / 2**30
        allowed = self._task.options.memory_gib
        if one > allowed:
            raise TaskError(
                f"options.memory_gib={allowed:g}: the vectors of {sentences:,} sentences take {one:.2g} GiB; allow as much"
            )
        return int(allowed / one)

    def matches(
        self, params: Params, english: Sequence[Example], sources: Sequence[Example], layers: Sequence[int]
    ) -> Iterator[tuple[int, list[Match]]]:
        """For each layer the pairs that may be translations, the best first."""
        kept = [np.array(self._task.distinct(side)) for side in (english, sources)]
        at_once = self.layers_at_once(len(kept[1]))
        for start in range(0, len(layers), at_once):
            chosen = tuple(layers[start : start + at_once])
            searches = [Search(self._task.options.neighbours, block=self._block) for _ in chosen]
            for vectors in self._vectors(params, sources, kept[1], chosen):
                for place, search in enumerate(searches):
                    search.hold(vectors[:, place])
            backward: list[list[Neighbours]] = [[] for _ in chosen]
            for vectors in self._vectors(params, english, kept[0], chosen):
                for place, search in enumerate(searches):
                    backward[place].append(search.add(vectors[:, place]))
            for layer, search, parts in zip(chosen, searches, backward, strict=True):
                both = search.nearest, Neighbours(*map(np.concatenate, zip(*parts, strict=True)))
                found = self._task.matches(*both)
                yield layer, [Match(one.score, int(kept[1][one.source]), int(kept[0][one.english])) for one in found]

    def _vectors(
        self, params: Params, examples: Sequence[Example], numbers: np.ndarray, layers: tuple[int, ...]
    ) -> Iterator[np.ndarray]:
        """Those of the sentences with these numbers, a block at a time, [sentences, layers, width]."""
        if layers not in self._encoders:
            outputs: Any = objectives.sentence_vectors(self._program.model, layers, self._task.options.pooling)
            predict = jax.jit(outputs, out_shardings=NamedSharding(self._program.mesh, PartitionSpec()))
            self._encoders[layers] = TaskEvaluator(self._task, predict, batch_size=self._batch_size, place=self._place)
        for start in range(0, len(numbers), self._block):
            part = [examples[number] for number in numbers[start : start + self._block]]
            yield np.stack(self._encoders[layers].predictions(params, part))
