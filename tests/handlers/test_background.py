"""The bounded queue with a thread of its own."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

from crucible_otel.handlers._background import Background


def make(delivered: list[int], *, size: int = 10_000, gate: threading.Event | None = None) -> Background[int]:
    """A queue whose deliveries are kept, and held up until the gate opens."""

    def deliver(batch: list[int]) -> None:
        if gate is not None:
            gate.wait(30)
        delivered.extend(batch)

    return Background(deliver, name="test-background", size=size)


def test_items_arrive_in_order_and_none_is_left() -> None:
    """What was offered before the close is delivered, in order, also beyond one batch."""
    delivered: list[int] = []
    background = make(delivered)
    assert all(background.offer(number) for number in range(5_000))
    assert background.close()
    assert list(range(5_000)) == delivered


def test_no_thread_is_started_before_the_first_item() -> None:
    """A handler that never gets an event costs no thread, and flushes at once."""
    before = threading.active_count()
    background = make([])
    assert background.flush(1)
    assert before == threading.active_count()
    assert background.close()


def test_the_thread_ends_with_the_close() -> None:
    """Attaching and detaching again and again leaves nothing behind."""
    background = make([])
    background.offer(1)
    thread = next(thread for thread in threading.enumerate() if thread.name == "test-background")
    assert background.close()
    thread.join(30)
    assert not thread.is_alive()


def test_a_flush_after_the_close_is_not_left_to_a_thread_that_is_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has looked for the last time and is alive for a moment more."""
    looked, gate = threading.Event(), threading.Event()
    work = Background._work

    def lingering(self: Any, queue: Any, wait: bool = True) -> None:
        work(self, queue, wait)
        if wait:
            looked.set()
            gate.wait(30)

    monkeypatch.setattr(Background, "_work", lingering)
    background = make([])
    background.offer(1)
    assert background.close()
    assert looked.wait(30)
    assert background.flush(0.5)
    gate.set()


def test_a_closed_queue_is_freed() -> None:
    """What is registered for forks does not keep it."""
    background = make([])
    background.close()
    reference = weakref.ref(background)
    del background
    gc.collect()
    assert reference() is None


def test_a_full_queue_refuses_and_counts() -> None:
    """Reading the count does not change it."""
    gate = threading.Event()
    delivered: list[int] = []
    background = make(delivered, size=5, gate=gate)
    accepted = sum(background.offer(number) for number in range(100))
    assert [100 - accepted] * 3 == [background.dropped for _ in range(3)]
    gate.set()
    assert background.close()
    assert accepted == len(delivered)


def test_a_flush_ends_in_time_when_delivery_hangs() -> None:
    """It says so, and so does the close after it; what was accepted arrives once delivery goes on."""
    gate = threading.Event()
    delivered: list[int] = []
    background = make(delivered, gate=gate)
    background.offer(1)
    assert not background.flush(0.01)
    assert not background.close()
    gate.set()
    assert background.flush(30)
    assert [1] == delivered


def test_a_delivery_that_raises_does_not_end_the_thread() -> None:
    """Its items are gone, the next ones are delivered."""
    delivered: list[int] = []

    def deliver(batch: list[int]) -> None:
        if batch == [1]:
            raise RuntimeError("no")
        delivered.extend(batch)

    background = Background(deliver, name="test-background", size=10)
    background.offer(1)
    assert background.flush(30)
    background.offer(2)
    assert background.close()
    assert [2] == delivered


def test_a_flush_from_within_a_delivery_does_not_wait_for_itself() -> None:
    """A log handler that flushes everything may be called by the thread itself."""
    results: list[bool] = []
    background: Background[int] = Background(
        lambda batch: results.append(background.flush(30)), name="test-background", size=10
    )
    background.offer(1)
    assert background.close()
    assert [False] == results
