"""Names of OpenTelemetry in Prometheus, as the Collector's exporter and Prometheus's own OTLP receiver make them.

https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/. Unlike the Python exporter, a gauge
of unit ``1`` ends in ``_ratio``, so that a dashboard works whichever way the data took.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from crucible_otel.semconv.model import Metric, MetricKind

_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9:]+")
_NOT_IN_LABEL = re.compile(r"[^a-zA-Z0-9]+")
_ANNOTATION = re.compile(r"{[^}]*}")

_UNITS: Final[Mapping[str, str]] = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "GiBy": "gibibytes",
    "TiBy": "tibibytes",
    "KBy": "kilobytes",
    "MBy": "megabytes",
    "GBy": "gigabytes",
    "TBy": "terabytes",
    "m": "meters",
    "V": "volts",
    "A": "amperes",
    "J": "joules",
    "W": "watts",
    "g": "grams",
    "Cel": "celsius",
    "Hz": "hertz",
    "%": "percent",
    "1": "",
}
_PER: Final[Mapping[str, str]] = {
    "s": "second",
    "m": "minute",
    "h": "hour",
    "d": "day",
    "w": "week",
    "mo": "month",
    "y": "year",
}


TYPES: Final[Mapping[MetricKind, str]] = {
    "counter": "counter",
    "updowncounter": "gauge",
    "gauge": "gauge",
    "histogram": "histogram",
}
"""Instrument kind -> type in Prometheus."""

_SAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}


def family_name(metric: Metric) -> str:
    """Return the name that ``# TYPE`` of the OpenMetrics format has: with the unit, without the ends of its samples."""
    name, unit = metric_name(metric.name), unit_suffix(metric.unit, gauge=metric.kind == "gauge")
    if metric.kind == "counter":
        name = name.removesuffix("_total")
    return f"{name}_{unit}" if unit and not name.endswith(f"_{unit}") else name


def sample_names(metric: Metric) -> tuple[str, ...]:
    """Return the names that a metric's samples have, which are those to query."""
    family = family_name(metric)
    return tuple(family + end for end in _SAMPLES[TYPES[metric.kind]])


def metric_name(name: str) -> str:
    """Return a metric's name without unit and type suffix."""
    return _leading(_NOT_IN_NAME.sub("_", name))


def label_name(key: str) -> str:
    """Return the label that an attribute becomes."""
    return _leading(_NOT_IN_LABEL.sub("_", key))


def unit_suffix(unit: str, *, gauge: bool = False) -> str:
    """Return the last words of the name of a metric of this UCUM unit, empty for none."""
    if unit == "1" and gauge:
        return "ratio"
    unit = _ANNOTATION.sub("", unit)
    if unit in _UNITS:
        return _UNITS[unit]
    top, slash, bottom = unit.partition("/")
    top, bottom = (_NOT_IN_NAME.sub("_", part).strip("_") for part in (top, bottom))
    if not (slash and bottom):
        return _NOT_IN_NAME.sub("_", unit).strip("_")
    return f"{_UNITS.get(top, top)}_per_{_PER.get(bottom, bottom)}".lstrip("_")


def labels(*groups: Mapping[str, Any]) -> dict[str, str]:
    """Return attributes as labels, later groups winning; keys that become one label share it, joined by ``;``."""
    attributes = {key: value for group in groups for key, value in group.items()}
    found: dict[str, str] = {}
    for key in sorted(attributes):
        label, value = label_name(key), attributes[key]
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        found[label] = f"{found[label]};{text}" if label in found else text
    return found


def _leading(name: str) -> str:
    return name if name[:1] and not name[0].isdigit() else f"_{name}"
