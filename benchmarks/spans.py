"""What a structural span costs: nothing is promised, there are at most a few hundred a second."""

from __future__ import annotations

import crucible_otel as cx
from benchmarks.measure import Case, ratio, rounds
from benchmarks.ours import Setting
from benchmarks.result import Result, Section

METHOD = """\
`with cx.workflow(...)` and `with cx.stage(...)`: a span, its metrics and its events, against one
`with tracer.start_as_current_span(...)` of the same SDK with three attributes. For information."""

_WORKFLOW, _STAGE, _SDK = "workflow", "stage", "start_as_current_span"


def measure(setting: Setting) -> Section:
    """Measure entering and leaving."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Away(SpanExporter):
        def export(self, spans):
            return SpanExportResult.SUCCESS

        def shutdown(self):
            return None

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Away()))
    tracer = provider.get_tracer("benchmarks")
    attributes = {"crucible.workflow.name": "w", "crucible.stage.name": "s", "crucible.result": "ok"}

    def workflows(start: int, calls: int) -> None:
        for _ in range(calls):
            with cx.workflow("w"):
                pass

    def stages(start: int, calls: int) -> None:
        for _ in range(calls):
            with cx.stage("s"):
                pass

    def spans(start: int, calls: int) -> None:
        for _ in range(calls):
            with tracer.start_as_current_span("s", attributes=attributes):
                pass

    flush = setting.telemetry.flush
    cases = [
        Case(_WORKFLOW, workflows, chunk=64, context=setting.context.copy(), after=flush),
        Case(_STAGE, stages, chunk=64, context=setting.context.copy(), after=flush),
        Case(_SDK, spans, chunk=64, after=provider.force_flush),
    ]
    found = rounds(cases, 3 if setting.quick else 9)
    provider.shutdown()
    results = []
    for name in (_WORKFLOW, _STAGE):
        middle, low, high = ratio(found[name].thread_ns, found[_SDK].thread_ns)
        results.append(Result(name=f"{name} / {_SDK}", value=middle, low=low, high=high, better="less"))
    return Section(
        method=METHOD, results=tuple(results), figures={"ns": {name: round(each.ns) for name, each in found.items()}}
    )
