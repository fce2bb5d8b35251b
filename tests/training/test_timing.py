import math

import pytest

from rembert_jax.training.timing import Stopwatch, format_seconds


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_seconds_per_step_between_two_marks():
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now += 60.0  # Compilation, before the first mark.
    assert math.isnan(watch.tick(1))
    clock.now += 5.0
    assert watch.tick(11) == 0.5
    clock.now += 8.0
    assert watch.tick(15) == watch.seconds_per_step == 2.0


def test_pauses_do_not_count_as_steps_but_as_time():
    clock = Clock()
    watch = Stopwatch(clock)
    watch.tick(0)
    clock.now += 2.0
    with watch.paused():
        clock.now += 30.0
    clock.now += 1.0
    with watch.paused():
        clock.now += 40.0
    assert watch.tick(3) == 1.0
    clock.now += 4.0
    assert watch.tick(5) == 2.0
    assert watch.elapsed() == 77.0


def test_marking_the_same_step_twice_keeps_the_speed():
    clock = Clock()
    watch = Stopwatch(clock)
    watch.tick(0)
    clock.now += 3.0
    watch.tick(3)
    clock.now += 9.0
    assert watch.tick(3) == 1.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (9.4, "0:09"),
        (59.6, "1:00"),
        (754, "12:34"),
        (3599.4, "59:59"),
        (3600, "1:00:00"),
        (90_061, "25:01:01"),
    ],
)
def test_seconds_are_shown_as_minutes_or_hours(seconds, text):
    assert format_seconds(seconds) == text


def test_unknown_time_is_a_question_mark():
    assert format_seconds(float("nan")) == "?"
