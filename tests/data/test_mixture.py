"""How often each language is seen, worked by hand, and what the mixture of texts makes of it."""

import logging
from collections import Counter

import pytest
from helpers import NumberTokenizer, unmasked

from rembert_jax.data.mixture import TABLE, MixedTexts, language_shares, log_shares
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


def mixed(*counts, alpha=0.0, seed=0, **share):
    """The texts of a few languages; text i of language k is 1,000,000 k + i, a text of one token."""
    texts = [range(1_000_000 * language, 1_000_000 * language + count) for language, count in enumerate(counts)]
    return iter(MixedTexts(texts, lambda text: [text], alpha=((0, alpha),), tokens_per_step=64, seed=seed, **share))


@pytest.mark.parametrize("count", [1, 7, TABLE, TABLE + 1])
def test_each_epoch_has_every_text_once_in_an_order_of_its_own(count):
    stream, other = mixed(count), mixed(count, seed=1)
    first, second = ([next(stream)[0] for _ in range(count)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(count))
    if count > 1:
        assert first != second
        assert [next(other)[0] for _ in range(count)] != first, "and of its seed"


def test_languages_have_orders_of_their_own():
    stream = mixed(50, 50)
    texts = [next(stream)[0] for _ in range(100)]
    one, other = ([text % 1_000_000 for text in texts if text // 1_000_000 == language] for language in (0, 1))
    assert sorted(one) == sorted(other) and one != other


def test_the_language_that_is_furthest_behind_its_share_comes_next():
    # Two to one: 2/3 and 1/3 are due, then 4/3 - 1 and 2/3, then 1 and 1 - 1, of which the first is taken.
    stream = mixed(4, 1, alpha=0.5)
    assert [next(stream)[0] // 1_000_000 for _ in range(6)] == [0, 1, 0, 0, 1, 0]


def test_workers_of_processes_read_what_one_would():
    whole = mixed(30, 20)
    expected = Counter(next(whole)[0] for _ in range(120))
    parts = []
    for process in range(2):
        for worker in range(3):
            dataset = MixedTexts(
                [range(30), range(1_000_000, 1_000_020)],
                lambda text: [text],
                alpha=((0, 0.0),),
                tokens_per_step=64,
                seed=0,
                index=process,
                count=2,
            )
            dataset.set_slice(slice(worker, None, 3))
            part = iter(dataset)
            parts += [next(part)[0] for _ in range(20)]
    assert Counter(parts) == expected
