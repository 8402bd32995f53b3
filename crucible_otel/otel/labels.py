"""Attribute values of metrics: text, bounded, in the order the metric declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from crucible_otel.events.sanitize import utf8
from crucible_otel.semconv.fields import DEVICE
from crucible_otel.semconv.model import Feed, Metric
from crucible_otel.semconv.names import OVERFLOW

_TEXT = 255
_CUDA = "cuda"

OVERFLOWING: Final[tuple[Any, ...]] = (OVERFLOW,)
"""Stands in place of the attribute values of an overflow series."""


def label(value: object) -> str:
    """Return an attribute value of a metric: text, cut; empty for none."""
    if type(value) is str and len(value) <= _TEXT:
        return utf8(value)
    if value is None:
        return ""
    try:
        text = value if type(value) is str else str(value)
    except Exception:
        return ""
    return utf8(text if len(text) <= _TEXT else text[:_TEXT])


def device_label(value: object) -> str:
    """Return a device as ``cuda:0`` or ``cpu``, also from ``("cuda", 0)``, from 0 and from a framework's own object."""
    if isinstance(value, (tuple, list)):
        return label(":".join(map(label, value)))
    if isinstance(value, int) and not isinstance(value, bool):
        return label(f"{_CUDA}:{value}")
    return label(value)


_LABELS: Final[Mapping[str, Callable[[object], str]]] = {DEVICE.name: device_label}


def labelling(field: str) -> Callable[[object], str]:
    """Return what makes an attribute value of a metric from a field's value."""
    return _LABELS.get(field, label)


def placed(feed: Feed, labels: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the attribute values of a feed's metric: those of the series, with the feed's constants between them."""
    if not feed.constants or labels == OVERFLOWING:
        return labels
    given = iter(labels)
    return tuple(feed.constants[name] if name in feed.constants else next(given, "") for name in feed.metric.attributes)


def attributes(metric: Metric, labels: tuple[Any, ...]) -> Mapping[str, Any]:
    """Return the attributes of a series; those without a value are left out."""
    if labels == OVERFLOWING:
        return {OVERFLOW: True}
    return {name: value for name, value in zip(metric.attributes, labels, strict=False) if value != ""}
