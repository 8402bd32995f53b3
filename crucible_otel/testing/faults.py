"""What the receiver does wrong on request: refuse the next requests or a part of them, or leave them waiting."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from crucible_otel.testing.records import Signal

__all__ = ["Fault", "Faults"]


class Fault(NamedTuple):
    """The refusal of one request, or of a part of it.

    Attributes:
        status: The HTTP status to answer with; 200 to take it but for what is rejected.
        retry_after_s: After how many seconds the sender may come back; None to say nothing about it.
        signal: The only signal it is for; None for the next request of any.
        rejected: How many of its items are left out.
        message: Why, for the sender.
    """

    status: int
    retry_after_s: float | None = None
    signal: Signal | None = None
    rejected: int = 0
    message: str = ""


class Faults:
    """The faults that are planned."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._planned: deque[Fault] = deque()
        self._hanging = False
        self._closed = False

    def plan(self, fault: Fault, times: int) -> None:
        """Plan the same fault ``times`` times, after those planned before."""
        with self._changed:
            self._planned.extend([fault] * times)

    def take(self, signal: Signal) -> Fault | None:
        """Return the fault that is for this request, if any; it is planned no more."""
        with self._changed:
            for index, fault in enumerate(self._planned):
                if fault.signal in (None, signal):
                    del self._planned[index]
                    return fault
        return None

    def hang(self, hanging: bool) -> None:
        """Leave requests waiting from now on, or let them go."""
        with self._changed:
            self._hanging = hanging
            self._changed.notify_all()

    def close(self) -> None:
        """Let all requests go, for good."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Make waiting requests look again whether their sender is still there."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, sender_is_there: Callable[[], bool]) -> bool:
        """Wait as long as requests are left waiting.

        Args:
            sender_is_there: Whether anybody still waits for the answer.

        Returns:
            Whether the request is to be taken: its sender is there and the receiver is open.
        """
        with self._changed:
            if not self._hanging:
                return not self._closed
            self._changed.wait_for(lambda: self._closed or not self._hanging or not sender_is_there())
            return not self._closed and sender_is_there()
