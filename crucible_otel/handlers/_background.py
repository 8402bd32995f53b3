"""A bounded queue with a thread of its own, so that what is slow never runs where events are made.

Nothing starts before the first item. After a fork the child begins with an empty queue, no thread and zero counts: what
the parent had queued is the parent's to deliver.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final, Generic, TypeVar

__all__ = ["Background"]

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

_BATCH: Final = 1_024
_STALL_S: Final = 1.0
_STALL_AFTER_LATE_FLUSH_S: Final = 0.1
_CLOSE_S: Final = 3.0


class _Mark:
    """Stands in the queue behind what was accepted before it; set when all of that is delivered."""

    def __init__(self, *, last: bool) -> None:
        self.reached = threading.Event()
        self.last = last


class Background(Generic[T]):
    """Delivers items, in the order in which they were offered, on a daemon thread of its own.

    :meth:`offer` takes no lock on its usual way and is safe in a signal handler or a finaliser.

    Args:
        deliver: Called with the next items, always from one thread at a time.
        name: Name of the thread.
        size: How many items may wait; more are dropped and counted.
        linger_s: How long the first item of a batch waits for more.
        forget: Called in a forked child, to let go of what it shares with its parent.
    """

    def __init__(
        self,
        deliver: Callable[[list[T]], None],
        *,
        name: str,
        size: int,
        linger_s: float = 0.05,
        forget: Callable[[], None] | None = None,
    ) -> None:
        self._deliver, self._name, self._size, self._linger_s = deliver, name, size, linger_s
        self._forget = forget
        self._home = os.getpid()
        self._closed = False
        self._begin()
        if hasattr(os, "register_at_fork"):
            # What is registered stays for ever: a weak reference, so that the queue itself does not.
            reference = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _begin_again(reference))

    def _begin(self) -> None:
        self._queue: SimpleQueue[T | _Mark] = SimpleQueue()
        self._lock = threading.RLock()
        self._delivering = threading.Lock()
        self._urgent = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._dropped = itertools.count()
        self._dropped_seen = 0
        self._delivered = 0
        self._late = False
        self._over = False

    def offer(self, item: T) -> bool:
        """Queue an item.

        Returns:
            Whether it was accepted; if not, it is counted as dropped.
        """
        if self._closed or self._queue.qsize() >= self._size:
            next(self._dropped)
            return False
        self._queue.put(item)
        if self._thread is None:
            self._start()
        return True

    @property
    def dropped(self) -> int:
        """How many items were refused."""
        with self._lock:  # reading the counter advances it
            self._dropped_seen += 1
            return next(self._dropped) - self._dropped_seen + 1

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was accepted is delivered.

        Returns:
            False when the time ran out.
        """
        if threading.current_thread() is self._thread:
            return False
        mark = _Mark(last=False)
        self._send(mark)
        self._late = not mark.reached.wait(max(0.0, timeout_s))
        return not self._late

    def close(self) -> bool:
        """Refuse further items, deliver the accepted ones and end the thread.

        It waits as long as items move, at most three seconds; where nothing moves for a second, it gives up.

        Returns:
            Whether all were delivered.
        """
        with self._lock:
            if self._closed:
                return True
            self._closed = True
        mark = _Mark(last=True)
        self._send(mark)
        stall_s = _STALL_AFTER_LATE_FLUSH_S if self._late else _STALL_S
        end = monotonic() + _CLOSE_S
        moved, moved_at = self._delivered, monotonic()
        while not mark.reached.wait(0.02):
            now = monotonic()
            if self._delivered != moved:
                moved, moved_at = self._delivered, now
            if now >= end or now - moved_at >= stall_s:
                return False
        return True

    def _send(self, mark: _Mark) -> None:
        self._queue.put(mark)
        self._urgent.release()
        with self._lock:  # held by who starts the thread: one that is being started is not alive yet
            thread = self._thread
            if thread is None or self._over or not thread.is_alive():
                self._work(self._queue, wait=False)  # nothing was ever queued, or no thread can start any more

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, args=(self._queue,), name=self._name, daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:  # the interpreter is ending; flush and close deliver what is queued
                return
        if os.getpid() != self._home and "multiprocessing.util" in sys.modules:
            # A multiprocessing child leaves by os._exit, past atexit; this is the hook that it does call.
            sys.modules["multiprocessing.util"].Finalize(None, self.flush, args=(_CLOSE_S,), exitpriority=0)

    def _work(self, queue: SimpleQueue[T | _Mark], wait: bool = True) -> None:
        ended = False
        while True:
            batch: list[T] = []
            mark = None
            try:
                entry = queue.get(block=wait and not ended)
                if wait and not ended and not isinstance(entry, _Mark) and queue.qsize() < _BATCH:
                    self._urgent.acquire(timeout=self._linger_s)
                while not isinstance(entry, _Mark) and len(batch) < _BATCH - 1:
                    batch.append(entry)
                    entry = queue.get_nowait()
                if isinstance(entry, _Mark):
                    mark = entry
                else:
                    batch.append(entry)
            except Empty:
                if not batch:
                    if not wait:
                        return
                    with self._lock:
                        # A thread is alive for a moment after it has looked for the last time.
                        self._over = queue.empty()
                    if self._over:
                        return
                    continue
            if batch:
                self._hand_over(batch)
            if mark is not None:
                mark.reached.set()
                ended = ended or mark.last

    def _hand_over(self, batch: list[T]) -> None:
        with self._delivering:
            try:
                self._deliver(batch)
            except Exception:
                _log.warning("%s could not deliver %d items", self._name, len(batch), exc_info=True)
            self._delivered += len(batch)


def _begin_again(reference: weakref.ref[Background[T]]) -> None:
    background = reference()
    if background is not None:
        background._begin()
        if background._forget is not None:
            background._forget()
