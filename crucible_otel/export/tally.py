"""Counting what is delivered and what is lost, and saying so rarely and clearly."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from crucible_otel.export.backlog import Bounds, QueueCounts
from crucible_otel.export.causes import EXIT, PARTIAL, QUEUE_FULL, Cause, remedy_for
from crucible_otel.export.fork import in_child

__all__ = ["NOUNS", "Counts", "Ledger", "Tally"]

NOUNS = {"traces": "spans", "logs": "log records", "metrics": "metric points"}
"""Signal -> what its items are called in a message."""

_QUIET_S = 60.0

Lost = Callable[[str, str, int], object]
"""``lost(signal, reason, count)``."""


class Counts(NamedTuple):
    """The items of one signal in this process.

    ``accepted`` is ``delivered``, ``failed``, ``queue_full`` and what is still on its way. What came after the end, or
    had not arrived then, is ``failed``; what arrives after all is ``delivered`` again.
    """

    accepted: int = 0
    delivered: int = 0
    failed: int = 0
    queue_full: int = 0

    @property
    def lost(self) -> int:
        """How many are known to be lost."""
        return self.failed + self.queue_full

    @property
    def undelivered(self) -> int:
        """How many did not arrive: lost, or still on their way."""
        return self.accepted - self.delivered


class Queue(Protocol):
    """What is between those who make items and a delivery."""

    @property
    def counts(self) -> QueueCounts:
        """What became of the items."""

    @property
    def bounds(self) -> Bounds:
        """How many there may be."""


class Tally:
    """The counts of one signal towards one endpoint.

    Attributes:
        signal: ``traces``, ``metrics`` or ``logs``.
        endpoint: Where it goes, without secrets.
        exporter: The class of an exporter of the user's; None for one of ours.
        queue: The queue in front of the delivery, which counts what it accepts and drops; None where there is none.
        cause: Why the last items were lost.
        in_flight: How many items an exporter has at the moment.
    """

    def __init__(self, signal: str, endpoint: str, on_lost: Lost | None = None, *, exporter: str | None = None) -> None:
        self.signal, self.endpoint, self.exporter, self._on_lost = signal, endpoint, exporter, on_lost
        self.queue: Queue | None = None
        self._reset()
        in_child(self._reset)

    def _reset(self) -> None:
        # Reentrant: a signal handler may end a span while the main thread is in here.
        self._lock = threading.RLock()
        self._counts = Counts()
        self._failures: dict[str, int] = {}
        self._told = (0, 0)
        self._given_up, self._told_early = False, 0
        self.cause: Cause | None = None
        self.in_flight = 0

    @property
    def counts(self) -> Counts:
        """The counts at this moment."""
        counts = self._counts
        if self.queue is not None:
            queue = self.queue.counts
            counts = Counts(
                accepted=counts.accepted + queue.offered,
                delivered=counts.delivered,
                failed=counts.failed + queue.ended,
                queue_full=counts.queue_full + queue.full,
            )
        return counts._replace(failed=counts.undelivered - counts.queue_full) if self._given_up else counts

    @property
    def failures(self) -> dict[str, int]:
        """How many items exports lost, by the kind of the cause."""
        failures = dict(self._failures)
        if self._given_up:
            ended = self.queue.counts.ended if self.queue is not None else 0
            if rest := self.counts.failed - ended - sum(failures.values()):
                failures[EXIT.kind] = failures.get(EXIT.kind, 0) + rest
        return failures

    def accept(self, count: int = 1) -> None:
        """Count items that were handed over for delivery without a queue that counts them."""
        with self._lock:
            self._counts = self._counts._replace(accepted=self._counts.accepted + count)

    def deliver(self, count: int) -> None:
        """Count items that arrived."""
        with self._lock:
            self._counts = self._counts._replace(delivered=self._counts.delivered + count)

    def fail(self, count: int, cause: Cause) -> None:
        """Count items that an exporter gave up, or that the server rejected."""
        with self._lock:
            self._counts = self._counts._replace(failed=self._counts.failed + count)
            self._failures[cause.kind] = self._failures.get(cause.kind, 0) + count
            self.cause = cause
        self._tell(cause.kind if cause is PARTIAL else "export_failed", count)

    def give_up(self) -> None:
        """Count what has not arrived by now as failed: the time for it is over, and nobody waits for it."""
        with self._lock:
            if self._given_up:
                return
            counts = self.counts
            rest = counts.undelivered - counts.lost
            self._given_up, self._told_early = True, rest
        if self._on_lost is not None and rest > 0:
            self._on_lost(self.signal, "export_failed", rest)

    def settle(self) -> int:
        """Tell what the queue has dropped since the last time; who puts items in does not, it would cost him time.

        Returns:
            How many a full queue has dropped since.
        """
        if self.queue is None:
            return 0
        with self._lock:
            queue, (full, ended) = self.queue.counts, self._told
            self._told = (queue.full, queue.ended)
        self._tell("queue_full", queue.full - full)
        self._tell("already_shutdown", queue.ended - ended)
        return queue.full - full

    def _tell(self, reason: str, count: int) -> None:
        """Tell of a loss, unless it was told of when it was given up."""
        with self._lock:
            early = max(0, min(count, self._told_early))
            self._told_early -= early
        if self._on_lost is not None and count > early:
            self._on_lost(self.signal, reason, count - early)


class Ledger:
    """All tallies of a pipeline, and its one voice.

    Args:
        log: Where warnings go; the package's logger if left out.
        clock: Monotonic seconds.
        on_lost: Called with the signal, the reason and the number of items for each loss, to count it elsewhere too;
            must not block.
    """

    def __init__(
        self,
        log: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_lost: Lost | None = None,
    ) -> None:
        self._log = log or logging.getLogger("crucible_otel").warning
        self._clock, self._on_lost = clock, on_lost
        self._tallies: list[Tally] = []
        self._reset()
        in_child(self._reset)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._leaving = False
        self._said: dict[object, float] = {}

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """One tally for each signal and endpoint."""
        return tuple(self._tallies)

    def open(self, signal: str, endpoint: str, *, exporter: str | None = None) -> Tally:
        """Start counting a signal towards an endpoint, or an exporter of the user's."""
        tally = Tally(signal, endpoint, self._on_lost, exporter=exporter)
        self._tallies.append(tally)
        return tally

    def settle(self, tally: Tally) -> None:
        """Count what a queue has dropped, and warn of it."""
        if tally.settle():
            self.complain(tally, QUEUE_FULL)

    def leaving(self) -> None:
        """Keep quiet from now on: what is lost in the end is said once, by the last word."""
        self._leaving = True

    def complain(self, tally: Tally, cause: Cause) -> None:
        """Warn of a failure, and of further ones with the same cause at the same origin once a minute.

        A signal gets one warning a minute at most, and one of a full queue. A vague cause is not told at an origin of
        which something was told already.
        """
        now, origin = self._clock(), _origin(tally.endpoint)
        signal = (tally.signal, cause is QUEUE_FULL)
        keys = (signal, origin if cause.vague else (origin, cause.kind))
        with self._lock:
            if self._leaving or any(self._told(key, now) for key in keys):
                return
            self._said.update(dict.fromkeys((signal, origin, (origin, cause.kind)), now))
        noun = NOUNS[tally.signal]
        lost = _listed((each.signal, each.counts.lost) for each in self._tallies)
        self._log(
            f"telemetry is being lost: {noun} to {tally.endpoint}: {cause.reason}; "
            f"{remedy_for(cause, tally.exporter)}. "
            f"Dropped so far: {lost or 'nothing'}."
        )

    def give_up(self) -> None:
        """Count what has not arrived by now as failed."""
        for tally in self._tallies:
            tally.settle()
            tally.give_up()

    def last_word(self) -> str | None:
        """Say in one line what was not delivered, or None when all was. To be logged once, at the end.

        What to change is in it unless a warning of the last minute has said so.
        """
        missing = [tally for tally in self._tallies if tally.counts.undelivered > 0]
        if not missing:
            return None
        causes: dict[str, dict[str, Cause]] = {}
        for tally in missing:
            cause = _final_cause(tally)
            cause = cause._replace(remedy=remedy_for(cause, tally.exporter))
            causes.setdefault(_origin(tally.endpoint), {})[cause.kind] = cause
        lost = _listed((tally.signal, tally.counts.undelivered) for tally in missing)
        places = "; ".join(
            f"{origin} ({self._explained(origin, cause)})" for origin, of in causes.items() for cause in _definite(of)
        )
        return f"telemetry ends with {lost} dropped, not delivered to {places}"

    def _told(self, key: object, now: float) -> bool:
        return now - self._said.get(key, float("-inf")) < _QUIET_S

    def _explained(self, origin: str, cause: Cause) -> str:
        told = self._told((origin, cause.kind), self._clock())
        return cause.reason if told else f"{cause.reason}; {cause.remedy}"


def _final_cause(tally: Tally) -> Cause:
    counts = tally.counts
    if counts.undelivered <= counts.queue_full:
        return QUEUE_FULL
    return tally.cause if tally.cause and counts.failed else EXIT


def _definite(causes: dict[str, Cause]) -> Iterable[Cause]:
    """Leave out the vague ones, and if that leaves none all but the first."""
    return [cause for cause in causes.values() if not cause.vague] or list(causes.values())[:1]


def _origin(endpoint: str) -> str:
    scheme, separator, rest = endpoint.rpartition("://")
    return f"{scheme}{separator}{rest.partition('/')[0]}"


def _listed(counts: Iterable[tuple[str, int]]) -> str:
    totals: dict[str, int] = {}
    for signal, count in counts:
        totals[signal] = totals.get(signal, 0) + count
    return ", ".join(
        f"{totals[signal]:,} {noun if totals[signal] != 1 else noun.removesuffix('s')}"
        for signal, noun in NOUNS.items()
        if totals.get(signal)
    )
