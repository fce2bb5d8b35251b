"""Orders of records: every record once in an epoch, whatever the size, and streams that share them."""

import pytest

from rembert_jax.data.shuffled import TABLE, Shuffled, ShuffledStream


@pytest.mark.parametrize("count", [1, 7, TABLE, TABLE + 1])
def test_each_epoch_has_every_record_once_in_an_order_of_its_own(count):
    records, other = Shuffled(range(count), [0]), Shuffled(range(count), [1])
    first, second = ([records[place] for place in range(start, start + count)] for start in (0, count))
    assert sorted(first) == sorted(second) == list(range(count))
    if count > 1:
        assert first != second
        assert [other[place] for place in range(count)] != first, "and of its seed"


def test_places_may_be_read_in_any_order():
    forward = [Shuffled(range(5), [3])[place] for place in range(40)]
    records = Shuffled(range(5), [3])
    assert [records[place] for place in reversed(range(40))] == forward[::-1]


def test_streams_take_turns_and_resume():
    records = Shuffled(range(10), [0])
    streams = [iter(ShuffledStream(records, index=index, count=3)) for index in range(3)]
    assert [next(stream) for _ in range(5) for stream in streams] == [records[place] for place in range(15)]
    fresh = iter(ShuffledStream(records, index=2, count=3))
    fresh.set_state(streams[2].get_state())
    assert next(fresh) == next(streams[2]) == records[17]
