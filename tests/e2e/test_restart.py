"""The Collector is killed in mid-run and comes back: what the program and the backends make of it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from tests.e2e.conftest import StartCollector
from tests.e2e.servers import Collector, Jaeger, Prometheus, free_ports, until
from tests.integration.programs import ROOT, Program
from tests.integration.test_leaving import ONE_WARNING

MINIMAL = ROOT / "collector-config" / "minimal.yaml"
STEPS_A_PHASE, CHILDREN = 40, 10
SPANS = 2 + CHILDREN

SOURCE = f"""
import json, sys
import crucible_otel as cx
from opentelemetry import trace

telemetry = cx.configure()
for phase in map(str.strip, sys.stdin):
    if phase == "end":
        break
    with cx.span("phase." + phase):
        trace_id = f"{{trace.get_current_span().get_span_context().trace_id:032x}}"
        for _ in range({CHILDREN}):
            with cx.span("work"):
                pass
        with cx.train("m") as run:
            for _ in range({STEPS_A_PHASE}):
                run.step(loss=0.5)
    flushed = telemetry.flush(timeout_s=30)
    print(json.dumps([trace_id, flushed, telemetry.status()["signals"]]), flush=True)
"""
"""Each line of its input is a phase: a trace of its own, some steps, a flush, and an account of it."""


class Phases:
    """The program, phase by phase.

    Args:
        program: It.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self.made = 0

    def begin(self, phase: str) -> None:
        """Have it make a phase; its account comes by :meth:`account`."""
        self._program.say(phase)
        self.made += STEPS_A_PHASE

    def account(self) -> tuple[str, bool, dict[str, Any]]:
        """Wait for the end of a phase; return its trace id, whether the flush delivered all, the counts by signal."""
        trace_id, flushed, signals = json.loads(self._program.line())
        return trace_id, flushed, {counts["signal"]: counts for counts in signals}

    def run(self, phase: str) -> tuple[str, bool, dict[str, Any]]:
        """Have it make a phase and wait for its account."""
        self.begin(phase)
        return self.account()


def start_minimal(collector: StartCollector, jaeger: Jaeger, port: int) -> Collector:
    """Start a Collector as on a laptop, whose Prometheus page is at a port."""
    (own,) = free_ports(1)
    return collector(
        MINIMAL,
        environ={
            "TRACES_OTLP_ENDPOINT": jaeger.otlp_grpc.removeprefix("http://"),
            "PROMETHEUS_LISTEN": f"127.0.0.1:{port}",
            "SELF_METRICS_PORT": str(own),
        },
    )


def sending(server: Collector, protocol: str, **more: str) -> dict[str, str]:
    """Return the environment of a program that sends to a Collector, and to nobody else."""
    return {
        "OTEL_SERVICE_NAME": f"restart-{protocol.partition('/')[0]}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": server.otlp_grpc if protocol == "grpc" else server.otlp_http,
        "OTEL_METRICS_EXPORTER": "otlp",
        **more,
    }


def check_trace(jaeger: Jaeger, trace_id: str, phase: str) -> None:
    """Check that a phase's trace is in Jaeger, whole and once."""
    spans = jaeger.trace(trace_id, spans=SPANS)
    assert [f"phase.{phase}", "train m", *["work"] * CHILDREN] == sorted(span.name for span in spans)


def check_steps(prometheus: Prometheus, port: int, made: int) -> None:
    """Check that Prometheus has all steps, by the counter and by the histogram."""
    at = f'{{instance="127.0.0.1:{port}"}}'
    prometheus.becomes(made, f"crucible_training_steps_total{at}")
    prometheus.becomes(made, f"crucible_training_step_duration_seconds_count{at}")


PROTOCOLS = pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])


@PROTOCOLS
def test_a_collector_that_is_back_in_time_costs_nothing(
    protocol: str, collector: StartCollector, jaeger: Jaeger, prometheus: Prometheus
) -> None:
    """Exports are tried again until it is there: no loss, no word about it, and nothing twice."""
    port = prometheus.take_ports()
    server = start_minimal(collector, jaeger, port)
    with Program(SOURCE, sending(server, protocol)) as program:
        phases = Phases(program)
        before, flushed, _ = phases.run("before")
        assert flushed
        check_trace(jaeger, before, "before")
        server.kill()
        phases.begin("during")
        server.start()
        during, flushed, signals = phases.account()
        assert flushed, signals
        after, flushed, signals = phases.run("after")
        assert flushed, signals
        program.say("end")
        ended = program.end()
        assert (0, []) == (ended.code, ended.errors)

    assert [] == [counts for counts in signals.values() if counts["accepted"] != counts["delivered"]]
    check_trace(jaeger, during, "during")
    check_trace(jaeger, after, "after")
    check_steps(prometheus, port, phases.made)


@PROTOCOLS
def test_of_a_longer_absence_every_drop_is_counted_and_no_step_is_lost(
    protocol: str, collector: StartCollector, jaeger: Jaeger, prometheus: Prometheus
) -> None:
    """One warning, and a last word; metrics are cumulative, so that the next export makes up for those that failed."""
    port = prometheus.take_ports()
    server = start_minimal(collector, jaeger, port)
    with Program(SOURCE, sending(server, protocol, OTEL_EXPORTER_OTLP_TIMEOUT="1")) as program:
        phases = Phases(program)
        before, flushed, _ = phases.run("before")
        assert flushed
        check_trace(jaeger, before, "before")
        server.kill()
        accounts = [phases.run("during"), phases.run("still")]
        server.start()

        def back() -> bool:
            accounts.append(phases.run("back"))
            return accounts[-1][1]

        # At its return gRPC may be in the pause before its next try to connect, about a second: as long as an export
        # may take here. With the ten seconds that are the default it would be tried again.
        until(back, "exports arrive again", timeout_s=10)
        last, flushed, signals = phases.run("last")
        assert flushed, signals
        check_trace(jaeger, last, "last")
        check_steps(prometheus, port, phases.made)
        dropped = f'crucible_sdk_dropped_total{{instance="127.0.0.1:{port}"}}'
        found = {labels["crucible_sdk_signal"]: value for labels, value in prometheus.query(dropped)}
        program.say("end")
        ended = program.end()

    lost = [counts["traces"]["failed"] for _, _, counts in accounts]
    assert [SPANS, 2 * SPANS] == lost[:2]
    for (trace_id, _, _), (before_it, after_it) in zip(accounts[2:], pairwise(lost[1:]), strict=True):
        if before_it == after_it:
            check_trace(jaeger, trace_id, "back")
    spans = lost[-1]
    assert spans == signals["traces"]["failed"] == signals["traces"]["accepted"] - signals["traces"]["delivered"]
    assert {signal: counts["failed"] for signal, counts in signals.items() if counts["failed"]} == found
    assert 0 == ended.code
    assert ONE_WARNING == [" ".join(line.split()[:3]) for line in ended.errors], ended.errors
    assert f"{spans} spans" in ended.errors[-1]
