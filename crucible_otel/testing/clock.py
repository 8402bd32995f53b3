"""A clock that moves only when told to."""

from __future__ import annotations

import threading

__all__ = ["FakeClock"]


class FakeClock:
    """Stands in for the clock of the bus: both of its readings move together, by :meth:`advance` alone.

    Time is kept in whole nanoseconds, so that advancing by 0.1 s ten times is exactly one second.

    Args:
        now_s: The first monotonic reading, in seconds.
        time_ns: The first wall-clock reading, in Unix nanoseconds.
    """

    def __init__(self, now_s: float = 1_000.0, time_ns: int = 1_700_000_000_000_000_000) -> None:
        self._lock = threading.Lock()
        self._monotonic_ns = round(now_s * 1e9)
        self._wall_ns = time_ns

    def now(self) -> float:
        """Return the monotonic time in seconds."""
        return self._monotonic_ns / 1e9

    def time_ns(self) -> int:
        """Return the wall-clock time in Unix nanoseconds."""
        return self._wall_ns

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Args:
            seconds: How much of it; fractions of a nanosecond are rounded.

        Raises:
            ValueError: When it is negative: monotonic time does not go back.
        """
        if seconds < 0:
            raise ValueError(f"seconds={seconds!r} would turn a monotonic clock back; accepted: 0 or more")
        elapsed_ns = round(seconds * 1e9)
        with self._lock:
            self._monotonic_ns += elapsed_ns
            self._wall_ns += elapsed_ns
