"""The way into a MeterProvider that belongs to the application.

Its readers are not ours and nothing is added to them. Where they can be reached, our points are merged into what each
of them collects, as our own readers do it; metrics that a View or a reader treats specially are recorded on SDK
instruments. Elsewhere all our metrics are, from a bounded buffer inside an observable callback. A callback runs once
for each reader, but a value is taken from the buffer once and the SDK gives it to every reader: nothing is counted
twice.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData

from crucible_otel.export.binding import Binding, bind, has_ended
from crucible_otel.export.faults import FaultCounter
from crucible_otel.export.fork import in_child
from crucible_otel.export.instruments import DivertedInstruments
from crucible_otel.export.merging import Merger
from crucible_otel.export.readers import OnFault
from crucible_otel.export.scope import own_scope
from crucible_otel.export.tally import Lost
from crucible_otel.export.views import altered_kinds, forget_instruments, metrics_to_divert
from crucible_otel.otel.source import MetricSource
from crucible_otel.semconv.model import Metric
from crucible_otel.semconv.sdk import ANCHOR

__all__ = ["BUDGET_S", "BUFFER", "JoinedMetrics", "foreign_meter_provider", "join"]

BUDGET_S: Final = 0.05
"""How long one collection of the application is held up at most."""

BUFFER: Final = 65_536
"""Histogram values that wait for a collection at most."""

# Instruments cannot be taken off a provider, so a route lives as long as its provider, whatever runtime uses it.
_ROUTES: WeakKeyDictionary[Any, JoinedMetrics] = WeakKeyDictionary()

# The proxy that stands for "nothing installed" is not a public name.
_NOT_INSTALLED: Final = ("_ProxyMeterProvider", "NoOpMeterProvider")


def foreign_meter_provider(own: type) -> MeterProvider | None:
    """Return the meter provider that the application has installed, if any.

    Args:
        own: The class of our own, which is none of the application's.
    """
    present = metrics.get_meter_provider()
    return None if isinstance(present, own) or type(present).__name__ in _NOT_INSTALLED else present


class _Told:
    """One reader, what it was told, and the lock around that."""

    def __init__(self, merger: Merger) -> None:
        self.merger = merger
        self.renew()

    def renew(self) -> None:
        self.lock = threading.RLock()


class _Life:
    """What one runtime delivers, and what each reader was told of it."""

    def __init__(self, source: MetricSource, binding: Binding | None, faults: FaultCounter) -> None:
        self.source, self.binding, self._faults = source, binding, faults
        self._told: WeakKeyDictionary[MetricReader, _Told] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def told(self, reader: MetricReader) -> tuple[_Told, bool]:
        """Return what a reader was told, and whether it is new."""
        with self._lock:
            told = self._told.get(reader)
            if told is not None:
                return told, False
            exemplars = self.binding is None or self.binding.exemplars
            told = self._told[reader] = _Told(Merger(self.source, self._faults, exemplars=exemplars))
            return told, True

    def reset(self) -> None:
        self._lock = threading.Lock()
        for told in self._told.values():
            told.renew()
            told.merger.reset()


class JoinedMetrics:
    """The one route of our metrics into an application's MeterProvider; :func:`join` makes it.

    Attributes:
        faults: Counts errors on the way, and collections in which values were dropped.
        diverted: The metrics that are recorded on SDK instruments; all of them when the readers are out of reach.
    """

    def __init__(self, provider: MeterProvider, budget_s: float, limit: int) -> None:
        self._on_fault: OnFault | None = None
        self._on_lost: Lost | None = None
        self.faults = FaultCounter("JoinedMetrics", self._fault)
        self.diverted: tuple[Metric, ...] = ()
        self._provider = weakref.ref(provider)
        self._budget_s = budget_s
        scope = own_scope()
        self._meter = provider.get_meter(scope.name, scope.version, scope.schema_url)
        self._instruments = DivertedInstruments(
            self._meter, limit=limit, budget_s=budget_s, faults=self.faults, on_overflow=self._overflowed
        )
        self._anchored = False
        self._life: _Life | None = None
        in_child(self._after_fork)

    @property
    def route(self) -> Literal["readers", "callback"]:
        """Whether our points are merged into what the readers collect, or all recorded inside a callback."""
        return "readers" if self._life is not None and self._life.binding is not None else "callback"

    @property
    def overflow(self) -> int:
        """Histogram values that were dropped because no collection came."""
        return self._instruments.overflow

    def bind(
        self,
        source: MetricSource,
        specs: Iterable[Metric],
        *,
        on_fault: OnFault | None = None,
        on_lost: Lost | None = None,
        reach_readers: bool = True,
    ) -> None:
        """Deliver the metrics of ``source`` from now on."""
        provider = self._provider()
        if provider is None:
            return
        self.close()
        specs = tuple(specs)
        self._on_fault, self._on_lost = on_fault, on_lost
        binding = bind(provider, self._around) if reach_readers else None
        if binding is None:
            self.diverted = specs
            self._anchor()
        else:
            special = {spec.name for spec in metrics_to_divert(specs, binding.views, binding.readers)}
            # A metric that once had an instrument here keeps it: the SDK goes on to report what was recorded on it.
            special |= self._instruments.names
            self.diverted = tuple(spec for spec in specs if spec.name in special)
        self._instruments.bind(source, self.diverted)
        self._life = _Life(source, binding, self.faults)
        if binding is not None:
            binding.install()

    def flush(self, timeout_s: float) -> bool:
        """Record what waits without the bound of a collection; flushing the provider is its owner's business.

        Returns:
            Whether everything is recorded.
        """
        return self._instruments.drain(timeout_s)

    def deliver(self, timeout_s: float) -> bool:
        """Have the application's readers collect, also those that its provider's ``force_flush`` forgets.

        Returns:
            Whether everything is recorded and no reader failed.
        """
        deadline_s = time.monotonic() + timeout_s
        good = self.flush(timeout_s)
        provider, life = self._provider(), self._life
        if provider is None or has_ended(provider):
            return good
        late = life.binding.late_readers if life is not None and life.binding is not None else ()
        for each in (provider, *late):
            force_flush = getattr(each, "force_flush", None)
            if force_flush is None:
                continue
            remaining_s = max(deadline_s - time.monotonic(), 0.0)
            try:
                good = force_flush(timeout_millis=remaining_s * 1000) is not False and good
            except Exception as error:
                self.faults.note(type(error).__name__, "flushing the application's readers failed", error)
                good = False
        return good

    def close(self, source: MetricSource | None = None) -> None:
        """Deliver nothing any more.

        Args:
            source: Only if it is this one that is delivered: a runtime that took long to leave has a successor by now.
        """
        life = self._life
        if life is None or source not in (None, life.source):
            return
        self._life = None
        self._instruments.unbind()
        if life.binding is not None:
            life.binding.remove()

    def _anchor(self) -> None:
        if not self._anchored:
            # Created first, hence called first. It observes nothing, so no stream of it ever exists.
            self._meter.create_observable_gauge(ANCHOR, callbacks=[self._instruments.on_collect])
            self._anchored = True

    def _around(self, reader: MetricReader, collect: Callable[[], MetricsData | None]) -> MetricsData | None:
        life = self._life
        if life is None or life.binding is None:
            return collect()
        if self.diverted:
            self._instruments.drain(self._budget_s)
        data = collect()
        try:
            told, new = life.told(reader)
            if new:
                self._look_at(reader)
            with told.lock:
                merged = told.merger.merge(reader, data if data is not None else life.binding.nothing())
            return merged if data is not None or merged.resource_metrics[0].scope_metrics else None
        except Exception as error:
            self.faults.note(type(error).__name__, "a collection goes out unchanged", error)
            return data

    def _look_at(self, reader: MetricReader) -> None:
        unheeded = altered_kinds(reader) - {spec.kind for spec in self.diverted}
        if unheeded:
            # To divert a metric now would lose, or tell twice, what other readers were told of it.
            name, kinds = type(reader).__name__, ", ".join(sorted(unheeded))
            self.faults.note("late reader", f"{name} was added later and gets our metrics as declared: {kinds}")

    def _fault(self, component: str) -> None:
        if self._on_fault is not None:
            self._on_fault(component)

    def _overflowed(self, count: int) -> None:
        if self._on_lost is not None:
            self._on_lost("metrics", "divert_full", count)

    def _after_fork(self) -> None:
        if self._life is not None:
            self._life.reset()
        provider = self._provider()
        if provider is not None and self._instruments.created:
            forget_instruments(provider, self._instruments.created)


def join(
    provider: MeterProvider,
    source: MetricSource,
    specs: Iterable[Metric],
    *,
    budget_s: float = BUDGET_S,
    limit: int = BUFFER,
    on_fault: OnFault | None = None,
    on_lost: Lost | None = None,
    reach_readers: bool = True,
) -> JoinedMetrics:
    """Deliver all metrics of ``source`` through an application's MeterProvider.

    Args:
        provider: The application's provider. A second call for it returns its route, now bound to the new source.
        source: Our series.
        specs: All our metrics; the instruments that they need are created here.
        budget_s: How long one collection may be held up.
        limit: Histogram values that may wait for a collection.
        on_fault: Called with a component's name for each fault in it.
        on_lost: Called with signal, reason and number of values that are dropped; must not block.
        reach_readers: Whether to look for the provider's readers at all.
    """
    route = _ROUTES.get(provider)
    if route is None:
        route = _ROUTES[provider] = JoinedMetrics(provider, budget_s, limit)
    route.bind(source, specs, on_fault=on_fault, on_lost=on_lost, reach_readers=reach_readers)
    return route
