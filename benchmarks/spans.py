"""What a structural span costs: nothing is promised, there are at most a few hundred a second."""

from __future__ import annotations

import time
from typing import Any

import crucible_otel as cx
from benchmarks.measure import Case, ratio, rounds
from benchmarks.ours import Setting
from benchmarks.result import Result, Section

METHOD = """\
`with cx.workflow(...)`, `with cx.stage(...)` and `with run.epoch(...)`: a span, its metrics and its events. Against one
`with tracer.start_as_current_span(...)` of the same SDK with three attributes, and against what a stage comes to when
it is written with the SDK: such a span, a log record at either end, an up-down counter, a histogram. And a log event of
the program's own, by `cx.execute`. Informative."""

_WORKFLOW, _STAGE, _EPOCH, _EVENT = "workflow", "stage", "epoch", "log event"
_SPAN, _WHOLE = "start_as_current_span", "span, 2 log records, 2 instruments"
_IDENTITY = {"crucible.workflow.name": "w", "crucible.stage.name": "s"}
_RESULT = {"crucible.result": "ok"}


def measure(setting: Setting) -> Section:
    """Measure entering and leaving."""

    def workflows(start: int, calls: int) -> None:
        for _ in range(calls):
            with cx.workflow("w"):
                pass

    def stages(start: int, calls: int) -> None:
        for _ in range(calls):
            with cx.stage("s"):
                pass

    def epochs(start: int, calls: int) -> None:
        for number in range(start, start + calls):
            with setting.run.epoch(number):
                pass

    def events(start: int, calls: int) -> None:
        for _ in range(calls):
            cx.execute("benchmarks.event", {"seconds": 1.25}, {"name": "e"})

    sdk = _Sdk()
    ours = ((_WORKFLOW, workflows), (_STAGE, stages), (_EPOCH, epochs), (_EVENT, events))
    cases = [
        *(
            Case(name, drive, chunk=64, context=setting.context.copy(), after=setting.telemetry.flush)
            for name, drive in ours
        ),
        Case(_SPAN, sdk.spans, chunk=64, after=sdk.flush),
        Case(_WHOLE, sdk.wholes, chunk=64, after=sdk.flush),
    ]
    found = rounds(cases, 3 if setting.quick else 9)
    sdk.shutdown()
    results = []
    for name, of in ((_WORKFLOW, _SPAN), (_STAGE, _SPAN), (_EPOCH, _SPAN), (_STAGE, _WHOLE)):
        middle, low, high = ratio(found[name].thread_ns, found[of].thread_ns)
        results.append(Result(name=f"{name} / {of}", value=middle, low=low, high=high, better="less"))
    return Section(
        method=METHOD, results=tuple(results), figures={"ns": {name: round(each.ns) for name, each in found.items()}}
    )


class _Sdk:
    """The SDK's own providers, with nothing behind their queues."""

    def __init__(self) -> None:
        from opentelemetry._logs import SeverityNumber
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

        spans, logs = TracerProvider(shutdown_on_exit=False), LoggerProvider(shutdown_on_exit=False)
        metrics = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        spans.add_span_processor(BatchSpanProcessor(_Away(SpanExportResult.SUCCESS)))
        logs.add_log_record_processor(BatchLogRecordProcessor(_Away(LogRecordExportResult.SUCCESS)))
        self._queues, self._providers = (spans, logs), (spans, logs, metrics)
        self._tracer, self._logger = spans.get_tracer("benchmarks"), logs.get_logger("benchmarks")
        meter = metrics.get_meter("benchmarks")
        self._active = meter.create_up_down_counter("active")
        self._duration = meter.create_histogram("duration", unit="s")
        self._severity = SeverityNumber.INFO

    def spans(self, start: int, calls: int) -> None:
        """Make a span."""
        attributes = {**_IDENTITY, **_RESULT}
        for _ in range(calls):
            with self._tracer.start_as_current_span("s", attributes=attributes):
                pass

    def wholes(self, start: int, calls: int) -> None:
        """Make what a stage makes."""
        attributes = {**_IDENTITY, **_RESULT}
        for _ in range(calls):
            began_s = time.monotonic()
            with self._tracer.start_as_current_span("s", attributes=_IDENTITY) as span:
                self._active.add(1, _IDENTITY)
                self._emit("stage.start", _IDENTITY)
                span.set_attribute("crucible.result", "ok")
                self._active.add(-1, _IDENTITY)
                self._duration.record(time.monotonic() - began_s, attributes)
                self._emit("stage.stop", attributes)

    def flush(self) -> None:
        """Empty the queues."""
        for provider in self._queues:
            provider.force_flush()

    def shutdown(self) -> None:
        """End the providers' threads."""
        for provider in self._providers:
            provider.shutdown()

    def _emit(self, name: str, attributes: dict[str, str]) -> None:
        self._logger.emit(
            timestamp=time.time_ns(),
            severity_number=self._severity,
            severity_text="INFO",
            body="A stage.",
            attributes=attributes,
            event_name=name,
        )


class _Away:
    """Takes spans and log records, and throws them away."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def export(self, batch: Any) -> Any:
        return self._result

    def shutdown(self) -> None:
        return None

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True
