"""The way into a MeterProvider that belongs to the application.

Its readers are not ours and nothing is added to them: all our metrics become instruments of its meter, filled from a
bounded buffer inside an observable callback. A callback runs once for each reader, but a value is taken from the
buffer once and the SDK gives it to every reader, so several readers count nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.metrics import MeterProvider

from crucible_otel.export.faults import FaultCounter
from crucible_otel.export.instruments import DivertedInstruments
from crucible_otel.export.readers import OnFault
from crucible_otel.export.scope import own_scope
from crucible_otel.otel.source import MetricSource
from crucible_otel.semconv.model import Metric
from crucible_otel.semconv.sdk import ANCHOR

BUDGET_S: Final = 0.05
"""How long one collection of the application is held up at most."""

BUFFER: Final = 65_536
"""Histogram values that wait for a collection at most."""

# Instruments cannot be taken off a provider, so a route lives as long as its provider, whatever runtime uses it.
_ROUTES: WeakKeyDictionary[Any, JoinedMetrics] = WeakKeyDictionary()


class JoinedMetrics:
    """The one route of our metrics into an application's MeterProvider; :func:`join` makes it.

    Attributes:
        faults: Counts errors on the way, and collections in which values were dropped.
    """

    def __init__(self, provider: MeterProvider, budget_s: float, limit: int) -> None:
        self._on_fault: OnFault | None = None
        self.faults = FaultCounter("JoinedMetrics", self._fault)
        scope = own_scope()
        meter = provider.get_meter(scope.name, scope.version, scope.schema_url)
        self._instruments = DivertedInstruments(meter, limit=limit, budget_s=budget_s, faults=self.faults)
        # Created first, hence called first. It observes nothing, so no stream of it ever exists.
        meter.create_observable_gauge(ANCHOR, callbacks=[self._instruments.on_collect])

    @property
    def overflow(self) -> int:
        """Histogram values that were dropped because no collection came."""
        return self._instruments.overflow

    def bind(self, source: MetricSource, specs: Iterable[Metric], on_fault: OnFault | None) -> None:
        """Deliver the metrics of ``source`` from now on."""
        self._on_fault = on_fault
        self._instruments.bind(source, specs)

    def flush(self, timeout_s: float) -> bool:
        """Record what waits without the bound of a collection; flushing the provider is its owner's business.

        Returns:
            Whether everything is recorded.
        """
        return self._instruments.drain(timeout_s)

    def close(self) -> None:
        """Deliver nothing any more."""
        self._instruments.unbind()

    def _fault(self, component: str) -> None:
        if self._on_fault is not None:
            self._on_fault(component)


def join(
    provider: MeterProvider,
    source: MetricSource,
    specs: Iterable[Metric],
    *,
    budget_s: float = BUDGET_S,
    limit: int = BUFFER,
    on_fault: OnFault | None = None,
) -> JoinedMetrics:
    """Deliver all metrics of ``source`` through an application's MeterProvider.

    Args:
        provider: The application's provider. A second call for it returns its route, now bound to the new source.
        source: Our series.
        specs: All our metrics; their instruments are created here.
        budget_s: How long one collection may be held up.
        limit: Histogram values that may wait for a collection.
        on_fault: Called with a component's name for each fault in it.
    """
    route = _ROUTES.get(provider)
    if route is None:
        route = _ROUTES[provider] = JoinedMetrics(provider, budget_s, limit)
    route.bind(source, specs, on_fault)
    return route
