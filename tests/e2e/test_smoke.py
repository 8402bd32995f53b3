"""The demo, told by environment variables alone, through a real Collector into a real Jaeger and a real Prometheus."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from crucible_otel.semconv.training import STEP_EVENT, STEPS
from tests.e2e.conftest import StartCollector
from tests.e2e.servers import Jaeger, Prometheus
from tests.integration.programs import run

EPOCHS = 2


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_demo_arrives_behind_a_collector(
    protocol: str, collector: StartCollector, jaeger: Jaeger, prometheus: Prometheus, tmp_path: Path
) -> None:
    """Its trace is in Jaeger, whole; its counts are in Prometheus, exact; its events are in the Collector's file."""
    pytest.importorskip("sklearn", reason="the demo's extra")
    port = prometheus.take_ports()
    server = collector(
        {
            "receivers": {"otlp": {"protocols": {"grpc": None, "http": None}}},
            "exporters": {
                "otlp_grpc": {"endpoint": jaeger.otlp_grpc, "tls": {"insecure": True}},
                "prometheus": {"endpoint": f"127.0.0.1:{port}"},
                "file": {"path": "exported.jsonl", "flush_interval": "100ms"},
            },
            "service": {
                "pipelines": {
                    "traces": {"receivers": ["otlp"], "exporters": ["otlp_grpc", "file"]},
                    "metrics": {"receivers": ["otlp"], "exporters": ["prometheus", "file"]},
                    "logs": {"receivers": ["otlp"], "exporters": ["file"]},
                },
            },
        }
    )
    service = f"demo-over-{protocol.partition('/')[0]}"
    folder = tmp_path / "demo"
    run(
        f"""
        from crucible_otel.cli import main
        raise SystemExit(main(["demo", "--quiet", "--epochs", "{EPOCHS}", "--out", {str(folder)!r}]))
        """,
        {
            "OTEL_SERVICE_NAME": service,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": server.otlp_grpc if protocol == "grpc" else server.otlp_http,
            "OTEL_METRICS_EXPORTER": "otlp",
        },
    )
    events = Counter(json.loads(line)["event"] for line in (folder / "events.jsonl").read_text().splitlines())
    steps = events[STEP_EVENT.name]
    assert steps > 0

    prometheus.becomes(steps, f'crucible_training_steps_total{{instance="127.0.0.1:{port}"}}')
    exported = server.exported("exported.jsonl")
    exported.wait_for(lambda file: file.total(STEPS.name) == steps)
    exported.wait_for(lambda file: steps == len([log for log in file.logs if log.event_name == STEP_EVENT.name]))

    # It ends last, and leaves last.
    exported.wait_for(lambda file: "run_workflow digits" in {span.name for span in file.spans})

    (found,) = jaeger.search(service, operation="run_workflow digits")
    spans = jaeger.trace(found["traceID"], spans=len(exported.spans))
    assert sorted(span.span_id for span in exported.spans) == sorted(span.span_id for span in spans)
    assert {service} == {span.resource["service.name"] for span in spans}
    ids = {span.span_id for span in spans}
    assert ["run_workflow digits"] == [span.name for span in spans if span.parent_span_id not in ids]
    assert EPOCHS == len([span for span in spans if span.name == "train_epoch"])
