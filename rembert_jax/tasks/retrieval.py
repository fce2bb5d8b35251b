"""Retrieval: of which sentence of another language an English one is the translation, by vectors that nobody trained for it.

As XTREME's scripts do it for Tatoeba ("nearest") and BUCC ("margin"), save that the layer may be chosen on development data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from rembert_jax.tasks.base import Example, Features, Guess, Prediction, Task, TaskConfig, TaskError, place
from rembert_jax.xtreme import retrieval


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Section `task.options` of retrieval.

    Attributes:
      method: "nearest": each English sentence takes the one with the highest cosine; "margin": pairs that are nearer to each
        other than to their neighbours, above a threshold that is fitted on development data (`xtreme.retrieval.mine`).
      layer: whose output is pooled, 0 for the projected embedding; -1 takes the best on development data, or, without a
        `dev_split`, the one behind the middle, which XTREME's scripts take: 7 of 12, 13 of 24.
      pooling: the "mean" of all tokens, [CLS] and [SEP] among them, or "cls", the first one's vector.
      neighbours: how many a margin looks at.
      memory_gib: of the vectors of one language that lie on a device; where those of all layers are more, the sentences are
        encoded again for the next layers. 4,096 English sentences at a time lie beside them.
    """

    method: Literal["nearest", "margin"]
    layer: int = -1
    pooling: Literal["mean", "cls"] = "mean"
    neighbours: int = 4
    memory_gib: float = 8.0

    def __post_init__(self) -> None:
        if self.layer < -1:
            raise TaskError(f"layer={self.layer}: expected the number of a layer, or -1 to choose one")
        if self.neighbours < 1:
            raise TaskError(f"neighbours={self.neighbours}: expected at least 1")
        if self.memory_gib <= 0:
            raise TaskError(f"memory_gib={self.memory_gib}: expected more than 0")


Neighbours = tuple[np.ndarray, np.ndarray]
"""Cosines and numbers of the nearest, both [sentences, k]."""


class Match(NamedTuple):
    """A pair that may be one: its score, and the numbers of both sentences."""

    score: float
    source: int
    english: int


class Retrieval(Task):
    """[CLS] sentence [SEP]. An example is an English sentence; it is predicted the id of its source, or none."""

    Options = Options
    model = "base"
    sides = ("english", "source")
    one_row = True
    metric_names = ("accuracy", "f1", "precision", "recall")
    options: Options

    @classmethod
    def check(cls, config: TaskConfig, options: Any) -> None:
        super().check(config, options)
        if config.source == "tfds" or "{side}" not in config.path:
            raise TaskError(
                f"path={config.path}: expected files with {{side}} in their names, which stands for {' and '.join(cls.sides)}"
            )
        if options.method == "margin" and not config.dev_split:
            raise TaskError("method='margin' fits its threshold on development data; name a dev_split")
        if config.metric and (config.metric == "accuracy") != (options.method == "nearest"):
            raise TaskError(f"metric={config.metric}: method={options.method!r} is not judged by it")

    @property
    def metric(self) -> str:
        return self.config.metric or ("accuracy" if self.options.method == "nearest" else "f1")

    def check_examples(self, examples: Sequence[Example]) -> None:
        """That each sentence has an id of its own; of English ones `check_translations` says more."""
        seen: dict[str, str] = {}
        for example in examples:
            name = example.get("id")
            if not isinstance(name, str):
                raise TaskError(f"{place(example)}: no string under 'id'; expected one for each sentence")
            if name in seen:
                raise TaskError(
                    f"{place(example)}: id {name!r} is that of {seen[name]} already; give each sentence its own"
                )
            seen[name] = place(example)

    def check_translations(self, english: Sequence[Example], sources: Sequence[Example]) -> None:
        """Raises `TaskError` for a translation that is not there, or if there is none at all."""
        known, found = {example["id"] for example in sources}, False
        for example in english:
            for name in self._translations(example):
                if name not in known:
                    raise TaskError(f"{place(example)}: {name!r} in {self.config.label_field!r} is no id of a source")
                found = True
        if not found:
            raise TaskError(
                f"{place(english[0])} and all others: nothing in {self.config.label_field!r}; expected ids of sources"
            )

    def _translations(self, example: Example) -> Sequence[str]:
        found = example.get(self.config.label_field)
        if not isinstance(found, (list, tuple)):
            raise TaskError(f"{place(example)}: {self.config.label_field}={found!r}: expected a list of ids")
        return found

    def distinct(self, examples: Sequence[Example]) -> Sequence[int]:
        """Numbers of those to compare: a margin takes the first of equal sentences, as XTREME's script does."""
        if self.options.method == "nearest":
            return range(len(examples))
        field, first = self.config.text_fields[0], {}
        for number, example in enumerate(examples):
            first.setdefault(example[field], number)
        return list(first.values())

    def rows(self, example: Example) -> list[Features]:
        text = example[self.config.text_fields[0]]
        if not isinstance(text, str):
            raise TaskError(f"{place(example)}: {self.config.text_fields[0]} is no string: {text!r}")
        pieces = self.encode(text)[: self.config.max_length - 2]
        ids = [self.tokenizer.cls_token_id, *pieces, self.tokenizer.sep_token_id]
        return [self.inputs(ids, [0] * len(ids))]

    def merge(self, example: Example, rows: Sequence[Features], outputs: Sequence[Features]) -> Prediction:
        """The vectors of a sentence, [layers, H]; what is predicted for it takes those of all others."""
        return outputs[0]["vectors"]

    def matches(self, forward: Neighbours, backward: Neighbours) -> list[Match]:
        """Pairs that may be translations, the best first, from the nearest of each source and of each English sentence."""
        if self.options.method == "margin":
            return [Match(*pair) for pair in retrieval.mine(forward, backward)]
        best = zip(*(values[:, 0].tolist() for values in backward), strict=True)
        found = [Match(score, source, number) for number, (score, source) in enumerate(best)]
        return sorted(found, key=lambda match: -match.score)

    def threshold(
        self, english: Sequence[Example], sources: Sequence[Example], matches: Sequence[Match]
    ) -> float | None:
        """The score from which on pairs are taken, fitted on these, of development data; None where all are."""
        if self.options.method == "nearest":
            return None
        scores = {(sources[match.source]["id"], english[match.english]["id"]): match.score for match in matches}
        return retrieval.best_threshold(scores, self._gold(english))

    def predict(
        self, english: Sequence[Example], sources: Sequence[Example], matches: Sequence[Match], threshold: float | None
    ) -> list[str | None]:
        """For each English sentence the id of its source, or None."""
        found: list[str | None] = [None] * len(english)
        for match in matches:
            if threshold is None or match.score >= threshold:
                found[match.english] = sources[match.source]["id"]
        return found

    def _gold(self, english: Sequence[Example]) -> set[retrieval.Pair]:
        return {(source, example["id"]) for example in english for source in self._translations(example)}

    def metrics(
        self, examples: Sequence[Example], predictions: Sequence[Prediction], language: str
    ) -> dict[str, float]:
        """`accuracy` of the nearest, or `f1`, `precision` and `recall` of pairs."""
        if self.options.method == "nearest":
            right = [found in self._translations(one) for one, found in zip(examples, predictions, strict=True)]
            return {"accuracy": sum(right) / len(right)}
        pairs = {(found, one["id"]) for one, found in zip(examples, predictions, strict=True) if found is not None}
        total = retrieval.pair_counts(self._gold(examples), pairs).sum(0)
        return {name: float(value) for name, value in retrieval.pair_metrics(total).items()}

    def baseline(self, train: Sequence[Example]) -> Guess:
        """Nothing is trained, and no sentence is found without its vector."""
        return lambda example: None

    def to_text(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
        """For "nearest" the id of a source a line, of Tatoeba the number of its line; else the ids of a pair."""
        if self.options.method == "nearest":
            return "".join(f"{found}\n" for found in predictions)
        pairs = [(found, one["id"]) for one, found in zip(examples, predictions, strict=True) if found is not None]
        return "".join(f"{source}\t{target}\n" for source, target in sorted(pairs))
