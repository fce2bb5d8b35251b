"""How often each language is seen, worked by hand, and what Grain's mixture makes of it."""

import logging
from collections import Counter

import pytest
from helpers import NumberTokenizer, unmasked

from rembert_jax.data.mixture import language_shares, log_shares
from rembert_jax.data.pipeline import DataConfig, train_batches

COUNTS = {"a": 900, "b": 90, "c": 10}


@pytest.mark.parametrize(
    ("counts", "alpha", "expected"),
    [
        (COUNTS, 1.0, {"a": 0.9, "b": 0.09, "c": 0.01}),
        (COUNTS, 0.0, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}),
        # Square roots of 16, 4 and 1 are 4, 2 and 1: shares of 7.
        ({"x": 16, "y": 4, "z": 1}, 0.5, {"x": 4 / 7, "y": 2 / 7, "z": 1 / 7}),
        ({"only": 5}, 0.5, {"only": 1.0}),
    ],
)
def test_shares_worked_by_hand(counts, alpha, expected):
    assert language_shares(counts, alpha) == pytest.approx(expected)
    assert list(language_shares(counts, alpha)) == list(counts)


def test_smoothing_lifts_small_languages():
    natural, smoothed = language_shares(COUNTS, 1.0), language_shares(COUNTS, 0.5)
    assert smoothed["c"] > 5 * natural["c"] and smoothed["a"] < natural["a"]


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=rf"data\.alpha={alpha}: expected a number between 0 and 1"):
        language_shares(COUNTS, alpha)


def test_no_language_is_refused():
    with pytest.raises(ValueError, match=r"set data\.languages"):
        language_shares({}, 0.5)


def test_languages_without_text_are_named():
    with pytest.raises(ValueError, match="no text for b, d"):
        language_shares({"a": 3, "b": 0, "c": 1, "d": 0}, 0.5)


def test_log_names_size_and_both_shares(caplog):
    with caplog.at_level(logging.INFO, logger="rembert_jax"):
        log_shares({"x": 16, "y": 4}, language_shares({"x": 16, "y": 4}, 0.5))
    assert caplog.messages == [
        "x: 16 texts, 80.0 % of all, sampled 66.7 %",
        "y: 4 texts, 20.0 % of all, sampled 33.3 %",
    ]


def test_batches_hold_languages_in_their_shares():
    # Each text is one token and fills one row of three, so rows count texts; token 10 + i names language i.
    texts = {"a": ["10"] * 64, "b": ["11"] * 16, "c": ["12"] * 4}  # Square roots 8, 4, 2.
    config = DataConfig(source="text", seq_length=3)
    batches = train_batches(texts, config, NumberTokenizer(), batch_size=16, seed=0)
    counts = Counter(int(token) for _ in range(14) for token in unmasked(next(batches))[:, 1])
    assert set(counts) == {10, 11, 12} and sum(counts.values()) == 224
    # Grain draws by shares exactly, up to the documents that wait in unfinished rows.
    for token, share in {10: 8 / 14, 11: 4 / 14, 12: 2 / 14}.items():
        assert abs(counts[token] - 224 * share) <= 4
