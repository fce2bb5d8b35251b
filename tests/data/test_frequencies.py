"""The loss of guessing by frequencies, worked by hand."""

import math

import numpy as np
import pytest
from helpers import NumberTokenizer

from rembert_jax.data.frequencies import frequency_losses


def test_loss_worked_by_hand():
    texts = {"one": ["7 7 7", "8"], "other": ["9"]}
    labels, weights = np.array([[7, 8, 0]]), np.array([[1.0, 2.0, 0.0]])
    batches = {language: [{"masked_labels": labels, "masked_weights": weights}] * 2 for language in texts}
    found = frequency_losses(texts, batches, NumberTokenizer())
    size = NumberTokenizer.vocab_size
    expected = -(math.log(4 / (size + 4)) + 2 * math.log(2 / (size + 4))) / 3
    assert found["one"] == pytest.approx(expected)
    assert found["other"] == pytest.approx(math.log(size + 1))


def test_many_texts_are_counted_in_part():
    class Texts(list):
        def __len__(self):
            return 1_000_000

        def __getitem__(self, index):
            self.append(index)
            return "7"

    batch = {"masked_labels": np.array([[7]]), "masked_weights": np.ones((1, 1))}
    for options, count in (({}, 5000), ({"sample": 400}, 400)):
        texts = Texts()
        found = frequency_losses({"one": texts}, {"one": [batch]}, NumberTokenizer(), **options)
        assert found["one"] == pytest.approx(-math.log((count + 1) / (count + NumberTokenizer.vocab_size)))
        assert list.__len__(texts) == count and max(texts) > 990_000, "spread over all"
