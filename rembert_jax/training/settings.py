"""Section `training` of a config."""

from __future__ import annotations

import dataclasses
import math

from rembert_jax.errors import RemBertError


class TrainingError(RemBertError):
    """A run cannot start or go on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Section `training`: how long, how often.

    Attributes:
      batch_size: rows of a global batch.
      steps: updates to do; 0 where `epochs` says it, or where nothing is trained.
      epochs: passes over the training examples (fine-tuning); 0 where `steps` says it, or where nothing is trained.
      log_every, eval_every, checkpoint_every: in steps; 0 only at the end.
      keep_checkpoints: newest ones kept.
      eval_batch_size: rows of an evaluation batch; 0 takes `batch_size`.
      wandb_project: also log to this Weights & Biases project.
      profile_steps: first and last step of a profile, written to the workdir's folder "profile"; none where empty.
      z_loss: coefficient of a penalty on the softmax's normaliser in pre-training (`losses.masked_lm_loss`); 0 for none.
    """

    batch_size: int
    steps: int = 0
    epochs: int = 0
    log_every: int = 100
    eval_every: int = 0
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    eval_batch_size: int = 0
    wandb_project: str = ""
    profile_steps: tuple[int, ...] = ()
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), int(field.name in ("batch_size", "keep_checkpoints"))
            if isinstance(value, int) and value < least:
                raise TrainingError(f"{field.name}={value}: expected at least {least}")
        if not 0.0 <= self.z_loss < math.inf:
            raise TrainingError(f"z_loss={self.z_loss}: expected at least 0, and finite")
        if self.profile_steps and not (
            len(self.profile_steps) == 2 and 1 <= self.profile_steps[0] <= self.profile_steps[1]
        ):
            raise TrainingError(
                f"profile_steps={self.profile_steps}: expected the first and the last step, counted from 1, as in (10, 12)"
            )
        if self.steps and self.epochs:
            raise TrainingError(f"steps={self.steps}, epochs={self.epochs}: set one of them")
