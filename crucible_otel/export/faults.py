"""Counting what went wrong on the way out, without ever telling the program by an exception."""

from __future__ import annotations

import logging
from collections.abc import Callable

_logger = logging.getLogger(__name__)

_MOST_KEYS = 100


class FaultCounter:
    """Counts faults of one component and logs the first one of each kind.

    Args:
        component: What the fault happened in, as it is called in logs.
        on_fault: Called with the component for each fault, to count it elsewhere too.
    """

    def __init__(self, component: str, on_fault: Callable[[str], object] | None = None) -> None:
        self.component = component
        self.count = 0
        self._on_fault = on_fault
        self._logged: set[str] = set()

    def note(self, kind: str, message: str, error: BaseException | None = None) -> None:
        """Count a fault; log it when it is the first of its kind.

        Args:
            kind: What makes two faults the same.
            message: What happened and what follows, for the log.
            error: The exception that was caught, if any.
        """
        self.count += 1
        try:
            if self._on_fault is not None:
                self._on_fault(self.component)
            if kind not in self._logged and len(self._logged) < _MOST_KEYS:
                self._logged.add(kind)
                _logger.warning("%s: %s (more of these are only counted)", self.component, message, exc_info=error)
        except Exception:
            _logger.debug("%s: reporting a fault failed", self.component, exc_info=True)
