"""A collection as Prometheus metric families.

Own translation instead of the exporter's, which fails as a whole on one exponential histogram, repeats a name's HELP
when two instruments share it, and has no exemplars. Whatever cannot be shown is skipped and counted; it never takes
the rest of the scrape with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

from opentelemetry.sdk.metrics import Exemplar as SdkExemplar
from opentelemetry.sdk.metrics.export import (
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.utils import floatToGoString

from crucible_otel.export.faults import FaultCounter
from crucible_otel.export.pace import PATIENCE_S, Pace, Paced, paced
from crucible_otel.semconv.names import SCOPE_NAME
from crucible_otel.semconv.prometheus import labels, metric_name, unit_suffix

_Bucket = tuple[float, int]
"""Upper bound and the count in this bucket alone."""

_FAMILIES: Final[Mapping[str, type[Family]]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    "info": InfoMetricFamily,
}
_LARGEST_EXPONENT, _SMALLEST_EXPONENT = 1023, -1022
_SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "counter": ("", "_total", "_created"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
    "info": ("", "_info"),
}


def families(data: MetricsData, faults: FaultCounter) -> list[Family]:
    """Return a collection's families, ours and ``target_info`` first.

    Args:
        data: Cumulative metrics.
        faults: Where what is skipped is counted.
    """
    table = _Table(faults, pace := Pace(patience_s=PATIENCE_S))
    attributes: dict[str, Any] = {}
    for resource in data.resource_metrics:
        attributes.update(resource.resource.attributes)
    if data.resource_metrics:
        info = table.family("target", "Target metadata", "info", "")
        if info is not None:
            table.add(info, "_info", labels(attributes), 1.0)
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
    for scope in sorted(scopes, key=_is_foreign):
        common = _scope_labels(scope.scope) if _is_foreign(scope) else {}
        for metric in scope.metrics:
            try:
                table.translate(metric, common)
            except Exception as error:
                faults.note(type(error).__name__, f"metric {metric.name} cannot be scraped", error)
    found = table.families()
    for family in found:
        family.samples = Paced(pace, family.samples)  # who writes the page pauses, too
    return found


class _Table:
    """The families of one scrape."""

    def __init__(self, faults: FaultCounter, pace: Pace) -> None:
        self._faults, self._pace = faults, pace
        self._families: dict[str, Family] = {}
        self._taken: dict[str, str] = {}
        self._rows: set[tuple[str, frozenset[tuple[str, str]]]] = set()

    def families(self) -> list[Family]:
        return [family for family in self._families.values() if family.samples]

    def translate(self, metric: Metric, common: Mapping[str, str]) -> None:
        data = metric.data
        if isinstance(data, (Histogram, ExponentialHistogram)):
            kind = "histogram"
        else:
            kind = "counter" if isinstance(data, Sum) and data.is_monotonic else "gauge"
        unit = unit_suffix(metric.unit or "", gauge=isinstance(data, Gauge))
        documentation = metric.description or f"OpenTelemetry metric {metric.name}"
        family = self.family(metric_name(metric.name), documentation, kind, unit)
        if family is None:
            return
        points: Sequence[Any] = data.data_points
        for point in paced(points, self._pace):
            row = labels(common, point.attributes or {})
            if isinstance(point, NumberDataPoint):
                exemplar = _exemplar(point.exemplars, -math.inf, math.inf) if kind == "counter" else None
                self.add(family, "_total" if kind == "counter" else "", row, float(point.value), exemplar)
            else:
                self._histogram(family, point, row)

    def family(self, name: str, documentation: str, kind: str, unit: str) -> Family | None:
        """Return the family of this name; None when a family of another type has it."""
        made = _FAMILIES[kind](name, documentation, **({"unit": unit} if unit else {}))
        known = self._families.get(made.name)
        if known is not None and known.type == made.type:
            return known
        wanted = [made.name + suffix for suffix in _SUFFIXES[kind]]
        if any(one in self._taken for one in wanted):
            self._faults.note(f"name {made.name}", f"two metrics of unlike type are called {made.name}; skipping one")
            return None
        self._taken.update(dict.fromkeys(wanted, made.name))
        self._families[made.name] = made
        return made

    def add(
        self, family: Family, suffix: str, row: dict[str, str], value: float, exemplar: Exemplar | None = None
    ) -> bool:
        """Add a sample unless its series is there already; Prometheus would drop both."""
        name = family.name + suffix
        identity = (name, frozenset(row.items()))
        if identity in self._rows:
            self._faults.note(f"series of {name}", f"two series are called {name} with equal labels; skipping one")
            return False
        self._rows.add(identity)
        family.add_sample(name, row, value, exemplar=exemplar)
        return True

    def _histogram(
        self, family: Family, point: HistogramDataPoint | ExponentialHistogramDataPoint, row: dict[str, str]
    ) -> None:
        buckets = _explicit_buckets(point) if isinstance(point, HistogramDataPoint) else _classic_buckets(point)
        total = accumulate(count for _, count in buckets)
        bounds = [-math.inf, *(bound for bound, _ in buckets)]
        for (lower, upper), count in zip(pairwise(bounds), total, strict=True):
            exemplar = _exemplar(point.exemplars, lower, upper)
            if not self.add(family, "_bucket", {**row, "le": _le(upper)}, float(count), exemplar):
                return
        self.add(family, "_sum", row, float(point.sum))
        self.add(family, "_count", row, float(point.count))


def _explicit_buckets(point: HistogramDataPoint) -> list[_Bucket]:
    if not point.bucket_counts:  # an aggregation without buckets: only count and sum
        return [(math.inf, point.count)]
    return list(zip([*map(float, point.explicit_bounds), math.inf], point.bucket_counts, strict=True))


def _classic_buckets(point: ExponentialHistogramDataPoint) -> list[_Bucket]:
    """Return the buckets of a base-2 exponential histogram, merged to powers of two.

    The bounds of the original change with its scale, hence between two scrapes; powers of two are bounds at every
    scale, so that a series keeps its ``le``. What is finer is lost to Prometheus's text format, not to OTLP.
    """
    merged: dict[float, int] = {}
    below = point.zero_count + sum(point.negative.bucket_counts)
    counts = list(point.positive.bucket_counts)
    while counts and not counts[-1]:  # the SDK pads to the size of its ring
        counts.pop()
    for index, count in enumerate(counts, start=point.positive.offset):
        exponent = (index >> point.scale) + 1 if point.scale >= 0 else (index + 1) << -point.scale
        bound = math.inf if exponent > _LARGEST_EXPONENT else math.ldexp(1.0, max(exponent, _SMALLEST_EXPONENT))
        merged[bound] = merged.get(bound, 0) + count
    merged.setdefault(math.inf, 0)
    buckets = sorted(merged.items())
    return [(buckets[0][0], buckets[0][1] + below), *buckets[1:]]


def _exemplar(exemplars: Sequence[SdkExemplar], lower: float, upper: float) -> Exemplar | None:
    """Return the latest exemplar with a trace whose value lies in a bucket."""
    fitting = [one for one in exemplars if one.trace_id and one.span_id and lower < one.value <= upper]
    if not fitting:
        return None
    one = max(fitting, key=lambda exemplar: exemplar.time_unix_nano)
    ids = {"trace_id": f"{one.trace_id:032x}", "span_id": f"{one.span_id:016x}"}
    return Exemplar(ids, float(one.value), one.time_unix_nano / 1e9)


def _le(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]  # the library is not annotated here


def _is_foreign(scope: ScopeMetrics) -> bool:
    return scope.scope.name != SCOPE_NAME


def _scope_labels(scope: InstrumentationScope) -> dict[str, str]:
    attributes: Iterable[tuple[str, Any]] = (scope.attributes or {}).items()
    return {
        **{f"otel_scope_{key}": value for key, value in attributes},
        "otel_scope_name": scope.name or "",
        "otel_scope_version": scope.version or "",
        "otel_scope_schema_url": scope.schema_url or "",
    }
