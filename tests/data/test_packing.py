"""Packing: nothing is lost, documents stay apart, rows are well filled."""

import json

import grain
import numpy as np
import pytest
from helpers import assert_same_batches

from rembert_jax.data.packing import OPEN_ROWS, PackedRows, split_document

PAD, CLS, SEP = 9, 2, 3  # Padding is not 0 here, to tell it from what NumPy fills with.


def _documents(seed, count=150, longest=90):
    """Random documents; the first token numbers the document, so that each can be found again."""
    rng = np.random.default_rng(seed)
    lengths = np.where(rng.random(count) < 0.1, 0, rng.integers(1, 30, count))
    lengths[:4] = longest, longest * 3, 1, 0
    return [[1000 + i, *rng.integers(10, 500, n - 1).tolist()] if n else [] for i, n in enumerate(lengths)]


def _rows(documents, length, shuffle=False):
    return list(_packed(documents, length, 0 if shuffle else None))


def _packed(documents, length, shuffle_seed):
    tokens = grain.MapDataset.source(documents).to_iter_dataset()
    return PackedRows(tokens, length, cls_id=CLS, sep_id=SEP, pad_id=PAD, shuffle_seed=shuffle_seed)


def _segments(row):
    """The tokens of each segment of a row, in order."""
    return [row["input_ids"][row["segment_ids"] == i] for i in range(1, row["segment_ids"].max() + 1)]


@pytest.mark.parametrize("length", [3, 4, 16, 64])
@pytest.mark.parametrize("shuffle", [False, True])
def test_no_token_is_lost(length, shuffle):
    documents = _documents(seed=length, count=150 if length > 4 else 20)
    found = [segment[1:-1].tolist() for row in _rows(documents, length, shuffle) for segment in _segments(row)]
    expected = [piece[1:-1] for document in documents for piece in split_document(document, length, CLS, SEP)]
    assert sorted(found) == sorted(expected)


def test_pieces_of_a_document_join_to_the_document():
    for document in _documents(seed=1):
        pieces = split_document(document, 16, CLS, SEP)
        assert [token for piece in pieces for token in piece[1:-1]] == document
        lengths = [len(piece) for piece in pieces]
        assert all(length <= 16 for length in lengths)
        assert not lengths or max(lengths) - min(lengths) <= 1, "pieces are of equal size but for one token"
        assert len(pieces) == -(-len(document) // 14)


def test_split_worked_by_hand():
    assert split_document([], 8, CLS, SEP) == []
    assert split_document([11, 12], 8, CLS, SEP) == [[2, 11, 12, 3]]
    assert split_document([11, 12, 13], 4, CLS, SEP) == [[2, 11, 12, 3], [2, 13, 3]]


@pytest.mark.parametrize("shuffle", [False, True])
def test_segments_are_contiguous_wrapped_and_number_their_positions(shuffle):
    for row in _rows(_documents(seed=2), 32, shuffle):
        segments = row["segment_ids"]
        used = int(np.count_nonzero(segments))
        steps = np.diff(segments[:used])
        assert segments[0] == 1 and set(steps.tolist()) <= {0, 1} and not segments[used:].any()
        assert (row["input_ids"][used:] == PAD).all() and not row["position_ids"][used:].any()
        for number, segment in enumerate(_segments(row), start=1):
            assert segment[0] == CLS and segment[-1] == SEP and len(segment) > 2
            positions = row["position_ids"][segments == number]
            np.testing.assert_array_equal(positions, np.arange(len(segment)))


def test_rows_have_fixed_shape_and_type():
    for row in _rows(_documents(seed=3), 32):
        assert set(row) == {"input_ids", "segment_ids", "position_ids"}
        assert all(value.shape == (32,) and value.dtype == np.int32 for value in row.values())


def test_rows_are_well_filled():
    rows = _rows(_documents(seed=4, count=1500), 64)
    complete = rows[:-OPEN_ROWS]  # The last group is only what was left.
    assert len(complete) > 100
    assert np.mean([np.mean(row["segment_ids"] > 0) for row in complete]) > 0.9


def test_documents_of_exactly_one_row_fill_it():
    rows = _rows([list(range(10, 24))] * 5, 16)
    assert len(rows) == 5
    assert all((row["segment_ids"] == 1).all() for row in rows)


@pytest.mark.parametrize("out", [0, 1, OPEN_ROWS - 1, OPEN_ROWS, OPEN_ROWS + 5])
@pytest.mark.parametrize("shuffle_seed", [None, 3])
def test_packing_goes_on_from_its_state(out, shuffle_seed):
    documents = [[10 + i] * (5 + 37 * (i % 4)) for i in range(60)]  # The longest are cut into eight pieces.
    rows = iter(_packed(documents, 16, shuffle_seed))
    first = [next(rows) for _ in range(out)]
    state = json.loads(json.dumps(rows.get_state()))
    rest = list(rows)
    fresh = iter(_packed(documents, 16, shuffle_seed))
    for _ in range(20):  # Wherever it stood before.
        next(fresh)
    fresh.set_state(state)
    assert_same_batches(list(fresh), rest)
    assert_same_batches(first + rest, list(_packed(documents, 16, shuffle_seed)))


def test_order_within_groups_is_of_the_seed():
    documents = [[10 + i] * 14 for i in range(2 * OPEN_ROWS)]

    def numbers(seed):
        return [int(row["input_ids"][1]) - 10 for row in _packed(documents, 16, seed)]

    plain, one, other = numbers(None), numbers(1), numbers(2)
    assert plain == list(range(2 * OPEN_ROWS))
    assert one != plain and one != other
    groups = one[:OPEN_ROWS], one[OPEN_ROWS:]
    assert [sorted(group) for group in groups] == [plain[:OPEN_ROWS], plain[OPEN_ROWS:]]
    assert groups[0] != [number - OPEN_ROWS for number in groups[1]], "each group has an order of its own"


def test_no_document_gives_no_row():
    assert _rows([[], [], []], 16) == []
