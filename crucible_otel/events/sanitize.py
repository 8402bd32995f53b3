"""Turn any value into plain data: bounded, of built-in types, valid UTF-8, without ever raising.

Three forms for three readers: :func:`plain` for handlers and JSON, :func:`attribute` for OpenTelemetry attributes,
:func:`json_text` for strict JSON. Tensors and arrays are recognised by their shape, never by importing their library,
and one that lives on an accelerator is never read: reading it would wait for the device.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass
from itertools import islice
from numbers import Integral, Number
from typing import Any, Final

from crucible_otel.events.arrays import Array, look

__all__ = ["LONGEST_TEXT", "AttributeValue", "Plain", "Refusals", "attribute", "error_text", "json_text", "plain"]

Plain = str | int | float | bool | None | list[Any] | dict[str, Any]
"""What :func:`plain` returns."""

AttributeValue = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]
"""What an OpenTelemetry attribute can hold."""

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1
_SCALARS: Final = (str, int, float, bool)
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


def plain(
    value: object,
    *,
    depth: int = 4,
    max_string: int = LONGEST_TEXT,
    max_items: int = 128,
    refusals: Refusals | None = None,
) -> Plain:
    """Return the value as strings, numbers, booleans, ``None``, lists and maps with string keys.

    Args:
        value: Anything.
        depth: How many containers may be nested; a deeper one becomes a short text.
        max_string: Characters that a string keeps.
        max_items: Items that a container keeps.
        refusals: Counts what was converted or dropped.

    Returns:
        Plain data; floats may be NaN or infinite. Integers beyond 64 bits are text. An array of one element on the CPU
        is its number, any other array is a text with its shape and type.
    """
    walk = _Walk(max_string, max_items, refusals or Refusals())
    return walk.value(value, depth)


def attribute(value: object, *, refusals: Refusals | None = None, map_expected: bool = False) -> AttributeValue | None:
    """Return the value as an OpenTelemetry attribute can hold it, or ``None`` to leave it out.

    Homogeneous sequences stay sequences; mixed ones and maps become JSON text; tensors on an accelerator are left out.

    Args:
        value: Anything.
        refusals: Counts what was converted or dropped; ``None`` as a value counts as neither.
        map_expected: Whether a map is what belongs there; as JSON it does not count as converted then.
    """
    kind = type(value)
    if kind is bool or kind is float:
        return value  # type: ignore[return-value]
    if kind is str and len(value) <= LONGEST_TEXT:  # type: ignore[arg-type]
        return utf8(value)  # type: ignore[arg-type]
    if kind is int and _INT_MIN <= value <= _INT_MAX:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    if value is None:
        return None
    counts = refusals if refusals is not None else Refusals()
    array = look(value)
    if array is not None and not array.on_cpu:
        counts.dropped += 1
        return None
    inner = Refusals()
    result = _Walk(LONGEST_TEXT, 128, inner).value(value, 4)
    supported = isinstance(value, (*_SCALARS, list, tuple)) or (array is not None and array.single)
    if isinstance(result, dict) or (isinstance(result, list) and not _homogeneous(result)):
        supported, result = map_expected and isinstance(result, dict), json_text(result)
    counts.converted += not supported or inner.converted + inner.dropped > 0
    return result


def _homogeneous(items: list[Any]) -> bool:
    return len({type(item) for item in items}) <= 1 and all(type(item) in _SCALARS for item in items)


def json_text(value: object) -> str:
    """Return the value as compact, strict JSON on one line.

    NaN and the infinities become the strings ``NaN``, ``Infinity`` and ``-Infinity``, as in the JSON form of protobuf.

    Args:
        value: Plain data, or anything: what JSON cannot hold is made :func:`plain` first.
    """
    try:
        text = _encode(value)
        if not text.isascii():
            text.encode()
    except (ValueError, TypeError, RecursionError):
        return _encode(_finite(plain(value)))
    return text


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


_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _finite(value: Plain) -> Plain:
    """Replace floats that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


def utf8(text: str) -> str:
    """Replace lone surrogates: they are in no valid UTF-8, so a file, a socket or a protobuf would refuse the text."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


class _Walk:
    """One conversion: what it may still spend, and the containers that it is inside of."""

    def __init__(self, max_string: int, max_items: int, refusals: Refusals) -> None:
        self._max_string, self._max_items, self._refusals = max_string, max_items, refusals
        self._nodes = _BUDGET_NODES
        self._characters = max_string * _BUDGET_STRINGS
        self._inside: list[int] = []

    def value(self, value: object, depth: int) -> Plain:
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
        number = int(value)
        if _INT_MIN <= number <= _INT_MAX:
            return number
        bits = number.bit_length()  # text of a huge integer takes quadratic time, and Python refuses it
        return self._refused(str(number) if bits <= 1_024 else f"<int of {bits} bits>")

    def member(self, value: enum.Enum, depth: int) -> Plain:
        if isinstance(value.value, str) or isinstance(value, int):
            return self.value(value.value, depth)
        return self.text(value.name)

    def data(self, value: bytes | bytearray | memoryview, depth: int) -> Plain:
        size = memoryview(value).nbytes
        if size > self._max_string * 3 // 4:
            return self._refused(f"<{size} bytes>")
        return self.text(base64.b64encode(bytes(value)).decode())

    def mapping(self, value: Mapping[Any, Any], depth: int) -> Plain:
        return self._nested(value, depth, lambda: self._map(value.items(), len(value), depth))

    def sequence(self, value: Sequence[Any], depth: int) -> Plain:
        names = getattr(value, "_fields", None)
        if isinstance(value, tuple) and isinstance(names, tuple):
            return self._nested(value, depth, lambda: self._map(zip(names, value, strict=False), len(value), depth))
        return self._nested(value, depth, lambda: self._list(value, depth))

    def unordered(self, value: Set[Any], depth: int) -> Plain:
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


def _number(walk: _Walk, value: Any, depth: int) -> Plain:
    try:
        return float(value)
    except (TypeError, OverflowError):  # complex; a fraction beyond the floats
        return walk.value(str(value), 0)


_CONVERSIONS: Final[tuple[tuple[type | tuple[type, ...], Callable[[_Walk, Any, int], Plain]], ...]] = (
    (enum.Enum, _Walk.member),
    (bool, lambda walk, value, depth: bool(value)),
    (str, lambda walk, value, depth: walk.text(value)),
    (Integral, _Walk.integer),
    (Number, _number),
    ((bytes, bytearray, memoryview), _Walk.data),
    (Mapping, _Walk.mapping),
    (Set, _Walk.unordered),
    ((Sequence, ValuesView), _Walk.sequence),
    (BaseException, lambda walk, value, depth: walk.text(error_text(value))),
    ((datetime.date, datetime.time), lambda walk, value, depth: value.isoformat()),
    (datetime.timedelta, lambda walk, value, depth: value.total_seconds()),
    (os.PathLike, lambda walk, value, depth: walk.text(os.fsdecode(value))),
    (type, lambda walk, value, depth: walk.text(f"{value.__module__}.{value.__qualname__}")),
)
"""Tried in order; the first type that fits converts."""
