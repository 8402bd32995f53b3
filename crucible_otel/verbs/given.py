"""What callers hand in: read where it can be, refused where it cannot, never raised about."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, ParamSpec, TypeVar

from crucible_otel.events.runtime import runtime
from crucible_otel.events.translate import nanoseconds, text_keys
from crucible_otel.otel.values import LARGE

P = ParamSpec("P")
R = TypeVar("R")
_SECOND_NS = 1e9
NANOSECONDS: Final = "a number of nanoseconds below 10**18 is needed"
SECONDS: Final = "a number of seconds below 10**9 is needed"
"""What to say of a duration that is none."""


def guarded(verb: Callable[P, None]) -> Callable[P, None]:
    """Keep what goes wrong inside a verb that runs none of the user's code away from the user's program."""
    return _kept_apart(verb, when_off=True)


def quietly(verb: Callable[P, None]) -> Callable[P, None]:
    """Do so, and have the verb do nothing while telemetry is switched off."""
    return _kept_apart(verb, when_off=False)


def _kept_apart(verb: Callable[P, None], *, when_off: bool) -> Callable[P, None]:
    @functools.wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        current = runtime()
        if when_off or current.enabled:
            try:
                verb(*args, **kwargs)
            except Exception as error:
                current.fault(verb.__name__, error)

    return call


def whole(value: Any, what: str, *, least: int | None = None) -> int | None:
    """Return a whole number of a size that makes sense; None, after refusing it, for anything else but None.

    Args:
        value: Any integer, also NumPy's, or a float without a fraction.
        what: Verb and argument, for the refusal.
        least: The least that is accepted.
    """
    if value is None:
        return None
    needed = "a whole number" + ("" if least is None else f" of at least {least}")
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
        if abs(number) >= LARGE:
            needed = "a whole number below 2**53"
        elif least is None or number >= least:
            return number
    except Exception:
        pass
    runtime().refuse(what, value, f"{needed} is needed")
    return None


def duration_ns(seconds: Any, what: str) -> int | None:
    """Return a duration in nanoseconds; None, after refusing it, for anything else but None."""
    found = nanoseconds(seconds, _SECOND_NS)
    if found is None and seconds is not None:
        runtime().refuse(what, seconds, SECONDS)
    return found


def mapping(value: Any, what: str) -> dict[str, Any]:
    """Return a copy of a map; an empty one, after refusing it, for anything else but None."""
    if value is not None and not isinstance(value, Mapping):
        runtime().refuse(what, value, "a mapping is needed")
    return text_keys(value)


def present(**values: Any) -> dict[str, Any]:
    """Return those that are not None."""
    return {name: value for name, value in values.items() if value is not None}
