"""What a stage of an experiment is to the code that runs it, whichever kind it is of."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from rembert_jax.training.evaluators import Metrics
from rembert_jax.training.feed import Feed
from rembert_jax.training.program import Program
from rembert_jax.training.train_state import Params


@dataclasses.dataclass(frozen=True)
class Stage:
    """What pre-training and fine-tuning differ in.

    Attributes:
      program: what a step computes.
      feed: its batches; None where nothing is trained.
      labels: names of the classes in order; None where there are none.
      evaluate: development metrics by language, computed during training; None where there is nothing to evaluate on.
      test: metrics by language for the final parameters; predictions are written into the folder, by language.
      metric: which of them reports and figures show.
      select_by: language and metric by which the best parameters are kept; None keeps the last ones.
      baseline: metrics by language of what is reached without training: of a task's guess without context; in pre-training the
        loss of guessing by the frequency of words, and what a fresh encoder retrieves.
    """

    program: Program
    feed: Feed | None
    labels: list[str] | None
    evaluate: Callable[[Params], Metrics] | None
    test: Callable[[Params, pathlib.Path], Metrics]
    metric: str
    select_by: tuple[str, str] | None
    baseline: Callable[[], Mapping[str, Any]]
