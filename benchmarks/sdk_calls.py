"""A call written with the SDK: what a program would write without ``cx.call``."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from crucible_otel.semconv import call as names
from crucible_otel.semconv.names import CODE_FUNCTION_NAME, RESULT

LIBRARY, FUNCTION = "library", "function"
_SPAN = f"call {LIBRARY}.{FUNCTION}"
_KIND = {"crucible.call.library": LIBRARY, CODE_FUNCTION_NAME: FUNCTION}
_IDENTITY = {"crucible.call.operation": f"{LIBRARY}.{FUNCTION}", **_KIND}
_ATTRIBUTES = {**_KIND, RESULT: "success"}
_TOLD = ("queue_time", "serialize_time", "execute_time", "deserialize_time", "unattributed_time", "io_bytes")
_QUEUE, _SERIALIZE, _EXECUTE, _DESERIALIZE, _REST, _BYTES = (f"crucible.call.{name}" for name in _TOLD)
_SECOND = 1e-9


class Sdk:
    """Providers with the batch processor and the exporters of the SDK, and a call in three sizes.

    A span has the attributes that ours have. The instruments are called outside of it, with one attributes dict that
    is made once: inside a sampled span a histogram is dearer, by its exemplar.

    Attributes:
        whole: ``whole(duration, queue, serialize, execute, deserialize, nbytes)`` makes a span and calls seven
            instruments.
        metrics: The same without the span.
        plain: A span with four attributes, its duration and its number: a call of which nothing else is known.
        exported: How many spans the exporter has taken.
    """

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self.exported = 0
        outer = self

        class Counting(OTLPSpanExporter):
            def export(self, spans: Any) -> Any:
                outer.exported += len(spans)
                return super().export(spans)

        # By default the queue takes 2,048 spans and drops the others, which would be cheaper.
        processor = BatchSpanProcessor(Counting(f"{endpoint}/v1/traces"), max_queue_size=1 << 16)
        self._traces = TracerProvider(shutdown_on_exit=False)
        self._traces.add_span_processor(processor)
        exporter = OTLPMetricExporter(endpoint=f"{endpoint}/v1/metrics")
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=86_400_000)
        self._metrics = MeterProvider([reader], shutdown_on_exit=False)
        self._compile(self._traces.get_tracer("benchmarks"), self._metrics.get_meter("benchmarks"))

    def _compile(self, tracer: Any, meter: Any) -> None:
        add, add_bytes = (meter.create_counter(each.name, each.unit).add for each in (names.CALLS, names.IO))
        record, record_queue, record_serialize, record_execute, record_deserialize = (
            meter.create_histogram(each.name, "s", explicit_bucket_boundaries_advisory=each.buckets).record
            for each in (names.DURATION, names.QUEUE, names.SERIALIZE, names.EXECUTE, names.DESERIALIZE)
        )
        attributes, span = _ATTRIBUTES, tracer.start_as_current_span

        def metrics(duration: int, queue: int, serialize: int, execute: int, deserialize: int, nbytes: int) -> None:
            add(1, attributes)
            add_bytes(nbytes, attributes)
            record(duration * _SECOND, attributes)
            record_queue(queue * _SECOND, attributes)
            record_serialize(serialize * _SECOND, attributes)
            record_execute(execute * _SECOND, attributes)
            record_deserialize(deserialize * _SECOND, attributes)

        def whole(duration: int, queue: int, serialize: int, execute: int, deserialize: int, nbytes: int) -> None:
            with span(_SPAN, attributes=_IDENTITY) as current:
                current.set_attributes(
                    {
                        _QUEUE: queue * _SECOND,
                        _SERIALIZE: serialize * _SECOND,
                        _EXECUTE: execute * _SECOND,
                        _DESERIALIZE: deserialize * _SECOND,
                        _REST: (duration - queue - serialize - execute - deserialize) * _SECOND,
                        _BYTES: nbytes,
                        RESULT: "success",
                    }
                )
            metrics(duration, queue, serialize, execute, deserialize, nbytes)

        def plain() -> None:
            began_ns = perf_counter_ns()
            with span(_SPAN, attributes=_IDENTITY) as current:
                current.set_attribute(RESULT, "success")
            add(1, attributes)
            record((perf_counter_ns() - began_ns) * _SECOND, attributes)

        self.whole: Callable[..., None] = whole
        self.metrics: Callable[..., None] = metrics
        self.plain: Callable[[], None] = plain

    def flush(self) -> None:
        """Send what there is."""
        self._traces.force_flush()
        self._metrics.force_flush()

    def shutdown(self) -> None:
        """End the providers' threads."""
        self._traces.shutdown()
        self._metrics.shutdown()
