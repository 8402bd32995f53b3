"""Attribute values of metrics: text, bounded, in the order the metric declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from crucible_otel.events.sanitize import utf8
from crucible_otel.semconv.model import Metric
from crucible_otel.semconv.names import OVERFLOW

_TEXT = 255

OVERFLOWING: Final[tuple[Any, ...]] = (OVERFLOW,)
"""Stands in place of the attribute values of an overflow series."""


def label(value: object) -> str:
    """Return an attribute value of a metric: text, cut; empty for none."""
    if value is None:
        return ""
    try:
        text = value if type(value) is str else str(value)
    except Exception:
        return ""
    return utf8(text if len(text) <= _TEXT else text[:_TEXT])


def attributes(metric: Metric, labels: tuple[Any, ...]) -> Mapping[str, Any]:
    """Return the attributes of a series; those without a value are left out."""
    if labels == OVERFLOWING:
        return {OVERFLOW: True}
    return {name: value for name, value in zip(metric.attributes, labels, strict=False) if value != ""}
