"""What the loop is fed with, in one of several processes."""

import jax
import numpy as np
from helpers import TINY_MODEL

from rembert_jax import sharding
from rembert_jax.config import RemBertConfig
from rembert_jax.training.feed import Feed


def test_tokens_are_counted_for_all_processes(monkeypatch):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2), jax.devices()[:2])
    monkeypatch.setattr(sharding, "local_rows", lambda rows, mesh: range(rows // 4))
    monkeypatch.setattr(sharding, "to_global", lambda rows, mesh, batch_size: rows)
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    feed = Feed(
        iter([{"attention_mask": mask}, {"attention_mask": mask[:, :1]}]),
        8,
        RemBertConfig(vocab_size=10, **TINY_MODEL),
        mesh,
    )
    # Two of eight rows are this process's: four times as many tokens are in the batch.
    assert (next(feed), feed.tokens)[1] == 4 * 5
    assert (next(feed), feed.tokens)[1] == 4 * 7
