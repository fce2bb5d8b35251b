"""The training loop."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from rembert_jax.training.feed import Feed
from rembert_jax.training.hooks import Hook
from rembert_jax.training.program import Program
from rembert_jax.training.train_state import TrainState


def train(program: Program, feed: Feed, state: TrainState, hooks: Sequence[Hook]) -> TrainState:
    """Goes through all remaining steps.

    Args:
      program: what a step is.
      feed: its batches, of which the next one is that of step `state.step + 1`.
      state: where to begin; its arrays are used up.
      hooks: what happens around a step, in order; they are closed at the end.

    Returns:
      The state after the last step.
    """
    with contextlib.ExitStack() as closing:
        for hook in hooks:
            closing.callback(hook.close)
        for step in range(int(state.step) + 1, program.total_steps + 1):
            batch = next(feed)
            for hook in hooks:
                hook.before(step)
            state, sums = program.step(state, batch)
            for hook in hooks:
                hook.after(step, state, sums)
    return state
