"""What the SDK knows and does not document: which of our metrics it was told to treat in a way of its own.

Only this module and :mod:`crucible_otel.export.binding` touch undocumented parts of the SDK's metrics. Each function
is guarded: where a part has gone or changed, it answers what is safe and logs that. ``tests/export/test_views.py``
fails on such an SDK.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from threading import Lock
from typing import Any, Final, TypeVar

from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableGauge, UpDownCounter, _Gauge
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricReader
from opentelemetry.sdk.metrics.view import (
    DefaultAggregation,
    ExplicitBucketHistogramAggregation,
    LastValueAggregation,
    SumAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource

from crucible_otel.export.scope import own_scope
from crucible_otel.semconv.model import Metric, MetricKind

_logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_DECLARED_AS: Final[Mapping[MetricKind, type]] = {
    "counter": Counter,
    "updowncounter": UpDownCounter,
    "histogram": Histogram,
    "gauge": _Gauge,
}

DIVERTED_AS: Final[Mapping[MetricKind, type]] = {**_DECLARED_AS, "gauge": ObservableGauge}
"""The instrument class on which a diverted metric is recorded; a gauge that ended must be able to disappear."""

_PLAIN: Final[Mapping[MetricKind, tuple[type, ...]]] = {
    "counter": (DefaultAggregation, SumAggregation),
    "updowncounter": (DefaultAggregation, SumAggregation),
    "histogram": (DefaultAggregation,),
    "gauge": (DefaultAggregation, LastValueAggregation),
}
"""Aggregations that yield what we aggregate ourselves."""


def temporalities(reader: MetricReader) -> dict[MetricKind, AggregationTemporality]:
    """Return what a reader asks for each declared instrument kind; cumulative where that cannot be told."""

    def read() -> dict[MetricKind, AggregationTemporality]:
        table: Mapping[Any, AggregationTemporality] = reader._instrument_class_temporality
        return {kind: _of_class(table, declared) for kind, declared in _DECLARED_AS.items()}

    return _guarded(read, dict.fromkeys(_DECLARED_AS, AggregationTemporality.CUMULATIVE), "all points are cumulative")


def altered_kinds(reader: MetricReader) -> frozenset[MetricKind]:
    """Return the kinds that a reader wants aggregated otherwise than we do: base-2 histograms, or fewer series."""

    def read() -> frozenset[MetricKind]:
        table: Mapping[Any, Any] = reader._instrument_class_aggregation
        return frozenset(
            kind
            for kind, used in DIVERTED_AS.items()
            if not _is_plain(kind, _of_class(table, used)) or _is_limited(reader, used)
        )

    return _guarded(read, frozenset(), "histograms have explicit buckets")


def named_by_views(specs: Iterable[Metric], views: Sequence[View]) -> tuple[Metric, ...]:
    """Return the metrics that a View matches; all of them where that cannot be told, which is right but slower."""
    specs = tuple(specs)
    if not views:
        return ()

    def read() -> tuple[Metric, ...]:
        scope = own_scope()
        provider = MeterProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
        meter = provider.get_meter(scope.name, scope.version, scope.schema_url)
        create: dict[MetricKind, Callable[..., Any]] = {
            "counter": meter.create_counter,
            "updowncounter": meter.create_up_down_counter,
            "histogram": meter.create_histogram,
            "gauge": meter.create_observable_gauge,
        }
        return tuple(
            spec for spec in specs if any(view._match(create[spec.kind](spec.name, unit=spec.unit)) for view in views)
        )

    return _guarded(read, specs, "all metrics are recorded on SDK instruments")


def metrics_to_divert(
    specs: Iterable[Metric], views: Sequence[View], readers: Iterable[MetricReader]
) -> tuple[Metric, ...]:
    """Return the metrics that must be recorded on SDK instruments, because a View or a reader treats them specially."""
    specs = tuple(specs)
    altered = frozenset[MetricKind]().union(*(altered_kinds(reader) for reader in readers))
    named = {spec.name for spec in named_by_views(specs, views)}
    return tuple(spec for spec in specs if spec.name in named or spec.kind in altered)


def forget_parent(provider: MeterProvider, readers: Iterable[MetricReader]) -> None:
    """Give a forked child storages and locks of its own.

    The SDK lets a child go on with the parent's cumulative state, which doubles every sum, and with locks that the
    parent's ticker may have held at the fork (open-telemetry/opentelemetry-python#4345, #3885).
    """

    def renew() -> None:
        consumer: Any = provider._measurement_consumer
        fresh = type(consumer)(consumer._sdk_config, list(consumer._reader_storages))
        consumer._lock, consumer._reader_storages = fresh._lock, fresh._reader_storages
        for reader in readers:
            if hasattr(reader, "_export_lock"):
                reader._export_lock = Lock()

    _guarded(renew, None, "what was recorded on SDK instruments is reported by forked children too")


def forget_instruments(provider: object, instruments: Iterable[object]) -> None:
    """Let a forked child begin anew with these instruments; whatever else an application's provider has is its own."""

    def forget() -> None:
        if not isinstance(provider, MeterProvider):
            return
        consumer: Any = provider._measurement_consumer
        for storage in consumer._reader_storages.values():
            for instrument in instruments:
                storage._instrument_view_instrument_matches.pop(instrument, None)

    _guarded(forget, None, "what was recorded on SDK instruments is reported by forked children too")


def _of_class(table: Mapping[Any, Result], wanted: type) -> Result:
    # The keys are private subclasses of the public instrument classes, each public class itself being a base of one.
    return next(value for key, value in table.items() if issubclass(key, wanted))


def _is_plain(kind: MetricKind, aggregation: object) -> bool:
    if kind == "histogram" and type(aggregation) is ExplicitBucketHistogramAggregation:
        return aggregation._boundaries is None and aggregation._record_min_max
    return type(aggregation) in _PLAIN[kind]


def _is_limited(reader: MetricReader, used: type) -> bool:
    # Releases before 1.45 have no limits by reader.
    limits, usual = (getattr(one, "_instrument_class_cardinality_limit", None) for one in (reader, _usual_reader()))
    return limits is not None and usual is not None and _of_class(limits, used) < _of_class(usual, used)


@cache
def _usual_reader() -> MetricReader:
    return InMemoryMetricReader()


def _guarded(read: Callable[[], Result], otherwise: Result, meaning: str) -> Result:
    try:
        return read()
    except Exception:
        _logger.warning("this version of the OpenTelemetry SDK is not known to us: %s", meaning, exc_info=True)
        return otherwise
