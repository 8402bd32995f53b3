"""Leaving: every signal flushed and shut down at once, within a time that holds whatever an exporter does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from crucible_otel.export.fork import in_child
from crucible_otel.export.workers import Outcome, Parked

__all__ = ["CHILD_TIMEOUT_S", "Departure", "Part"]

CHILD_TIMEOUT_S = 2.0
"""How long a forked child may take to leave; ``multiprocessing`` joins its children one after the other."""

_LAST_S = 0.4
"""What remains of the time when deliveries still under way are made to give up, so that they can be counted."""

_WORD_S = 0.3
"""What is kept of the time for the last word: on a machine that is starved of CPU even a line takes its while."""


def _nothing() -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing to flush and shut down: a signal, or the handlers.

    Attributes:
        name: For the thread that does it.
        flush: ``flush(timeout_s)``; False, or an exception, when something did not arrive. May ignore its timeout.
        shutdown: ``shutdown(timeout_s)``, likewise; flushes first.
        interrupt: Makes either of the two give up soon. Must not block.
    """

    name: str
    flush: Callable[[float], object]
    shutdown: Callable[[float], object]
    interrupt: Callable[[], object] = _nothing


class Departure:
    """Flushes and shuts down the parts of a pipeline, in parallel, on threads that wait from the beginning.

    Args:
        parts: What leaves.
        exit_timeout_s: The time for leaving when nobody says otherwise.
        before_flush: Called before the parts are flushed, for what is to leave with any of them; gets half of the time
            at most.
        before_leaving: Called with the reason (``shutdown``, ``exit``, ``sigterm`` or ``child``) before the parts are
            shut down; gets half of the time at most, then leaving goes on without waiting for it.
        last_word: Called when all is over, to report what was lost.
    """

    def __init__(
        self,
        parts: Iterable[Part],
        *,
        exit_timeout_s: float = 3.0,
        before_flush: Callable[[], object] | None = None,
        before_leaving: Callable[[str], object] | None = None,
        last_word: Callable[[], object] | None = None,
    ) -> None:
        self._parts = tuple(parts)
        self.exit_timeout_s = exit_timeout_s
        self._before_flush, self._before_leaving, self._last_word = before_flush, before_leaving, last_word
        self._park()
        in_child(self._after_fork)

    def _park(self) -> None:
        self._claim = threading.Lock()
        self._left = threading.Event()
        self._good = False
        self._workers = [Parked(f"crucible-otel-{part.name}") for part in self._parts]
        # Two threads, so that a callback that hangs cannot keep the interrupts and the last word from being run.
        self._callback = Parked("crucible-otel-before-leaving")
        self._errands = Parked("crucible-otel-errands")
        self._signals = Parked("crucible-otel-leave")

    def _after_fork(self) -> None:
        self.exit_timeout_s = min(self.exit_timeout_s, CHILD_TIMEOUT_S)
        if not self.closed:
            self._park()

    @property
    def closed(self) -> bool:
        """Whether all was shut down, or the time for it is over."""
        return self._left.is_set()

    def in_background(self, task: Callable[[], object]) -> None:
        """Have something done on the thread that serves signals; safe in a signal handler."""
        self._signals.post(task)

    def flush(self, timeout_s: float) -> bool:
        """Deliver what there is.

        Args:
            timeout_s: The time for it; the call takes no longer.

        Returns:
            Whether everything that there was arrived in time; what was lost before is forgotten. False after
            :meth:`shutdown`.
        """
        if self.closed or self._claim.locked():
            return False
        deadline = time.monotonic() + timeout_s
        if self._before_flush is not None:
            _run_on(self._callback, self._before_flush, timeout_s / 2)
        return self._gather([partial(_flush, part, deadline) for part in self._parts], deadline)

    def shutdown(self, timeout_s: float | None = None, reason: str = "shutdown") -> bool:
        """Deliver what there is and end; the second call waits for the first and changes nothing.

        Args:
            timeout_s: The time for it, ``exit_timeout_s`` if left out; the call takes no longer.
            reason: Given to ``before_leaving``.

        Returns:
            Whether everything was delivered in time, and nothing was lost before.
        """
        deadline = time.monotonic() + (self.exit_timeout_s if timeout_s is None else timeout_s)
        if not self._claim.acquire(blocking=False):
            return self._left.wait(_until(deadline)) and self._good
        try:
            if self._before_leaving is not None:
                _run_on(self._callback, partial(self._before_leaving, reason), _until(deadline) / 2)
            over = deadline - min(_WORD_S, _until(deadline) / 4)
            self._good = self._gather([partial(_shut_down, part, over) for part in self._parts], over, True)
            if self._last_word is not None:
                _run_on(self._errands, self._last_word, max(_until(deadline), _LAST_S))
        finally:
            self._left.set()
            for worker in (*self._workers, self._callback, self._errands, self._signals):
                worker.retire()
        return self._good

    def _gather(self, tasks: list[Callable[[], object]], deadline: float, give_up: bool = False) -> bool:
        """Run one task on each part's thread and wait for all of them until the deadline."""
        outcomes = [Outcome(task) for task in tasks]
        for worker, outcome in zip(self._workers, outcomes, strict=True):
            worker.post(outcome)
        last_s = min(_LAST_S, _until(deadline) / 4) if give_up else 0.0
        pairs = zip(self._parts, outcomes, strict=True)
        late = [part for part, outcome in pairs if not outcome.wait(_until(deadline) - last_s)]
        if late and give_up:
            _run_on(self._errands, lambda: [part.interrupt() for part in late], _until(deadline))
            for outcome in outcomes:
                outcome.wait(_until(deadline))
        return not late and all(outcome.good for outcome in outcomes)


def _flush(part: Part, deadline: float) -> object:
    # One that had to wait behind a hung export until nobody waits for it any more is not worth doing.
    return time.monotonic() < deadline and part.flush(_until(deadline))


def _shut_down(part: Part, deadline: float) -> object:
    return part.shutdown(_until(deadline))


def _run_on(worker: Parked, task: Callable[[], object], seconds: float) -> None:
    outcome = Outcome(task)
    worker.post(outcome)
    outcome.wait(seconds)


def _until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
