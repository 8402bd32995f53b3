"""Turn any value into plain data: bounded, of built-in types, valid UTF-8, without ever raising.

Three forms for three readers: :func:`plain` for handlers and JSON, :func:`attribute` for OpenTelemetry attributes,
:func:`json_text` for strict JSON. Tensors and arrays are recognised by their shape, never by importing their library,
and one that lives on an accelerator is never read: reading it would wait for the device.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from crucible_otel.events.arrays import look
from crucible_otel.events.walk import INT_MAX, INT_MIN, LONGEST_TEXT, Plain, Refusals, Walk, error_text, utf8

__all__ = [
    "LONGEST_TEXT",
    "AttributeValue",
    "Plain",
    "Refusals",
    "attribute",
    "error_text",
    "json_text",
    "plain",
    "utf8",
]

AttributeValue = str | int | float | bool | list[str] | list[int] | list[float] | list[bool]
"""What an OpenTelemetry attribute can hold."""

_SCALARS: Final = (str, int, float, bool)


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
    walk = Walk(max_string, max_items, refusals or Refusals())
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
    if kind is int and INT_MIN <= value <= INT_MAX:  # type: ignore[operator]
        return value  # type: ignore[return-value]
    if value is None:
        return None
    counts = refusals if refusals is not None else Refusals()
    array = look(value)
    if array is not None and not array.on_cpu:
        counts.dropped += 1
        return None
    inner = Refusals()
    result = Walk(LONGEST_TEXT, 128, inner).value(value, 4)
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
