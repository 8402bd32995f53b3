"""The clock that moves when told to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from crucible_otel.testing import FakeClock


def test_both_readings_move_together() -> None:
    """And only when told to."""
    clock = FakeClock(now_s=5.0, time_ns=1_000)
    assert (5.0, 1_000) == (clock.now(), clock.time_ns())
    clock.advance(2.5)
    clock.advance(0)

    assert (7.5, 2_500_001_000) == (clock.now(), clock.time_ns())


def test_small_steps_add_up_exactly() -> None:
    """Ten tenths are one."""
    clock = FakeClock(now_s=0.0)
    for _ in range(10):
        clock.advance(0.1)

    assert 1.0 == clock.now()


def test_threads_may_advance_it_at_once() -> None:
    """No step is lost."""
    clock = FakeClock(now_s=0.0)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(clock.advance, [0.001] * 1_000))

    assert 1.0 == clock.now()


def test_time_does_not_go_back() -> None:
    """The refusal names the value and what is accepted."""
    with pytest.raises(ValueError, match=r"seconds=-1 .*accepted: 0 or more"):
        FakeClock().advance(-1)
