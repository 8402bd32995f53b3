"""The queue and its thread: real threads, exporters that hang, forks."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, get_value

from crucible_otel.export.backlog import Bounds
from crucible_otel.export.batching import BatchQueue

WAIT_S = 60.0
NEVER_S = 1000.0


@dataclass(frozen=True)
class Item:
    """Something that knows its size."""

    thread: int
    number: int
    nbytes: int = 100


class Exported:
    """Takes batches; holds them up while it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.go, self.entered = threading.Event(), threading.Event()
        self.go.set()
        self.suppressed: set[object] = set()

    def __call__(self, batch: Sequence[Any]) -> None:
        """Export."""
        self.entered.set()
        self.suppressed.add(get_value(_SUPPRESS_INSTRUMENTATION_KEY))
        assert self.go.wait(WAIT_S)
        self.batches.append(list(batch))

    @property
    def numbers(self) -> list[int]:
        """The numbers of the items, in order."""
        return [item.number for batch in self.batches for item in batch]


@contextmanager
def queue(exported: Callable[[Sequence[Any]], object], delay_s: float = NEVER_S, **bounds: Any) -> Iterator[BatchQueue]:
    """Return a queue that is shut down in the end."""
    made = BatchQueue(exported, name="test-queue", bounds=Bounds(delay_s=delay_s, **bounds))
    try:
        yield made
    finally:
        if isinstance(exported, Exported):
            exported.go.set()
        assert made.shutdown(WAIT_S * 1000)


def until(condition: Callable[[], object]) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def in_threads(count: int, work: Callable[[int], object]) -> list[threading.Thread]:
    """Start threads, each with its number."""
    threads = [threading.Thread(target=work, args=(each,)) for each in range(count)]
    for each in threads:
        each.start()
    return threads


def in_a_child(work: Callable[[], object]) -> int:
    """Fork, do something, and return the child's status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def restless() -> Iterator[None]:
    """Have threads interrupt each other all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# -- counting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_bytes", [1_000_000_000, 500_000], ids=["room", "full"])
@pytest.mark.usefixtures("restless")
def test_everything_put_in_by_eight_threads_is_exported_once_or_counted(max_bytes: int) -> None:
    """While others flush; each thread's items leave in the order it put them in."""
    exported = Exported()
    with queue(exported, max_bytes=max_bytes, batch_bytes=20_000) as made:

        def work(thread: int) -> None:
            for number in range(0, 20_000, 10):
                for each in range(number, number + 5):
                    made.put(Item(thread, each))
                made.put_many([Item(thread, each) for each in range(number + 5, number + 10)])

        threads, stop = in_threads(8, work), threading.Event()

        def flush(_: int) -> None:
            while not stop.is_set():
                assert made.force_flush(WAIT_S * 1000)

        flushers = in_threads(2, flush)
        for each in threads:
            each.join()
        stop.set()
        for each in flushers:
            each.join()
        assert made.force_flush(WAIT_S * 1000)
        counts = made.counts

    items = [item for batch in exported.batches for item in batch]
    assert (160_000, 0, 0, 0) == (counts.offered, counts.waiting, counts.waiting_bytes, counts.ended)
    assert counts.offered == len(items) + counts.full
    assert len(items) == counts.taken == len(set(items))
    for thread in range(8):
        numbers = [item.number for item in items if item.thread == thread]
        assert sorted(numbers) == numbers
    if max_bytes == 1_000_000_000:
        assert 0 == counts.full


def test_a_full_queue_drops_what_comes_next_and_goes_on() -> None:
    """While the exporter hangs; when it is back there is room again."""
    exported = Exported()
    exported.go.clear()
    with queue(exported, max_bytes=1000) as made:
        for number in range(25):
            made.put(Item(0, number))
        assert (25, 15) == (made.counts.offered, made.counts.full)
        assert 1000 == made.counts.waiting_bytes
        exported.go.set()
        assert made.force_flush(WAIT_S * 1000)
        made.put(Item(0, 25))

    assert [*range(10), 25] == exported.numbers


# -- when it exports -------------------------------------------------------------------------------------------------


def test_a_full_batch_leaves_at_once_and_the_rest_waits() -> None:
    """By bytes, and by number where that is set."""
    for bounds in ({"batch_bytes": 400}, {"batch_items": 4}):
        exported = Exported()
        with queue(exported, **bounds) as made:
            for number in range(6):
                made.put(Item(0, number))
            until(lambda: exported.batches)  # noqa: B023  # called here and now
            assert 2 == made.counts.waiting
        assert [[0, 1, 2, 3], [4, 5]] == [[item.number for item in batch] for batch in exported.batches]


def test_what_is_no_full_batch_leaves_after_the_delay() -> None:
    """Without anybody's asking, again and again."""
    exported = Exported()
    with queue(exported, delay_s=0.01) as made:
        for number in range(3):
            made.put(Item(0, number))
            until(lambda: len(exported.numbers) == number + 1)  # noqa: B023  # called here and now

    assert [0, 1, 2] == exported.numbers


def test_exports_are_hidden_from_instrumentation() -> None:
    """Else an instrumented HTTP client would make spans of exports of spans."""
    exported = Exported()
    with queue(exported) as made:
        made.put(Item(0, 0))

    assert {True} == exported.suppressed


# -- sources ---------------------------------------------------------------------------------------------------------


class Buffer:
    """Keeps items, and hands them over when it is asked."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.asked: list[bool] = []

    def __call__(self, everything: bool) -> list[Item]:
        """Hand over."""
        self.asked.append(everything)
        items, self.items = self.items, []
        return items


@pytest.mark.parametrize("end", ["flush", "shutdown", "delay"])
def test_sources_are_asked_before_anything_leaves(end: str) -> None:
    """When the delay is over, in a flush and at the end."""
    exported, buffer = Exported(), Buffer()
    with queue(exported, delay_s=0.01 if end == "delay" else NEVER_S) as made:
        made.sources.append(buffer)
        buffer.items = [Item(0, number) for number in range(3000)]
        if end == "flush":
            assert made.force_flush(WAIT_S * 1000)
        elif end == "delay":
            until(lambda: len(exported.numbers) == 3000)
    assert list(range(3000)) == exported.numbers
    assert True in buffer.asked
    assert (3000, 3000) == (made.counts.offered, made.counts.taken)


def test_a_source_may_make_its_items_while_it_is_asked() -> None:
    """By an iterator over a few at a time, of which all is taken."""
    exported, buffer = Exported(), Buffer()
    with queue(exported) as made:
        made.sources.append(lambda everything: ([item] for item in buffer(everything)))
        buffer.items = [Item(0, number) for number in range(1000)]
        assert made.force_flush(WAIT_S * 1000)

    assert list(range(1000)) == exported.numbers


def test_wake_has_sources_asked_and_full_batches_sent() -> None:
    """Called as often as one likes."""
    exported, buffer = Exported(), Buffer()
    with queue(exported, batch_items=100) as made:
        made.sources.append(buffer)
        buffer.items = [Item(0, number) for number in range(250)]
        for _ in range(1000):
            made.wake()
        until(lambda: len(exported.numbers) == 200)
        assert 50 == made.counts.waiting
        assert made._bell.qsize() <= 1
        assert {False} == {*buffer.asked}  # what is ready is enough


def test_a_source_that_fails_keeps_nothing_else_back() -> None:
    """Its own items are its own."""
    exported, buffer = Exported(), Buffer()

    def broken(everything: bool) -> list[Item]:
        raise ValueError

    with queue(exported) as made:
        made.sources += [broken, buffer]
        buffer.items = [Item(0, 1)]
        made.put(Item(0, 0))
        assert made.force_flush(WAIT_S * 1000)

    assert [0, 1] == exported.numbers


def test_a_source_can_keep_what_would_not_fit() -> None:
    """It asks for the room first."""
    exported = Exported()
    exported.go.clear()
    waiting = [Item(0, number) for number in range(30)]

    def patient(everything: bool) -> list[Item]:
        fits = made.room_bytes // 100
        given, waiting[:fits] = waiting[:fits], []
        return given

    with queue(exported, max_bytes=1000) as made:
        made.sources.append(patient)
        made.wake()
        assert exported.entered.wait(WAIT_S)
        exported.go.set()
        assert made.force_flush(WAIT_S * 1000)
        until(lambda: made.force_flush(WAIT_S * 1000) and not waiting)

    assert list(range(30)) == exported.numbers
    assert 0 == made.counts.full


# -- flushing and leaving --------------------------------------------------------------------------------------------


def test_a_flush_behind_a_hung_export_returns_when_its_time_is_over() -> None:
    """From several threads at once; later everything is there all the same."""
    exported = Exported()
    exported.go.clear()
    with queue(exported) as made:
        made.put(Item(0, 0))
        results: list[bool] = []
        threads = in_threads(4, lambda _: results.append(made.force_flush(20)))
        for each in threads:
            each.join(WAIT_S)
        assert [False] * 4 == results
        exported.go.set()
        assert made.force_flush(WAIT_S * 1000)
        assert [0] == exported.numbers


def test_shutdown_behind_a_hung_export_returns_when_its_time_is_over() -> None:
    """What is left is counted, and not exported later on."""
    exported = Exported()
    exported.go.clear()
    made = BatchQueue(exported, name="test-queue", bounds=Bounds(delay_s=NEVER_S, batch_items=1))
    for number in range(3):
        made.put(Item(0, number))
    assert exported.entered.wait(WAIT_S)

    assert not made.shutdown(20)
    made.put(Item(0, 3))
    exported.go.set()
    thread = made._thread
    assert thread is not None
    thread.join(WAIT_S)

    assert (4, 1, 0, 3) == (made.counts.offered, made.counts.taken, made.counts.waiting, made.counts.ended)
    assert [0] == exported.numbers
    assert not made.force_flush(20)


def test_shutdown_from_many_threads_delivers_everything_once() -> None:
    """All of them wait for the end and hear the same."""
    exported = Exported()
    made = BatchQueue(exported, name="test-queue", bounds=Bounds(delay_s=NEVER_S))
    for number in range(100):
        made.put(Item(0, number))
    results: list[bool] = []
    for each in in_threads(8, lambda _: results.append(made.shutdown(WAIT_S * 1000))):
        each.join(WAIT_S)

    assert [True] * 8 == results
    assert list(range(100)) == exported.numbers
    assert made._thread is not None
    assert not made._thread.is_alive()


def test_a_flush_from_inside_the_exporter_gives_up_at_once() -> None:
    """It would wait for itself."""
    answers = []
    made = BatchQueue(
        lambda batch: answers.append(made.force_flush()), name="test-queue", bounds=Bounds(delay_s=NEVER_S)
    )
    made.put(Item(0, 0))

    assert made.shutdown(WAIT_S * 1000)
    assert [False] == answers


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_an_exporter_that_raises_costs_its_batch_only(error: type[BaseException]) -> None:
    """Even by an exception that ends other threads; who made the queue is told."""
    exported, failures = Exported(), []

    def deliver(batch: Sequence[Any]) -> None:
        if batch[0].number == 0:
            raise error
        exported(batch)

    made = BatchQueue(
        deliver,
        name="test-queue",
        bounds=Bounds(delay_s=NEVER_S, batch_items=2),
        failed=lambda number, error: failures.append((number, type(error))),
    )
    for number in range(4):
        made.put(Item(0, number))

    assert made.shutdown(WAIT_S * 1000)
    assert ([2, 3], [(2, error)]) == (exported.numbers, failures)


# -- forking ---------------------------------------------------------------------------------------------------------


def test_a_child_begins_with_nothing_and_starts_a_thread_with_its_first_item() -> None:
    """What waits is the parent's; one that records nothing has no thread."""
    exported = Exported()
    with queue(exported) as made:
        made.put(Item(0, 0))

        def child() -> None:
            others = threading.active_count()  # queues of the SDK's, of other tests, start theirs at once
            assert made.force_flush(WAIT_S * 1000)
            assert ((0, 0, 0, 0, 0, 0), others) == (made.counts, threading.active_count())
            made.put(Item(0, 1))
            assert threading.active_count() == others + 1
            assert made.shutdown(WAIT_S * 1000)
            assert [1] == exported.numbers

        assert 0 == in_a_child(child)
        assert made.force_flush(WAIT_S * 1000)
    assert [0] == exported.numbers


def test_a_source_of_a_child_is_asked_although_it_has_no_thread_yet() -> None:
    """By the first flush."""
    exported, buffer = Exported(), Buffer()
    with queue(exported) as made:
        made.sources.append(buffer)

        def child() -> None:
            buffer.items = [Item(0, 1)]
            assert made.force_flush(WAIT_S * 1000)
            assert [1] == exported.numbers

        assert 0 == in_a_child(child)


def test_children_forked_while_threads_put_in_and_export_work() -> None:
    """No lock that another thread held is left behind; the parent loses nothing by it."""
    exported = Exported()
    with queue(exported, batch_items=50) as made:
        stop, counts = threading.Event(), [0] * 4

        def work(thread: int) -> None:
            while not stop.is_set():
                made.put(Item(thread, counts[thread]))
                counts[thread] += 1
                if counts[thread] % 100 == 0:
                    made.force_flush(WAIT_S * 1000)

        def child() -> None:
            exported.batches.clear()
            for number in range(500):
                made.put(Item(9, number))
            assert made.shutdown(WAIT_S * 1000)
            assert list(range(500)) == exported.numbers

        threads = in_threads(4, work)
        try:
            statuses = [in_a_child(child) for _ in range(5)]
        finally:
            stop.set()  # else they keep the tests that follow busy
            for each in threads:
                each.join(WAIT_S)
        assert made.force_flush(WAIT_S * 1000)

    assert [0] * 5 == statuses
    assert (sum(counts), 0) == (len(exported.numbers), made.counts.full)


def test_a_child_forked_after_the_end_counts_what_comes_and_does_not_wait() -> None:
    """There is no thread that could end."""
    exported = Exported()
    made = BatchQueue(exported, name="test-queue", bounds=Bounds())
    assert made.shutdown(WAIT_S * 1000)

    def child() -> None:
        made.put(Item(0, 0))
        assert made.shutdown(WAIT_S * 1000)
        assert (1, 1) == (made.counts.offered, made.counts.ended)

    assert 0 == in_a_child(child)
