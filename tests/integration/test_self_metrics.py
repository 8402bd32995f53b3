"""What the pipeline says of itself arrives as any metric does."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

import crucible_otel as cx
from crucible_otel.testing import OtlpReceiver


def test_a_full_queue_is_seen_at_the_prometheus_endpoint_and_over_otlp(receiver: OtlpReceiver) -> None:
    """By OpenTelemetry's names, in both with the same values, and as much as ``status()`` says."""
    with cx.configure(
        endpoint=receiver.http_endpoint,
        prometheus_port=0,
        metrics_exporter=("otlp", "prometheus"),
        traces_exporter=("otlp",),
        logs_exporter=("otlp",),
        queue_max_bytes=100_000,
    ) as telemetry:
        receiver.hang()
        for number in range(200):
            cx.end_span(cx.start_span(f"span {number}"))
        receiver.hang(False)
        assert telemetry.flush(60)
        assert telemetry.prometheus_url is not None
        with urllib.request.urlopen(telemetry.prometheus_url, timeout=60) as answer:
            page = answer.read().decode()
        assert telemetry.flush(60)
        counts = {each["signal"]: each for each in telemetry.status()["signals"]}

    scraped = {
        (sample.name, sample.labels.get("otel_component_type", ""), sample.labels.get("error_type", "")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    sent = {
        (
            point.name,
            point.attributes.get("otel.component.type", ""),
            point.attributes.get("error.type", ""),
        ): point.value
        for point in receiver.latest()
    }
    processor, exporter = "batching_span_processor", "otlp_http_span_exporter"
    accepted, kept, full = (counts["traces"][each] for each in ("accepted", "delivered", "queue_full"))
    assert (200, 200, True) == (accepted, kept + full, 0 < full)
    for name, component, error, value in (
        ("otel.sdk.processor.span.processed", processor, "", kept),
        ("otel.sdk.processor.span.processed", processor, "queue_full", full),
        ("otel.sdk.processor.span.queue.size", processor, "", 0),
        ("otel.sdk.exporter.span.exported", exporter, "", kept),
        ("otel.sdk.exporter.span.inflight", exporter, "", 0),
        ("crucible.sdk.queue.memory.limit", processor, "", 100_000),
    ):
        assert value == sent[name, component, error], name
        suffix = {"processed": "_total", "exported": "_total", "limit": "_bytes"}.get(name.rpartition(".")[2], "")
        assert value == scraped[name.replace(".", "_") + suffix, component, error], name
    dropped = {"crucible_sdk_drop_reason": "queue_full", "crucible_sdk_signal": "traces"}
    assert [full] == [
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "crucible_sdk_dropped_total" and sample.labels == dropped
    ]
