"""Masking rate and mixture that change over the steps: worked values, exact resume, nothing lost or read twice."""

from collections import Counter

import numpy as np
import pytest
from helpers import NumberTokenizer, assert_same_batches, unmasked

from rembert_jax.data.pipeline import DataConfig, eval_batches, train_batches
from rembert_jax.data.schedules import check_schedule, value_at
from rembert_jax.errors import RemBertError

LENGTH, ROWS = 22, 4
CONFIG = DataConfig(source="text", seq_length=LENGTH, mask_rate=0.2)


def full_rows(count, first=10):
    """Texts that fill one row each: text i is one token, first + i, repeated."""
    return [" ".join([str(first + i)] * (LENGTH - 2)) for i in range(count)]


def stream(texts=None, **changes):
    config = DataConfig(source="text", seq_length=LENGTH, **{"mask_rate": 0.2, **changes})
    return train_batches(texts or {"a": full_rows(64)}, config, NumberTokenizer(), batch_size=ROWS, seed=0)


def take(batches, count):
    return [next(batches) for _ in range(count)]


def numbers(batches):
    return [int(token) for batch in batches for token in unmasked(batch)[:, 1]]


@pytest.mark.parametrize(
    ("step", "value"), [(0, 0.5), (10, 0.5), (15, 0.4), (20, 0.3), (29, 0.3), (30, 0.1), (1000, 0.1)]
)
def test_values_are_linear_between_points_and_constant_outside(step, value):
    assert value_at(((10, 0.5), (20, 0.3), (29, 0.3), (30, 0.1)), step) == pytest.approx(value)


def test_the_masking_rate_follows_its_schedule_step_by_step_and_resumes():
    # Twenty tokens to choose from in each row.
    batches = stream(mask_rate_schedule=((0, 0.5), (6, 0.2)))
    first, state, rest = take(batches, 5), batches.get_state(), take(batches, 3)
    batches.close()
    counts = [set(batch["masked_weights"].sum(1).tolist()) for batch in first + rest]
    assert counts == [{number} for number in (10, 9, 8, 7, 6, 5, 4, 4)]
    assert first[0]["masked_positions"].shape == (ROWS, 11)  # Half of 22 slots, though the rate of the section is 0.2.
    fresh = stream(mask_rate_schedule=((0, 0.5), (6, 0.2)))
    fresh.set_state(state)
    assert_same_batches(take(fresh, 3), rest)
    fresh.close()


def test_held_out_text_keeps_the_rate_of_the_section():
    config = DataConfig(source="text", seq_length=LENGTH, mask_rate=0.2, mask_rate_schedule=((0, 0.5), (6, 0.2)))
    (batch,) = eval_batches({"a": full_rows(ROWS)}, config, NumberTokenizer(), batch_size=ROWS, seed=0)["a"]
    assert set(batch["masked_weights"].sum(1).tolist()) == {4.0}


def test_a_schedule_of_one_value_is_that_value():
    assert_same_batches(take(stream(mask_rate_schedule=((0, 0.2),)), 3), take(stream(), 3))


def test_the_exponent_follows_its_schedule_reads_each_text_once_and_resumes():
    # In proportion to their sizes four to one, later one to one. A stream is ahead by up to 16 rows.
    texts = {"a": full_rows(240), "b": full_rows(60, first=250)}
    changes = {"alpha_schedule": ((0, 1.0), (30, 1.0), (31, 0.0))}
    batches = stream(texts, **changes)
    first, state, rest = take(batches, 48), batches.get_state(), take(batches, 16)
    batches.close()
    early, late = numbers(first[:14]), numbers((first + rest)[-30:])
    assert np.mean(np.array(early) < 250) == pytest.approx(0.8, abs=0.05)
    assert np.mean(np.array(late) < 250) == pytest.approx(0.5, abs=0.05)
    seen = Counter(numbers(first + rest))
    assert max(count for number, count in seen.items() if number < 250) == 1, "240 of a are not used up"
    assert {count for number, count in seen.items() if number >= 250} <= {1, 2}
    fresh = stream(texts, **changes)
    fresh.set_state(state)
    assert_same_batches(take(fresh, 16), rest)
    fresh.close()


def test_an_exponent_that_stays_gives_the_shares_of_the_plain_mixture():
    texts = {"a": full_rows(36), "b": full_rows(4, first=200)}
    assert_same_batches(take(stream(texts, alpha_schedule=((0, 0.5),)), 8), take(stream(texts), 8))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (((0, 1.5),), r"alpha: found \(0, 1\.5\), expected \(step, value\) with a value between 0\.0 and 1\.0"),
        (((0, float("nan")),), "alpha: found"),
        (((0, 0.5, 1),), r"alpha: found \(0, 0\.5, 1\), expected \(step, value\)"),
        (((5, 0.5), (5, 0.1)), "alpha: steps 5, 5 do not rise"),
    ],
)
def test_schedules_of_another_form_are_refused(schedule, message):
    with pytest.raises(RemBertError, match=message):
        check_schedule("alpha", schedule, 0.0, 1.0)


@pytest.mark.parametrize("name", ["alpha_schedule", "mask_rate_schedule"])
def test_the_setting_is_named(name):
    with pytest.raises(RemBertError, match=f"{name}: found"):
        DataConfig(source="text", **{name: ((0, -1.0),)})
