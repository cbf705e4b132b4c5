"""Seconds of training: pauses are left out, waiting is a part, laps follow one another, and a resumed run goes on."""

import contextlib
import time

import pytest

from manyview.training.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    return passes


def test_seconds_laps_pauses_and_waiting(clock):
    watch = Stopwatch(seconds=50.0, waited=4.0)
    clock(2)
    assert (watch.seconds, watch.lap()) == (52, 2)
    with watch.waiting():
        clock(1)
    with watch.paused():
        clock(30)
        assert watch.seconds == 53  # a checkpoint saved meanwhile
    clock(3)
    assert (watch.seconds, watch.lap(), watch.waited) == (56, 4, 5)
    assert watch.lap() == 0


def test_a_pause_that_fails_is_over(clock):
    watch = Stopwatch()
    with contextlib.suppress(KeyboardInterrupt), watch.paused():
        clock(5)
        raise KeyboardInterrupt
    clock(1)
    assert watch.seconds == 1
