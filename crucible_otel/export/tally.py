"""Counting what is delivered and what is lost, and saying so rarely and clearly."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from crucible_otel.export.causes import EXIT, QUEUE_FULL, Cause
from crucible_otel.export.fork import in_child

__all__ = ["NOUNS", "Counts", "Ledger", "Tally"]

NOUNS = {"traces": "spans", "logs": "log records", "metrics": "metric points"}
"""Signal -> what its items are called in a message."""

_QUIET_S = 60.0

Lost = Callable[[str, str, int], object]
"""``lost(signal, reason, count)``."""


class Counts(NamedTuple):
    """The items of one signal in this process.

    ``accepted`` is ``delivered``, ``failed``, ``queue_full`` and what is still on its way. ``queue_full`` is what the
    SDK's processor says: when it is emptied at the very moment of its complaint, that is one too many.
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


class Tally:
    """The counts of one signal towards one endpoint.

    Attributes:
        signal: ``traces``, ``metrics`` or ``logs``.
        endpoint: Where it goes, without secrets.
    """

    def __init__(self, signal: str, endpoint: str, on_lost: Lost | None = None) -> None:
        self.signal, self.endpoint, self._on_lost = signal, endpoint, on_lost
        self._reset()
        in_child(self._reset)

    def _reset(self) -> None:
        # Reentrant: a signal handler may end a span while the main thread is in here.
        self._lock = threading.RLock()
        self._counts = Counts()
        self.cause: Cause | None = None
        self.in_flight = 0

    @property
    def counts(self) -> Counts:
        """The counts at this moment."""
        return self._counts

    def accept(self, count: int = 1) -> None:
        """Count items that were handed over for delivery."""
        with self._lock:
            self._counts = self._counts._replace(accepted=self._counts.accepted + count)

    def deliver(self, count: int) -> None:
        """Count items that arrived."""
        with self._lock:
            self._counts = self._counts._replace(delivered=self._counts.delivered + count)

    def fail(self, count: int, cause: Cause) -> None:
        """Count items that an exporter gave up."""
        with self._lock:
            self._counts = self._counts._replace(failed=self._counts.failed + count)
            self.cause = cause
        if self._on_lost is not None:
            self._on_lost(self.signal, "export_failed", count)

    def overflow(self, count: int) -> None:
        """Count items that a full queue dropped."""
        with self._lock:
            self._counts = self._counts._replace(queue_full=self._counts.queue_full + count)
        if self._on_lost is not None:
            self._on_lost(self.signal, "queue_full", count)


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
        self._said: dict[object, float] = {}

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """One tally for each signal and endpoint."""
        return tuple(self._tallies)

    def open(self, signal: str, endpoint: str) -> Tally:
        """Start counting a signal towards an endpoint."""
        tally = Tally(signal, endpoint, self._on_lost)
        self._tallies.append(tally)
        return tally

    def complain(self, tally: Tally, cause: Cause) -> None:
        """Warn of a failure: at most once a minute for a signal, and for a cause at an origin whatever the signal."""
        now = self._clock()
        keys = ((tally.signal, cause is QUEUE_FULL), (_origin(tally.endpoint), cause.kind))
        with self._lock:
            if any(now - self._said.get(key, float("-inf")) < _QUIET_S for key in keys):
                return
            self._said.update(dict.fromkeys(keys, now))
        noun = NOUNS[tally.signal]
        lost = _listed((each.signal, each.counts.lost) for each in self._tallies)
        self._log(
            f"telemetry is being lost: {noun} to {tally.endpoint}: {cause.reason}; {cause.remedy}. "
            f"Dropped so far: {lost or 'nothing'}."
        )

    def last_word(self) -> str | None:
        """Say in one line what was not delivered, or None when all was. To be logged once, at the end."""
        missing = [tally for tally in self._tallies if tally.counts.undelivered > 0]
        if not missing:
            return None
        where: dict[tuple[str, str], None] = {}
        for tally in missing:
            counts = tally.counts
            if counts.undelivered <= counts.queue_full:
                cause = QUEUE_FULL
            else:
                cause = tally.cause if tally.cause and counts.failed else EXIT
            where[(_origin(tally.endpoint), cause.reason)] = None
        lost = _listed((tally.signal, tally.counts.undelivered) for tally in missing)
        places = "; ".join(f"{origin} ({reason})" for origin, reason in where)
        return f"telemetry ends with {lost} dropped, not delivered to {places}"


def _origin(endpoint: str) -> str:
    scheme, separator, rest = endpoint.rpartition("://")
    return f"{scheme}{separator}{rest.partition('/')[0]}"


def _listed(counts: Iterable[tuple[str, int]]) -> str:
    totals: dict[str, int] = {}
    for signal, count in counts:
        totals[signal] = totals.get(signal, 0) + count
    return ", ".join(f"{totals[signal]:,} {noun}" for signal, noun in NOUNS.items() if totals.get(signal))
