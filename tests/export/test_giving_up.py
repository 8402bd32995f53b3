"""What has not arrived when telemetry ends is lost, and counted once whatever comes of it later."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from crucible_otel.export.delivery import SpanDelivery
from crucible_otel.export.queues import SpanQueue
from crucible_otel.export.self_metrics import SelfMetrics
from crucible_otel.export.tally import Counts, Ledger
from tests.export.test_self_metrics import collected

WAIT_S = 60.0
BOUNDS = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_SCHEDULE_DELAY": "1000000", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}


class Slow(SpanExporter):
    """Answers when it is told what."""

    def __init__(self) -> None:
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.answer = SpanExportResult.SUCCESS

    def export(self, spans: Any) -> SpanExportResult:
        """Wait, and answer."""
        self.asked.set()
        assert self.may_answer.wait(WAIT_S)
        return self.answer

    def shutdown(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("answer", "afterwards"),
    [
        (SpanExportResult.SUCCESS, Counts(accepted=3, delivered=3)),
        (SpanExportResult.FAILURE, Counts(accepted=3, failed=3)),
    ],
    ids=["arrives after all", "fails at last"],
)
def test_what_is_given_up_is_failed_and_told_of_once(answer: SpanExportResult, afterwards: Counts) -> None:
    """Both what an exporter has and what waits behind it; a late answer moves it, and is not told of again."""
    told: list[tuple[str, str, int]] = []
    ledger = Ledger(lambda line: None, on_lost=lambda *lost: told.append(lost))
    exporter, reader = Slow(), InMemoryMetricReader()
    meters = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    delivery = SpanDelivery(exporter, tally=ledger.open("traces", "memory"), ledger=ledger)
    tracers = TracerProvider(shutdown_on_exit=False)
    queue = SpanQueue(delivery, ledger, BOUNDS)
    tracers.add_span_processor(queue)
    metrics = SelfMetrics(meters.get_meter("test"), ledger, [delivery])

    for name in "abc":
        tracers.get_tracer("test").start_span(name).end()
    assert exporter.asked.wait(WAIT_S)
    on_the_way = delivery.tally.counts
    ledger.give_up()
    ledger.give_up()
    given_up = delivery.tally.counts
    exported = collected(reader)["otel.sdk.exporter.span.exported"]
    exporter.answer = answer
    exporter.may_answer.set()
    assert queue.queue.shutdown(WAIT_S * 1000)
    late = delivery.tally.counts
    metrics.close()
    tracers.shutdown()
    meters.shutdown()

    assert Counts(accepted=3) == on_the_way
    assert Counts(accepted=3, failed=3) == given_up
    assert [(None, 0), ("no_answer", 3)] == [(attributes.get("error.type"), value) for attributes, value in exported]
    assert afterwards == late
    assert [("traces", "export_failed", 3)] == told


def test_nothing_is_given_up_when_all_is_settled() -> None:
    """What arrived and what was lost before stays what it was."""
    told: list[tuple[str, str, int]] = []
    ledger = Ledger(lambda line: None, on_lost=lambda *lost: told.append(lost))
    tally = ledger.open("metrics", "memory")
    tally.accept(2)
    tally.deliver(2)
    ledger.give_up()
    assert (Counts(accepted=2, delivered=2), {}, []) == (tally.counts, tally.failures, told)
