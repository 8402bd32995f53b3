"""Time, injectable: a monotonic clock for durations, a wall clock for timestamps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """What measures time.

    ``now()`` is monotonic seconds, ``time_ns()`` nanoseconds since the Unix epoch.
    """

    @property
    def now(self) -> Callable[[], float]:
        """The monotonic clock, in seconds."""

    @property
    def time_ns(self) -> Callable[[], int]:
        """The wall clock, in nanoseconds since the Unix epoch."""


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(time.perf_counter)
    time_ns = staticmethod(time.time_ns)
