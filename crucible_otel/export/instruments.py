"""SDK instruments for the metrics that go the SDK's way: those named by a View, and all of them in a joined provider.

Everything is created before the first collection: creating an observable instrument inside a callback deadlocks the
SDK. Recording on synchronous instruments inside a callback is fine, and lands in the same collection of every reader.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from crucible_otel.export.faults import FaultCounter
from crucible_otel.export.fork import in_child
from crucible_otel.export.points import series_key
from crucible_otel.otel.source import MetricSource
from crucible_otel.semconv.model import Metric, MetricKind

# Without it the SDK takes the context of whoever collects, and makes exemplars of a span that has nothing to do with
# the values. An empty Context is falsy, which the SDK reads as "the current one".
_NO_SPAN: Final[Context] = set_span_in_context(INVALID_SPAN, Context())

_CLOCK_EVERY = 32

_RECORD: Final[Mapping[MetricKind, Callable[[Any, float, Mapping[str, Any]], None]]] = {
    "counter": lambda instrument, value, attributes: instrument.add(value, attributes, context=_NO_SPAN),
    "updowncounter": lambda instrument, value, attributes: instrument.add(value, attributes, context=_NO_SPAN),
    "histogram": lambda instrument, value, attributes: instrument.record(value, attributes, context=_NO_SPAN),
}


class _Waiting:
    """Values of one series that are still to be recorded."""

    __slots__ = ("attributes", "spec", "values")

    def __init__(self, spec: Metric, attributes: Mapping[str, Any]) -> None:
        self.spec, self.attributes = spec, attributes
        self.values: list[float] = []


class DivertedInstruments:
    """The instruments of diverted metrics, and the values on their way there.

    Args:
        meter: What the instruments are created on.
        limit: Histogram values that may wait; what exceeds it is dropped and counted.
        budget_s: How long one collection may record; the rest is recorded in the next. ``None`` for no bound.
        faults: Where errors are counted.
        on_overflow: Called with the number of values that were dropped; must not block.

    Attributes:
        overflow: Histogram values that were dropped because too many waited.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        limit: int = 65_536,
        budget_s: float | None = None,
        faults: FaultCounter,
        on_overflow: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.overflow = 0
        self._meter = meter
        self._limit = limit
        self._budget_s = budget_s
        self._faults = faults
        self._on_overflow = on_overflow
        self._source: MetricSource | None = None
        self._instruments: dict[str, Any] = {}
        self._waiting: dict[Any, _Waiting] = {}
        self._waiting_values = 0
        self._lock = threading.Lock()
        in_child(self._after_fork)

    @property
    def names(self) -> frozenset[str]:
        """The metrics that have an instrument."""
        return frozenset(self._instruments)

    @property
    def created(self) -> tuple[object, ...]:
        """All instruments."""
        return tuple(self._instruments.values())

    def bind(self, source: MetricSource, specs: Iterable[Metric]) -> None:
        """Create the instruments that are missing and take the metrics' values from ``source`` from now on."""
        specs = tuple(specs)
        for spec in specs:
            if spec.name not in self._instruments:
                self._instruments[spec.name] = self._create(spec)
        source.divert(specs, self._limit)
        with self._lock:
            self._source = source

    def unbind(self) -> None:
        """Take no more values; gauges disappear."""
        with self._lock:
            self._source = None

    def on_collect(self, options: CallbackOptions | None = None) -> Iterable[Observation]:
        """Record what waits; the callback of the observable instrument that was created first."""
        self.drain(self._budget_s)
        return ()

    def drain(self, budget_s: float | None = None) -> bool:
        """Record what the source has kept, for at most ``budget_s``.

        Returns:
            Whether everything is recorded.
        """
        deadline_s = None if budget_s is None else time.monotonic() + budget_s
        # Who holds the lock records already; waiting longer than that for it would exceed the budget twice.
        if not self._lock.acquire(timeout=-1 if budget_s is None else budget_s):
            return False
        try:
            if self._source is not None:
                self._take(self._source)
            return self._record(deadline_s)
        except Exception as error:
            self._faults.note(type(error).__name__, "recording on SDK instruments failed", error)
            return False
        finally:
            self._lock.release()

    def _take(self, source: MetricSource) -> None:
        for spec, attributes, values in source.drain_diverted():
            if spec.name not in self._instruments:
                continue  # diverted by an earlier owner of the source, of whose instruments we know nothing
            key = (spec.name, series_key(attributes))
            waiting = self._waiting.get(key)
            if waiting is None:
                waiting = self._waiting[key] = _Waiting(spec, attributes)
            if spec.kind != "histogram":
                waiting.values = [sum(values, sum(waiting.values))]
                continue
            room = max(self._limit - self._waiting_values, 0)
            waiting.values.extend(values[:room])
            self._waiting_values += min(len(values), room)
            if len(values) > room:
                self.overflow += len(values) - room
                self._on_overflow(len(values) - room)
                self._faults.note("overflow", f"more than {self._limit} values wait for a collection; dropping")

    def _record(self, deadline_s: float | None) -> bool:
        # Sums first: there are few of them, and none of them should lag behind for a histogram of many values.
        order = sorted(self._waiting, key=lambda key: self._waiting[key].spec.kind == "histogram")
        done = 0
        for key in order:
            waiting = self._waiting[key]
            instrument, record = self._instruments[waiting.spec.name], _RECORD[waiting.spec.kind]
            values, recorded = waiting.values, 0
            try:
                for value in values:
                    if deadline_s is not None and done % _CLOCK_EVERY == 0 and time.monotonic() >= deadline_s:
                        return False
                    recorded += 1
                    done += 1
                    record(instrument, value, waiting.attributes)
            finally:
                del values[:recorded]
                if waiting.spec.kind == "histogram":
                    self._waiting_values -= recorded
            del self._waiting[key]
        return True

    def _create(self, spec: Metric) -> Any:
        common = {"unit": spec.unit, "description": spec.brief}
        if spec.kind == "counter":
            return self._meter.create_counter(spec.name, **common)
        if spec.kind == "updowncounter":
            return self._meter.create_up_down_counter(spec.name, **common)
        if spec.kind == "gauge":
            return self._meter.create_observable_gauge(spec.name, callbacks=[self._gauge(spec)], **common)
        return self._meter.create_histogram(
            spec.name, explicit_bucket_boundaries_advisory=list(spec.buckets) or None, **common
        )

    def _gauge(self, spec: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            source = self._source
            if source is None:
                return []
            try:
                return [
                    Observation(point.value, dict(point.attributes), _NO_SPAN)
                    for point in source.gauge_points(spec)
                    if isinstance(point.value, (int, float))
                ]
            except Exception as error:
                self._faults.note(type(error).__name__, "reading a gauge failed", error)
                return []

        return observe

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._waiting = {}
        self._waiting_values = 0
