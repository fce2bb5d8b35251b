"""Batches: shapes, determinism, exact resume, rows of processes, evaluation batches."""

import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from helpers import NumberTokenizer, assert_same_batches, real_tokenizer, synthetic_texts, unmasked

from rembert_jax.data import mixture
from rembert_jax.data.packing import OPEN_ROWS
from rembert_jax.data.pipeline import (
    DataConfig,
    batch_rows,
    check_sources,
    eval_batches,
    example_batches,
    sentence_batches,
    train_batches,
)
from rembert_jax.data.shuffled import Shuffled
from rembert_jax.data.sources import SourceError
from rembert_jax.errors import RemBertError

LENGTH = 32
CONFIG = DataConfig(source="text", seq_length=LENGTH)
KINDS = {
    "input_ids": ("i4", LENGTH), "segment_ids": ("i4", LENGTH), "position_ids": ("i4", LENGTH),
    "masked_positions": ("i4", 5), "masked_labels": ("i4", 5), "masked_weights": ("f4", 5),
}  # fmt: skip


def _train(texts=None, seed=0, batch_size=4, config=CONFIG, tokenizer=None, **share):
    texts = {"all": synthetic_texts(20)} if texts is None else texts
    return train_batches(texts, config, tokenizer or real_tokenizer(), batch_size=batch_size, seed=seed, **share)


def _take(batches, count):
    return [next(batches) for _ in range(count)]


def _full_rows(count, first=10):
    """Texts that fill one row each: text i is one token, first + i, repeated."""
    return [" ".join([str(first + i)] * (LENGTH - 2)) for i in range(count)]


def _text_numbers(batches):
    return [int(token) for batch in batches for token in unmasked(batch)[:, 1]]


def test_shapes_and_types():
    for batch in _take(_train(), 3):
        assert {key: (value.dtype.str[1:], value.shape) for key, value in batch.items()} == {
            key: (kind, (4, size)) for key, (kind, size) in KINDS.items()
        }


def test_masked_positions_show_masks_and_labels_the_text():
    tokenizer = real_tokenizer()
    batches = _take(_train(batch_size=16), 3)
    used = np.concatenate([batch["masked_weights"].ravel() for batch in batches]) > 0
    chosen = np.concatenate(
        [np.take_along_axis(batch["input_ids"], batch["masked_positions"], 1).ravel() for batch in batches]
    )
    assert 0.6 < np.mean(chosen[used] == tokenizer.mask_token_id) < 0.95
    pieces = {i for text in synthetic_texts(20) for i in tokenizer.encode(text, add_special_tokens=False)}
    assert set(unmasked(batches[0]).ravel().tolist()) <= pieces | set(tokenizer.special_ids().tolist())


def test_same_seed_gives_the_same_batches():
    assert_same_batches(_take(_train(seed=5), 6), _take(_train(seed=5), 6))


def test_other_seed_gives_other_order_and_masks():
    one, other = _take(_train(seed=5), 1)[0], _take(_train(seed=6), 1)[0]
    assert (unmasked(one) != unmasked(other)).any()
    assert (one["masked_positions"] != other["masked_positions"]).any()


def test_order_changes_from_epoch_to_epoch():
    # One row a batch: of one text first, then of groups of sixteen.
    numbers = _text_numbers(_take(_train({"a": _full_rows(17)}, tokenizer=NumberTokenizer(), batch_size=1), 49))
    first, second = numbers[:17], numbers[17:33]
    assert sorted(first) == list(range(10, 27))
    assert len(set(second)) == 16 and first[1:] != second


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_restored_stream_goes_on_with_the_same_batches(steps):
    batches = _train()
    _take(batches, steps)
    state = batches.get_state()
    expected = _take(batches, 5)
    fresh = _train()
    _take(fresh, 3)  # Wherever it stood before.
    fresh.set_state(state)
    assert_same_batches(_take(fresh, 5), expected)


def _example(number):
    return {"number": np.array(number), "square": np.array([number, number**2])}


def _examples(count=12, seed=0, **share):
    return example_batches([_example(number) for number in range(count)], batch_size=4, seed=seed, **share)


def test_examples_come_once_per_epoch_in_a_new_order():
    batches = _take(_examples(), 6)
    assert batches[0]["square"].shape == (4, 2)
    numbers = [int(number) for batch in batches for number in batch["number"]]
    assert sorted(numbers[:12]) == sorted(numbers[12:]) == list(range(12))
    assert numbers[:12] != numbers[12:]


def test_restored_examples_go_on_with_the_same_batches():
    batches = _examples()
    _take(batches, 4)
    state = batches.get_state()
    expected = _take(batches, 5)
    fresh = _examples()
    fresh.set_state(state)
    assert_same_batches(_take(fresh, 5), expected)


def test_rows_of_examples_do_not_depend_on_which_are_made():
    whole, part = _take(_examples(13), 7), _take(_examples(13, rows=[1, 3]), 7)
    assert_same_batches(part, [{key: value[[1, 3]] for key, value in batch.items()} for batch in whole])


@pytest.mark.parametrize("rows", [[0, 1], [2, 5, 6], [7]])
def test_rows_of_text_do_not_depend_on_which_are_made(rows):
    texts = {"a": synthetic_texts(20), "b": synthetic_texts(5)}
    config = DataConfig(source="text", seq_length=LENGTH, mask_rate_schedule=((0, 0.3), (10, 0.1)))
    whole = _take(_train(texts, batch_size=8, config=config), 20)
    part = _take(_train(texts, batch_size=8, config=config, rows=rows), 20)
    assert_same_batches(part, [{key: value[rows] for key, value in batch.items()} for batch in whole])


def test_rows_begin_evenly_around_the_circle_of_languages(monkeypatch):
    """So that the languages of a batch are those of the mixture (tests/data/test_mixture.py)."""
    starts, mixed = [], mixture.MixedTexts
    monkeypatch.setattr(
        mixture, "MixedTexts", lambda *given, **more: starts.append(more["start"]) or mixed(*given, **more)
    )
    _take(_train(batch_size=16), 1)
    assert sorted(starts) == [(number + 0.5) / 16 for number in range(16)]
    assert starts != sorted(starts), "in an order of their own"


@pytest.mark.parametrize("count", [1, 3, 64])
def test_rows_together_see_every_text_as_often_as_any_other(count):
    # A text a row; a row has out all that it has read when it has had 1 + row, 17 + row, 33 + row of them.
    batches = _take(_train({"a": _full_rows(count)}, tokenizer=NumberTokenizer(), batch_size=16), 40)
    numbers = np.array([unmasked(batch)[:, 1] for batch in batches])
    seen = Counter(number for row in range(16) for number in numbers[: 1 + row, row].tolist())
    seen += Counter(number for row in range(16) for number in numbers[1 + row : 17 + row, row].tolist())
    assert set(seen) == set(range(10, 10 + count))
    order = Shuffled(range(10, 10 + count), [0, 0])
    assert seen == Counter(order[row + 16 * place] for row in range(16) for place in range(17 + row))


def test_rows_are_masked_differently():
    batch = next(_train({"a": _full_rows(1)}, tokenizer=NumberTokenizer(), batch_size=16))
    assert len({tuple(positions) for positions in batch["masked_positions"].tolist()}) > 8


def test_whole_word_masking_reaches_the_batches():
    config = DataConfig(source="text", seq_length=LENGTH, whole_word_masking=True, mask_rate=0.4)
    # Words of three pieces: an even id, then two odd ones.
    texts = {"a": [" ".join(f"{20 + 2 * i}-{21 + 2 * i}-{41 + 2 * i}" for i in range(10))] * 40}
    for batch in _take(_train(texts, tokenizer=NumberTokenizer(), config=config), 3):
        for positions, weights in zip(batch["masked_positions"], batch["masked_weights"], strict=True):
            chosen = positions[weights > 0]
            assert len(chosen) == 12  # 40 % of 30 tokens: four words, or three and parts of two.
            pieces = np.bincount((chosen - 1) // 3)
            assert (pieces == 3).sum() >= 3 and ((pieces == 1) | (pieces == 2)).sum() <= 2


def test_eval_batches_hold_each_text_once_and_are_the_same_at_every_call():
    config = DataConfig(source="text", seq_length=LENGTH, eval_texts=21)
    texts = {"a": _full_rows(50), "b": _full_rows(5, first=100)}
    first, again = (eval_batches(texts, config, NumberTokenizer(), batch_size=8, seed=0) for _ in range(2))
    for language, expected in (("a", range(10, 31)), ("b", range(100, 105))):
        assert_same_batches(first[language], again[language])
        real = [number for number in _text_numbers(first[language]) if number]
        assert sorted(real) == list(expected), "exactly the first eval_texts texts"
    assert [len(first[language]) for language in "ab"] == [3, 1]


def test_short_last_batch_is_filled_with_rows_that_weigh_nothing():
    config = DataConfig(source="text", seq_length=LENGTH, eval_texts=OPEN_ROWS + 1)
    last = eval_batches({"a": _full_rows(50)}, config, NumberTokenizer(), batch_size=8, seed=0)["a"][-1]
    assert last["input_ids"].shape == (8, LENGTH)
    assert last["masked_weights"][0].sum() > 0
    for key in ("masked_weights", "segment_ids"):
        assert not last[key][1:].any()


def test_padding_is_that_of_the_vocabulary():
    tokenizer = NumberTokenizer()
    tokenizer.pad_token_id = 3
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    (batch,) = sentence_batches(["10 11", "12"], tokenizer, length=6, batch_size=2)
    assert batch["input_ids"].tolist() == [[cls, 10, 11, sep, 3, 3], [cls, 12, sep, 3, 3, 3]]
    packed = next(_train({"a": ["10 11 12"] * 8}, tokenizer=tokenizer, config=DataConfig(source="text", seq_length=8)))
    assert (packed["input_ids"][:, 5:] == 3).all() and (packed["segment_ids"][:, 5:] == 0).all()


def test_batch_rows_worked_by_hand():
    rows = [{"x": np.array([i, i]), "y": np.array(i)} for i in (1, 2, 3)]
    batches = batch_rows(rows, 2)
    assert [batch["x"].tolist() for batch in batches] == [[[1, 1], [2, 2]], [[3, 3], [0, 0]]]
    assert [batch["y"].tolist() for batch in batches] == [[1, 2], [3, 0]]
    assert batch_rows([], 2) == []


def test_mixture_follows_the_shares_and_resumes():
    texts = {"a": _full_rows(36), "b": _full_rows(4, first=100)}  # By the root of their sizes, three to one.
    batches = _train(texts, tokenizer=NumberTokenizer(), batch_size=16)
    numbers = _text_numbers(_take(batches, 40))
    assert sum(number < 100 for number in numbers) == pytest.approx(480, abs=16)
    state, expected = batches.get_state(), _take(batches, 20)
    fresh = _train(texts, tokenizer=NumberTokenizer(), batch_size=16)
    fresh.set_state(state)
    assert_same_batches(_take(fresh, 20), expected)


def test_many_languages_take_one_thread_like_one():
    before = threading.active_count()
    texts = {f"l{number}": _full_rows(2, first=10 + 2 * number) for number in range(110)}
    batches = _train(texts, tokenizer=NumberTokenizer(), batch_size=64)
    next(batches)
    assert threading.active_count() <= before + 1
    batches.close()


def test_examples_are_not_prepared_far_ahead():
    read = []

    class Examples(Sequence):
        def __len__(self):
            return 1000

        def __getitem__(self, index):
            return read.append(index) or _example(index)

    batches = example_batches(Examples(), batch_size=2, seed=0)
    _take(batches, 3)
    batches.close()
    assert 6 <= len(read) <= 30


@pytest.mark.parametrize("missing", ["de/train.txt", "sw/dev.txt"])
def test_sources_are_checked_without_reading_them(tmp_path, missing):
    config = DataConfig(source="text", path=f"{tmp_path}/{{language}}/{{split}}.txt", languages=("de", "sw"))
    for name in ("de/train.txt", "de/dev.txt", "sw/train.txt", "sw/dev.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\xff")  # Which nobody can read as UTF-8.
    check_sources(config)
    (tmp_path / missing).unlink()
    language, split = missing.removesuffix(".txt").split("/")
    with pytest.raises(SourceError, match=f"no file for language '{language}', split '{split}'"):
        check_sources(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_length": 2}, "seq_length=2: expected at least 3"),
        ({"prefetch": 0}, "prefetch=0: expected at least 1"),
        ({"alpha": 1.5}, r"alpha=1\.5: expected a number between 0 and 1"),
        ({"mask_rate": float("nan")}, "mask_rate=nan: expected a share between 0 and 1"),
        ({"languages": ("de", "de")}, "languages=de, de: name each language once"),
    ],
)
def test_wrong_settings_are_refused_by_name(changes, message):
    with pytest.raises(RemBertError, match=message):
        DataConfig(source="text", **changes)


def test_unknown_synthetic_language_is_refused():
    with pytest.raises(SourceError, match="unknown synthetic language 'qzz': expected one of qaa"):
        check_sources(DataConfig(source="synthetic", languages=("qaa", "qzz")))
