"""Typed parsers: from an argument or an environment variable's text to a value, with the accepted values in words."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Generic, TypeVar

from crucible_otel.config.masking import shorten
from crucible_otel.errors import ConfigurationError

__all__ = [
    "Parser",
    "boolean",
    "check_argument",
    "choice",
    "ensure",
    "integer",
    "milliseconds",
    "names",
    "number",
    "read_variable",
    "string",
    "text",
    "true_or_false",
]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Parser(Generic[T]):
    """How one kind of value is taken.

    Attributes:
        accepted: What is accepted, in words.
        check: Takes an argument; raises ValueError or TypeError when it cannot be used.
        read: Takes an environment variable's text, stripped and not empty; raises ValueError.
        show: What of a value may be shown in a repr or an error.
    """

    accepted: str
    check: Callable[[object], T]
    read: Callable[[str], T]
    show: Callable[[object], object] = shorten


def check_argument(field: str, value: object, parser: Parser[T]) -> T:
    """Return ``value`` as ``parser`` takes an argument.

    Raises:
        ConfigurationError: It cannot be used.
    """
    return _guarded(field, value, parser.check, parser)


def read_variable(name: str, value: str, parser: Parser[T]) -> T:
    """Return the text of an environment variable as ``parser`` reads it.

    Raises:
        ConfigurationError: It cannot be used.
    """
    return _guarded(name, value, parser.read, parser)


def _guarded(name: str, value: Any, take: Callable[[Any], T], parser: Parser[T]) -> T:
    try:
        return take(value)
    except (ValueError, TypeError, OverflowError, AttributeError):
        # From None: the inner error may quote a secret that the shown value masks.
        raise ConfigurationError(name, parser.show(value), parser.accepted) from None


def ensure(condition: object) -> None:
    """Raise ValueError unless ``condition`` holds."""
    if not condition:
        raise ValueError


def string(value: object) -> str:
    """Return ``value``, which must be text."""
    if not isinstance(value, str):
        raise TypeError
    return value


def text(accepted: str = "text that is not empty", pattern: str = r"[^\x00-\x1f\x7f]+") -> Parser[str]:
    """Text that matches ``pattern`` wholly and is not blank."""
    matches = re.compile(pattern).fullmatch

    def check(value: object) -> str:
        taken = string(value)
        ensure(taken.strip() and matches(taken))
        return taken

    return Parser(accepted=accepted, check=check, read=check)


def choice(*values: str, exact: bool = False) -> Parser[str]:
    """One of ``values``, in any case unless ``exact``."""

    def check(value: object) -> str:
        taken = string(value) if exact else string(value).lower()
        ensure(taken in values)
        return taken

    return Parser(accepted=_one_of(values), check=check, read=check)


def _one_of(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def _is_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def boolean() -> Parser[bool]:
    """A boolean; in the environment in the usual spellings."""

    def read(value: str) -> bool:
        ensure(value.lower() in _BOOLEANS)
        return _BOOLEANS[value.lower()]

    return Parser(accepted=_one_of(tuple(_BOOLEANS)), check=_is_bool, read=read)


def true_or_false(*, inverted: bool = False) -> Parser[bool]:
    """OpenTelemetry's boolean: ``true`` or ``false``; ``inverted`` for variables that say the opposite of a field."""
    spelled = choice("true", "false")

    def read(value: str) -> bool:
        return (spelled.read(value) == "true") is not inverted

    return Parser(accepted=spelled.accepted, check=_is_bool, read=read)


def integer(low: int, high: int, what: str = "an integer") -> Parser[int]:
    """An integer from ``low`` to ``high``."""

    def check(value: object) -> int:
        ensure(not isinstance(value, (bool, str)))
        taken = operator.index(value)  # type: ignore[arg-type]  # raises TypeError for what is no integer
        ensure(low <= taken <= high)
        return taken

    return Parser(accepted=f"{what} from {low:,} to {high:,}", check=check, read=lambda value: check(int(value)))


def number(low: float, high: float, what: str = "a number", *, above: bool = False) -> Parser[float]:
    """A finite number from ``low`` (or ``above`` it) to ``high``."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError
        taken = float(value)
        ensure(math.isfinite(taken) and low <= taken <= high and not (above and taken == low))
        return taken

    bounds = f"above {low:,} and at most {high:,}" if above else f"from {low:,} to {high:,}"
    return Parser(accepted=f"{what} {bounds}", check=check, read=lambda value: check(float(value)))


def milliseconds(low: int, high: int) -> Parser[float]:
    """A number of milliseconds in the environment, seconds in the value."""
    plain = number(low, high, "a number of milliseconds")
    return Parser(accepted=plain.accepted, check=plain.check, read=lambda value: plain.read(value) / 1000)


def names(*values: str, alone: str = "", pattern: str = r"[^\s,]+") -> Parser[tuple[str, ...]]:
    """Names, one or several, in order and once each.

    Args:
        values: The names that exist; empty when they are open.
        alone: The name that stands for nothing and may only stand by itself.
        pattern: What a name looks like when they are open.
    """
    matches = re.compile(pattern).fullmatch

    def check(value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            return read(value)
        if not isinstance(value, (list, tuple)):
            raise TypeError
        taken = tuple(dict.fromkeys(string(each).strip().lower() for each in value))
        ensure(all((each in values) if values else matches(each) for each in taken))
        ensure(not values or taken)
        ensure(alone not in taken or taken == (alone,))
        return taken

    def read(value: str) -> tuple[str, ...]:
        return check([each for each in value.split(",") if each.strip()])

    known = ", ".join(each for each in values if each != alone)
    listed = f"one or more of {known}, separated by commas" if values else "names separated by commas"
    return Parser(accepted=listed + (f", or {alone} alone" if alone else ""), check=check, read=read)
