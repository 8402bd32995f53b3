"""What the SDK's providers hand to our queues, and what bounds them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.context import Context, create_key, set_value
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

from crucible_otel.config.settings import Settings
from crucible_otel.errors import ConfigurationError
from crucible_otel.export.backlog import Bounds
from crucible_otel.export.causes import QUEUE_FULL
from crucible_otel.export.delivery import LogDelivery, SpanDelivery
from crucible_otel.export.providers import log_route, trace_route
from crucible_otel.export.queues import LogQueue, SpanQueue, bounds_of
from crucible_otel.export.resource import build_resource
from crucible_otel.export.tally import Counts, Ledger

WAIT_MS = 60_000


def spans_to(exporter: Any, environ: Mapping[str, str], ledger: Ledger, **options: Any) -> SpanQueue:
    """Return a queue of spans in front of an exporter."""
    return SpanQueue(
        SpanDelivery(exporter, tally=ledger.open("traces", "memory"), ledger=ledger), ledger, environ, **options
    )


@pytest.mark.parametrize(
    ("tail", "field", "given", "found"),
    [
        ("SCHEDULE_DELAY", "delay_s", "250", 0.25),
        ("MAX_QUEUE_SIZE", "max_items", "64", 64),
        ("MAX_EXPORT_BATCH_SIZE", "batch_items", "16", 16),
    ],
)
@pytest.mark.parametrize("prefix", ["OTEL_BSP", "OTEL_BLRP"])
def test_the_environment_bounds_a_queue(prefix: str, tail: str, field: str, given: str, found: float) -> None:
    """Five seconds and no numbers unless the variable is set; the other signal's is not looked at."""
    other = {"OTEL_BSP": "OTEL_BLRP", "OTEL_BLRP": "OTEL_BSP"}[prefix]

    assert found == getattr(bounds_of(prefix, {f"{prefix}_{tail}": given}), field)
    assert Bounds(delay_s=5.0) == bounds_of(prefix, {f"{other}_{tail}": given})
    with pytest.raises(ConfigurationError, match=f"{prefix}_{tail}"):
        bounds_of(prefix, {f"{prefix}_{tail}": "-1"})


@pytest.mark.parametrize(("given", "dropped"), [({}, 0), ({"CRUCIBLE_OTEL_QUEUE_MAX_BYTES": "100000"}, 1)])
def test_the_setting_bounds_both_queues(given: Mapping[str, str], dropped: int) -> None:
    """A large item fits by default, and not into ``queue_max_bytes`` of less."""
    settings = Settings(span_exporter=InMemorySpanExporter(), log_exporter=InMemoryLogRecordExporter()).resolve(given)
    resource, ledger, large = build_resource(settings), Ledger(lambda line: None), {"large": "x" * 100_000}
    traces, logs = trace_route(settings, resource, ledger, {}), log_route(settings, resource, ledger, {})
    traces.provider.get_tracer("test").start_span("a", attributes=large).end()
    logs.provider.get_logger("test").emit(event_name="a", attributes=large)
    for route in (traces, logs):
        route.provider.shutdown()

    assert [dropped, dropped] == [tally.counts.queue_full for tally in ledger.tallies]
    assert [1 - dropped] * 2 == [tally.counts.delivered for tally in ledger.tallies]


def test_the_delay_of_the_environment_has_its_effect() -> None:
    """A span leaves by itself, soon."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(spans_to(exporter, {"OTEL_BSP_SCHEDULE_DELAY": "1"}, Ledger()))
    provider.get_tracer("test").start_span("a").end()
    deadline = time.monotonic() + 60
    while not exporter.get_finished_spans() and time.monotonic() < deadline:
        time.sleep(0.001)
    provider.shutdown()

    assert ["a"] == [span.name for span in exporter.get_finished_spans()]


class Unsampled(Sampler):
    """Records spans whose names say so, without sampling them."""

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **kwargs: Any) -> SamplingResult:
        """Decide by name."""
        return SamplingResult(Decision.RECORD_AND_SAMPLE if name == "sampled" else Decision.RECORD_ONLY)

    def get_description(self) -> str:
        """Return a name."""
        return "by name"


def test_only_sampled_spans_are_queued() -> None:
    """One that is recorded for other processors is neither exported nor counted."""
    exporter, ledger = InMemorySpanExporter(), Ledger()
    provider = TracerProvider(sampler=Unsampled(), shutdown_on_exit=False)
    provider.add_span_processor(spans_to(exporter, {}, ledger))
    for name in ("recorded", "sampled"):
        provider.get_tracer("test").start_span(name).end()
    provider.shutdown()

    assert ["sampled"] == [span.name for span in exporter.get_finished_spans()]
    assert (Counts(accepted=1, delivered=1),) == tuple(tally.counts for tally in ledger.tallies)


def test_a_log_record_waits_without_its_context() -> None:
    """What a context holds on to, such as a model, is not kept alive; the record is otherwise as it was."""
    exporter, ledger = InMemoryLogRecordExporter(), Ledger()
    provider = LoggerProvider(shutdown_on_exit=False)
    tally = ledger.open("logs", "memory")
    provider.add_log_record_processor(LogQueue(LogDelivery(exporter, tally=tally, ledger=ledger), ledger, {}))
    context = set_value(create_key("model"), object(), Context())
    provider.get_logger("scope").emit(event_name="e", body="b", attributes={"k": 1}, context=context)
    provider.shutdown()

    (record,) = exporter.get_finished_logs()
    assert ("e", "b", {"k": 1}) == (
        record.log_record.event_name,
        record.log_record.body,
        dict(record.log_record.attributes or {}),
    )
    assert (Context(), "scope") == (record.log_record.context, record.instrumentation_scope.name)
    assert Counts(accepted=1, delivered=1) == tally.counts


def test_a_full_queue_is_counted_once_and_told_once() -> None:
    """In the tally, to who counts losses elsewhere, and in one line; though whoever ends spans does none of it."""
    lines: list[str] = []
    lost: list[tuple[str, str, int]] = []
    ledger = Ledger(lines.append, on_lost=lambda *loss: lost.append(loss))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(spans_to(InMemorySpanExporter(), {}, ledger, max_bytes=10))
    for _ in range(3):
        provider.get_tracer("test").start_span("a").end()
    (tally,) = ledger.tallies
    assert (Counts(accepted=3, queue_full=3), []) == (tally.counts, lost)

    assert provider.force_flush(WAIT_MS)

    assert [("traces", "queue_full", 3)] == lost
    assert [True] == [QUEUE_FULL.reason in line and "CRUCIBLE_OTEL_QUEUE_MAX_BYTES" in line for line in lines]
    provider.get_tracer("test").start_span("a").end()
    provider.shutdown()
    provider.get_tracer("test").start_span("late").end()
    ledger.settle(tally)
    assert [("traces", "queue_full", 3), ("traces", "queue_full", 1), ("traces", "already_shutdown", 1)] == lost
    assert (Counts(accepted=5, queue_full=4, failed=1), 1) == (tally.counts, len(lines))


class Leaves(SpanExporter):
    """Ends the thread it is called by."""

    def export(self, spans: Any) -> SpanExportResult:
        """Leave."""
        raise SystemExit

    def shutdown(self) -> None:
        """Do nothing."""


def test_an_exporter_that_leaves_costs_its_batch_and_is_counted() -> None:
    """The thread goes on."""
    ledger = Ledger(lambda line: None)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(spans_to(Leaves(), {}, ledger))
    for _ in range(2):
        provider.get_tracer("test").start_span("a").end()
        assert provider.force_flush(WAIT_MS)
    provider.shutdown()

    assert Counts(accepted=2, failed=2) == ledger.tallies[0].counts
