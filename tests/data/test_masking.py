"""Masking: rates, what is never masked, fixed slots, whole words, dependence on nothing but (row, generator)."""

import grain
import numpy as np
import pytest

from rembert_jax.data.masking import MaskTokens

MASK, VOCAB = 4, 1000
SPECIAL = np.arange(5, dtype=np.int32)


def _mask(**changes) -> MaskTokens:
    options = dict(mask_token_id=MASK, special_ids=SPECIAL, vocab_size=VOCAB, rate=0.15, max_predictions=1000)
    return MaskTokens(**options | changes)


def _row(ids) -> dict[str, np.ndarray]:
    ids = np.asarray(ids, np.int32)
    return {"input_ids": ids, "segment_ids": (ids != 0).astype(np.int32), "position_ids": np.arange(len(ids))}


def _random_row(length=5000, seed=0) -> dict[str, np.ndarray]:
    return _row(np.random.default_rng(seed).integers(5, VOCAB, length))


def _apply(row, seed=0, **changes):
    return _mask(**changes).random_map(row, np.random.default_rng(seed))


def _used(result):
    return result["masked_positions"][result["masked_weights"] > 0]


def test_share_of_predicted_tokens():
    result = _apply(_random_row(), max_predictions=5000)
    assert result["masked_weights"].sum() == 750  # Exactly 15 % of 5,000.


def test_eighty_ten_ten():
    row = _random_row(500_000)
    result = _apply(row, max_predictions=500_000, rate=0.9)
    positions, labels = _used(result), result["masked_labels"][result["masked_weights"] > 0]
    now, count = result["input_ids"][positions], len(positions)
    assert count == 450_000
    masked, kept = (now == MASK).sum(), (now == labels).sum()
    changed = count - masked - kept
    for found, share in ((masked, 0.8), (kept, 0.1), (changed, 0.1)):
        assert abs(found - count * share) < 4 * np.sqrt(count * share * (1 - share))  # Four standard deviations.


def test_random_tokens_are_ordinary_and_spread_out():
    row = _random_row(20_000)
    result = _apply(row, max_predictions=20_000)
    positions = _used(result)
    now = result["input_ids"][positions]
    drawn = now[(now != MASK) & (now != row["input_ids"][positions])]
    assert drawn.min() >= 5 and drawn.max() < VOCAB
    assert len(np.unique(drawn)) > 200  # About 300 drawn from 995.


def test_only_chosen_positions_change():
    row = _random_row()
    before = row["input_ids"].copy()
    result = _apply(row)
    untouched = np.setdiff1d(np.arange(len(before)), _used(result))
    np.testing.assert_array_equal(result["input_ids"][untouched], before[untouched])
    np.testing.assert_array_equal(row["input_ids"], before, err_msg="the given row must stay as it was")


def test_labels_are_the_original_tokens_at_distinct_sorted_positions():
    row = _random_row()
    result = _apply(row)
    positions = _used(result)
    assert (np.diff(positions) > 0).all()
    np.testing.assert_array_equal(result["masked_labels"][: len(positions)], row["input_ids"][positions])


def test_special_and_padding_tokens_are_never_predicted():
    ids = np.random.default_rng(1).integers(0, 12, 4000)  # Most of them special.
    result = _apply(_row(ids), rate=0.9, max_predictions=4000)
    positions = _used(result)
    assert (ids[positions] >= 5).all()
    assert len(positions) == round(0.9 * (ids >= 5).sum())


@pytest.mark.parametrize("slots", [1, 7, 2000])
def test_slots_are_fixed_and_unused_ones_weigh_nothing(slots):
    row = _random_row(100)
    result = _apply(row, max_predictions=slots)
    used = min(slots, 15)
    for key, kind in (("masked_positions", "i4"), ("masked_labels", "i4"), ("masked_weights", "f4")):
        assert result[key].shape == (slots,) and result[key].dtype == np.dtype(kind)
        assert not result[key][used:].any()
    assert result["masked_weights"].tolist() == [1.0] * used + [0.0] * (slots - used)
    assert result["input_ids"].dtype == np.int32


def test_at_least_one_token_is_predicted():
    result = _apply(_row([2, 77, 3, 0, 0]))
    assert _used(result).tolist() == [1] and result["masked_labels"][0] == 77


def test_row_without_maskable_tokens_passes():
    row = _row([2, 3, 0, 0])
    result = _apply(row, max_predictions=3)
    assert result["masked_weights"].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(result["input_ids"], row["input_ids"])


def test_all_positions_are_equally_likely():
    row = _random_row(20)
    counts = np.zeros(20)
    for seed in range(1000):
        counts[_used(_apply(row, seed))] += 1  # Three of twenty each time.
    assert abs(counts - 150).max() < 4.5 * np.sqrt(1000 * 0.15 * 0.85)


def _words(ids, segments, starts):
    """First positions of words by the definition: at a starting piece, after a special token, in a new document."""
    words, open_word = [], None
    for position, token in enumerate(ids):
        if token < 5:
            open_word = None
        elif starts[token] or open_word is None or segments[position] != segments[position - 1]:
            open_word = [position]
            words.append(open_word)
        else:
            open_word.append(position)
    return words


def test_whole_words_are_masked_whole_but_for_two():
    rng = np.random.default_rng(3)
    starts = np.arange(VOCAB) % 3 == 0
    for seed in range(50):
        ids = rng.integers(0, 60, 120).astype(np.int32)
        row = _row(ids) | {"segment_ids": np.repeat(np.arange(1, 5), 30).astype(np.int32)}
        result = _apply(row, seed, starts_word=starts, rate=0.3, max_predictions=40)
        chosen = set(_used(result).tolist())
        assert len(chosen) == result["masked_weights"].sum() == round(0.3 * (ids >= 5).sum())
        inside = [
            sum(position in chosen for position in word) / len(word) for word in _words(ids, row["segment_ids"], starts)
        ]
        assert sum(0 < share < 1 for share in inside) <= 2
        assert inside.count(1) >= 5
        assert (np.diff(_used(result)) > 0).all()


@pytest.mark.parametrize("budget", [3, 12])
def test_tokens_of_short_and_long_words_are_equally_likely(budget):
    lengths = [1] * 10 + [2] * 5 + [5, 15]  # The longest exceeds either budget.
    starts = np.zeros(VOCAB, bool)
    starts[5] = True
    row = _row([piece for length in lengths for piece in [5] + [6] * (length - 1)])
    tokens, draws = sum(lengths), 1500
    counts = np.zeros(tokens)
    for seed in range(draws):
        counts[_used(_apply(row, seed, starts_word=starts, rate=budget / tokens))] += 1
    share = budget / tokens
    assert abs(counts - draws * share).max() < 4.5 * np.sqrt(draws * share * (1 - share))


def test_masking_depends_only_on_seed_and_row_number():
    rows = [_random_row(60, seed) for seed in range(6)]

    def masked(seed, source=rows):
        dataset = grain.MapDataset.source(source).to_iter_dataset().seed(seed).random_map(_mask(max_predictions=12))
        return list(dataset)

    first, again, other = masked(1), masked(1), masked(2)
    for one, same in zip(first, again, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], same[key])
    assert any(
        (one["masked_positions"] != two["masked_positions"]).any() for one, two in zip(first, other, strict=True)
    )
    twins = masked(1, [rows[0]] * 2)
    assert (twins[0]["masked_positions"] != twins[1]["masked_positions"]).any(), "equal rows get different masks"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.0}, r"data\.mask_rate=0\.0"),
        ({"rate": 1.0}, r"data\.mask_rate=1\.0"),
        ({"max_predictions": 0}, r"data\.max_predictions=0: expected at least 1"),
    ],
)
def test_senseless_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _mask(**changes)
