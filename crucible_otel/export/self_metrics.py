"""What queues and exporters say of themselves: OpenTelemetry's ``otel.sdk.*``, read off when they are collected.

Made through the API's Meter, so that they are the same on our own provider and on an application's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from crucible_otel.export.causes import PARTIAL
from crucible_otel.export.tally import Ledger, Tally
from crucible_otel.semconv import sdk
from crucible_otel.semconv.model import Metric
from crucible_otel.semconv.names import COMPONENT_NAME, COMPONENT_TYPE, ERROR_TYPE

__all__ = ["SelfMetrics"]

Found = dict[str, list[Observation]]

_PROCESSOR_TYPES: Final = {"traces": "batching_span_processor", "logs": "batching_log_processor"}
_EXPORTER_NOUNS: Final = {"traces": "span", "logs": "log", "metrics": "metric"}
_OTLP: Final = "opentelemetry.exporter.otlp.proto."
_CREATE: Final[Mapping[str, str]] = {
    "counter": "create_observable_counter",
    "updowncounter": "create_observable_up_down_counter",
}
_REJECTED: Final = "rejected"
"""OpenTelemetry's ``error.type`` of what a server left out of what it accepted."""


@dataclass(frozen=True, kw_only=True)
class _Way:
    """A delivery with the queue in front of it, if there is one."""

    tally: Tally
    processor: Mapping[str, str]
    exporter: Mapping[str, str]


class SelfMetrics:
    """The instruments, filled from the deliveries of one pipeline.

    Args:
        meter: Where the instruments are.
        ledger: Told of what queues have dropped, each time it is collected.
        deliveries: The deliveries, with ``tally`` and ``exporter``.
    """

    def __init__(self, meter: Meter, ledger: Ledger, deliveries: Iterable[Any]) -> None:
        numbers: Counter[str] = Counter()

        def component(kind: str) -> dict[str, str]:
            number = numbers[kind]
            numbers[kind] += 1
            return {COMPONENT_TYPE: kind, COMPONENT_NAME: f"{kind}/{number}"}

        self._ledger = ledger
        self._ways = [
            _Way(
                tally=each.tally,
                processor=component(_PROCESSOR_TYPES[each.tally.signal]) if each.tally.queue is not None else {},
                exporter=component(_exporter_type(each.tally.signal, each.exporter)),
            )
            for each in deliveries
        ]
        self._instruments = _Instruments.of(meter)
        self._instruments.read = self._read

    def close(self) -> None:
        """Report nothing any more."""
        if self._instruments.read == self._read:
            self._instruments.read = dict

    def _read(self) -> Found:
        found: Found = {}
        for way in self._ways:
            self._ledger.settle(way.tally)
            for metric, value, attributes in (*_of_queue(way), *_of_exporter(way)):
                found.setdefault(metric.name, []).append(Observation(value, attributes))
        return found


class _Instruments:
    """The observable instruments of one meter, which they live as long as, whoever fills them."""

    def __init__(self, meter: Meter) -> None:
        self.read: Callable[[], Found] = dict
        for metric in sdk.OBSERVED:
            create = getattr(meter, _CREATE[metric.kind])
            create(metric.name, callbacks=[self._callback(metric.name)], unit=metric.unit, description=metric.brief)

    @classmethod
    def of(cls, meter: Meter) -> _Instruments:
        """Return the instruments of a meter; they are made once."""
        made = _MADE.get(meter)
        if made is None:
            made = _MADE[meter] = cls(meter)
        return made

    def _callback(self, name: str) -> Callable[[CallbackOptions], Sequence[Observation]]:
        def report(options: CallbackOptions) -> Sequence[Observation]:
            return self.read().get(name, ())

        return report


_MADE: WeakKeyDictionary[Meter, _Instruments] = WeakKeyDictionary()


def _of_queue(way: _Way) -> Iterable[tuple[Metric, int, Mapping[str, str]]]:
    queue = way.tally.queue
    if queue is None:
        return
    metrics, counts, component = sdk.PROCESSORS[way.tally.signal], queue.counts, way.processor
    yield metrics["processed"], counts.taken, component
    yield metrics["processed"], counts.full, {**component, ERROR_TYPE: "queue_full"}
    if counts.ended:
        yield metrics["processed"], counts.ended, {**component, ERROR_TYPE: "already_shutdown"}
    yield metrics["queue_size"], counts.waiting, component
    if queue.bounds.max_items is not None:
        yield metrics["queue_capacity"], queue.bounds.max_items, component
    yield sdk.QUEUE_USAGE, counts.waiting_bytes, component
    yield sdk.QUEUE_LIMIT, queue.bounds.max_bytes, component


def _of_exporter(way: _Way) -> Iterable[tuple[Metric, int, Mapping[str, str]]]:
    tally, component = way.tally, way.exporter
    metrics = sdk.EXPORTERS[tally.signal]
    yield metrics["exported"], tally.counts.delivered, component
    for kind, count in tally.failures.items():
        yield metrics["exported"], count, {**component, ERROR_TYPE: _REJECTED if kind == PARTIAL.kind else kind}
    yield metrics["inflight"], tally.in_flight, component


def _exporter_type(signal: str, exporter: Any) -> str:
    """Return OpenTelemetry's name of an exporter, or that of its class where it has none."""
    for base in type(exporter).__mro__:
        if base.__module__.startswith(_OTLP):
            transport = base.__module__.removeprefix(_OTLP).partition(".")[0]
            return f"otlp_{transport}_{_EXPORTER_NOUNS[signal]}_exporter"
    kind = type(exporter)
    return f"{kind.__module__}.{kind.__qualname__}"
