"""How often each language is seen, worked by hand, and what the mixture of texts makes of it."""

import logging
from collections import Counter

import numpy as np
import pytest
from helpers import NumberTokenizer, unmasked

from rembert_jax.data.mixture import MixedTexts, language_shares, log_shares
from rembert_jax.data.pipeline import DataConfig, train_batches
from rembert_jax.data.shuffled import Shuffled

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
    batches = train_batches(texts, config, NumberTokenizer(), batch_size=14, seed=0)
    counts = Counter(int(token) for _ in range(200) for token in unmasked(next(batches))[:, 1])
    assert set(counts) == {10, 11, 12} and sum(counts.values()) == 2800
    # Up to what waits in unfinished rows, of which there are 224.
    for token, count in {10: 1600, 11: 800, 12: 400}.items():
        assert abs(counts[token] - count) <= 40


def mixed(*counts, alpha=0.0, seed=0, **share):
    """The texts of a few languages; text i of language k is 1,000,000 k + i, a text of one token."""
    texts = [range(1_000_000 * language, 1_000_000 * language + count) for language, count in enumerate(counts)]
    orders = [Shuffled(records, [seed, language]) for language, records in enumerate(texts)]
    return iter(MixedTexts(orders, counts, lambda text: [text], alpha=((0, alpha),), tokens_per_step=64, **share))


def languages(stream, count):
    return [next(stream)[0] // 1_000_000 for _ in range(count)]


def test_languages_have_orders_of_their_own():
    stream = mixed(50, 50)
    texts = [next(stream)[0] for _ in range(120)]
    one, other = ([text % 1_000_000 for text in texts if text // 1_000_000 == language][:50] for language in (0, 1))
    assert sorted(one) == sorted(other) and one != other


def test_the_next_language_lies_a_golden_angle_further_on():
    # Arcs of 2/3 and 1/3; multiples of 0.618 modulo 1 are 0, .618, .236, .854, .472, .090, .708.
    assert languages(mixed(4, 1, alpha=0.5), 7) == [0, 0, 0, 1, 0, 0, 1]
    # From a quarter on: .25, .868, .486, .104, .722, .340, .958.
    assert languages(mixed(4, 1, alpha=0.5, start=0.25), 7) == [0, 1, 0, 0, 1, 0, 1]


@pytest.mark.parametrize("start", [0.0, 0.37])
def test_after_any_number_of_texts_each_of_110_languages_has_had_its_share(start):
    counts = [2 + int(100_000 * 0.9**number) for number in range(110)]
    expected = np.array(list(language_shares(dict(enumerate(counts)), 0.5).values()))
    drawn = np.eye(110)[languages(mixed(*counts, alpha=0.5, start=start), 5000)].cumsum(0)
    assert np.abs(drawn - np.arange(1, 5001)[:, None] * expected).max() < 4


def test_streams_together_read_what_there_is_once_in_an_epoch():
    # Six streams of twenty texts of one language of thirty: four epochs.
    parts = [next(stream)[0] for index in range(6) for stream in [mixed(30, index=index, count=6)] for _ in range(20)]
    assert Counter(parts) == Counter({text: 4 for text in range(30)})
