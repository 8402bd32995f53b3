"""What NVML is asked on every tick, one call after the other while all goes well: a tick is little else than calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crucible_otel.gpu.nvml_calls import Ask

__all__ = ["Question", "Questions"]

Question = tuple[tuple[str, Ask], ...]
"""What can be called for something, the newer before the older: the name of its answer, and the call."""


class Questions:
    """The questions about one device.

    As long as each is answered by the same call as before, or not at all for good, nothing but these calls is made.

    Args:
        all: The questions; also an attribute.
        never: What the device cannot do, kept by who makes the calls.

    Attributes:
        settled: Whether each has been answered, or never will be.
    """

    def __init__(self, *all: Question, never: Mapping[object, int]) -> None:
        self.all, self._never = all, never
        self.settled = False
        self._steady: tuple[tuple[int, str, Ask], ...] = ()
        self._calls: tuple[tuple[Any, tuple[Any, ...]], ...] = ()
        self._told: tuple[str, ...] = ()

    @property
    def steady(self) -> tuple[tuple[str, Ask], ...]:
        """Which call answers, by the name of its answer."""
        return tuple((name, ask) for _, name, ask in self._steady)

    def ask(self) -> tuple[str, ...]:
        """Ask them all, and return the names of the answers.

        Raises:
            DeviceLostError: The device is gone.
        """
        for answered, (function, arguments) in enumerate(self._calls):
            code = function(*arguments)
            if code:
                return self._one_by_one(answered, code)
        return self._told or self._one_by_one(0, 0)

    def _one_by_one(self, answered: int, code: int) -> tuple[str, ...]:
        """Go on after so many answers; with a code, the call after them has failed with it."""
        steady, failed = list(self._steady[:answered]), None
        if code:
            failed = self._steady[answered][2]
            failed.failed(code)
        self._steady, self._calls, self._told = (), (), ()
        settled, begin = not code, steady[-1][0] + 1 if steady else 0
        for place, question in enumerate(self.all[begin:], begin):
            for name, ask in question:
                if ask is not failed and ask():
                    steady.append((place, name, ask))
                    break
                settled = settled and ask.key in self._never
        told = tuple(name for _, name, _ in steady)
        self.settled = settled
        if settled:
            self._steady, self._told = tuple(steady), told
            self._calls = tuple((ask.function, ask.arguments) for _, _, ask in steady)
        return told
