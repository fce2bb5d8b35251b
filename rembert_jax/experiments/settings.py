"""The sections of an experiment config as frozen dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rembert_jax import schema
from rembert_jax.config import Execution
from rembert_jax.data.pipeline import DataConfig
from rembert_jax.sharding import MeshConfig
from rembert_jax.tasks.base import TaskConfig, family
from rembert_jax.training.optimizer import OptimizerConfig
from rembert_jax.training.settings import TrainingConfig, TrainingError

NO_OPTIMIZER = OptimizerConfig(learning_rate=1.0)
"""Stands for a section that is not there, as nothing is trained."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Section `tokenizer`: a vocabulary file to use, or how to train one.

    Attributes:
      path: a SentencePiece model; empty trains one into the workdir (pre-training) or takes that of `init_from`.
      vocab_size: pieces to train.
      sample_sentences: texts to train on, drawn with the mixture's shares.
      character_coverage: share of characters that get a piece of their own.
      user_defined_symbols: strings that always are one piece.
    """

    path: str = ""
    vocab_size: int = 0
    sample_sentences: int = 1_000_000
    character_coverage: float = 0.9995
    user_defined_symbols: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """One run. Pre-training has a section `data`, fine-tuning and prediction a section `task`; exactly one of them is given.

    Attributes:
      seed: of initialisation, data order, masking and dropout.
      model: fields of `RemBertConfig`; vocabulary size and special ids come from the tokenizer. A run with `init_from`
        starts from the checkpoint's fields.
      execution, tokenizer, data, task, optimizer, training, mesh: see their classes.
      init_from: workdir or checkpoint of another run to start from.
      model_from: like `init_from`, but takes only architecture and vocabulary and initialises the parameters afresh.
      predict_with: workdir or checkpoint of a run whose parameters, those of its head too if the task has one, predict the test
        languages; nothing is trained, and a section `optimizer` has no meaning.
      drop_top_layers: how many of that run's layers are left out, from the top.
    """

    seed: int = 0
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    execution: Execution = Execution()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig | None = None
    task: TaskConfig | None = None
    optimizer: OptimizerConfig = NO_OPTIMIZER
    training: TrainingConfig
    mesh: MeshConfig = MeshConfig()
    init_from: str = ""
    model_from: str = ""
    predict_with: str = ""
    drop_top_layers: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise TrainingError(f"seed={self.seed}: expected 0 or more")
        if (self.data is None) == (self.task is None):
            raise TrainingError("expected exactly one of the sections data (pre-training) and task (fine-tuning)")
        if self.data and not self.training.steps:
            raise TrainingError("training.epochs is for fine-tuning; pre-training needs training.steps")
        if sum(map(bool, (self.init_from, self.model_from, self.predict_with))) > 1:
            raise TrainingError("init_from, model_from and predict_with exclude each other")
        self._check_training()
        if self.drop_top_layers < 0 or (self.drop_top_layers and not (self.init_from or self.model_from)):
            raise TrainingError(
                f"drop_top_layers={self.drop_top_layers}: expected layers of the run that init_from or model_from names"
            )
        if self.drop_top_layers and "num_hidden_layers" in self.model:
            raise TrainingError("drop_top_layers and model.num_hidden_layers exclude each other; leave one out")
        if self.training.z_loss and not self.data:
            raise TrainingError("training.z_loss is for pre-training")

    def _check_training(self) -> None:
        steps, epochs = self.training.steps, self.training.epochs
        if self.predict_with:
            if self.data or steps or epochs:
                raise TrainingError(
                    "predict_with is for a task, and trains nothing; leave out training.steps and epochs"
                )
            return
        if self.task and not family(self.task.kind).loss:
            raise TrainingError(f"task.kind={self.task.kind} trains nothing; name the encoder by predict_with")
        if not (steps or epochs):
            raise TrainingError("training: steps=0, epochs=0: set one of them")
        if self.optimizer is NO_OPTIMIZER:
            raise TrainingError("missing optimizer; add it to this section")

    @property
    def source(self) -> str:
        """The run that this one takes its architecture, and perhaps its parameters, from; empty for none."""
        return self.init_from or self.model_from or self.predict_with


# Keys, or whole sections, that may change when a run is resumed; all others decide what is computed.
FREE_KEYS = ("training.log_every", "training.checkpoint_every", "training.keep_checkpoints", "training.wandb_project",
             "data.prefetch", "mesh", "execution.remat", "execution.attention")  # fmt: skip


def resolve(config: Mapping[str, Any]) -> ExperimentConfig:
    """Checks a plain mapping and turns it into an `ExperimentConfig`.

    Raises:
      schema.SchemaError: naming the section and the key that is unknown, missing or of the wrong type.
    """
    return schema.from_mapping(ExperimentConfig, config, "config")


def blocking_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Differences between two resolved configs that forbid to resume."""

    def is_free(line: str) -> bool:
        return any(line.startswith((f"{key}:", f"{key}.")) for key in FREE_KEYS)

    return [line for line in schema.differences(old, new) if not is_free(line)]
