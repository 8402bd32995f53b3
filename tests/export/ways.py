"""The three ways of our metrics out of a process: readers of our own, an application's readers, and a callback."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource

from crucible_otel.export.faults import FaultCounter
from crucible_otel.export.joined import join
from crucible_otel.export.own import OwnMetrics
from crucible_otel.export.readers import MemoryMetricReader, OtlpMetricReader
from crucible_otel.semconv.model import Metric
from tests.export.fake_source import SPECS, FakeSource

RESOURCE = Resource({"service.name": "test"})


@dataclass(frozen=True, kw_only=True)
class Built:
    """A provider that delivers a source's metrics.

    Attributes:
        provider: The MeterProvider.
        diverted: What is recorded on SDK instruments.
        faults: Counts errors on the way, unless a reader of ours does.
        keep: What must live as long.
    """

    provider: MeterProvider
    diverted: tuple[Metric, ...]
    faults: FaultCounter
    keep: object


@dataclass(frozen=True, kw_only=True)
class Way:
    """One of the ways.

    Attributes:
        name: ``own``, ``readers`` or ``callback``.
    """

    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def merges(self) -> bool:
        """Whether points are ours, rather than what the SDK makes of values."""
        return self.name != "callback"

    def reader(self, source: FakeSource, temporality: Any = None, aggregation: Any = None) -> Any:
        """Return a reader that keeps the latest collection."""
        if self.name == "own":
            return MemoryMetricReader(source, temporality, aggregation)
        return InMemoryMetricReader(temporality, aggregation)

    def pushing(self, source: FakeSource, exporter: MetricExporter, interval_s: float = math.inf) -> MetricReader:
        """Return a reader that exports, on flush only unless it has an interval."""
        if self.name == "own":
            return OtlpMetricReader(source, exporter, interval_s=interval_s)
        return PeriodicExportingMetricReader(exporter, export_interval_millis=interval_s * 1000)

    def build(
        self, source: FakeSource, *readers: MetricReader, specs: Iterable[Metric] = SPECS, views: Any = (), **more: Any
    ) -> Built:
        """Return a provider with these readers, made by the same way.

        Unless a budget is given a collection takes its time: on a busy machine 50 ms may be over before it begins.
        """
        if self.name == "own":
            own = OwnMetrics(source, specs, readers, resource=RESOURCE, views=views, **more)
            return Built(provider=own.provider, diverted=own.diverted, faults=own.faults, keep=own)
        provider = MeterProvider(readers, resource=RESOURCE, views=views, shutdown_on_exit=False)
        route = join(provider, source, specs, reach_readers=self.name == "readers", **{"budget_s": 60.0, **more})
        assert self.name == route.route
        return Built(provider=provider, diverted=route.diverted, faults=route.faults, keep=route)


OWN, READERS, CALLBACK = WAYS = tuple(Way(name=name) for name in ("own", "readers", "callback"))
