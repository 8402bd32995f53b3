"""The conversion of any value to plain data: one walk through it, which may spend so much and no more."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass
from itertools import islice
from numbers import Integral, Number
from typing import Any, Final

from crucible_otel.events.arrays import Array, look

Plain = str | int | float | bool | None | list[Any] | dict[str, Any]
"""What a value becomes."""

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
LONGEST_TEXT: Final = 4_096
"""Characters of a text that is kept as it is."""
_ERROR_CHARACTERS: Final = 300
_KEY_CHARACTERS: Final = 128
_BUDGET_NODES: Final = 4_096
_BUDGET_STRINGS: Final = 16
"""A whole value may hold this many nodes, and this many times ``max_string`` characters, whatever its shape."""


@dataclass
class Refusals:
    """How many values could not be taken as they were.

    The counts are for a status line: concurrent writers may lose one.

    Attributes:
        converted: Values that were replaced by text, by JSON or by a shorter form of themselves.
        dropped: Values that were left out.
    """

    converted: int = 0
    dropped: int = 0


def utf8(text: str) -> str:
    """Replace lone surrogates: they are in no valid UTF-8, so a file, a socket or a protobuf would refuse the text."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def error_text(error: BaseException) -> str:
    """Return the type of an exception and the first 300 characters of its message.

    Args:
        error: Any exception, also one whose message cannot be built.
    """
    name = type(error).__name__
    try:
        message = str(error)[:_ERROR_CHARACTERS]
    except Exception:
        message = "(its message cannot be shown)"
    return utf8(f"{name}: {message}" if message else name)


class Walk:
    """One conversion: what it may still spend, and the containers that it is inside of.

    Args:
        max_string: Characters that a string keeps.
        max_items: Items that a container keeps.
        refusals: Counts what was converted or dropped.
    """

    def __init__(self, max_string: int, max_items: int, refusals: Refusals) -> None:
        self._max_string, self._max_items, self._refusals = max_string, max_items, refusals
        self._nodes = _BUDGET_NODES
        self._characters = max_string * _BUDGET_STRINGS
        self._inside: list[int] = []

    def value(self, value: object, depth: int) -> Plain:
        """Return the value as plain data, with so many containers nested."""
        self._nodes -= 1
        kind = type(value)
        if kind is str:
            return self.text(value)  # type: ignore[arg-type]
        if kind is float or kind is bool or value is None:
            return value  # type: ignore[return-value]
        try:
            if kind is not int and kind is not dict and kind is not list:
                array = look(value)
                if array is not None:
                    return self._of_array(value, array)
            for types, convert in _CONVERSIONS:
                if isinstance(value, types):
                    return convert(self, value, depth)
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                fields = dataclasses.fields(value)
                return self._nested(value, depth, lambda: self._map(_fields(value, fields), len(fields), depth))
            return self._refused(str(value))
        except Exception:
            return self._refused(f"<{kind.__name__}>")

    def _refused(self, text: str) -> str:
        self._refusals.converted += 1
        return self.text(text)

    def text(self, text: str) -> str:
        """Return a text of at most as many characters as are left to spend."""
        text = str.__str__(text)
        limit = max(1, min(self._max_string, self._characters))
        if len(text) > limit:
            text = text[: limit - 1] + "…"
            self._refusals.converted += 1
        self._characters -= len(text)
        return utf8(text)

    def _of_array(self, value: Any, array: Array) -> Plain:
        if array.single and array.on_cpu:
            number = value.item()
            if type(number) in (int, float, bool, str):
                return self.value(number, 0)
            if isinstance(number, Number):  # longdouble gives itself again
                return _number(self, number, 0)
            if isinstance(number, (bytes, datetime.date)):
                return self.value(number, 0)
        return self._refused(array.text)

    def integer(self, value: int, depth: int) -> Plain:
        """Return an integer, as text beyond 64 bits."""
        number = int(value)
        if INT_MIN <= number <= INT_MAX:
            return number
        bits = number.bit_length()  # text of a huge integer takes quadratic time, and Python refuses it
        return self._refused(str(number) if bits <= 1_024 else f"<int of {bits} bits>")

    def member(self, value: enum.Enum, depth: int) -> Plain:
        """Return the value of a member of an enumeration, or its name."""
        if isinstance(value.value, str) or isinstance(value, int):
            return self.value(value.value, depth)
        return self.text(value.name)

    def data(self, value: bytes | bytearray | memoryview, depth: int) -> Plain:
        """Return bytes as base64."""
        size = memoryview(value).nbytes
        if size > self._max_string * 3 // 4:
            return self._refused(f"<{size} bytes>")
        return self.text(base64.b64encode(bytes(value)).decode())

    def mapping(self, value: Mapping[Any, Any], depth: int) -> Plain:
        """Return a map with string keys."""
        return self._nested(value, depth, lambda: self._map(value.items(), len(value), depth))

    def sequence(self, value: Sequence[Any], depth: int) -> Plain:
        """Return a list; a map of a tuple with names."""
        names = getattr(value, "_fields", None)
        if isinstance(value, tuple) and isinstance(names, tuple):
            return self._nested(value, depth, lambda: self._map(zip(names, value, strict=False), len(value), depth))
        return self._nested(value, depth, lambda: self._list(value, depth))

    def unordered(self, value: Set[Any], depth: int) -> Plain:
        """Return a list of a set's members, in the same order in every process."""
        result = self._nested(value, depth, lambda: self._list(value, depth))
        return sorted(result, key=_order) if isinstance(result, list) else result

    def _nested(self, value: object, depth: int, inner: Callable[[], Plain]) -> Plain:
        if id(value) in self._inside:
            return self._refused("<recursive>")
        if depth <= 0 or self._nodes <= 0:
            return self._refused(f"<{type(value).__name__}>")
        self._inside.append(id(value))
        try:
            return inner()
        finally:
            self._inside.pop()

    def _list(self, items: Collection[Any], depth: int) -> list[Any]:
        self._refusals.dropped += max(0, len(items) - self._max_items)
        return [self.value(item, depth - 1) for item in islice(items, self._max_items) if self._nodes > 0]

    def _map(self, items: Iterable[tuple[Any, Any]], size: int, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in islice(items, self._max_items):
            name = self._key(key)
            if self._nodes > 0 and name not in result:
                result[name] = self.value(item, depth - 1)
        self._refusals.dropped += max(0, size - len(result))
        return result

    def _key(self, key: object) -> str:
        text = key if type(key) is str else self.value(key, 0)
        return utf8(str(text)[:_KEY_CHARACTERS]) or "_"


def _order(item: Plain) -> tuple[str, float, str]:
    """Order the members of a set the same way in every process, whatever the hash seed."""
    return type(item).__name__, item if isinstance(item, (int, float)) else 0.0, str(item)


def _fields(value: object, fields: tuple[dataclasses.Field[Any], ...]) -> Iterable[tuple[str, Any]]:
    return ((field.name, getattr(value, field.name, None)) for field in fields)


def _number(walk: Walk, value: Any, depth: int) -> Plain:
    try:
        return float(value)
    except (TypeError, OverflowError):  # complex; a fraction beyond the floats
        return walk.value(str(value), 0)


_CONVERSIONS: Final[tuple[tuple[type | tuple[type, ...], Callable[[Walk, Any, int], Plain]], ...]] = (
    (enum.Enum, Walk.member),
    (bool, lambda walk, value, depth: bool(value)),
    (str, lambda walk, value, depth: walk.text(value)),
    (Integral, Walk.integer),
    (Number, _number),
    ((bytes, bytearray, memoryview), Walk.data),
    (Mapping, Walk.mapping),
    (Set, Walk.unordered),
    ((Sequence, ValuesView), Walk.sequence),
    (BaseException, lambda walk, value, depth: walk.text(error_text(value))),
    ((datetime.date, datetime.time), lambda walk, value, depth: value.isoformat()),
    (datetime.timedelta, lambda walk, value, depth: value.total_seconds()),
    (os.PathLike, lambda walk, value, depth: walk.text(os.fsdecode(value))),
    (type, lambda walk, value, depth: walk.text(f"{value.__module__}.{value.__qualname__}")),
)
"""Tried in order; the first type that fits converts."""
