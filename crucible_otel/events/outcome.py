"""How an operation ended, from the exception it ended with."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError as FutureCancelledError

from crucible_otel.events.names import text
from crucible_otel.semconv.aliases import VALUES_IN
from crucible_otel.semconv.attributes import RESULTS

_CANCELLATIONS = (KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, FutureCancelledError)
_TIMEOUTS = (TimeoutError, asyncio.TimeoutError)


class Terminated(BaseException):
    """Stands for a signal that ends the process; never raised, only recorded."""


class Reported(Exception):
    """A failure of which only the text is known, because a raw event said so; never raised, only recorded.

    Attributes:
        kind: Its type, as far as it was told.
    """

    def __init__(self, text: str, kind: str) -> None:
        self.kind = kind
        super().__init__(text)


def result_of(error: BaseException | None) -> str:
    """Return ``success``, ``failure``, ``timeout`` or ``cancellation``.

    ``SystemExit`` with no code or 0 is a success; interrupts, cancelled tasks and closed generators are
    cancellations.
    """
    if error is None:
        return "success"
    if isinstance(error, SystemExit):
        return "success" if error.code in (None, 0) else "failure"
    if isinstance(error, (*_CANCELLATIONS, Terminated)):
        return "cancellation"
    return "timeout" if isinstance(error, _TIMEOUTS) else "failure"


def result_named(value: object) -> str:
    """Return the result that a caller or a seed names (``ok``, ``error``, a truth value ...), empty if it is none."""
    try:
        found = VALUES_IN["result"].get(value, value)
    except Exception:  # no hash
        return ""
    return found if isinstance(found, str) and found in RESULTS else ""


def as_error(value: object) -> BaseException | None:
    """Return what an operation ended with as an exception: itself, or one that stands for the text given instead."""
    if value is None or isinstance(value, BaseException):
        return value
    return Reported(text(value), "_OTHER")


def type_name(error: BaseException) -> str:
    """Return the type's qualified name, without the module for builtins."""
    if isinstance(error, Reported):
        return error.kind
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
