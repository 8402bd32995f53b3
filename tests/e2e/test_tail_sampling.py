"""Ten thousand traces through the real gateway: what is of interest is kept, the rest by chance, and all is counted."""

from __future__ import annotations

import math
from pathlib import Path

from tests.e2e.conftest import StartCollector
from tests.e2e.servers import Jaeger, Prometheus
from tests.e2e.test_cluster import SLOW_S, START, start_gateway, told, wait_for_decisions
from tests.integration.programs import run

TRACES = 10_000
SLOW, FAILED = TRACES // 100, TRACES // 200
REST = TRACES - SLOW - FAILED
SHARE = 0.05
"""What the gateway keeps of the rest when nothing else is said."""

SOURCE = f"""
{START}
for number in range({TRACES}):
    kind = "slow" if number % 100 == 1 else "failed" if number % 200 == 2 else "rest"
    try:
        with cx.span("myapp.request", {{"myapp.kind": kind}}):
            clock.advance(SLOW_S if kind == "slow" else 0.01)
            if kind != "rest":
                note(kind)
            if kind == "failed":
                raise ValueError("bad input")
    except ValueError:
        pass
leave()
"""


def test_slow_and_failed_traces_are_kept_and_all_are_counted(
    collector: StartCollector, jaeger: Jaeger, prometheus: Prometheus, tmp_path: Path
) -> None:
    """Of the rest a share stays, as large as chance makes it; each trace that is kept is whole and there once."""
    port = prometheus.take_ports()
    gateway = start_gateway(collector, tmp_path, "gateway-0", jaeger, port)
    made = told(
        run(
            SOURCE,
            {
                "OTEL_SERVICE_NAME": "tail",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_ENDPOINT": gateway.otlp_grpc,
                "OTEL_METRICS_EXPORTER": "none",
                "OTEL_LOGS_EXPORTER": "none",
                "OTEL_BSP_MAX_QUEUE_SIZE": str(2 * TRACES),
            },
        )
    )
    assert {"slow": SLOW, "failed": FAILED} == {kind: len(ids) for kind, ids in made.items()}

    counts = wait_for_decisions(TRACES, gateway)
    assert TRACES == sum(counts.values())
    kept = counts["true"] - SLOW - FAILED
    deviation = math.sqrt(REST * SHARE * (1 - SHARE))
    assert abs(kept - REST * SHARE) < 5 * deviation, counts

    for kind, count in {"slow": SLOW, "failed": FAILED, "rest": kept}.items():
        found = jaeger.search("tail", tags={"myapp.kind": kind}, count=count)
        assert [1] * count == [len(trace["spans"]) for trace in found]
        assert kind == "rest" or sorted(made[kind]) == sorted(trace["traceID"] for trace in found)
        durations_us = {span["duration"] for trace in found for span in trace["spans"]}
        assert {SLOW_S * 10**6 if kind == "slow" else 10**4} == durations_us

    at_gateway = f'{{instance="127.0.0.1:{port}"}}'
    prometheus.becomes(TRACES, f"sum(traces_span_metrics_calls_total{at_gateway})")
    prometheus.becomes(TRACES, f"sum(traces_span_metrics_duration_seconds_count{at_gateway})")
    by_status = prometheus.query(f"sum by (status_code) (traces_span_metrics_calls_total{at_gateway})")
    assert {"STATUS_CODE_ERROR": FAILED, "STATUS_CODE_UNSET": TRACES - FAILED} == {
        labels["status_code"]: value for labels, value in by_status
    }
