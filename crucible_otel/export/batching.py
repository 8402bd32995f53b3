"""The queue between those who end spans or emit log records and an exporter.

One thread of the queue's own takes batches out and delivers them, in slices of less than a millisecond; nobody else
ever waits for an exporter longer than he said.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeAlias

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value

from crucible_otel.export.backlog import Backlog, Bounds, QueueCounts
from crucible_otel.export.chunk import Batch
from crucible_otel.export.fork import in_child
from crucible_otel.export.pace import Pace
from crucible_otel.export.quiet import listening

__all__ = ["BatchQueue", "Source"]

logger = logging.getLogger("crucible_otel")

_FLUSH_MS: Final = 30_000.0

Source: TypeAlias = Callable[[bool], "Sequence[Any] | Iterator[Sequence[Any]]"]
"""``source(everything)`` hands over the items that somebody keeps in a buffer of his own: those that are ready, or
everything. Any thread may call it, also two at once. Where it is work to make them it returns an iterator over a few at
a time: lists or chunks, between which there are pauses."""


def _nothing(*_: object) -> None:
    return None


class BatchQueue:
    """A queue of spans or of log records, and the thread that delivers them.

    In a forked child it is empty, and has no thread before the first item comes.

    Args:
        deliver: Exports a batch.
        name: Name of the thread.
        bounds: How much may wait and go at once.
        failed: Called with the number of items and the exception when ``deliver`` raises.
        after: Called on the thread each time it has looked at the queue and delivered what was due.

    Attributes:
        bounds: How much may wait and go at once.
        sources: Asked for their items before each batch is made, and when the queue is flushed or shut down. What does
            not fit is dropped and counted; one who asks :attr:`room_bytes` first can keep it.
    """

    def __init__(
        self,
        deliver: Callable[[Batch], object],
        *,
        name: str,
        bounds: Bounds,
        failed: Callable[[int, BaseException], object] = _nothing,
        after: Callable[[], object] = _nothing,
    ) -> None:
        self._deliver, self._name, self.bounds = deliver, name, bounds
        self._failed, self._after = failed, after
        self.sources: list[Source] = []
        self._backlog = Backlog(bounds)
        self._reset()
        in_child(self._reset)
        self._start()

    def _reset(self) -> None:
        """Begin with nothing: in a forked child, what waits is its parent's to deliver."""
        closed = self._backlog.closed
        self._backlog = Backlog(self.bounds)
        # Reentrant, unlike an Event: a signal handler may ring it in the middle of a ring.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._rung = False
        self._flushes: deque[threading.Event] = deque()
        self._taking = threading.Lock()
        self._over = threading.Event()
        self._pace = Pace()
        self._thread: threading.Thread | None = None
        self._may_start = deque((None,))  # whoever pops it starts the thread
        if closed:
            self._backlog.end()
            self._over.set()

    # -- putting in ----------------------------------------------------------------------------------------------------

    def put(self, item: Any) -> None:
        """Queue an item, or drop and count it; takes no lock, never waits, never raises."""
        if self._backlog.add(item):
            self.wake()
        if self._thread is None:
            self._start()

    def put_many(self, items: Sequence[Any]) -> int:
        """Queue many items at once; what does not fit is dropped and counted.

        Args:
            items: The items, or a chunk of them; kept as they are, to be changed no more.

        Returns:
            How many were accepted: the first ones.
        """
        accepted = self._backlog.extend(items)
        if self._backlog.has_batch:
            self.wake()
        if self._thread is None:
            self._start()
        return accepted

    def wake(self) -> None:
        """Have the thread ask the sources and deliver full batches; cheap, and as good once as often."""
        if not self._rung:
            self._rung = True
            self._bell.put(None)

    @property
    def room_bytes(self) -> int:
        """How much :meth:`put_many` would accept."""
        return self._backlog.room_bytes

    @property
    def counts(self) -> QueueCounts:
        """The counts at this moment; exact when nobody is putting anything in."""
        return self._backlog.counts

    # -- flushing and leaving ------------------------------------------------------------------------------------------

    def force_flush(self, timeout_millis: float | None = None) -> bool:
        """Deliver what was put in before, and what the sources have.

        Args:
            timeout_millis: How long to wait for it; 30 s if left out.

        Returns:
            Whether all of it was handed to the exporter, and that has returned, in time. False after :meth:`shutdown`.
        """
        timeout_s = (_FLUSH_MS if timeout_millis is None else timeout_millis) / 1000
        return not self._backlog.closed and self._drain(timeout_s)

    def shutdown(self, timeout_millis: float = _FLUSH_MS) -> bool:
        """Accept nothing more, deliver what there is and end; a second call waits for the first one's end.

        What is left when the time is over is not exported any more.

        Args:
            timeout_millis: How long to wait for it.

        Returns:
            Whether everything was handed to the exporter, and that has returned, in time.
        """
        deadline = time.monotonic() + timeout_millis / 1000
        with self._taking:
            first = not self._backlog.closed
            self._backlog.closed = True
        if not first:
            return self._over.wait(timeout_millis / 1000)
        drained = self._drain(max(0.0, deadline - time.monotonic()))
        with self._taking:
            self._backlog.end()
        self._over.set()
        self._bell.put(None)
        if drained and self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return drained

    def _drain(self, timeout_s: float) -> bool:
        if threading.current_thread() is self._thread:
            return False  # an exporter that flushes what it was called by
        if self._thread is None:
            self._ask(everything=True)
            if not self._backlog:
                return True
            self._start()
        if self._thread is None:  # too late for threads, as in an atexit hook from Python 3.12 on
            with _inside_telemetry():
                self._look(everything=True)
            return True
        done = threading.Event()
        self._flushes.append(done)
        self._bell.put(None)
        return done.wait(timeout_s)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._backlog.ended:
            return
        try:
            self._may_start.pop()
        except IndexError:
            return
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is on its way out
            self._thread = None
            self._may_start.append(None)

    def _run(self) -> None:
        due = time.monotonic() + self.bounds.delay_s
        with _inside_telemetry():
            while True:
                with suppress(Empty):
                    self._bell.get(timeout=max(0.0, due - time.monotonic()))
                self._rung = False  # before looking: who rings from now on is heard
                if self._over.is_set():
                    return
                timed = time.monotonic() >= due
                self._look(everything=timed)
                if timed:
                    due = time.monotonic() + self.bounds.delay_s

    def _look(self, everything: bool) -> None:
        """Deliver full batches, or all that is there by now, and tell those who wait for that."""
        backlog = self._backlog
        flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
        self._ask(everything=everything or bool(flushes))
        goal = backlog.added if everything or flushes else 0
        while not backlog.delivered_all_before(goal) or backlog.has_batch:
            if not self._deliver_batch():
                break
            self._ask(everything=False)
        with suppress(Exception):
            self._after()
        if not backlog.ended:  # else the time of those who wait is over, and nothing is handed to anybody
            for done in flushes:
                done.set()

    def _ask(self, *, everything: bool) -> None:
        for source in self.sources:
            try:
                given = source(everything)
                for items in (given,) if isinstance(given, Sequence) else given:
                    self._backlog.extend(items, self._pace, late=not self._backlog.ended)
            except Exception as error:  # the others' items are none the worse for it
                logger.debug("a source of %s failed: %s", self._name, type(error).__name__)

    def _deliver_batch(self) -> bool:
        """Deliver one batch; return False when there is none, or it is too late for it."""
        batch = Batch(self._pace)
        with self._taking:
            size = self._backlog.take(batch)
        if not batch:
            return False
        number = len(batch)
        try:
            self._deliver(batch)
        except BaseException as error:  # the thread must live on, even through a SystemExit of the user's code
            self._failed(number, error)
        batch.free()
        self._backlog.let_go(size)
        return True


@contextmanager
def _inside_telemetry() -> Iterator[None]:
    """Keep instrumented HTTP clients from making spans of exports, and the SDK's words from the user's terminal."""
    token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        with listening():
            yield
    finally:
        detach(token)
