"""Our points merged into what the SDK has collected for one reader."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from opentelemetry.sdk.metrics.export import Metric, MetricReader, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from crucible_otel.export.faults import FaultCounter
from crucible_otel.export.pace import PATIENCE_S, Pace, free, paced
from crucible_otel.export.points import PointBuilder
from crucible_otel.export.scope import ANCHOR_SCOPE, own_scope
from crucible_otel.export.views import temporalities
from crucible_otel.otel.source import MetricSource

__all__ = ["Merger", "merged"]


class Merger:
    """What one reader is told of our series; the caller serialises the calls, by a reentrant lock.

    Args:
        source: Our series.
        faults: Counts the collections that went out without our points.
        exemplars: Whether points carry exemplars.
    """

    def __init__(self, source: MetricSource, faults: FaultCounter, *, exemplars: bool = True) -> None:
        self._source, self._faults, self._exemplars = source, faults, exemplars
        self._builder: PointBuilder | None = None
        self._busy = False

    def merge(self, reader: MetricReader, data: MetricsData) -> MetricsData:
        """Return a collection with our points, in the temporality that the reader asks for; never raises."""
        try:
            # Before the builder moves on: data that cannot be read must cost no delta.
            without = merged(data, [], own_scope())
        except Exception as error:
            self._faults.note(type(error).__name__, "a collection goes out unchanged", error)
            return data
        if self._busy:  # a handler of an event that a fold has emitted collects again: what it gets comes out of order
            return without
        self._busy = True
        try:
            if self._builder is None:
                self._builder = PointBuilder(temporalities(reader), exemplars=self._exemplars)
            over = partial(paced, pace=(pace := Pace(patience_s=PATIENCE_S)))
            snapshot = self._source.snapshot(over)
            metrics = self._builder.build(snapshot, over)
            points = [point for one in snapshot.metrics for point in one.points]
            del snapshot
            free(points, pace)
            pace.pause()
        except Exception as error:
            self._faults.note(type(error).__name__, "a collection goes out without our metrics", error)
            return without
        finally:
            self._busy = False
        return merged(data, metrics, own_scope())

    def reset(self) -> None:
        """Forget what was reported, as a forked child must."""
        self._busy = False
        if self._builder is not None:
            self._builder.reset()


def merged(data: MetricsData, metrics: list[Metric], scope: InstrumentationScope) -> MetricsData:
    """Return ``data`` with ``metrics`` in ``scope`` and without the anchor.

    An existing scope is extended, never repeated: of two equal scopes the OTLP encoder keeps only the last.
    """
    return MetricsData(
        [
            ResourceMetrics(
                one.resource, list(_with(one.scope_metrics, [] if index else metrics, scope)), one.schema_url
            )
            for index, one in enumerate(data.resource_metrics)
        ]
    )


def _with(scopes: Iterable[ScopeMetrics], metrics: list[Metric], scope: InstrumentationScope) -> Iterable[ScopeMetrics]:
    for one in scopes:
        if one.scope == ANCHOR_SCOPE:
            continue
        if one.scope == scope:
            yield ScopeMetrics(one.scope, [*one.metrics, *metrics], one.schema_url)
            metrics = []
        else:
            yield one
    if metrics:
        yield ScopeMetrics(scope, metrics, scope.schema_url or "")
